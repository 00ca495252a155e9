"""A command that runs code of the user's own is run in a process of its own, whose word counts and not its exit status.

A rule may end its process in any way and with any status. The command's own code says its exit code, or the error that ended
it, as its last act, in a file that only this module knows of; where that word is missing, the command did not come to its end,
and that is exit code 3.
"""

from __future__ import annotations

import json
import os
import shlex
import sys
import tempfile
from pathlib import Path

from backend.errors import CannotRunError, UsageError

WORD = "AITERFUZZ_LAST_WORD"
"""Environment variable of the inner process: the file for its exit code."""


def is_apart() -> bool:
    """Whether this is the inner process."""
    return WORD in os.environ


def run_apart(typed: str, what: str) -> int:
    """Runs `aiterfuzz typed` once more in a process of its own; its exit code. what: names the stranger's code.

    Raises CannotRunError where it ends without its last word, UsageError for what no process can be given. All that it started
    ends with it.
    """
    from backend.child.process import ROOT
    from backend.child.tree import ProcessTree

    if "\0" in typed:
        raise UsageError.not_allowed(what, typed, "arguments of a process, which hold no NUL")
    with tempfile.TemporaryDirectory(prefix="aiterfuzz-") as folder:
        word = Path(folder) / "word"
        paths = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH", ""))))
        environment = {**os.environ, "PYTHONPATH": paths, WORD: str(word)}
        sys.stdout.flush()
        sys.stderr.flush()
        tree = ProcessTree([sys.executable, "-m", "fuzz.cli", *shlex.split(typed)], environment, stdin=None)
        try:
            status = tree.process.wait()
        finally:
            tree.close()
        try:
            said = json.loads(word.read_text(encoding="utf-8"))
            code, error = int(said["code"]), said["error"]
        except (OSError, ValueError, TypeError, KeyError):
            how = f"by signal {-status}" if status < 0 else f"with exit status {status}"
            raise CannotRunError(f"{what}: ended the process {how} before the command had come to its end") from None
    if error is not None:
        raise (UsageError if code == UsageError.exit_code else CannotRunError)(str(error))
    return code


def last_word(code: int, error: str | None = None) -> bool:
    """Says this process's exit code to the outer one; whether there is one. error: for the outer one to print."""
    file = os.environ.get(WORD)
    if file is not None:
        Path(file).write_text(json.dumps({"code": code, "error": error}), encoding="utf-8")
    return file is not None
