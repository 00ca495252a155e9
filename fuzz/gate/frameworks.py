"""Known faults of the frameworks' own files, which only the life of a process shows: corpus/frameworks/, one file each.

The entries of corpus/ are single batches; these are backends and steps, and what they show of a source that has the fault.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path

from backend.case import Arch
from backend.codec import read_file
from backend.errors import UsageError
from backend.real.frameworks.scenarios import Scenario, StepKind
from fuzz.gate.judge import Shape, Sighting
from fuzz.gate.sweep import Tensors
from reprod.corpus import shipped_corpus
from reprod.reference import KnownReference

FOLDER = "frameworks"


@dataclass(frozen=True, slots=True)
class Life:
    """What a process must do to meet the fault; None and False: does not matter.

    arch: the GPU that it runs on.
    dp_attention, paged: a backend of its with attention data parallelism, with pages of more than one token.
    ragged: a step of this kind whose requests have different numbers of rows. ordinary, drafting: a backend of its of ordinary
    attention, of the draft model. tree: one of a draft model of several branches.
    """

    dp_attention: bool = False
    paged: bool = False
    ragged: StepKind | None = None
    ordinary: bool = False
    drafting: bool = False
    tree: bool = False
    arch: Arch | None = None

    def fits(self, scenario: Scenario) -> bool:
        """Whether the scenario is such a process."""
        backends, steps = scenario.backends, scenario.steps
        return (
            (not self.dp_attention or any(config.dp_attention for config in backends))
            and (not self.paged or any(config.page_size > 1 for config in backends))
            and (not self.ordinary or any(config.kv_heads is not None for config in backends))
            and (not self.drafting or any(config.is_draft for config in backends))
            and (not self.tree or any(config.branches > 1 for config in backends))
            and self.arch in (None, scenario.arch)
            and (self.ragged is None or any(s.kind is self.ragged and len(set(s.query_lens)) > 1 for s in steps))
        )


@dataclass(frozen=True, slots=True)
class FrameworkFault:
    """One known fault: a sighting in a fitting life with one of the signatures `shows`, where `*` stands for any characters.

    mended: the first release without it, "" while it is open. about: what is wrong, in lines. scenarios: run by every gate;
    their tensors and heads decide which gates; each must show the fault in a source that has it. file: the name of the file
    that has the fault, "" where the life says enough.
    """

    id: str
    title: str
    references: tuple[str, ...]
    mended: str
    about: tuple[str, ...]
    shows: tuple[str, ...]
    life: Life
    scenarios: tuple[Scenario, ...]
    file: str = ""

    def is_it(self, sighting: Sighting) -> bool:
        """Whether a sighting is this fault."""
        here = not self.file or f"/{self.file}:" in (sighting.line or "")
        return (
            here and self.life.fits(sighting.scenario) and any(fnmatchcase(sighting.signature, shown) for shown in self.shows)
        )

    def reference(self) -> KnownReference:
        """As other rooms refer to it."""
        return KnownReference(self.id, self.title, self.references)


@cache
def framework_faults(corpus: Path) -> tuple[FrameworkFault, ...]:
    """The entries, in the order of their ids; raises UsageError for a broken one."""
    files = sorted((corpus / FOLDER).glob("*.json"))
    entries = tuple(read_file(FrameworkFault, file) for file in files)
    for file, entry in zip(files, entries, strict=True):
        if file.stem.split("-")[0] != entry.id:
            raise UsageError.not_allowed(f"{file}: id", entry.id, "the file name up to its first '-'")
        strangers = [scenario.name for scenario in entry.scenarios if not entry.life.fits(scenario)]
        if strangers or not entry.scenarios:
            raise UsageError.not_allowed(f"{file}: scenarios", strangers, "at least one, each of them such a life")
    return entries


Identity = tuple[str, Shape, str]
"""What makes two sightings one fault: signature, shape, and the framework's known fault that it is, "" for none."""


def identity(sighting: Sighting) -> Identity:
    """A known fault of a certain life and the same signature outside such a life are two faults: the one hides no other."""
    known = next((entry.id for entry in framework_faults(shipped_corpus()) if entry.is_it(sighting)), "")
    return sighting.signature, sighting.shape, known


def whoever_shows_it(sighting: Sighting) -> Identity:
    """The identity without names that another AITER may have for the same: of a code object, of the release that refuses."""
    signature, shape, known = identity(sighting)
    stage = sighting.finding.stage if sighting.finding is not None else ""
    named = stage.endswith(".co") or stage.startswith("release ")
    return signature.replace(stage, "", 1) if named else signature, shape, known


def framework_scenarios(tensors: Sequence[Tensors], heads: Sequence[int], release: str) -> Iterator[Scenario]:
    """The scenarios of every entry, open and mended, that fit what is being gated."""
    for entry in framework_faults(shipped_corpus()):
        for scenario in entry.scenarios:
            first = scenario.backends[0]
            wanted = Tensors(scenario.arch, first.q_dtype, first.kv_dtype) in tensors
            if wanted and all(config.num_head in heads for config in scenario.backends):
                yield dataclasses.replace(scenario, name=f"{entry.id} {scenario.name}", release=release)
