"""The folder of one finding as files: their names, the folder's, and that it is written whole or not at all.

Knows nothing of what the files say, and imports nothing slow.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from backend.case import Case
from backend.codec import dumps
from backend.errors import AiterfuzzError, CannotRunError, UsageError, of_the_disk

CASE, EXPLAIN, SCRIPT, ISSUE = "case.json", "explain.txt", "repro.py", "issue.md"

RANKS_SCRIPT = "repro_ranks.py"
"""The script of several processes, where one is asked for."""

REQUEST = "request.md"
"""The short request to AITER, where the issue itself is a framework's."""

CAUSE, BISECTION = "cause.md", "bisection.txt"
"""What a person and `aiterfuzz bisect` add to the issue; kept, so that the folder can be written anew."""


def quoted_script(issue: str) -> str | None:
    """The script that the text of an issue quotes (reprod.issue); None where it quotes none."""
    quoted = re.search(rf"^<details><summary>{SCRIPT}</summary>\n\n```python\n(.*?\n)```$", issue, re.DOTALL | re.MULTILINE)
    return quoted[1] if quoted is not None else None


def folder_name(signature: str, case: Case) -> str:
    """`bug-<symptom>-<stage>-<id>`; the id is of the signature and the case, so that one fault always gets one name."""
    identity = hashlib.sha256(f"{signature}\n{dumps(case)}".encode()).hexdigest()[:8]
    symptom, stage = [*signature.split("/"), ""][:2]
    words = re.sub(r"[^A-Za-z0-9_.]+", "-", f"{symptom}-{stage}").strip("-.")[:60]
    return f"bug-{words}-{identity}"


def write_folder(parent: Path, name: str, files: Mapping[str, str]) -> Path:
    """Makes parent/name with these files, under another name first; raises UsageError where that cannot be done."""
    target, temporary = parent / name, None
    try:
        parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=parent))
        for file_name, text in files.items():
            (temporary / file_name).write_text(text, encoding="utf-8")
        temporary.chmod(0o777 & ~_umask())
        if target.exists():
            os.rename(target, temporary / "replaced")
            os.rename(temporary, target)
            shutil.rmtree(target / "replaced")
        else:
            os.rename(temporary, target)
    except OSError as error:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
        raise UsageError(f"folder {target}: cannot be written ({error.strerror or error}); give a folder that can") from error
    return target


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def prepare_file(flag: str, file: Path | None) -> None:
    """Before the work that it is for: raises UsageError where a file of results (None: none is wanted) cannot be written."""
    if file is None:
        return
    try:
        known = file.exists()
        file.open("a").close()
        if not known:
            file.unlink()
    except (OSError, ValueError) as error:
        raise unwritable(flag, file, error, "file") from error


def prepare_folder(folder: Path) -> None:
    """Makes a folder for results; raises UsageError where nothing can be written there, CannotRunError on a full disk."""
    probe = folder / ".writable"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except (OSError, ValueError) as error:
        raise unwritable("--out", folder, error, "folder") from error


@contextlib.contextmanager
def one_writer(folder: Path | None) -> Iterator[None]:
    """That nobody else who asks so writes in a folder (None: none) meanwhile; raises UsageError where somebody does."""
    if folder is None:
        yield
        return
    held = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UsageError(f"--out: {folder}: another command is writing there; wait, or give another folder") from error
        except OSError:
            pass  # a file system that has no such locks
        yield
    finally:
        os.close(held)


def unwritable(flag: str, path: Path, error: OSError | ValueError, what: str) -> AiterfuzzError:
    """Wrong usage, but for a disk that is full or fails, which is the machine's doing."""
    reason = getattr(error, "strerror", None) or str(error)
    kind: type[AiterfuzzError] = CannotRunError if of_the_disk(error) else UsageError
    return kind(f"{flag}: given {str(path)!r}; it cannot be written to ({reason}); give another {what}")
