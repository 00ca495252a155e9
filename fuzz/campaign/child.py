"""The process that runs cases: `python -m fuzz.campaign.child SLOT`, with its setup as the first task.

It may die of any case; its supervisor (fuzz.campaign.worker) reads the slot and starts another. Knows neither Ray nor the
store.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Mapping
from pathlib import Path as FilePath
from typing import Any

from backend.aiter.codefiles import open_source
from backend.case import Case
from backend.checks.numerics import death_once
from backend.child.ends import EndKind
from backend.child.messages import Payload
from backend.child.serve import Reporter, serve
from backend.codec import from_plain, to_plain
from backend.devices.kinds import device_kind
from backend.devices.registry import open_device
from backend.errors import AiterfuzzError
from backend.outcome import reported
from backend.path import Path
from backend.revision.revision import host_of
from backend.serving.registry import named_policy
from fuzz.campaign.best_cases import KEPT, Frozen
from fuzz.campaign.chunks import Safe, run_chunk
from fuzz.campaign.maker import Maker
from fuzz.campaign.outcomes import died, outcome_message
from fuzz.campaign.present_case import Slot
from fuzz.campaign.worker_setup import WorkerSetup
from fuzz.compiling import announced

ALONE = 1 << 40
"""Chunk that the slot names while a single case runs."""


class CampaignChild:
    """Runs what it is told: chunks, single cases, the texts of a finding."""

    def __init__(self, slot: Slot) -> None:
        self._slot = slot
        self._setup: WorkerSetup | None = None
        self._path: Path | None = None
        self._maker: Maker | None = None
        self._frozen = {0: Frozen()}

    def facts(self) -> Mapping[str, Any]:
        """Nothing: the device comes with the setup."""
        return {}

    def failure(self, error: Exception) -> EndKind:
        """Errors of cases never come this far: these are of the machine or of the program."""
        del error
        return EndKind.ERROR

    def run(self, payload: Payload, reporter: Reporter) -> Mapping[str, Any]:
        """One task."""
        del reporter
        match payload["do"]:
            case "setup":
                return self._take(from_plain(WorkerSetup, payload["setup"]))
            case "chunk":
                return self._chunk(payload)
            case "case":
                return self._case(from_plain(Case, payload["case"]))
            case "texts":
                return self._texts(from_plain(Case, payload["case"]), payload["command"])
            case other:
                raise ValueError(f"no such task: {other}")

    def _take(self, setup: WorkerSetup) -> Mapping[str, Any]:
        """Opens the device; what is missing is an answer, because trying again does not help."""
        self._setup = setup
        try:
            named_policy(setup.space.backend)  # whoever sends the setup has it from a person
            source = None if setup.aiter is None else open_source(setup.aiter)
            ranks = (
                setup.ranks if device_kind(setup.device).takes_ranks else 1
            )  # of others, the script alone has so many processes
            device = open_device(setup.device, source, ranks=ranks, numbers=setup.numbers)
            self._path = Path(host_of(source), device)
        except AiterfuzzError as error:
            return {"missing": str(error)}
        self._maker = Maker(setup.space, setup.seed, setup.count)
        return {}

    @property
    def _ready(self) -> tuple[WorkerSetup, Path, Maker]:
        assert self._setup is not None
        assert self._path is not None
        assert self._maker is not None
        return self._setup, self._path, self._maker

    def _chunk(self, payload: Payload) -> Mapping[str, Any]:
        setup, path, maker = self._ready
        if payload["frozen"] is not None:
            read = Frozen.from_text(payload["frozen"])
            self._frozen = {0: Frozen(), **{n: each for n, each in self._frozen.items() if n >= read.generation - KEPT}}
            self._frozen[read.generation] = read
        frozen = self._frozen[payload["generation"]]
        cases = maker.cases(payload["chunk"], frozen)
        dead = {
            int(position): died(cases[int(position)], setup.device, how, discriminator)
            for position, (how, discriminator) in payload["dead"].items()
        }
        report = run_chunk(payload["chunk"], cases, Safe(path, setup.device), frozen, self._slot.note, dead, setup.guided)
        named = {position: to_plain(cases[position]) for position in payload["name"]}
        return {"report": report.to_message(), "named": [[position, case] for position, case in named.items()]}

    def _case(self, case: Case) -> Mapping[str, Any]:
        setup, path, _ = self._ready
        safe = Safe(path, setup.device)
        self._slot.note(ALONE, 0)
        outcome = safe.run(case)
        self._slot.note(-1, -1)
        once = death_once(outcome.observation) if outcome.observation is not None else None
        # Whoever runs single cases asks how often something comes again: each time counts.
        return outcome_message(outcome if once is None else reported(case, (once,), None))

    def _texts(self, case: Case, command: str) -> Mapping[str, Any]:
        from reprod.folder import folder_name
        from reprod.write import Notes, cause_of, finding_files

        setup, path, _ = self._ready
        self._slot.note(ALONE, 1)
        outcome = path.run(case)
        files = finding_files(outcome, setup.made_by, path, setup.seed, command, Notes(ranks=setup.ranks))
        self._slot.note(-1, -1)
        return {"folder": folder_name(cause_of(outcome).signature, case), "files": dict(files)}


def main(slot: str) -> None:
    """Serves until its supervisor is gone."""
    with contextlib.suppress(OSError):
        # Of all processes on the machine, the one that runs cases is the one to go when memory ends.
        FilePath("/proc/self/oom_score_adj").write_text("900")
    made = Slot(FilePath(slot))
    with announced():  # on its standard error, which its supervisor reads
        serve(lambda: CampaignChild(made))


if __name__ == "__main__":
    main(sys.argv[1])
