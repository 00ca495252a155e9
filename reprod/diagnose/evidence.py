"""Evidence: what the facts of a log come to. Settings become shapes, versions a revision, words a kind of end.

It draws conclusions from the text alone and runs nothing. Where two lines disagree the later one counts.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

from backend.case import MAX_KV_LEN, Arch, DType
from reprod.diagnose.facts import LogFact, LogFacts, Topic
from reprod.diagnose.kernel_name import bare_name, family, is_decode


class Ending(StrEnum):
    """How the process ended, the surest first."""

    FAULT = "memory fault"
    REFUSED = "refused"
    OUT_OF_MEMORY = "out of memory"
    NOT_LOADED = "not loaded"
    HANG = "hang"
    COLLECTIVE = "collective"
    WRONG_OUTPUT = "wrong output"
    EXCEPTION = "exception"
    KILLED = "killed"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class MlaModel:
    """An MLA model. heads: of queries, all ranks together. rope: rope elements of a KV token."""

    pattern: str
    heads: int
    rope: int = 64


MODELS = (
    MlaModel(r"deepseek[-_]?v2[-_]?lite", 16),
    MlaModel(r"deepseek[-_]?(?:v2|v3|r1|coder-v2)", 128),
    MlaModel(r"\bds[-_]?r1|dsr1|dsv3", 128),
    MlaModel(r"kimi[-_]?linear", 32, 0),
    MlaModel(r"kimi[-_]?k3", 96),
    MlaModel(r"kimi[-_]?k2|kimi[-_]?vl2", 64),
    MlaModel(r"glm[-_]?5\.3[-_]?flash", 64, 0),
    MlaModel(r"glm[-_]?5", 64),
    MlaModel(r"glm[-_]?4\.7[-_]?flash", 20),
    MlaModel(r"longcat[-_]?flash", 64),
    MlaModel(r"mistral[-_]?large[-_]?3", 128),
)
"""By the models' public configurations (num_attention_heads, qk_rope_head_dim)."""

NOT_MLA = r"qwen|llama|minimax|gpt[-_]?oss|mixtral|gemma|phi[-_]?\d|mistral[-_]?7b|deepseek[-_]?v4"
"""Models whose attention is another, so that no kernel of MLA decode runs for them."""

ARCH_OF = {"MI300": Arch.GFX942, "MI325": Arch.GFX942, "MI308": Arch.GFX942, "MI350": Arch.GFX950, "MI355": Arch.GFX950}


@dataclass(frozen=True, slots=True)
class Suspect:
    """A kernel that a log names. by: how it came to be named, the surest first in `LogEvidence.suspects`."""

    name: str
    by: str
    fact: LogFact


@dataclass(frozen=True, slots=True)
class LogEvidence:
    """What a log comes to; None and () for what it does not say.

    null: whether the address of the fault is none that a tensor could have. is_write: whether it was a write.
    suspects: kernels of MLA decode. others: kernels that the fault itself names and that are not of it.
    heads: of a rank, as the framework has them. batches: KV lengths to try, as logged.
    capturing: while graphs were captured; replayed: in one.
    graph_batches: that graphs are captured for. max_requests: at once. rows: of q a request. splits of the context: return_lse.
    framework: "sglang", "vllm" or "". pool_tokens: of the KV cache. words: in which something was refused.
    """

    ending: Ending
    null: bool | None
    is_write: bool | None
    suspects: tuple[Suspect, ...]
    others: tuple[Suspect, ...]
    arch: Arch | None
    framework: str
    framework_version: str
    aiter_revision: str
    model: str
    is_mla: bool | None
    heads: int | None
    q_dtype: DType | None
    kv_dtype: DType | None
    rows: int | None
    page_size: int | None
    batches: tuple[tuple[int, ...], ...]
    capturing: bool
    replayed: bool
    graph_batches: tuple[int, ...]
    max_requests: int | None
    pool_tokens: int | None
    first_page: int | None
    rope: int | None
    latent: int | None
    lse: bool | None
    mode: str
    words: str


MOST_REQUESTS = 1024
"""Of a batch that is tried: more is no decode batch of one rank."""


