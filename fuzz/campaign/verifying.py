"""Scripts of findings run on the simulated GPU, one after the other, beside the engine and on its machine.

A verification takes seconds of a core and must hold up neither chunks nor the folder of its finding, which is there before;
when it is done the folder is written again with what was seen. Knows neither store nor workers.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from backend.case import Case
from backend.errors import AiterfuzzError
from fuzz.campaign.soundness import files_of
from reprod.folder import ISSUE, SCRIPT
from reprod.verify import VERIFICATION, ScriptVerdict, verdicts, with_verdicts

Verify = Callable[[Mapping[str, str], Case, str | None, Callable[[], bool]], Sequence[ScriptVerdict]]


@dataclass(frozen=True, slots=True, eq=False)
class Verified:
    """A finding's folder with what its scripts were seen to do. in_words: that in a few words, for who looks on."""

    folder: str
    files: Mapping[str, str]
    in_words: str


@dataclass(frozen=True, slots=True, eq=False)
class _Task:
    folder: str
    files: Mapping[str, str]
    case: Case
    aiter: str | None


class Verifier:
    """Takes folders in and gives them back; a context manager, at whose end whatever still runs is stopped.

    given: folders that were taken in, all together.
    """

    def __init__(self, verify: Verify = verdicts) -> None:
        self._verify = verify
        self._tasks: queue.SimpleQueue[_Task | None] = queue.SimpleQueue()
        self._done: queue.SimpleQueue[Verified] = queue.SimpleQueue()
        self.given = self._taken = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, name="aiterfuzz-verify", daemon=True)
        self._thread.start()

    def __enter__(self) -> Verifier:
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        self._tasks.put(None)
        self._thread.join()

    @property
    def pending(self) -> int:
        """Folders that were given and not taken back yet."""
        return self.given - self._taken

    def give(self, folder: str, files: Mapping[str, str], case: Case, aiter: str | None) -> None:
        """A finding's folder, by name and texts. One without a script (a case that takes its process with it) is left alone."""
        if SCRIPT in files:
            self.given += 1
            self._tasks.put(_Task(folder, files, case, aiter))

    def take(self) -> list[Verified]:
        """What is done since the last time."""
        found = []
        while not self._done.empty():
            found.append(self._done.get())
        self._taken += len(found)
        return found

    def _work(self) -> None:
        while (task := self._tasks.get()) is not None and not self._stop.is_set():
            try:
                seen = self._verify(task.files, task.case, task.aiter, self._stop.is_set)
            except Exception as error:  # whatever it is, the thread must go on: the engine waits for every folder
                why = str(error) if isinstance(error, AiterfuzzError) else f"{type(error).__name__}: {error}"
                self._done.put(Verified(task.folder, task.files, f"could not be verified: {why}"))
                continue
            if not self._stop.is_set():
                self._done.put(
                    Verified(task.folder, with_verdicts(task.files, seen), "; ".join(_named_verdict(each) for each in seen))
                )


def _named_verdict(verdict: ScriptVerdict) -> str:
    return f"{verdict.name} {verdict.in_words}"


class NoVerifier:
    """Of a campaign that verifies nothing."""

    pending = given = 0

    def give(self, folder: str, files: Mapping[str, str], case: Case, aiter: str | None) -> None:
        """Leaves the folder as it is."""

    def take(self) -> list[Verified]:
        """Does nothing with it."""
        return []


def unverified(root: Path, folder: str) -> bool:
    """Whether nobody has run the script of a finding's folder yet. It is read and not run: a store may be anybody's."""
    files = files_of(root, folder)
    return SCRIPT in files and VERIFICATION not in files.get(ISSUE, "")
