"""Text, JSON and TOML of files that a person gives: a UsageError for whatever does not fit. Imports nothing slow."""

from __future__ import annotations

import json
import tomllib
from collections import Counter
from pathlib import Path
from typing import Any

from backend.errors import UsageError

MOST_BYTES = 1 << 28
"""Of a file that is read whole: ten times what a recording of a thousand cases takes."""


def text_of(path: Path, wanted: str) -> str:
    """The text of a file; raises UsageError for one that cannot be read, is too long or not UTF-8. wanted: what to give.

    A pipe is none: one that lies in somebody's folder would be waited for without end.
    """
    try:
        if path.is_fifo():
            raise UsageError(f"{path}: a pipe, and is not read; give {wanted}")
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
        if len(content) > MOST_BYTES:
            raise UsageError(f"{path}: longer than {MOST_BYTES >> 20} MiB, and is not read; give {wanted}")
        return content.decode("utf-8").replace("\r\n", "\n").replace("\r", "\n")
    except (OSError, ValueError) as error:  # ValueError: not UTF-8, or a name that no file has
        raise UsageError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error}); give {wanted}") from error


def json_of(text: str, where: str) -> Any:
    """The JSON value of a text; raises UsageError for what the parser does not take, be it deep nesting or long numbers, and
    for a key that an object has twice: of two readers each may take another one.
    """

    def object_of(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        whole = dict(pairs)
        if len(whole) < len(pairs):
            twice, _ = Counter(key for key, _ in pairs).most_common(1)[0]
            raise UsageError(f"{where}: {twice[:80]!r} stands twice in one object; leave one of them")
        return whole

    try:
        return json.loads(text, object_pairs_hook=object_of)
    except json.JSONDecodeError as error:
        raise UsageError(
            f"{where}: not JSON: {error.msg} at line {error.lineno} column {error.colno}; mend it, or give another"
        ) from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{where}: not JSON that is read here: {_why(error)}") from error


def toml_of(text: str, where: str, advice: str) -> dict[str, Any]:
    """The table of a TOML text; raises UsageError as `json_of` does. advice: what to do, after a semicolon."""
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{where}: not TOML: {_why(error)}; {advice}") from error


def _why(error: Exception) -> str:
    return "nested too deeply" if isinstance(error, RecursionError) else str(error)
