"""The configuration of a campaign: what it tries (fuzz/spec.py), how, on what, and what is done with what is found.

One frozen dataclass, read from TOML, overridden by flags, explained field by field; command line help and
`aiterfuzz campaign --print-config` show the explanations.
This module knows nothing of Ray, workers or the store, and imports nothing slow.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backend.devices.kinds import DEVICES, device_kind
from backend.errors import UsageError
from backend.git import path_and_revision
from fuzz.spec import Spec, explained, explanations
from reprod.text import commands_nobody

if TYPE_CHECKING:
    from fuzz.space import CaseSpace

DEFAULT_SECONDS = 600.0
"""Of a campaign that is given neither cases nor seconds."""


@dataclass(frozen=True, slots=True)
class CampaignConfig(Spec):
    """A specification of what is tried, and how, on what, and what is done with what is found.

    Raises UsageError for a value that no campaign can have; what depends on the backend is checked by `space`.
    """

    # How cases come about. A campaign with the same values of these and of the above runs the same cases, on any machine.
    seed: int = explained(0, "decides, with the fields above and the next three, which cases are run", least=0)
    guided: bool = explained(
        True, "mutate cases that reached something new; false: every case is drawn afresh", formerly="--unguided"
    )
    chunk_cases: int = explained(
        0, "cases that a worker is handed at once; 0: as suits the device (model 1000, cdna 25, GPUs 8)", least=0
    )
    generation_chunks: int = explained(
        64, "chunks that mutate the same kept cases; at least four times the workers, so that none waits for others", least=1
    )

    # On what, and how long.
    device: str = explained("model", "what runs a case: model, cdna, both, rocm, cuda; `aiterfuzz version` lists what is there")
    numbers: bool = explained(False, "device cdna: run whole kernels on drawn values and judge their output (slow)")
    ranks: int = explained(
        1, "as TP: each case on so many GPUs at once (rocm, cuda), and a script of as many processes", least=1
    )
    aiter: str | None = explained(
        None, "PATH[@REVISION] of ROCm/aiter, exactly: its own host code, kernel table and code objects"
    )
    cases: int | None = explained(None, "stop after so many cases; more than a chunk: rounded up to whole chunks", least=1)
    seconds: float | None = explained(
        None,
        "hand out no case after so many seconds of running; what is begun is run to its end, what was found shrunk and "
        "verified, 120 s at most in all; "
        "600 where `cases` is not given either",
    )
    workers: int = explained(
        0, "workers; 0: one for each core (model, cdna) or GPU (rocm) that Ray has, four for each GPU (cuda)", least=0
    )
    address: str | None = explained(None, "an existing Ray cluster, as host:port or auto; none: one is started here")

    # What a case may do to its worker.
    case_seconds: float = explained(
        0.0, "a case that takes longer hangs; 0: as suits the device (model 30, cdna 300, GPUs 1800)"
    )
    worker_memory: int | None = explained(
        None,
        "MiB that a worker's processes may hold; a case that makes them hold more is a finding; none: as suits the device "
        "(model, cdna 4096, GPUs 16384 for each rank)",
        least=256,
    )

    # What is done with a finding.
    repeats: int = explained(
        5, "times that the smallest case of a finding is repeated; its reliability is how often it showed", least=1
    )
    shrink_tries: int = explained(20_000, "cases tried at most to shrink one finding", least=1)
    verify: bool = explained(
        True, "run the script of each finding on the simulated GPU, beside the search; false: leave them unrun"
    )
    corpus: str | None = explained(None, "folder of known faults, for their upstream references; none: the repository's own")
    expect: tuple[str, ...] = explained((), "corpus entries or signatures that are expected and do not fail the campaign")
    compare: str | None = explained(None, "store of an earlier campaign to compare findings with")
    out: str = explained("campaign", "folder of the store, the findings and the report")

    def __post_init__(self) -> None:
        Spec.__post_init__(self)
        for each in dataclasses.fields(self):
            value = getattr(self, each.name)
            _require(each.name, value, type(value) is not int or value < 1 << 63, "a number of 63 bits")
        plain = commands_nobody(self.backend)
        _require("backend", self.backend, plain, "a name that can be printed, in one line; rename its file")
        _require("chunk_cases", self.chunk_cases, self.chunk_cases <= 65_535, "at most 65535")
        ranked = [name for name, kind in DEVICES.items() if kind.takes_ranks]
        _require("ranks", self.ranks, self.ranks == 1 or self.device in ranked, f"1, or more on device {' or '.join(ranked)}")
        finite = self.seconds is None or 0 < self.seconds < float("inf")
        _require("seconds", self.seconds, finite, "a number of seconds above 0")
        _require("case_seconds", self.case_seconds, 0 <= self.case_seconds < float("inf"), "0 or more seconds")

    @property
    def cases_a_chunk(self) -> int:
        """Cases of every chunk; of a campaign of fewer cases than a chunk usually has, all of them."""
        if self.chunk_cases:
            return self.chunk_cases
        usual = device_kind(self.device).chunk_cases
        return usual if self.cases is None else min(usual, self.cases)

    @property
    def seconds_a_case(self) -> float:
        """After which a case hangs; where code objects are at hand, the machine may have to run one."""
        devices = (self.device,) if self.aiter is None else (self.device, "cdna")
        return self.case_seconds or max(device_kind(device).case_seconds for device in devices)

    @property
    def memory_a_worker(self) -> int:
        """MiB that its processes may hold."""
        return self.worker_memory or device_kind(self.device).worker_memory * self.ranks

    @property
    def chunk_limit(self) -> int | None:
        """Chunks of the whole campaign, None where only time ends it."""
        return None if self.cases is None else -(-self.cases // self.cases_a_chunk)

    @property
    def revision(self) -> str:
        """By whose text cases run, in words: "v0.1.9", "the work tree aiter"; "" for the built-in releases that they name."""
        path, revision = path_and_revision(self.aiter or "")
        return revision or (f"the work tree {Path(path).name}" if path else "")

    @property
    def time_limit(self) -> float | None:
        """Seconds of running, None where only cases end it."""
        return DEFAULT_SECONDS if self.cases is None and self.seconds is None else self.seconds

    @property
    def resource(self) -> str:
        """What Ray calls that which one worker needs one of."""
        return "GPU" if device_kind(self.device).is_hardware else "CPU"

    @property
    def workers_sharing(self) -> int:
        """Workers that may share one of it."""
        return device_kind(self.device).workers_sharing

    def replace(self, **changes: Any) -> CampaignConfig:
        """A copy with some fields changed."""
        return dataclasses.replace(self, **changes)

    def space(self) -> CaseSpace:
        """The space that cases are drawn from; raises UsageError where there is none."""
        from fuzz.space import space

        return space(self)


IDENTITY = (
    *(each.name for each in dataclasses.fields(Spec)),
    *("seed", "guided", "chunk_cases", "generation_chunks", "device", "numbers", "ranks", "aiter"),
)
"""Fields that decide which cases are run and what comes of them: a campaign that is resumed keeps them."""


def read_config(path: Path) -> Mapping[str, Any]:
    """The fields that a TOML file sets, checked one by one; `config_of` makes a configuration of them.

    Raises UsageError naming file and field for what cannot be read, an unknown field or a value of another type.
    """
    from backend.file_text import text_of, toml_of

    advice = "`aiterfuzz campaign --print-config` prints a valid one"
    given = toml_of(text_of(path, "a TOML file"), str(path), advice)
    config_of(given, str(path))
    return given


def config_of(given: Mapping[str, Any], where: str = "campaign") -> CampaignConfig:
    """The configuration with these plain values, the rest at their defaults."""
    from backend.codec import from_plain

    return from_plain(CampaignConfig, dict(given), where)


def of_its_release(config: CampaignConfig) -> CampaignConfig:
    """The configuration for the built-in release nearest to its code source, where there is one and no release is named."""
    if config.aiter is None or config.releases:
        return config
    from backend.aiter.codefiles import open_source
    from backend.aiter.release import nearest_release

    return dataclasses.replace(config, releases=(nearest_release(open_source(config.aiter)).name,))


def config_lines(config: CampaignConfig) -> Iterator[str]:
    """The configuration as TOML that `read_config` takes, each field under its explanation; those without a value commented."""
    from backend.codec import to_plain

    for name, text in explanations(CampaignConfig).items():
        value = to_plain(getattr(config, name))
        yield f"# {text}"
        # A JSON string, number, boolean or list of these is written the same way in TOML.
        yield f"#{name} =" if value is None else f"{name} = {json.dumps(value, ensure_ascii=False)}"
        yield ""


def _require(name: str, given: object, holds: bool, allowed: str) -> None:
    if not holds:
        raise UsageError.not_allowed(f"campaign field {name}", given, allowed)