def evidence_of(facts: LogFacts) -> LogEvidence:
    """The evidence of what was read."""
    suspects, others = _suspects(facts)
    address = facts.value(Topic.FAULT_ADDRESS)
    model = _model_name(facts)
    known = next((each for each in MODELS if model and re.search(each.pattern, model, re.IGNORECASE)), None)
    rope = facts.number(Topic.ROPE_DIM)
    capturing = facts.last(Topic.CAPTURING)
    batch = facts.last(Topic.BATCH)
    framework, version = _framework(facts)
    refusal = facts.last(Topic.REFUSAL) or facts.last(Topic.EXCEPTION)
    speculative = facts.number(Topic.SPECULATIVE_TOKENS)
    rows = (
        facts.number(Topic.QUERY_ROWS) or facts.number(Topic.DRAFT_TOKENS) or (None if speculative is None else speculative + 1)
    )
    graphs = [int(n) for fact in facts.of(Topic.GRAPH_BATCHES) for n in re.findall(r"\d{1,6}", fact.value)]
    return LogEvidence(
        ending=_ending(facts),
        null=None if address is None else _is_null(address),
        is_write=_is_write(facts),
        suspects=suspects,
        others=others,
        arch=_arch(facts),
        framework=framework,
        framework_version=version,
        aiter_revision=facts.value(Topic.AITER_COMMIT) or facts.value(Topic.AITER_VERSION) or "",
        model=model,
        is_mla=True if known else False if model and re.search(NOT_MLA, model, re.IGNORECASE) else None,
        heads=facts.number(Topic.HEADS) or _heads(facts, known, framework),
        q_dtype=_dtype(facts.value(Topic.Q_DTYPE)),
        kv_dtype=_dtype(facts.value(Topic.KV_DTYPE)),
        rows=rows if rows is not None and 1 <= rows <= 64 else None,
        page_size=facts.number(Topic.PAGE_SIZE),
        batches=_batches(facts),
        capturing=capturing is not None and (batch is None or not _follows(batch, capturing)),
        replayed=_is_true(facts.value(Topic.REPLAYED)),
        graph_batches=tuple(dict.fromkeys(n for n in graphs if 1 <= n <= MOST_REQUESTS)),
        max_requests=facts.number(Topic.MAX_REQUESTS),
        pool_tokens=_plain_number(facts.value(Topic.POOL_TOKENS)),
        first_page=facts.number(Topic.FIRST_PAGE),
        rope=rope if rope is not None else (known.rope if known is not None else None),
        latent=facts.number(Topic.LATENT_DIM),
        lse=True if _is_true(facts.value(Topic.LSE)) else None,
        mode=facts.value(Topic.MODE) or "",
        words=refusal.value if refusal is not None else "",
    )


def _follows(later: LogFact, earlier: LogFact) -> bool:
    return later.file == earlier.file and later.line > earlier.line


def _is_null(address: str) -> bool:
    """Whether no allocation can lie there: ROCR gives a page's address, and the first pages are never mapped."""
    return address == "(nil)" or int(address, 16) < 1 << 16


def _is_write(facts: LogFacts) -> bool | None:
    """The driver's status says so; ROCR's "Write access to a read-only page" is a write, its other reasons say nothing."""
    if any("write access" in fact.value.lower() for fact in facts.of(Topic.FAULT_REASON)):
        return True
    flags = {fact.value for fact in facts.of(Topic.FAULT_IS_WRITE)}
    return flags == {"1"} if len(flags) == 1 else None


def _ending(facts: LogFacts) -> Ending:
    if facts.has(Topic.FAULT_ADDRESS, Topic.FAULT_REASON, Topic.PAGE_FAULT, Topic.FAULTING_KERNEL):
        return Ending.FAULT
    errors = " ".join(fact.value for fact in facts.of(Topic.QUEUE_ERROR))
    if re.search(r"MEMORY|0x1016|EXCEPTION|illegal memory", errors):
        return Ending.FAULT
    for topic, ending in (
        (Topic.REFUSAL, Ending.REFUSED),
        (Topic.OUT_OF_MEMORY, Ending.OUT_OF_MEMORY),
        (Topic.NOT_LOADED, Ending.NOT_LOADED),
        (Topic.WRONG_OUTPUT, Ending.WRONG_OUTPUT),
        (Topic.EXCEPTION, Ending.EXCEPTION),
        (Topic.COLLECTIVE, Ending.COLLECTIVE),
        (Topic.HANG, Ending.HANG),
        (Topic.KILLED, Ending.KILLED),
    ):
        if facts.has(topic):
            return ending
    return Ending.UNKNOWN


def _suspects(facts: LogFacts) -> tuple[tuple[Suspect, ...], tuple[Suspect, ...]]:
    """Kernels of MLA decode, and others that the fault names."""
    fault = facts.first(Topic.FAULT_ADDRESS) or facts.first(Topic.QUEUE_ERROR)
    named = [Suspect(bare_name(fact.value), "the fault names it", fact) for fact in facts.of(Topic.FAULTING_KERNEL)]
    loaded = [fact for fact in facts.of(Topic.KERNEL, Topic.KERNEL_FILE) if is_decode(fact.value)]
    before = [fact for fact in loaded if fault is None or fact.file != fault.file or fact.line <= fault.line]
    latest = [Suspect(bare_name(fact.value), "loaded last before the fault", fact) for fact in reversed(before)][:2]
    rest = [Suspect(bare_name(fact.value), "loaded", fact) for fact in reversed(loaded)]
    first = latest[:1] if fault is not None else []
    ours = [suspect for suspect in named if is_decode(suspect.name)]
    chosen: dict[str, Suspect] = {}
    lines: set[tuple[str, int]] = set()
    for suspect in (*ours, *first, *rest):
        line = suspect.fact.file, suspect.fact.line
        if line not in lines:  # a line gives one kernel, by its symbol and by its file
            chosen.setdefault(suspect.name, suspect)
        lines.add(line)
    others = {suspect.name: suspect for suspect in named if not is_decode(suspect.name)}
    return tuple(chosen.values()), tuple(others.values())


