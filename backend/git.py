"""Git, asked for what a repository holds. The only place that calls it, and nothing that the repository says is ever run.

A repository may come from anywhere, and its own configuration names commands: hooks, filters, a file system monitor, signature
and credential programs, transports for what a partial clone lacks. All that is off; git's own guard against repositories of
other users is on. Knows nothing of AITER.
"""

from __future__ import annotations

import contextlib
import os
import resource
import select
import subprocess
from pathlib import Path

from backend.errors import CannotRunError

OFF = {
    "core.alternateRefsCommand": "",
    "core.askPass": "",
    "core.attributesFile": os.devnull,
    "core.editor": "false",
    "core.fsmonitor": "false",
    "core.gitProxy": "",
    "core.hooksPath": os.devnull,
    "core.pager": "cat",
    "core.sshCommand": "false",
    "credential.helper": "",
    "diff.external": "",
    "gpg.program": "false",
    "gpg.ssh.program": "false",
    "gpg.x509.program": "false",
    "gpg.ssh.defaultKeyCommand": "",
    "interactive.diffFilter": "",
    "log.showSignature": "false",
    "maintenance.auto": "false",
    "protocol.allow": "never",
    "submodule.recurse": "false",
}
"""Configuration of git that would run something, with values that do not; given on the command line, they win."""

ENVIRONMENT = {
    "GIT_ALLOW_PROTOCOL": "none",  # wins over every protocol.*.allow: nothing is ever fetched
    "GIT_ASKPASS": "",
    "GIT_ATTR_NOSYSTEM": "1",
    "GIT_NO_LAZY_FETCH": "1",
    "GIT_OPTIONAL_LOCKS": "0",
    "GIT_PAGER": "cat",
    "GIT_PROTOCOL_FROM_USER": "0",
    "GIT_SSH_COMMAND": "false",
    "GIT_TERMINAL_PROMPT": "0",
    "LC_ALL": "C",  # its complaints are read
}

COMMIT_DIGITS = 40
"""Of a whole commit's name."""

MOST_SECONDS = 30
"""For one answer; the longest, a framework's history, takes a few. A pipe in place of a file is waited for without end."""

MOST_MEMORY = 1 << 30
"""Bytes that git may allocate; packs are mapped and do not count. A device in place of a file is read until memory is full."""

ANOTHER_S = "dubious ownership"
"""Git's words about a repository of another user."""


def shortened(revision: str, digits: int = 12) -> str:
    """A commit by its first digits, as people write it; what else names a revision (a tag, a folder) stands whole."""
    return revision[:digits] if len(revision) == COMMIT_DIGITS else revision


def git(repository: str | Path, *arguments: str) -> bytes | None:
    """What git prints about a checkout or a bare repository; None where it says no.

    Raises CannotRunError where git is not installed, does not answer within MOST_SECONDS, or the repository is another user's.
    """
    done = _git(repository, arguments)
    try:
        output, complaint = done.communicate(timeout=MOST_SECONDS)
    except subprocess.TimeoutExpired:
        raise _no_answer(repository, done) from None
    if done.returncode != 0 and ANOTHER_S in complaint.decode(errors="replace"):
        raise CannotRunError(
            f"{repository}: this repository belongs to another user, whose configuration git would follow; if you trust it: "
            f"git config --global --add safe.directory {Path(repository).absolute()}"
        )
    return output if done.returncode == 0 else None


def git_folder(repository: str | Path) -> str | None:
    """The absolute path of the repository itself (.git of a checkout, a bare one as it is); None where there is none."""
    found = git(repository, "rev-parse", "--absolute-git-dir")
    return None if found is None else found.decode().strip()


def path_and_revision(given: str) -> tuple[str, str]:
    """PATH[@REVISION] in its two parts, "" for no revision. What is there is a path, whatever characters it has."""
    path, mark, revision = given.rpartition("@")
    return (given, "") if not mark or not path or Path(given).exists() else (path, revision)


def folders_of(given: str) -> tuple[Path, ...]:
    """What must be seen to read PATH or PATH@REVISION: that path, and where the repository keeps its objects."""
    path = Path(path_and_revision(given)[0])
    if not path.is_dir():
        return (path,)
    asked = (git(path, "rev-parse", what) for what in ("--absolute-git-dir", "--git-common-dir"))
    return (path, *(path / found.decode().strip() for found in asked if found is not None))


class ObjectReader:
    """Many objects through one process of git that is kept open: one for each of a hundred files would take seconds."""

    def __init__(self, repository: str | Path) -> None:
        self._repository = repository
        self._process: subprocess.Popen[bytes] | None = None

    def read(self, name: str) -> bytes | None:
        """Content of an object by any name that git has for it (commit:path); None where the repository lacks it.

        Raises CannotRunError as `git` does.
        """
        if "\n" in name:
            return None
        if self._process is None:
            self._process = _git(self._repository, ("cat-file", "--batch"), stdin=subprocess.PIPE)
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(f"{name}\n".encode())
            process.stdin.flush()
        except BrokenPipeError:
            return None
        answer = select.poll()
        answer.register(process.stdout, select.POLLIN)
        if not answer.poll(MOST_SECONDS * 1000):
            raise _no_answer(self._repository, process)
        head = process.stdout.readline().split()
        if len(head) != 3 or not head[2].isdigit():
            return None  # "NAME missing", "NAME ambiguous", or an end
        return process.stdout.read(int(head[2]) + 1)[:-1]

    def __del__(self) -> None:
        process = self.__dict__.get("_process")
        if process is not None:
            with contextlib.suppress(OSError):
                process.communicate()


def _git(repository: str | Path, arguments: tuple[str, ...], stdin: int = subprocess.DEVNULL) -> subprocess.Popen[bytes]:
    settings = [word for name, value in OFF.items() for word in ("-c", f"{name}={value}")]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        process = subprocess.Popen(
            ["git", "--no-pager", "--no-replace-objects", *settings, "-C", str(repository), *arguments],
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE if stdin == subprocess.DEVNULL else subprocess.DEVNULL,
            env=environment | ENVIRONMENT,
        )
    except FileNotFoundError:
        raise CannotRunError("git is not installed; it is needed to read a checkout at a revision") from None
    if hasattr(resource, "prlimit"):  # Linux alone has it
        with contextlib.suppress(OSError):  # it has ended already, or less is allowed
            resource.prlimit(process.pid, resource.RLIMIT_DATA, (MOST_MEMORY, MOST_MEMORY))
    return process


def _no_answer(repository: str | Path, process: subprocess.Popen[bytes]) -> CannotRunError:
    """Ends a process of git that waits for something; what to say of it."""
    process.kill()
    process.communicate()
    return CannotRunError(
        f"{repository}: git has not answered in {MOST_SECONDS} s; where one of its files is a pipe or a device it never will, "
        "and this finds it: find PATH/.git -not -type f -not -type d"
    )
