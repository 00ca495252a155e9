"""What a backend file does on streams of its own: an edge that is missing is found, whichever it is; none that is there."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

import pytest

from backend.devices.kinds import open_device
from backend.findings import FindingKind, Party
from backend.real.frameworks.fetch import open_source
from backend.real.frameworks.record import Phase
from backend.real.frameworks.scenarios import BackendConfig, Scenario, Step, StepKind
from backend.real.frameworks.session import SourceSession
from backend.real.observe import PLANNING_ROLES
from fuzz.gate.judge import Judge, Judged
from tests.kept_sources import KeptSources

SOURCE = "sglang==0.5.13"

PLAN = "        meta = get_mla_metadata_v1(\n"

SIDE = '        side = self.__dict__.setdefault("_side", torch.cuda.Stream())\n'

PLAIN = BackendConfig(16, max_requests=8, graph_batches=(4,))

LIFE = Scenario(
    "plans on a stream of its own",
    (PLAIN, BackendConfig(16, draft_tokens=4, max_requests=8)),
    (
        Step(StepKind.DECODE, (17, 400)),
        Step(StepKind.DECODE, (18, 401)),
        Step(StepKind.DECODE, (1, 33), graph=True),
        Step(StepKind.PREFILL, (40, 9), query_lens=(33, 9)),
        Step(StepKind.TARGET_VERIFY, (17, 400), backend=1),
    ),
)


def planning_aside(before: str, after: str) -> str:
    """The file with its planning on another stream. before, after: the edges around it."""
    text = open_source(SOURCE).target.text
    begin = text.index(PLAN)
    end = text.index("        )\n", begin) + len("        )\n")
    aside = "        with torch.cuda.stream(side):\n" + textwrap.indent(text[begin:end], "    ")
    edges = [textwrap.indent(each + "\n", "        ") if each else "" for each in (before, after)]
    return text[:begin] + SIDE + edges[0] + aside + edges[1] + text[end:]


@pytest.fixture(scope="module")
def session(kept_sources: KeptSources) -> Iterator[SourceSession]:
    with kept_sources.open(SOURCE) as session:
        yield session


def judged(session: SourceSession, before: str, after: str) -> Judged:
    session.use(planning_aside(before, after))
    return Judge(open_device("model", None)).judged(LIFE, session.run(LIFE))


FROM, TO = "side.wait_stream(torch.cuda.current_stream())", "torch.cuda.current_stream().wait_stream(side)"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (FROM, TO),
        (FROM, "side.synchronize()"),
        ("torch.cuda.synchronize()", "torch.cuda.synchronize()"),
        (
            "ready = torch.cuda.Event()\nready.record()\nside.wait_event(ready)",
            "done = torch.cuda.Event()\ndone.record(side)\ndone.wait()",
        ),
    ],
)
def test_a_file_that_orders_its_streams_is_right(session: SourceSession, before: str, after: str) -> None:
    seen = judged(session, before, after)
    assert not seen.sightings
    assert seen.ran.total() >= 8


@pytest.mark.parametrize(("before", "after"), [(FROM, ""), (FROM, "side.wait_stream(torch.cuda.current_stream())")])
def test_a_decode_that_does_not_wait_for_its_plan_is_blamed(session: SourceSession, before: str, after: str) -> None:
    """In every phase; once for a step, with all that is planned."""
    found = [each for each in judged(session, before, after).sightings if "and mla_decode_fwd" in each.signature]
    assert {each.signature for each in found} == {"stream-race/recorded/get_mla_metadata_v1 and mla_decode_fwd"}
    assert {each.phase for each in found} == set(Phase)
    assert all(each.finding is not None and each.finding.kind is FindingKind.STREAM_RACE for each in found)
    assert all(each.finding is not None and each.finding.party is Party.CALLER for each in found)
    assert all(name in found[0].message for name in PLANNING_ROLES.values())
    assert (found[0].line or "").rpartition(":")[0].endswith("aiter_backend.py")


def test_a_plan_that_does_not_wait_for_its_batch_is_blamed(session: SourceSession) -> None:
    found = judged(session, "", TO).sightings
    eager = {each.signature for each in found if each.phase is Phase.EAGER and each.kind is StepKind.DECODE}
    assert "stream-race/recorded/torch's __setitem__ and get_mla_metadata_v1" in eager
    again = {each.signature for each in found if each.phase is Phase.REPLAY}
    assert "stream-race/recorded/get_mla_metadata_v1 and mla_decode_fwd" in again, "the buffers of the graph before it"
