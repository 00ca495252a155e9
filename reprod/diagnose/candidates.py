"""Shapes that could have led to a log: Cases that agree with the evidence, the likeliest first, and who would send them.

What the log says narrows; what it does not say is tried over what is served. Entries of the corpus lend their own shapes.
Nothing runs here.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from backend.case import Arch, Case, DType, MetadataMode
from backend.errors import AiterfuzzError
from reprod.corpus import CorpusEntry, ReplayDevice
from reprod.diagnose.evidence import LogEvidence
from reprod.diagnose.kernel_name import NamedKernel


@dataclass(frozen=True, slots=True)
class RuleOfVersion:
    """A backend's built-in rule and the releases of its framework that have it. before: exclusive, () for no end."""

    framework: str
    backend: str
    since: tuple[int, ...]
    before: tuple[int, ...]

    def has(self, version: tuple[int, ...]) -> bool:
        """Whether a release of the framework decides so."""
        return version >= self.since and (not self.before or version < self.before)


RULES = (
    RuleOfVersion("sglang", "sglang-27188", (0, 5, 13), ()),
    RuleOfVersion("sglang", "sglang-before-27188", (0, 5, 10), (0, 5, 13)),
    RuleOfVersion("sglang", "sglang-before-20841", (0, 5, 9), (0, 5, 10)),
    RuleOfVersion("sglang", "sglang-before-20399", (0, 5, 6), (0, 5, 10)),
    RuleOfVersion("vllm", "vllm", (0, 21), ()),
    RuleOfVersion("vllm", "vllm-before-41016", (0, 14), (0, 21)),
    RuleOfVersion("vllm", "vllm-before-31282", (0, 11), (0, 14)),
)
"""By the dates of the changes that the rules are named after (sglang#20399 2026-03-12, #27188 2026-06-03; vllm#31282
2026-01-01, #41016 2026-05) and of the releases around them."""

PAIRS = ((DType.FP8, DType.FP8), (DType.BF16, DType.BF16), (DType.BF16, DType.FP8))

HEADS = (16, 32, 64, 128, 8, 48, 96, 80, 112, 4)

BATCHES: tuple[tuple[int, ...], ...] = ((2048,) * 16, (17, 40, 197, 600), (64,) * 64, (1,), (20,) * 2)
"""Tried where the log says nothing of its batch: a usual one, ragged, many requests, a graph's padding row, few tokens."""

FAR_PAGE = 1 << 24
"""Page id from which some kernels' addresses wrap (aiter#4341)."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A case to try. entry: of the corpus whose shape it is, "" for none. machine: what an entry's side asks for, None: the
    usual. rule: how well its backend agrees with the log's framework, negative where it is another caller."""

    case: Case
    entry: str = ""
    machine: ReplayDevice | None = None
    rule: int = 0


def backends_of(evidence: LogEvidence) -> tuple[tuple[str, int], ...]:
    """(backend, how well it agrees), the best first; a direct caller is always possible, and last if a framework is named."""
    version = tuple(int(part) for part in re.findall(r"\d+", evidence.framework_version)[:3])
    named = [rule for rule in RULES if rule.framework == evidence.framework] if evidence.framework else list(RULES)
    rated = [
        (rule.backend, 3 if version and rule.has(version) else 0 if version else 2 - place) for place, rule in enumerate(named)
    ]
    if not evidence.framework:
        rated = [(backend, 0) for backend, _ in rated]
    if version and any(rate == 3 for _, rate in rated):
        rated = [(backend, rate) for backend, rate in rated if rate == 3]
    return (*sorted(rated, key=lambda each: -each[1]), ("direct", -1 if evidence.framework else 0))


REPEATED_TO = 16
"""Heads that sglang (num_head_padded) and vLLM (AiterMLAHelper._AITER_MIN_MLA_HEADS) make of fewer, mostly."""


def candidates(evidence: LogEvidence, kernel: NamedKernel | None, release: str) -> Iterator[Candidate]:
    """Cases of one release, the likeliest first. kernel: named by the log, None where none is."""
    batches = evidence.batches or BATCHES
    for (backend, rate), batch in itertools.product(backends_of(evidence), batches):
        for arch, heads, (q, kv), rows in itertools.product(*_shapes(evidence, kernel)):
            for lse, graph, mode in itertools.product(
                _lse(evidence, kernel), _graphs(evidence, batch), _modes(evidence, backend)
            ):
                made = _case(evidence, batch, rows, num_head=heads, q_dtype=q, kv_dtype=kv, arch=arch, release=release,
                             backend=backend, return_lse=lse, mode=mode, **graph)  # fmt: skip
                yield from (Candidate(case, rule=rate) for case in made)


def _shapes(
    evidence: LogEvidence, kernel: NamedKernel | None
) -> tuple[Sequence[Arch], Sequence[int], Sequence[tuple[DType, DType]], Sequence[int]]:
    keys = kernel.keys if kernel is not None else ()
    archs = [evidence.arch] if evidence.arch is not None else list(reversed(Arch))
    pairs = [pair for pair in PAIRS if not keys or any(_is_pair(key.q_dtype, key.kv_dtype, pair) for key in keys)]
    if not keys:
        pairs = [(q, kv) for q, kv in pairs if evidence.kv_dtype in (None, kv) and evidence.q_dtype in (None, q)]
    ratios = [key.gqa_ratio for key in keys if key.gqa_ratio]
    heads = _heads(evidence) or [*dict.fromkeys([*ratios, *HEADS])]
    queries = {key.max_seqlen_q for key in keys}
    rows = (
        [evidence.rows]
        if evidence.rows is not None
        else [1, 2, 3, 4]
        if not queries - {1}
        else sorted({1, 2, 3, 4, *queries} - {0})
    )
    if evidence.rows is not None and evidence.rows > 1 and evidence.framework:
        rows = [evidence.rows, 1]  # drafts are made one row a request
    if queries == {1} and evidence.rows is None:
        rows = [1, 2]
    return archs, [n for n in heads if 1 <= n <= 128], pairs, rows


