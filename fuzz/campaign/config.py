"""The configuration of a campaign: one frozen dataclass, read from TOML, overridden by flags, explained field by field.

The explanation stands beside each field and is the only one: command line help and `aiterfuzz campaign --print-config` show it.
This module knows nothing of Ray, workers or the store, and imports nothing slow.
"""

from __future__ import annotations

import dataclasses
import json
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backend.case import Arch, DType, MetadataMode
from backend.errors import UsageError

if TYPE_CHECKING:
    from fuzz.space import CaseSpace

GPU_DEVICES = ("rocm", "cuda")
"""Devices of which a worker needs a GPU of its own; a worker of any other needs a core."""

DEFAULT_SECONDS = 600.0
"""Of a campaign that is given neither cases nor seconds."""

CHUNK_CASES = {"model": 1000, "cdna": 25, "both": 25}
"""A quarter of a second of work, or on the machine a second: handing a chunk out costs two milliseconds."""
GPU_CHUNK_CASES = 8
"""A child process a case: seconds each."""

CASE_SECONDS = {"model": 30.0, "cdna": 300.0, "both": 300.0}
"""A thousand times what a usual case takes; the longest legitimate ones (320 requests of 128 Ki tokens) take a hundredth."""
GPU_CASE_SECONDS = 1800.0
"""A GPU device has a limit of its own for each launch and runs a case several times when it died; this one is for the rest."""


def _explained(default: Any, text: str) -> Any:
    return field(default=default, metadata={"explained": text})


