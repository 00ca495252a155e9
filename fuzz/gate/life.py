"""A serving process' life by a seed: requests arrive, are decoded, finish or make room for others, and steps follow of it.

The state is what a scheduler knows (who runs, with how many tokens); a transition is what it may do next, and leaves steps.
Each choice is an index below a count, and lists stand simplest first. Knows no framework's source, and runs nothing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from backend.real.frameworks.scenarios import BackendConfig, Scenario, Step, StepKind
from fuzz.gate.sweep import MAX_REQUESTS, Tensors
from fuzz.strategies import Draw, pick

CONTEXTS = (40, 65, 200, 400)
"""KV tokens of the model's context: short, so that a request comes to its end within a few steps."""

CAPTURES = ((1, 2, 4), (), (1, 3), (2,), (1, 4, 8), ())

PAGE_SIZES = (1, 1, 16, 64)

BRANCHES = (1, 1, 2, 4)
"""Of the tree that a draft model makes."""

MOST_TRANSITIONS = 2
"""Between two of what every life does."""

LARGEST_EAGER = 2
"""Requests beyond the largest captured batch that a batch may have."""


@dataclass(frozen=True, slots=True)
class Abilities:
    """What a framework's file has steps for, besides plain decode. prompts: prefill; verify: draft tokens; drafts: the draft
    model's own decode, trees: of several branches; extends: its catching up, ragged: with as many rows as were accepted; idle:
    batches of no request; past: drafts past the context's end."""

    prompts: bool = True
    verify: bool = True
    drafts: bool = True
    trees: bool = True
    extends: bool = True
    ragged: bool = True
    idle: bool = True
    past: bool = True

    @classmethod
    def common(cls, several: Iterable[Abilities]) -> Abilities:
        """What all of some have."""
        each = list(several)
        return cls(**{one.name: all(getattr(have, one.name) for have in each) for one in dataclasses.fields(cls)})


EVERYTHING = Abilities()


def probes(tensors: Tensors, num_head: int, release: str) -> dict[str, Scenario]:
    """For each of the Abilities a process of one step that only a framework with it has."""
    plain = BackendConfig(num_head, tensors.kv_dtype, tensors.q_dtype)
    verifying = dataclasses.replace(plain, draft_tokens=2)
    drafting = dataclasses.replace(verifying, is_draft=True)
    steps = {
        "prompts": (plain, Step(StepKind.PREFILL, (5,))),
        "verify": (verifying, Step(StepKind.TARGET_VERIFY, (5,))),
        "drafts": (drafting, Step(StepKind.MULTI_STEP_DRAFT, (5,))),
        "trees": (dataclasses.replace(drafting, branches=2), Step(StepKind.MULTI_STEP_DRAFT, (5,))),
        "extends": (verifying, Step(StepKind.DRAFT_EXTEND, (5,))),
        "ragged": (verifying, Step(StepKind.DRAFT_EXTEND, (5,), query_lens=(1,))),
        "idle": (dataclasses.replace(plain, graph_batches=(1,)), Step(StepKind.DECODE, (), graph=True)),
        "past": (dataclasses.replace(plain, draft_tokens=4), Step(StepKind.TARGET_VERIFY, (17,))),
    }
    return {
        name: Scenario(f"whether it has {name}", (config,), (step,), tensors.arch, release=release, context=20)
        for name, (config, step) in steps.items()
    }


