"""Known faults as scenarios for a real source: each entry's cases that a serving process can be brought into.

An entry names a backend's rule; the gate has the backend itself, so the case alone is taken: heads, types, lengths, rows,
captured batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from backend.case import Case
from backend.errors import UsageError
from backend.real.frameworks.scenarios import BackendConfig, Scenario, Step, StepKind
from fuzz.gate.sweep import Tensors
from reprod.corpus import CorpusEntry, load_corpus, shipped_corpus

MAX_TOKENS = 200_000
"""KV tokens of a scenario's pool; a longer case says nothing more of a backend's own rule."""


NAMED = "corpus "
"""How the name of a scenario begins that is a case of the corpus."""


def corpus_scenarios(tensors: Sequence[Tensors], heads: Sequence[int], release: str) -> Iterator[Scenario]:
    """One scenario for each distinct case of the corpus that fits what is being gated."""
    seen: set[Scenario] = set()
    for entry in load_corpus(shipped_corpus()):
        for scenario in _of_entry(entry, tensors, heads, release):
            if scenario not in seen:
                seen.add(scenario)
                yield scenario


def is_of_corpus(scenario: Scenario) -> bool:
    """Whether it is a case of the corpus, which may ask for what the table has nothing of (48 heads with 5 rows)."""
    return scenario.name.startswith(NAMED)


def _of_entry(entry: CorpusEntry, tensors: Sequence[Tensors], heads: Sequence[int], release: str) -> Iterator[Scenario]:
    for _, side in entry.sides():
        case = next(side.cases())
        wanted = Tensors(case.arch, case.q_dtype, case.kv_dtype)
        if wanted in tensors and case.num_head in heads and sum(case.kv_lens) <= MAX_TOKENS:
            made = _scenario(entry.id, case, release)
            if made is not None:
                yield made


def _scenario(name: str, case: Case, release: str) -> Scenario | None:
    """The case as a process's life, None where no process can be in it (lengths that leave no token before the drafts)."""
    drafts = case.max_seqlen_q if case.max_seqlen_q > 1 else None
    lens = tuple(length - (drafts or 0) for length in case.kv_lens)
    graph = case.graph_batch is not None
    try:
        config = BackendConfig(
            case.num_head,
            case.kv_dtype,
            case.q_dtype,
            draft_tokens=drafts,
            max_requests=max(case.max_batch or 0, case.graph_batch or 0, case.batch, 16),
            graph_batches=(case.graph_batch,) if case.graph_batch is not None else (),
        )
        kind = StepKind.DECODE if drafts is None else StepKind.TARGET_VERIFY
        step = Step(kind, lens, graph=graph)
        return Scenario(f"{NAMED}{name}", (config,), (step,), arch=case.arch, release=release)
    except UsageError:
        return None
