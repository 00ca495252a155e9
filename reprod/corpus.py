"""Entries of the corpus: known faults and controls, one JSON file each, and their replay.

An entry states what must be found where, and what must stay silent. This module knows Cases, findings and where a path comes
from; nothing of planners, kernels or of how a finding is made.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path as FilePath
from typing import TYPE_CHECKING, Any

from backend.aiter.codefiles import CodeSource, open_source
from backend.case import RELEASES, Case
from backend.codec import read_file, replaced, to_plain
from backend.devices.kinds import DEVICES, NumbersKind
from backend.errors import CannotRunError, UsageError
from backend.findings import Finding, FindingKind, Party
from backend.outcome import Outcome
from reprod.case_line import case_line
from reprod.condition import Condition, Figure, FigureRange
from reprod.life import LifeOfFind
from reprod.reference import ContractVerdict
from reprod.shrink import Runner

if TYPE_CHECKING:
    from backend.devices.device import Device
    from backend.path import Path


@dataclass(frozen=True, slots=True)
class Expected:
    """A finding that must be there.

    tensor, party, stage: compared where given. figures: evidence by name, exact values or ranges.
    """

    kind: FindingKind
    tensor: str | None = None
    party: Party | None = None
    stage: str | None = None
    figures: Mapping[str, int | str | FigureRange] = field(default_factory=dict)

    def matches(self, finding: Finding) -> bool:
        """Whether a finding is the expected one, figures included."""
        return self.same_place(finding) and not self.differing(finding)

    def same_place(self, finding: Finding) -> bool:
        """Kind, tensor, party and stage alone."""
        pairs = ((self.tensor, finding.tensor), (self.party, finding.party), (self.stage, finding.stage))
        return finding.kind is self.kind and all(want is None or want == shown for want, shown in pairs)

    def whatever_kernel(self, finding: Finding) -> Expected:
        """The same of the kernel of a finding, which may be called otherwise from one revision to the next."""
        kernels = self.stage is not None and self.stage.endswith(".co") and finding.stage.endswith(".co")
        return dataclasses.replace(self, stage=finding.stage) if kernels else self

    def differing(self, finding: Finding) -> tuple[str, ...]:
        """Names of the figures that are absent or not as expected."""
        return tuple(name for name, want in self.figures.items() if not _figure_holds(want, finding.evidence.get(name)))

    def __str__(self) -> str:
        return f"{self.kind.value}{' of ' + self.tensor if self.tensor else ''}"


def _figure_holds(want: int | str | FigureRange, shown: Figure | None) -> bool:
    if shown is None:
        return False
    return want.holds(shown) if isinstance(want, FigureRange) else want == shown


MOST_BATCH = 65_536
"""Requests of a case that a sweep makes."""

MOST_CASES = 100_000
"""Of a sweep: each is looked at when its entry is read."""

UNIFORM = ("batch", "kv_len")
"""Names that a sweep may vary beside a Case's fields: together they make kv_lens, `batch` requests of `kv_len` tokens."""


@dataclass(frozen=True, slots=True)
class Side:
    """Cases that behave alike: all show `expect`, or all show nothing.

    case: the first case; its release is overwritten by `releases`, each of which is run. over: values by field name;
    every combination is run on top of `case`. expect: findings that each case must show, the cause first; empty where nothing
    must be shown. device: by name in backend.devices.kinds. revision: a commit of ROCm/aiter, or the object id of one code
    object, for a device that runs code objects; None: the installed wheel or what is built in.
    needs: what no device of this project has, so that the side cannot run anywhere yet; "" for nothing.
    numbers: the device compares outputs with float64 attention too. besides: findings that a side with nothing to show may show
    all the same, since another entry has them: the fixed kernel under a plan that is not.
    signature: of the cause that the first case at the first release shows, by which a finding is known to be this fault; or "".
    planted: columns of device model's table of kernels (backend/devices/model/traits.csv) in place of the defaults, for a
    kernel of which there is no code object: what a kernel with them would do.
    """

    case: Case
    releases: tuple[str, ...]
    over: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    expect: tuple[Expected, ...] = ()
    device: str = "model"
    revision: str | None = None
    needs: str = ""
    numbers: bool = False
    besides: tuple[Expected, ...] = ()
    planted: Mapping[str, str] = field(default_factory=dict)
    signature: str = ""

    @property
    def machine(self) -> ReplayDevice:
        """What the side runs on."""
        return ReplayDevice(self.device, self.revision, tuple(sorted(self.planted.items())), self.numbers)

    def cases(self) -> Iterator[Case]:
        """Every combination at every release; raises UsageError where one is not a valid Case."""
        for release, *values in itertools.product(self.releases, *self.over.values()):
            changed = dict(zip(self.over, values, strict=True))
            if "batch" in changed or "kv_len" in changed:
                length, batch = changed.pop("kv_len", self.case.kv_lens[0]), changed.pop("batch", self.case.batch)
                if type(batch) is not int or not 1 <= batch <= MOST_BATCH:
                    raise UsageError.not_allowed("batch", batch, f"1..{MOST_BATCH}")
                changed["kv_lens"] = [length] * batch
            yield replaced(self.case, to_plain(changed) | {"release": release}, "case")