@dataclass(frozen=True, slots=True)
class CampaignConfig:
    """What is tried, how, on what, and what is done with what is found. `explanations` gives the meaning of each field.

    Raises UsageError for a value that no campaign can have; what depends on the backend is checked by `space`.
    """

    # What is tried; None leaves it to what the backend really sends.
    backend: str = _explained(
        "sglang-27188", "whose rule decides: a name that `aiterfuzz version` lists, module:name, file.py:name"
    )
    releases: tuple[str, ...] | None = _explained(None, "releases of AITER: 2025-11, 2026-06, 2026-08")
    archs: tuple[Arch, ...] | None = _explained(None, "GPUs: gfx942 (MI300X), gfx950 (MI355X)")
    model: str = _explained("deepseek-r1", "whose heads `shapes` divides: deepseek-r1, kimi-k2, kimi-k3")
    shapes: tuple[str, ...] | None = _explained(None, "tensor parallel shapes: tp1, tp2, tp4, tp8")
    heads: tuple[int, ...] | None = _explained(None, "query heads a rank, beside those of `shapes`")
    modes: tuple[MetadataMode, ...] | None = _explained(None, "metadata modes to force: non-persistent, fake, greedy, fast")
    query_rows: tuple[int, ...] | None = _explained(None, "query rows a request: 1, or the number of draft tokens")
    page_sizes: tuple[int, ...] | None = _explained(None, "tokens a page of the KV pool")
    q_dtype: DType | None = _explained(None, "what q holds: bf16, fp8")  # noqa: RUF009  (a field, like the others)
    kv_dtype: DType | None = _explained(None, "what the KV cache holds: bf16, fp8")  # noqa: RUF009
    max_batch: int = _explained(320, "requests of a case at most")
    max_kv_len: int = _explained(131_072, "KV tokens of a request at most")

    # How cases come about. A campaign with the same values of these and of the above runs the same cases, on any machine.
    seed: int = _explained(0, "decides, with the fields above and the next three, which cases are run")
    guided: bool = _explained(True, "mutate cases that reached something new; false: every case is drawn afresh")
    chunk_cases: int = _explained(
        0, "cases that a worker is handed at once; 0: as suits the device (model 1000, cdna 25, GPUs 8)"
    )
    generation_chunks: int = _explained(
        64, "chunks that mutate the same kept cases; at least four times the workers, so that none waits for the others"
    )

    # On what, and how long.
    device: str = _explained(
        "model", "what runs a case: model, cdna, both, rocm, cuda; `aiterfuzz version` lists what is there"
    )
    aiter: str | None = _explained(None, "PATH[@REVISION] of a checkout of ROCm/aiter: its kernel table and code objects")
    cases: int | None = _explained(None, "stop after so many cases, rounded up to whole chunks")
    seconds: float | None = _explained(None, "stop after so many seconds of running; 600 where `cases` is not given either")
    workers: int = _explained(0, "workers; 0: one for each core (model, cdna) or GPU (rocm, cuda) that Ray has")
    address: str | None = _explained(None, "an existing Ray cluster, as host:port or auto; none: one is started here")

    # What a case may do to its worker.
    case_seconds: float = _explained(
        0.0, "a case that takes longer hangs; 0: as suits the device (model 30, cdna 300, GPUs 1800)"
    )
    worker_memory: int = _explained(
        4096, "MiB that the process of a worker may hold; a case that makes it hold more is a finding"
    )

    # What is done with a finding.
    repeats: int = _explained(
        5, "times that the smallest case of a finding is repeated; its reliability is how often it showed"
    )
    shrink_tries: int = _explained(20_000, "cases tried at most to shrink one finding")
    verify: bool = _explained(
        True, "run the script of each finding on the simulated GPU, beside the search; false: leave them unrun"
    )
    corpus: str | None = _explained(None, "folder of known faults, for their upstream references; none: the repository's own")
    expect: tuple[str, ...] = _explained((), "corpus entries or signatures that are expected and do not fail the campaign")
    compare: str | None = _explained(None, "store of an earlier campaign to compare findings with")
    out: str = _explained("campaign", "folder of the store, the findings and the report")

    def __post_init__(self) -> None:
        for name, least in (
            ("seed", 0),
            ("chunk_cases", 0),
            ("generation_chunks", 1),
            ("workers", 0),
            ("worker_memory", 256),
            ("repeats", 1),
            ("shrink_tries", 1),
        ):
            _require(name, getattr(self, name), getattr(self, name) >= least, f"at least {least}")
        _require("chunk_cases", self.chunk_cases, self.chunk_cases <= 65_535, "at most 65535")
        _require("cases", self.cases, self.cases is None or self.cases >= 1, "at least 1")
        finite = self.seconds is None or 0 < self.seconds < float("inf")
        _require("seconds", self.seconds, finite, "a number of seconds above 0")
        _require("case_seconds", self.case_seconds, 0 <= self.case_seconds < float("inf"), "0 or more seconds")

    @property
    def cases_a_chunk(self) -> int:
        """Cases of every chunk."""
        return self.chunk_cases or CHUNK_CASES.get(self.device, GPU_CHUNK_CASES)

    @property
    def seconds_a_case(self) -> float:
        """After which a case hangs."""
        return self.case_seconds or CASE_SECONDS.get(self.device, GPU_CASE_SECONDS)

    @property
    def chunk_limit(self) -> int | None:
        """Chunks of the whole campaign, None where only time ends it."""
        return None if self.cases is None else -(-self.cases // self.cases_a_chunk)

    @property
    def time_limit(self) -> float | None:
        """Seconds of running, None where only cases end it."""
        return DEFAULT_SECONDS if self.cases is None and self.seconds is None else self.seconds

    @property
    def resource(self) -> str:
        """What Ray calls that which one worker needs one of."""
        return "GPU" if self.device in GPU_DEVICES else "CPU"

    def replace(self, **changes: Any) -> CampaignConfig:
        """A copy with some fields changed."""
        return dataclasses.replace(self, **changes)

    def space(self) -> CaseSpace:
        """The space that cases are drawn from; raises UsageError where there is none."""
        from fuzz.space import Wishes, space

        names = ("backend", "model", "shapes", "heads", "archs", "q_dtype", "kv_dtype", "query_rows", "page_sizes", "modes")
        wishes = {name: getattr(self, name) for name in names}
        return space(Wishes(**wishes, releases=self.releases, max_batch=self.max_batch, max_kv_len=self.max_kv_len))


IDENTITY = (
    *("backend", "releases", "archs", "model", "shapes", "heads", "modes", "query_rows", "page_sizes", "q_dtype", "kv_dtype"),
    *("max_batch", "max_kv_len", "seed", "guided", "chunk_cases", "generation_chunks", "device", "aiter"),
)
"""Fields that decide which cases are run and what comes of them: a campaign that is resumed keeps them."""


def explanations() -> Mapping[str, str]:
    """What each field means, by its name."""
    return {each.name: str(each.metadata["explained"]) for each in dataclasses.fields(CampaignConfig)}


def read_config(path: Path) -> Mapping[str, Any]:
    """The fields that a TOML file sets, checked one by one; `config_of` makes a configuration of them.

    Raises UsageError naming file and field for what cannot be read, an unknown field or a value of another type.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: cannot be read ({error}); give a TOML file") from error
    try:
        given = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{path}: not TOML: {error}; `aiterfuzz campaign --print-config` prints a valid one") from error
    config_of(given, str(path))
    return given


def config_of(given: Mapping[str, Any], where: str = "campaign") -> CampaignConfig:
    """The configuration with these plain values, the rest at their defaults."""
    from backend.codec import from_plain

    return from_plain(CampaignConfig, dict(given), where)


def config_lines(config: CampaignConfig) -> Iterator[str]:
    """The configuration as TOML that `read_config` takes, each field under its explanation; those without a value commented."""
    from backend.codec import to_plain

    for name, text in explanations().items():
        value = to_plain(getattr(config, name))
        yield f"# {text}"
        # A JSON string, number, boolean or list of these is written the same way in TOML.
        yield f"#{name} =" if value is None else f"{name} = {json.dumps(value, ensure_ascii=False)}"
        yield ""


def _require(name: str, given: object, holds: bool, allowed: str) -> None:
    if not holds:
        raise UsageError.not_allowed(f"campaign field {name}", given, allowed)
