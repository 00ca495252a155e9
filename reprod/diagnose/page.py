"""A diagnosis as a page of text. It tells what diagnosis.py found and decides nothing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from backend.aiter.kernels import describe_key
from backend.case import Case
from backend.words import counted
from reprod.blame import blame
from reprod.case_line import case_line
from reprod.diagnose.advice import next_time, telling_apart, what_differs
from reprod.diagnose.causes import Cause
from reprod.diagnose.diagnosis import Diagnosis
from reprod.diagnose.evidence import Ending
from reprod.diagnose.facts import LogFact, Topic
from reprod.diagnose.kernel_name import bare_name
from reprod.text import lengths, listed, one_line

MOST_CAUSES = 4

MOST_SHAPES = 5

LINES_QUOTED = 6


def page(done: Diagnosis) -> Iterator[str]:
    """The page, line by line."""
    yield from _read(done)
    yield from _kernel(done)
    yield from _places(done)
    yield from _causes(done)
    yield from _shrunk(done)
    yield from _missing(done)


def conclusion(done: Diagnosis) -> Iterator[str]:
    """What the page comes to: why nothing can be told, the refusal, or the best cause and its smallest case."""
    if done.cannot_tell or done.refusal is not None:
        yield next(line for line in _causes(done) if line)
        return
    yield from (f"cause: {_sentence(cause)}" for cause in done.causes[:1])
    yield from (line for line in _shrunk(done) if line)


def plain(done: Diagnosis) -> dict[str, object]:
    """The same for programs. causes: that fit, best first; the signature of one that was not run is null."""
    return {
        "ended_by": _ending(done),
        "framework": f"{done.evidence.framework} {done.evidence.framework_version}".strip(),
        "aiter": {"revision": done.revision.label, "exact": done.revision.exact, "why": done.revision.reason},
        "archs": done.archs,
        "kernel": done.kernel.name if done.kernel is not None else None,
        "cannot_tell": done.cannot_tell or None,
        "refusal": None if done.refusal is None else {"reason": done.refusal[0], "case": done.refusal[2]},
        "causes": [] if done.cannot_tell else [_plain_cause(cause) for cause in done.causes],
        "smallest": done.outcome.case if done.shown and done.outcome is not None else None,
        "script_shows_it": done.seen.shows if done.seen is not None else None,
        "shapes_tried": done.found.tried,
        "would_tell_more": list(next_time(done)),
    }


def _plain_cause(cause: Cause) -> dict[str, object]:
    return {
        "what": _sentence(cause),
        "signature": cause.finding.signature if cause.finding is not None else None,
        "not_run": cause.missing or None,
        "known_as": list(cause.entries),
        "score": cause.score,
        "reasons": [{"weight": weight, "text": text} for weight, text in cause.reasons],
        "case": cause.case,
    }


def _read(done: Diagnosis) -> Iterator[str]:
    evidence = done.evidence
    yield f"read: {counted(done.facts.lines, 'line')}, {counted(len(done.facts.found), 'fact')}"
    yield from (f"  {line}" for line in _quoted(done))
    yield from (f"  note: {note}" for note in done.facts.notes)
    yield ""
    yield f"ended by: {_ending(done)}"
    framework = " ".join(
        filter(None, (evidence.framework or "a framework that the log does not name", evidence.framework_version))
    )
    yield f"framework: {framework}" + (f", model {one_line(evidence.model)}" if evidence.model else "")
    yield f"AITER: {done.revision.label} ({done.revision.reason})"
    if not done.revision.exact and not done.cannot_tell:
        yield "  not known to be the files that ran: what follows holds for this one"
    if done.stand_in:
        yield f"  {done.stand_in}"
    yield f"GPU: {_gpu(done)}"
    known = tuple(_known(done))
    yield f"shape: {', '.join(known) if known else 'nothing in the log'}"


def _gpu(done: Diagnosis) -> str:
    if done.evidence.arch is not None:
        return done.evidence.arch
    if done.arch is not None and len(done.archs) == 1:
        return f"{done.arch}, the only one that has the kernel"
    return f"not in the log: {' and '.join(sorted(done.archs))} are tried" if not done.cannot_tell else "not in the log"


QUOTED = (
    Topic.FAULT_ADDRESS,
    Topic.FAULTING_KERNEL,
    Topic.KERNEL_FILE,
    Topic.KERNEL,
    Topic.FAULT_IS_WRITE,
    Topic.PC,
    Topic.REFUSAL,
    Topic.OUT_OF_MEMORY,
    Topic.NOT_LOADED,
    Topic.HANG,
    Topic.COLLECTIVE,
    Topic.WRONG_OUTPUT,
    Topic.EXCEPTION,
    Topic.BATCH,
    Topic.CAPTURING,
)
"""Topics of which the last line is shown, the weightiest first."""


def _quoted(done: Diagnosis) -> Iterator[str]:
    found: dict[tuple[str, int], LogFact] = {}
    for topic in QUOTED:
        fact = done.facts.last(topic)
        if fact is not None:
            found.setdefault((fact.file, fact.line), fact)
    for fact in sorted(list(found.values())[:LINES_QUOTED], key=lambda fact: (fact.file, fact.line)):
        yield f"{fact.where}: {fact.text}"


def _ending(done: Diagnosis) -> str:
    evidence = done.evidence
    if evidence.ending is not Ending.FAULT:
        return evidence.ending.value
    where = {True: " at a null address", False: "", None: " at an address that the log does not give"}[evidence.null]
    verb = {True: "a write, ", False: "a read, ", None: ""}[evidence.is_write]
    ranks = len({fact.value for fact in done.facts.of(Topic.FAULT_ADDRESS)})
    several = f", {counted(ranks, 'address')}" if ranks > 1 else ""
    reasons = dict.fromkeys(fact.value for fact in done.facts.of(Topic.FAULT_REASON))
    return f"a memory fault{where} ({verb}reason: {'; '.join(reasons) or 'none given'}{several})"


def _known(done: Diagnosis) -> Iterator[str]:
    evidence = done.evidence
    if evidence.heads is not None:
        yield f"{counted(evidence.heads, 'head')} a rank"
    if evidence.q_dtype is not None:
        yield f"q {evidence.q_dtype}"
    if evidence.kv_dtype is not None:
        yield f"KV {evidence.kv_dtype}"
    if evidence.rows is not None:
        yield f"{counted(evidence.rows, 'row')} a request"
    for batch in evidence.batches[:1]:
        yield f"{counted(len(batch), 'request')} of {lengths(batch)} tokens"
    if evidence.capturing:
        yield "while graphs were captured"
    if evidence.pool_tokens:
        yield f"a pool of {counted(evidence.pool_tokens, 'token')}"
    if evidence.rope == 0:
        yield "rope-free"


def _kernel(done: Diagnosis) -> Iterator[str]:
    yield ""
    kernel, evidence = done.kernel, done.evidence
    if kernel is None:
        others = listed([bare_name(suspect.name) for suspect in evidence.others]) if evidence.others else ""
        yield f"kernel: {'not of MLA decode: ' + one_line(others) if others else 'none of MLA decode in the log'}"
        return
    yield f"kernel: {one_line(kernel.name)} ({evidence.suspects[0].by}, {evidence.suspects[0].fact.where})"
    if kernel.label:
        yield from (f"  {kernel.label}: {describe_key(key)}" for key in kernel.keys)
    else:
        yield "  no row of its name in the tables at hand" + (
            "; its name says " + describe_key(kernel.keys[0]) if kernel.keys else ""
        )
    if evidence.suspects[0].by != "the fault names it":
        yield "  AITER prints a kernel when it is first used: one that was in use before may have faulted"
    further = [one_line(suspect.name) for suspect in evidence.suspects[1:4]]
    if further:
        yield f"  also loaded: {', '.join(further)}"
    reaching = done.found.reaching
    if reaching:
        yield f"  shapes that lead to it, of {done.found.tried:,} tried: {counted(len(reaching), 'kind')}, such as"
        yield from (f"    {shape}" for shape in _shapes(reaching.values()))


def _shapes(cases: Iterable[Case]) -> list[str]:
    """Kinds of shapes in words, each once, the first few."""
    kinds = dict.fromkeys(_kind(case) for case in cases)
    return list(kinds)[:MOST_SHAPES]


def _kind(case: Case) -> str:
    mode = f", {case.mode}" if case.mode is not None else ""
    types = f"q {case.q_dtype}, KV {case.kv_dtype}"
    return f"{counted(case.num_head, 'head')}, {types}, {counted(case.max_seqlen_q, 'row')}, {case.backend}{mode}"


def _places(done: Diagnosis) -> Iterator[str]:
    if not done.facts.has(Topic.PC):
        return
    yield ""
    if not done.places:
        why = "give a checkout of ROCm/aiter (--aiter)" if done.revision.source is None else "it is in no kernel of the log's"
        yield f"pc: not read: {why}"
        return
    exact = [place for place in done.places if place.is_exact]
    for place in exact or done.places:
        sure = "" if place.is_exact else ", one of the places with the pc's low 12 bits: the log has no address of the code"
        yield f"pc: 0x{place.pc:x} in the kernel{sure}: {place.text}"
        for pc, text, expression in place.reaches:
            yield f"    reaches memory at 0x{pc:x}: {text}" + (f"  ({expression})" if expression else "")
    yield "  (memory is answered late: the access may lie some instructions before the pc that hardware names)"


def _causes(done: Diagnosis) -> Iterator[str]:
    yield ""
    if done.cannot_tell:
        yield f"cannot tell, because {one_line(done.cannot_tell)}"
        for cause in done.found.causes[:2]:
            yield f"  seen among these shapes, but against the log: {_sentence(cause)} ({cause.reasons[0][1]})"
        return
    if done.refusal is not None:
        reason, count, case = done.refusal
        yield f"cause: refused, no memory fault: {one_line(reason)}"
        yield (
            f"  {count} of {counted(done.found.tried, 'shape tried is', 'shapes tried are')} refused so, such as "
            f"{case_line(case)}"
        )
        return
    shown = done.causes[:MOST_CAUSES]
    yield f"causes that fit, best first ({len(done.causes)}; {counted(done.found.tried, 'shape')} tried" + (
        f", {done.found.by_code} by machine code):" if done.found.by_code else "):"
    )
    for place, cause in enumerate(shown, 1):
        alike = [each for each in shown if _sentence(each) == _sentence(cause)]
        yield from _cause(place, cause, f" Here: {', '.join(what_differs(cause, alike))}." if len(alike) > 1 else "")
    yield from (f"  to tell them apart: {line}" for line in telling_apart(shown))


def _cause(place: int, cause: Cause, here: str) -> Iterator[str]:
    """here: what sets it apart from another one of the same sentence."""
    yield f"  {place}. {_sentence(cause)}{here}"
    if cause.outcome is not None:
        who = blame(cause.outcome)
        yield f"     at fault: {who.who}; to put it right: {who.advice}"
        yield f"     shown by {cause.shown:,} of the shapes tried, such as {case_line(cause.case)}, {cause.case.backend}"
    else:
        yield f"     not run here: {cause.missing}; the shape: {case_line(cause.case)}"
    for entry in cause.entries.values():
        references = f" ({', '.join(entry.references)})" if entry.references else ""
        yield f"     known as {entry.id}: {entry.title}{references}"
    yield f"     for and against ({cause.score:+d}): " + "; ".join(f"{text} ({weight:+d})" for weight, text in cause.reasons)


def _sentence(cause: Cause) -> str:
    if cause.outcome is None:
        entry = next(iter(cause.entries.values()))
        return f"{entry.id}, {entry.title[0].lower()}{entry.title[1:]}"
    sentence = blame(cause.outcome).sentence
    return sentence if len(sentence) <= LONGEST_SENTENCE else sentence[: LONGEST_SENTENCE - 4] + " ..."


LONGEST_SENTENCE = 360


def _shrunk(done: Diagnosis) -> Iterator[str]:
    outcome = done.outcome
    if done.cannot_tell or outcome is None:
        return
    yield ""
    case: Case = outcome.case
    limits = "" if done.best is None else f" (of {done.best.tried:,} tried{'' if done.best.minimal else ', time ended'})"
    yield f"smallest case of the first{limits}: {case_line(case)}, {case.backend}"
    if done.seen is not None:
        yield from (line if place == 0 else f"  {line}" for place, line in enumerate(done.seen.lines))
    elif done.script:
        yield "repro.py: written, not run (no time left, or not asked for)"


def _missing(done: Diagnosis) -> Iterator[str]:
    lines = tuple(next_time(done))
    if lines:
        yield ""
        yield "what would tell more:"
        yield from (f"  {line}" for line in lines)
    for reason, count in done.found.unknown.most_common(3):
        yield f"  not known of {counted(count, 'shape')}: {one_line(reason)}"
    if done.found.stopped:
        yield "  the time limit ended the search; --seconds gives it more"