@dataclass(frozen=True, slots=True)
class CorpusEntry:
    """One known fault, or a control that must stay silent.

    id: short and unique (F1, C2); the file is named after it. references: upstream issues and pull requests.
    fault_class: in the words of FindingKind, "control" for a control. verdict: the contract's.
    about: what is wrong, in lines. faulty: sides that must show a finding, none for a control; silent: sides that
    must show nothing (the fixed ones). life: how a find of our own stands upstream (`aiterfuzz corpus mark`), None for others.
    condition: what each case of the fault has, by which it is known at shapes that no side has; None: at those of the sides.
    """

    id: str
    title: str
    references: tuple[str, ...]
    fault_class: str
    verdict: ContractVerdict
    about: tuple[str, ...]
    faulty: tuple[Side, ...]
    silent: tuple[Side, ...]
    life: LifeOfFind | None = None
    condition: Condition | None = None

    @property
    def titled(self) -> str:
        """The title, and how a find of our own stands upstream, where anybody there knows of it."""
        return f"{self.title} ({self.life.standing})" if self.life is not None and self.life.is_upstream else self.title

    def sides(self) -> Iterator[tuple[str, Side]]:
        """All sides with where they stand in the file, the faulty ones first."""
        for name, sides in (("faulty", self.faulty), ("silent", self.silent)):
            for i, side in enumerate(sides):
                yield f"{name}[{i}]", side


class ReplayStatus(StrEnum):
    """How a replayed entry stands."""

    FOUND = "found"  # the faulty side shows what it should, the fixed side nothing
    SILENT = "silent"  # a control: nothing shown, as it should be
    CHANGED = "changed"  # anything else: a regression of AITER or of this project
    CANNOT_RUN = "cannot run"  # this machine lacks what a side needs; the other side, if any, behaved


@dataclass(frozen=True, slots=True)
class ReplayVerdict:
    """Outcome of one entry's replay. reason: why it is CHANGED or CANNOT_RUN, "" otherwise. cases: run."""

    entry: str
    title: str
    status: ReplayStatus
    reason: str
    cases: int


@dataclass(frozen=True, slots=True)
class ReplayDevice:
    """What a side runs on; see Side.device, Side.revision, Side.planted and Side.numbers."""

    device: str
    revision: str | None
    planted: tuple[tuple[str, str], ...] = ()
    numbers: bool = False


PathFactory = Callable[[ReplayDevice], Runner]
"""Opens the path for a machine; raises CannotRunError where this computer has no such thing."""


class OpenPaths:
    """The usual PathFactory: each machine's path, opened once.

    checkout: a checkout or bare repository of ROCm/aiter, from which revisions are read; None where there is none.
    Raises UsageError where it is not one.
    """

    def __init__(self, checkout: str | None = None) -> None:
        if checkout is not None:
            open_source(checkout)
        self.checkout = checkout
        self._open: dict[ReplayDevice, Path] = {}

    def __call__(self, machine: ReplayDevice) -> Path:
        if machine.device not in DEVICES:
            raise CannotRunError(f"device {machine.device}: not there; there are {', '.join(DEVICES)}")
        if machine not in self._open:
            from backend.path import Path  # planners and devices, which nobody needs who only reads entries
            from backend.revision.revision import host_of

            source = self._source(machine)
            self._open[machine] = Path(host_of(source), _device(machine, source))
        return self._open[machine]

    def _source(self, machine: ReplayDevice) -> CodeSource | None:
        if machine.revision is None:
            return None
        wanted = f"code of ROCm/aiter at {machine.revision[:12]}"
        if self.checkout is None:
            raise CannotRunError(f"{wanted}: no checkout given; give one with --aiter PATH")
        try:
            return open_source(f"{self.checkout}@{machine.revision}")
        except UsageError as error:
            raise CannotRunError(f"{wanted}: not in {self.checkout}; fetch its whole history ({error})") from error


def _device(machine: ReplayDevice, source: CodeSource | None) -> Device:
    """The device; `model` with traits of a kernel that is not there where they are planted."""
    if not machine.planted:
        from backend.devices.kinds import open_device

        return open_device(machine.device, source, numbers=machine.numbers)
    from backend.devices.model.device import ModelDevice
    from backend.devices.model.traits import KernelTraits, from_row, to_row

    return ModelDevice(known=from_row(to_row(KernelTraits()) | dict(machine.planted)))