def last_loaded(facts: LogFacts) -> LogFact | None:
    """The kernel that was loaded last, of whatever family."""
    return facts.last(Topic.KERNEL) or facts.last(Topic.KERNEL_FILE)


def is_other_family(evidence: LogEvidence) -> str | None:
    """The family of the kernel that the fault names, where that is not MLA decode."""
    if not evidence.others or any(suspect.by == "the fault names it" for suspect in evidence.suspects):
        return None
    name = evidence.others[0].name
    return family(name) or "another kernel"


def _arch(facts: LogFacts) -> Arch | None:
    named = [fact.value for fact in facts.of(Topic.ARCH)]
    found = next((arch for arch in Arch if arch.value in [name.lower() for name in named]), None)
    if found is not None:
        return found
    products = [fact.value.upper()[:5] for fact in facts.of(Topic.PRODUCT)]
    return next((ARCH_OF[product] for product in reversed(products) if product in ARCH_OF), None)


def _framework(facts: LogFacts) -> tuple[str, str]:
    """The framework that is named most, and its version. vLLM's package is installed beside sglang, not the other way."""
    named = [fact.value for fact in facts.of(Topic.FRAMEWORK)]
    if not named:
        return "", ""
    chosen = max(dict.fromkeys(named), key=named.count)
    version = facts.value(Topic.SGLANG_VERSION if chosen == "sglang" else Topic.VLLM_VERSION) or ""
    return chosen, version.removeprefix("v")


def _model_name(facts: LogFacts) -> str:
    """The last name that says which model it is; the first of any where none does."""
    names = [fact.value for fact in facts.of(Topic.MODEL)]
    known = [name for name in names if any(re.search(model.pattern, name, re.IGNORECASE) for model in MODELS)]
    return known[-1] if known else names[0] if names else ""


def _heads(facts: LogFacts, known: MlaModel | None, framework: str) -> int | None:
    """Of a rank: sglang's ranks of attention are tp_size // dp_size under DP attention; vLLM's tp_size is of one replica."""
    heads = facts.number(Topic.ALL_HEADS) or (known.heads if known is not None else None)
    ranks = facts.number(Topic.TENSOR_PARALLEL)
    if heads is None or ranks is None:
        return None
    replicas = facts.number(Topic.DATA_PARALLEL) or 1
    if framework == "sglang" and _is_true(facts.value(Topic.DP_ATTENTION)):
        ranks = max(ranks // replicas, 1)
    return heads // ranks if ranks and heads % ranks == 0 else None


def _is_true(value: str | None) -> bool:
    return value is not None and value.lower() in ("true", "1", "yes", "on")


def _dtype(value: str | None) -> DType | None:
    text = (value or "").lower()
    if "fp8" in text or "float8" in text or "e4m3" in text:
        return DType.FP8
    return DType.BF16 if "bf16" in text or "bfloat16" in text else None


def _plain_number(text: str | None) -> int | None:
    digits = (text or "").replace(",", "")
    return int(digits) if digits.isdigit() and len(digits) <= 12 else None


def _batches(facts: LogFacts) -> tuple[tuple[int, ...], ...]:
    """KV lengths as logged: those of the last list, and the last batch with its tokens spread evenly."""
    found: list[tuple[int, ...]] = []
    batches = [fact for fact in facts.of(Topic.BATCH) if fact.value.isdigit()]
    for fact in reversed(list(facts.of(Topic.KV_LENS))):
        lens = tuple(min(int(n), MAX_KV_LEN) for n in re.findall(r"\d{1,9}", fact.value))[:MOST_REQUESTS]
        if not lens or not max(lens):
            continue
        beside = [batch for batch in batches if batch.file == fact.file and batch.line == fact.line]
        beside = beside or [batch for batch in batches if not fact.value.startswith("[")][-1:]
        if len(lens) == 1 and beside:
            lens = lens * min(int(beside[-1].value), MOST_REQUESTS)
        found.append(lens or (1,))
    for fact in reversed(batches):
        requests = min(int(fact.value), MOST_REQUESTS)
        tokens = [
            each for each in facts.of(Topic.TOKENS) if (each.file, each.line) == (fact.file, fact.line) and each.value.isdigit()
        ]
        if requests and tokens:
            found.append((max(1, min(int(tokens[0].value) // requests, MAX_KV_LEN)),) * requests)
        elif requests and not found:
            found += [(length,) * requests for length in (1, 64, 1024)]
        if len(found) >= MOST_BATCHES:
            break
    return tuple(dict.fromkeys(found))[:MOST_BATCHES]


MOST_BATCHES = 3
"""Logged batches that are tried, the last first."""