def _heads(evidence: LogEvidence) -> list[int]:
    """Of a rank, by the log: as the model has them, or as a framework repeats fewer than the kernels' usual 16; [] not said."""
    if evidence.heads is None:
        return []
    return [evidence.heads, REPEATED_TO] if evidence.framework and evidence.heads < REPEATED_TO else [evidence.heads]


def _is_pair(q: str, kv: str, pair: tuple[DType, DType]) -> bool:
    return q == str(pair[0]) and kv in (str(pair[1]), "any")


def _lse(evidence: LogEvidence, kernel: NamedKernel | None) -> Sequence[bool]:
    if evidence.lse is not None:
        return [evidence.lse]
    named = {key.lse for key in kernel.keys} if kernel is not None else {False}
    return [True] if named == {True} else [False]


def _graphs(evidence: LogEvidence, batch: tuple[int, ...]) -> Sequence[dict[str, int | None]]:
    """A replayed or captured graph with the buffers that are there for it, and eager."""
    if not evidence.capturing and not evidence.graph_batches:
        return [{}]
    largest = max(evidence.graph_batches, default=None)
    fitting = min((n for n in evidence.graph_batches if n >= len(batch)), default=None)
    most = evidence.max_requests
    found: list[dict[str, int | None]] = []
    if evidence.capturing and largest is not None:
        found.append({"graph_batch": largest, "max_batch": most if evidence.framework == "vllm" else None})
    if fitting is not None:
        found.append({"graph_batch": fitting, "max_batch": most if evidence.framework == "vllm" else None})
    return [*found, {}]


def _modes(evidence: LogEvidence, backend: str) -> Sequence[MetadataMode | None]:
    """A framework decides its mode; a direct caller takes any."""
    if backend != "direct":
        return [None]
    if evidence.mode:
        return [MetadataMode(evidence.mode)]
    return [MetadataMode.FAST, MetadataMode.NON_PERSISTENT, MetadataMode.FAKE]


def _case(evidence: LogEvidence, batch: tuple[int, ...], rows: int, **fields: object) -> Iterator[Case]:
    """The case, if it is one; a second with pages from 2^24 on where the pool or the log reaches there."""
    if fields.get("graph_batch") is not None and len(batch) > int(str(fields["graph_batch"])):
        batch = batch[: int(str(fields["graph_batch"]))]
    fields |= {"kv_lens": tuple(max(length, rows) for length in batch), "max_seqlen_q": rows}
    if evidence.rope is not None:
        fields["qk_rope_head_dim"] = evidence.rope
    if evidence.latent is not None:
        fields["kv_lora_rank"] = evidence.latent
    if evidence.page_size and fields["backend"] == "direct":
        fields["page_size"] = evidence.page_size
    try:
        made = Case(**fields)  # type: ignore[arg-type]
    except AiterfuzzError:
        return
    if "scale" in evidence.words:  # what was refused for want of a scale had none
        yield made.replace(q_scale=False, kv_scale=False)
    if evidence.null and made.kv_dtype is DType.FP8 and made.q_dtype is DType.BF16:
        yield made.replace(kv_scale=False)  # which AITER does not ask for
    yield made
    if max(evidence.pool_tokens or 0, evidence.first_page or 0) > FAR_PAGE:
        yield made.replace(first_page=FAR_PAGE)


MOST_OF_A_SIDE = 6
"""Cases of one side of an entry that are tried."""


def of_corpus(entries: Sequence[CorpusEntry], evidence: LogEvidence, releases: Sequence[str]) -> Iterator[Candidate]:
    """The shapes of known faults that agree with the evidence, each as it is and with the log's batch."""
    rules = dict(backends_of(evidence))
    for entry in entries:
        for side in entry.faulty:
            if side.needs or side.planted or not set(side.releases) & set(releases):
                continue
            fitting = (
                case for case in itertools.islice(side.cases(), 400) if case.release in releases and agrees(case, evidence)
            )
            for case in itertools.islice(fitting, MOST_OF_A_SIDE):
                machine = side.machine if side.device != "model" else None
                for batch in evidence.batches[:1]:
                    lens = tuple(max(length, case.max_seqlen_q) for length in batch)
                    if case.graph_batch is None and case.query_lens is None:
                        yield Candidate(case.replace(kv_lens=lens), entry.id, machine, rules[case.backend])
                yield Candidate(case, entry.id, machine, rules[case.backend])


def agrees(case: Case, evidence: LogEvidence) -> bool:
    """Whether nothing that the log says is against a case; lengths are not compared."""
    wanted = (
        (evidence.arch, case.arch),
        (evidence.kv_dtype, case.kv_dtype),
        (evidence.q_dtype, case.q_dtype),
        (evidence.rope, case.qk_rope_head_dim),
        (evidence.latent, case.kv_lora_rank),
    )
    if any(said is not None and said != has for said, has in wanted):
        return False
    if evidence.heads is not None and case.num_head not in _heads(evidence):
        return False
    if evidence.rows is not None and case.max_seqlen_q not in ((evidence.rows, 1) if evidence.framework else (evidence.rows,)):
        return False
    return case.backend in dict(backends_of(evidence))