def shipped_corpus() -> FilePath:
    """The folder of known faults that comes with this project, in a checkout as in an installed wheel.

    Raises CannotRunError where it was installed without: what is known would be called new, and known shapes not be tried.
    """
    folder = FilePath(__file__).parents[1] / "corpus"
    if not any(folder.glob("*.json")):
        raise CannotRunError(f"{folder}: the known faults are missing there; install aiterfuzz again, they are part of it")
    return folder


def entry_file(folder: FilePath, entry_id: str) -> FilePath | None:
    """The file of a folder's entry by its id (`F1`, `f1`), None where the folder has none of that id."""
    ids = {file.stem.split("-")[0].casefold(): file for file in folder.glob("*.json")}
    return ids.get(entry_id.casefold())


def meant(path: FilePath) -> FilePath:
    """The file of the known fault whose id was given instead of a path (`F1`); a path as it is.

    Raises UsageError for the id of a framework's fault, which is a life of a process and no case.
    """
    if path.exists() or len(path.parts) != 1:
        return path
    if entry_file(shipped_corpus() / "frameworks", path.name) is not None:
        raise UsageError(f"{path}: a fault of a framework's steps, which has no case; `aiterfuzz gate SOURCE` runs them")
    return entry_file(shipped_corpus(), path.name) or path


def load_corpus(path: FilePath) -> tuple[CorpusEntry, ...]:
    """The entries of a folder (every *.json directly in it), of one file, or of a known fault's id, in the order of their ids.

    Raises UsageError naming file and field for a broken entry, two entries of one id, or no entry at all.
    """
    path = meant(path)
    if not path.exists():
        raise UsageError.not_allowed("corpus", str(path), "a folder of entries, one entry's file, or a known fault's id, as F1")
    files = sorted(path.glob("*.json")) if path.is_dir() else [path]
    if not files:
        raise UsageError.not_allowed("corpus", str(path), "a folder with *.json entries, or one such file")
    entries: dict[str, CorpusEntry] = {}
    for file in files:
        entry = load_entry(file)
        if entry.id in entries:
            raise UsageError.not_allowed(f"{file}: id", entry.id, "an id that no other file has")
        entries[entry.id] = entry
    return tuple(sorted(entries.values(), key=lambda entry: _natural(entry.id)))


def load_entry(file: FilePath) -> CorpusEntry:
    """One entry; raises UsageError naming file and field where it does not hold together."""
    entry = read_file(CorpusEntry, file)
    _require(file, "id", entry.id, file.stem.split("-")[0] == entry.id, "the file name up to its first '-'")
    kinds = ("control", *(kind.value for kind in FindingKind))
    _require(file, "fault_class", entry.fault_class, entry.fault_class in kinds, ", ".join(kinds))
    is_control = entry.fault_class == "control"
    _require(file, "faulty", len(entry.faulty), bool(entry.faulty) != is_control, "no side for a control, else at least one")
    _require(file, "silent", len(entry.silent), bool(entry.silent) or not is_control, "at least one side for a control")
    if entry.life is not None:
        entry.life.check(f"{file}: life")
    if entry.condition is not None:
        _check_condition(file, entry)
    for name, side in entry.sides():
        expects = name.startswith("faulty")
        allowed = "at least one finding, the cause first" if expects else "no finding on a silent side"
        _require(file, f"{name}.expect", len(side.expect), bool(side.expect) == expects, allowed)
        _require(file, f"{name}.signature", side.signature, expects or not side.signature, "none on a silent side")
        _require(file, f"{name}.besides", len(side.besides), not (expects and side.besides), "none on a faulty side")
        having = [name for name, kind in DEVICES.items() if kind.numbers is not NumbersKind.NEVER]
        has_numbers = side.device in having or not side.numbers
        _require(file, f"{name}.device", side.device, has_numbers, f"one with numbers: {', '.join(having)}")
        _check_sweep(file, name, side)
        _check_planted(file, name, side)
    return entry


def _check_condition(file: FilePath, entry: CorpusEntry) -> None:
    """A condition that a case of a faulty side lacks is not the fault's."""
    assert entry.condition is not None
    entry.condition.check(f"{file}: condition")
    for name, side in entry.sides():
        if name.startswith("faulty"):
            fits = all(entry.condition.fits(case) for case in side.cases())
            _require(file, f"{name}.case", case_line(side.case), fits, "cases that the entry's condition holds of")


