"""`python -m backend.experiments.gpu_selftest`: does the whole path stand on this GPU? A table; exits 1 where it does not.

Random cases over all metadata modes must be within the error budget and touch no red zone; plans that are wrong, and a page id
far outside of the pool, must be seen without losing a case beside them; two ranks must see what one sees.
"""

from __future__ import annotations

import argparse
import dataclasses
import random
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np

from backend.call import Call
from backend.case import Arch, Case, DType, MetadataMode
from backend.checks.check import check
from backend.checks.coverage import check_coverage
from backend.child.process_end import EndKind
from backend.decision import Decision
from backend.devices.cuda.device import CudaDevice
from backend.errors import AiterfuzzError, CannotRunError
from backend.findings import BY_NUMBERS, FindingKind, Severity
from backend.host import BuiltIn
from backend.observation import Observation
from backend.outcome import Outcome
from backend.path import Path, faults_before_launch, judge
from backend.serving.policy import decide
from backend.serving.registry import policy
from backend.words import number_of

MAX_TOKENS = 1 << 16
"""KV tokens of a random batch: a case in tens of milliseconds, reference included."""


def random_case(draw: random.Random, mode: MetadataMode, max_tokens: int = MAX_TOKENS) -> Case:
    """A case that hands itself to AITER as it stands (backend `direct`), well formed; AITER may still refuse it."""
    batch = draw.choice((1, 1, 2, 3, 5, 8, 16, 33, 64))
    queries = draw.choice((1, 1, 1, 2, 3, 4))
    longest = max(max_tokens // batch, queries)
    lens = tuple(max(queries, min(longest, int(2 ** draw.uniform(0, 13)))) for _ in range(batch))
    dtype = draw.choice((DType.FP8, DType.BF16))
    one_query = queries == 1
    return Case(
        num_head=draw.choice((16, 32, 48, 64, 80, 96, 112, 128)),
        kv_lens=lens,
        max_seqlen_q=queries,
        # v1_0 and v1_1 count kv_offset in pages, which is right for one query only.
        page_size=draw.choice((1, 16, 64)) if one_query or mode is MetadataMode.FAST else 1,
        q_dtype=dtype,
        kv_dtype=dtype,
        arch=draw.choice((Arch.GFX950, Arch.GFX942)),
        num_cu=draw.choice((0, 0, 80, 132)),
        release=draw.choice(("2025-11", "2026-06", "2026-08")),
        backend="direct",
        mode=mode,
        first_page=draw.choice((0, 0, 1000)),
    )


def well_formed_calls(seed: int, count: int, max_tokens: int = MAX_TOKENS) -> Iterator[Call]:
    """Calls that AITER takes and that no check finds anything wrong with, the four modes in turn."""
    draw = random.Random(seed)
    made = 0
    while made < count:
        case = random_case(draw, tuple(MetadataMode)[made % len(MetadataMode)], max_tokens)
        candidate = _call_of(case)
        if isinstance(candidate, Call) and not faults_before_launch(candidate) and not check_coverage(candidate):
            made += 1
            yield candidate


def faulty_calls() -> list[Call]:
    """64 heads planned as 4 groups of 16 (sglang#27188): o overrun, wrong sequences only, logits overrun, a large o overrun."""
    shapes: Sequence[tuple[int, ...]] = ((1,), (400,) * 4, (4096,), (100,) * 64)
    made = [_call_of(Case(64, lens, backend="sglang-before-27188")) for lens in shapes]
    return [candidate for candidate in made if isinstance(candidate, Call)]


def wild_call() -> Call:
    """A page id a terabyte past the pool: no GPU maps that."""
    decision = decide(policy("sglang-27188"), Case(64, (64, 64)))
    assert isinstance(decision, Decision)
    pages = decision.decode.kv_indices.copy()
    pages[70] = np.int32(2**31 - 1)
    return BuiltIn().call(dataclasses.replace(decision, decode=dataclasses.replace(decision.decode, kv_indices=pages)))


def _call_of(case: Case) -> Call | Outcome:
    return Path().launched(case)


_SEEN_ON_THE_GPU = {FindingKind.OUT_OF_BOUNDS_WRITE, FindingKind.MEMORY_FAULT, FindingKind.ROW_NOT_WRITTEN, *BY_NUMBERS}
"""Kinds that come from the run and not from the plan alone."""


class Table:
    """Lines of the form `name: value`, and whether any of them is a failure."""

    def __init__(self) -> None:
        self.failed = False

    def say(self, what: str, said: object, holds: bool = True) -> None:
        """Prints one line at once."""
        self.failed |= not holds
        print(f"{'ok    ' if holds else 'FAILED'} {what:<58} {said}", flush=True)


def check_random(device: CudaDevice, count: int, seed: int, table: Table, max_tokens: int) -> None:
    """Random well-formed cases, faulty and wild ones between them."""
    good = list(well_formed_calls(seed, count, max_tokens))
    observed: list[Observation | CannotRunError] = []
    began = time.monotonic()
    observed += device.observe_all(good)
    seconds = time.monotonic() - began
    ran = [one for one in observed if isinstance(one, Observation)]
    modes = Counter(str(one.call.decision.mode) for one in ran)
    table.say("random cases, by mode", dict(modes), len(ran) == count)
    for one in observed:
        if isinstance(one, CannotRunError):
            table.say("  not run", str(one).splitlines()[-1][:200], False)
    faults = [finding for one in ran for finding in check(one) if finding.severity > Severity.REFUSED]
    table.say("  findings", len(faults), not faults)
    for one in ran:
        for finding in check(one):
            print(f"         {one.call.decision.case}\n         {finding.message}")
    numbers = [one.numbers for one in ran if one.numbers is not None]
    table.say("  output rows compared", sum(n.compared for n in numbers), len(numbers) == count)
    table.say("  largest error / budget", f"{max(n.worst for n in numbers):.3f}")
    table.say("  largest relative rms", f"{max(n.relative_rms for n in numbers):.5f}")
    table.say("  cases/s, planning, values and float64 reference included", f"{count / seconds:.1f}")


def check_faults(device: CudaDevice, seed: int, table: Table, max_tokens: int) -> None:
    """Faulty calls among good ones: each seen, nothing lost, and the worker is there afterwards."""
    good = list(well_formed_calls(seed + 1, 12, max_tokens))
    wrong = [*faulty_calls(), wild_call()]
    mixed = [made for index, made in enumerate(good) for made in (made, *wrong[index : index + 1])]
    starts = device.starts
    observed = list(device.observe_all(mixed))
    table.say("calls, one in three of them wrong: in, out", f"{len(mixed)}, {len(observed)}", len(mixed) == len(observed))
    for made, one in zip(mixed, observed, strict=True):
        if not isinstance(one, Observation):
            table.say("  not run", str(one).splitlines()[-1][:200], False)
            continue
        kinds = {finding.kind for finding in check(one)}
        if any(made is candidate for candidate in wrong):
            seen = sorted(kind.value for kind in kinds & _SEEN_ON_THE_GPU)
            case, end = made.decision.case, one.end
            where = "; ".join(f"{v.tensor} [{v.first_offset}, {v.end_offset})" for v in one.violations)
            said = f"{', '.join(seen)}: {where or (end.message[:80] if end is not None else '')}"
            again = ", again when alone" if end is not None and end.again else ""
            table.say(
                f"  {number_of(case.num_head, 'head')}, batch {case.batch} x kv {case.kv_lens[0]}", f"{said}{again}", bool(seen)
            )
        elif kinds:
            table.say("  a good call beside them", ", ".join(kinds), False)
    table.say("  child processes started for it", device.starts - starts)


def check_ranks(ranks: int, seed: int, table: Table, max_tokens: int, interpret: bool) -> None:
    """The same cases on several ranks at once."""
    with CudaDevice(ranks=ranks, interpret=interpret) as device:
        calls = [*well_formed_calls(seed + 2, 12, max_tokens), *faulty_calls()[:2]]
        observed = [one for one in device.observe_all(calls) if isinstance(one, Observation)]
    good = [one for one in observed if one.numbers and one.end and one.end.kind is EndKind.COMPLETED]
    spreads = [float(one.notes[-1].split("within ")[1].split()[0]) for one in good]
    table.say(f"{number_of(ranks, 'rank')} at once: cases, ended well", f"{len(calls)}, {len(good)}", len(good) == len(calls))
    table.say("  launches of a case apart, median and worst, ms", f"{np.median(spreads):.3f}, {max(spreads):.3f}")
    seen = [sorted({finding.kind.value for finding in check(one)} & {*_SEEN_ON_THE_GPU}) for one in observed]
    table.say("  faulty calls", seen[-2:], all(seen[-2:]) and not any(seen[:-2]))


def check_sanitizer(table: Table) -> None:
    """The smallest faulty call under compute-sanitizer: reads outside are named too."""
    try:
        with CudaDevice(sanitize=True) as device:
            outcome = judge(faulty_calls()[0], device)
    except CannotRunError as error:
        table.say("compute-sanitizer", f"not run: {str(error).splitlines()[-1][:200]}")
        return
    observed = outcome.observation
    if observed is None:
        table.say("compute-sanitizer", f"not run: {outcome.reason}")
        return
    for violation in observed.violations:
        access = "write" if violation.is_write else "read"
        said = f"{access} of {violation.tensor} from {violation.first_offset}, {violation.count} records, {violation.why}"
        table.say("compute-sanitizer", said)
    table.say("  memory errors named", len(observed.violations), bool(observed.violations))


def main(arguments: Sequence[str]) -> int:
    """The self-test; see the module."""
    parser = argparse.ArgumentParser(prog="python -m backend.experiments.gpu_selftest", description=__doc__)
    parser.add_argument("--cases", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--max-tokens", type=int, default=MAX_TOKENS, help="KV tokens of a random batch")
    parser.add_argument("--interpret", action="store_true", help="without a GPU, in Triton's interpreter (slow)")
    parser.add_argument("--sanitize", action="store_true", help="also under compute-sanitizer")
    given = parser.parse_args(arguments)
    table = Table()
    try:
        with CudaDevice(interpret=given.interpret) as device:
            table.say("device", dict(device.facts))
            check_random(device, given.cases, given.seed, table, given.max_tokens)
            check_faults(device, given.seed, table, given.max_tokens)
        check_ranks(given.ranks, given.seed, table, given.max_tokens, given.interpret)
        if given.sanitize:
            check_sanitizer(table)
    except AiterfuzzError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return int(table.failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