@dataclass(slots=True)
class ServingProcess:
    """A process under way. tokens: of each running request, by its number, in their order of arrival. chunked: the request of
    which only a part of the prompt was taken, with its tokens so far and in all. last: tokens before the last round."""

    draw: Draw
    backends: tuple[BackendConfig, ...]
    context: int
    can: Abilities
    tokens: dict[int, int] = field(default_factory=dict)
    chunked: tuple[int, int, int] | None = None
    steps: list[Step] = field(default_factory=list)
    arrived: int = 0
    last: tuple[int, ...] = ()

    @property
    def drafts(self) -> int:
        """Draft tokens of a verification; 0 without speculation."""
        return self.backends[0].draft_tokens or 0

    @property
    def largest(self) -> int:
        """Requests of the largest captured batch; without graphs, of a middling one."""
        return self.backends[0].max_batch or 4

    @property
    def room(self) -> int:
        """Tokens that a request may have before a step, so that the step's own still fit the context."""
        past = self.backends[0].past_context if self.can.past else 0
        return self.context + past - (self.drafts or 1)

    def arrive(self, lengths: Sequence[int]) -> None:
        """Requests with prompts of so many tokens, whole; a server that gets its KV from another one takes no step for it."""
        new = range(self.arrived, self.arrived + len(lengths))
        self.arrived += len(lengths)
        self.tokens.update(zip(new, lengths, strict=True))
        if self.can.prompts and lengths:
            self._prompts(tuple(new), tuple(lengths), tuple(lengths))

    def _prompts(self, requests: tuple[int, ...], kv_lens: tuple[int, ...], rows: tuple[int, ...]) -> None:
        whole = () if rows == kv_lens else rows
        self.steps.append(Step(StepKind.PREFILL, kv_lens, query_lens=whole, requests=requests))

    def goes_on(self) -> None:
        """The next part of a long prompt that comes in chunks, or the first one of another."""
        if not self.can.prompts:
            self.grow()
            return
        if self.chunked is None:
            self.chunked = self.arrived, 0, max(self._length(), 2)
            self.arrived += 1
        request, done, whole = self.chunked
        upto = min(whole, done + pick(self.draw, (whole // 2 + 1, 1, 16)))
        self._prompts((request,), (upto,), (upto - done,))
        self.chunked = None if upto == whole else (request, upto, whole)
        if self.chunked is None:
            self.tokens[request] = whole

    def grow(self) -> None:
        """Some more requests arrive, and all take a step."""
        least = min(len(self.tokens) + 1, self.largest)
        count = pick(self.draw, (1, least, self.largest))
        free = self.largest + LARGEST_EAGER - len(self.tokens)
        self.arrive([self._length() for _ in range(min(count, free))])
        self.round()

    def shrink(self) -> None:
        """All but some requests finish: the batch that follows is smaller than the last."""
        stay = pick(self.draw, (1, max(len(self.tokens) // 2, 1), max(len(self.tokens) - 1, 1)))
        from_the_end = bool(self.draw(2))
        names = list(self.tokens)
        for request in names[:-stay] if from_the_end else names[stay:]:
            del self.tokens[request]
        self.round()

    def preempt(self) -> None:
        """The latest request makes room while others go on, and comes again with all its tokens as its prompt."""
        if len(self.tokens) < 2:
            self.grow()
        preempted = [self.tokens.popitem()[1]] if self.tokens else []
        self.round()
        self.arrive(preempted)
        self.round()

    def replace(self) -> None:
        """Others come in the place of all requests: a batch of as many tokens as the last one, or as would have followed it, in
        another order or the same, and of other KV."""
        self.round()
        had = list(pick(self.draw, (self.last, tuple(self.tokens.values()))))
        self.tokens.clear()
        self.arrive(pick(self.draw, (had, had[::-1], had[1:] + had[:1])))
        self.round()

    def idle(self) -> None:
        """A rank of data parallel attention without requests takes part in the others' step."""
        if self.can.idle and self.backends[0].dp_attention and self.backends[0].graph_batches:
            kind = StepKind.TARGET_VERIFY if self.drafts else StepKind.DECODE
            self.steps.append(Step(kind, (), graph=True))
        else:
            self.round()

    def fill_largest(self) -> None:
        """As many requests as the largest captured batch has, each with the whole context at the end of the step."""
        self.tokens.clear()
        self.arrive([self.room] * self.largest)
        self.round()

    def fill_pages(self) -> None:
        """A request that ends with its page, so that its next token begins one."""
        page = max(self.backends[0].page_size, 16)
        if page <= self.room - 1:
            self.arrive([page * (1 + self.draw((self.room - 1) // page)) - 1])
        self.round()
        self.round()

    def round(self) -> None:
        """One step of everybody: decode, or drafts, their verification and what follows it. Who is at the context's end
        has finished before."""
        self.tokens = {request: length for request, length in self.tokens.items() if length <= self.room}
        most = self.largest + LARGEST_EAGER
        self.tokens = dict(list(self.tokens.items())[-most:])
        if not self.tokens:
            self.arrive([self._length()])
        requests, lengths = tuple(self.tokens), tuple(self.tokens.values())
        self.last = lengths
        graph = len(lengths) <= self.backends[0].max_batch and self.draw(6) > 0
        if not self.drafts:
            lengths = tuple(length + 1 for length in lengths)
            self.steps.append(Step(StepKind.DECODE, lengths, graph=graph, requests=requests))
            self.tokens = dict(zip(requests, lengths, strict=True))
        else:
            self._speculate(requests, lengths, graph)

    def _speculate(self, requests: tuple[int, ...], lengths: tuple[int, ...], graph: bool) -> None:
        drafts = self.drafts
        draft_models = range(1, len(self.backends))
        for at in (each for each in draft_models if self.backends[each].is_draft):
            self.steps.append(Step(StepKind.MULTI_STEP_DRAFT, lengths, graph=graph, backend=at, requests=requests))
        self.steps.append(Step(StepKind.TARGET_VERIFY, lengths, graph=graph, requests=requests))
        taken = pick(self.draw, ([1] * len(lengths), [drafts] * len(lengths), [1 + self.draw(drafts) for _ in lengths]))
        ragged = self.can.ragged and self.draw(2) > 0
        for at in (each for each in draft_models if not self.backends[each].is_draft):
            rows = tuple(taken) if ragged else (drafts,) * len(lengths)
            kv_lens = tuple(length + count for length, count in zip(lengths, rows, strict=True))
            query_lens = rows if ragged else ()
            step = Step(StepKind.DRAFT_EXTEND, kv_lens, graph and not ragged, at, query_lens, requests)
            self.steps.append(step)
        grown = (length + count for length, count in zip(lengths, taken, strict=True))
        self.tokens = dict(zip(requests, grown, strict=True))

    def _length(self) -> int:
        page = self.backends[0].page_size
        edges = (1, 15, 16, 17, page - 1, page, page + 1, self.context // 2, self.room - 1, self.room)
        return min(max(pick(self.draw, edges), 1), self.room)


TRANSITIONS: tuple[Callable[[ServingProcess], None], ...] = (
    ServingProcess.round,
    ServingProcess.grow,
    ServingProcess.shrink,
    ServingProcess.replace,
    ServingProcess.preempt,
    ServingProcess.goes_on,
    ServingProcess.goes_on,
    ServingProcess.idle,
)
"""What a scheduler may do next."""

ALWAYS: tuple[Callable[[ServingProcess], None], ...] = (
    ServingProcess.fill_largest,
    ServingProcess.fill_pages,
    ServingProcess.replace,
)
"""What happens in every life: the largest captured batch, with the whole context each; the last page, and the one behind it; a
batch like the one before."""


Setting = tuple[str, str]
"""One of the framework's environment variables, and what it is set to."""

SWITCHED = 3
"""Of as many lives one runs under some of the framework's variables."""


def life(
    draw: Draw,
    tensors: Sequence[Tensors],
    heads: Sequence[int],
    release: str,
    name: str,
    can: Abilities = EVERYTHING,
    settings: Sequence[Setting] = (),
) -> Scenario:
    """One process from its start to its end. settings: of variables, one or two of which some lives have."""
    one = pick(draw, tensors)
    target = BackendConfig(
        pick(draw, heads),
        one.kv_dtype,
        one.q_dtype,
        page_size=pick(draw, PAGE_SIZES),
        draft_tokens=pick(draw, (None, None, 2, 3, 4)) if can.verify else None,
        max_requests=MAX_REQUESTS,
        graph_batches=pick(draw, CAPTURES),
        dp_attention=pick(draw, (False, False, True)),
    )
    context = pick(draw, CONTEXTS)
    brings_prompts = can.prompts and draw(3) > 0
    can = dataclasses.replace(can, prompts=brings_prompts)
    process = ServingProcess(draw, (target, *_draft_models(draw, target, one, tensors, can)), context, can)
    process.arrive([process._length()])
    always = list(ALWAYS)
    while always:
        for _ in range(draw(MOST_TRANSITIONS + 1)):
            pick(draw, TRANSITIONS)(process)
        always.pop(draw(len(always)))(process)
    process.shrink()
    for _ in range(draw(MOST_TRANSITIONS + 1)):
        pick(draw, TRANSITIONS)(process)
    branches = pick(draw, BRANCHES) if can.trees else 1
    environment = dict(pick(draw, settings) for _ in range(1 + draw(2))) if settings and draw(SWITCHED) == 0 else {}
    return Scenario(
        name,
        tuple(dataclasses.replace(each, branches=branches if each.is_draft else 1) for each in process.backends),
        tuple(process.steps),
        arch=one.arch,
        release=release,
        environment=tuple(sorted(environment.items())),
        context=context,
    )


def under(setting: Setting, tensors: Tensors, num_head: int, release: str, can: Abilities) -> Scenario:
    """A process of few steps with one variable set: whether lives can be under it."""
    plain = BackendConfig(num_head, tensors.kv_dtype, tensors.q_dtype, max_requests=8, graph_batches=(4,))
    steps = [Step(StepKind.DECODE, (17, 40)), Step(StepKind.DECODE, (1, 33), graph=True)]
    if can.prompts:
        steps.append(Step(StepKind.PREFILL, (40, 9), query_lens=(33, 9)))
    backends = [plain]
    if can.verify:
        backends.append(dataclasses.replace(plain, draft_tokens=2))
        steps += [Step(StepKind.TARGET_VERIFY, (9, 33), graph, backend=1) for graph in (False, True)]
    name = f"{'='.join(setting)}, {num_head} heads, {tensors.arch} {tensors.q_dtype}/{tensors.kv_dtype}"
    return Scenario(name, tuple(backends), tuple(steps), arch=tensors.arch, release=release, environment=(setting,))


def _draft_models(
    draw: Draw, target: BackendConfig, one: Tensors, tensors: Sequence[Tensors], can: Abilities
) -> list[BackendConfig]:
    """The draft model's backends beside a target that verifies: for its decode steps, and for catching up; its KV may be of
    another type."""
    if target.draft_tokens is None:
        return []
    alike = [each for each in tensors if each.arch is one.arch]
    held = pick(draw, (one, *alike))
    draft = dataclasses.replace(target, kv_dtype=held.kv_dtype, q_dtype=held.q_dtype)
    decodes = can.drafts and target.draft_tokens > 2 and draw(2)  # sglang builds none for one step (num_steps = 1)
    made = [dataclasses.replace(draft, is_draft=True)] if decodes else []
    return made + ([draft] if can.extends and draw(3) else [])