def _check_planted(file: FilePath, name: str, side: Side) -> None:
    if not side.planted:
        return
    from backend.devices.model.traits import COLUMNS

    for column in side.planted:
        _require(file, f"{name}.planted", column, column in COLUMNS, ", ".join(COLUMNS))
    _require(file, f"{name}.device", side.device, side.device == "model", "model, where traits are planted")


def _check_sweep(file: FilePath, name: str, side: Side) -> None:
    known = bool(side.releases) and set(side.releases) <= set(RELEASES)
    _require(file, f"{name}.releases", list(side.releases), known, f"at least one of {', '.join(RELEASES)}")
    allowed = [field for field in (*Case.__dataclass_fields__, *UNIFORM) if field != "release"]
    for key, values in side.over.items():
        _require(file, f"{name}.over", key, key in allowed, ", ".join(allowed))
        _require(file, f"{name}.over.{key}", list(values), bool(values), "at least one value")
    count = len(side.releases) * math.prod(len(values) for values in side.over.values())
    _require(file, f"{name}.over", count, count <= MOST_CASES, f"at most {MOST_CASES:,} combinations")
    uniform = sorted(set(UNIFORM) & set(side.over))
    _require(file, f"{name}.over", uniform, not (uniform and "kv_lens" in side.over), "kv_lens, or batch and kv_len")
    try:
        for _ in side.cases():
            pass
    except UsageError as error:
        raise UsageError(f"{file}: {name}.over: {error}") from error


def _require(file: FilePath, name: str, given: object, holds: bool, allowed: str) -> None:
    if not holds:
        raise UsageError.not_allowed(f"{file}: {name}", given, allowed)


def _natural(name: str) -> tuple[str, int, str]:
    """C2 before C10, F7 before F7b."""
    found = re.match(r"(\D*)(\d*)(.*)", name)
    assert found is not None
    return found[1], int(found[2] or 0), found[3]


def replay_all(entries: Sequence[CorpusEntry], paths: PathFactory) -> Iterator[ReplayVerdict]:
    """Verdicts in the order of the entries, each as it is known."""
    for entry in entries:
        yield replay(entry, paths)


def replay(entry: CorpusEntry, paths: PathFactory) -> ReplayVerdict:
    """Runs every case of every side. An entry of which a side cannot run is CANNOT_RUN, unless another side has CHANGED."""
    ran, missing = 0, ""
    for name, side in entry.sides():
        try:
            path = _open(side, paths)
            for case in side.cases():
                ran += 1
                outcome = path.run(case)
                if outcome.unknown:
                    raise CannotRunError(str(outcome.reason))
                complaint = _complaint(side, outcome)
                if complaint:
                    return ReplayVerdict(
                        entry.id, entry.title, ReplayStatus.CHANGED, f"{name}, {case_line(case)}: {complaint}", ran
                    )
        except CannotRunError as error:
            missing = missing or f"{name}: {error}"
    if missing:
        return ReplayVerdict(entry.id, entry.title, ReplayStatus.CANNOT_RUN, missing, ran)
    return ReplayVerdict(entry.id, entry.title, ReplayStatus.FOUND if entry.faulty else ReplayStatus.SILENT, "", ran)


def _open(side: Side, paths: PathFactory) -> Runner:
    if side.needs:
        raise CannotRunError(side.needs)
    return paths(side.machine)


def _complaint(side: Side, outcome: Outcome) -> str:
    """Why an outcome is not what its side expects; "" where it is."""
    if not side.expect:
        if outcome.refused is not None:
            return f"refused ({outcome.refused}), so nothing is known of it"
        shown_too = [finding for finding in outcome.findings if not any(each.matches(finding) for each in side.besides)]
        return f"not silent: {shown_too[0].message}" if shown_too else ""
    for expected in side.expect:
        placed = [finding for finding in outcome.findings if expected.same_place(finding)]
        if not placed:
            shown = ", ".join(sorted({finding.kind.value for finding in outcome.findings})) or outcome.refused or "nothing"
            return f"no {expected}; shown: {shown}"
        if not any(expected.matches(finding) for finding in placed):
            return _figures_in_words(expected, placed[0])
    cause = outcome.cause
    if cause is None or not side.expect[0].same_place(cause):
        return f"the cause is {cause.signature if cause else 'none'}, not {side.expect[0]}"
    if side.signature and outcome.case == next(side.cases()) and cause.signature != side.signature:
        return f"the signature of the cause is {cause.signature}, not {side.signature}"
    return ""


def _figures_in_words(expected: Expected, finding: Finding) -> str:
    figures = ", ".join(
        f"{name} is {finding.evidence.get(name, 'absent')}, not {to_plain(expected.figures[name])}"
        for name in expected.differing(finding)
    )
    return f"{expected}: {figures}"
