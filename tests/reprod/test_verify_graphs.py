"""Streams and graphs of scripts: work without an order and tensors freed under a graph are found; the rest is silent."""

from __future__ import annotations

from pathlib import Path

import pytest

from backend.findings import FindingKind, Party
from reprod.verify import Verification, verification_lines
from tests.reprod.contract_script import run

GRAPH = """
def static(*lengths):
    qo, kv = indptr(*[1] * len(lengths)), indptr(*lengths)
    return qo, kv, planned(qo, kv)

def tensors(rows, slots=4096):
    q = torch.randn(rows, 16, 576, device="cuda").to(dtypes.fp8)
    pool = torch.randn(slots, 1, 1, 576, device="cuda").to(dtypes.fp8)
    o = torch.empty(rows, 16, 512, device="cuda", dtype=torch.bfloat16)
    indices = torch.arange(slots, dtype=torch.int32, device="cuda")
    return q, pool, o, indices, torch.ones(rows, dtype=torch.int32, device="cuda")

def attend(q, pool, o, indices, last, qo, kv, buffers):
    mla_decode_fwd(q, pool, o, qo, kv, indices, last, 1, sm_scale=0.04, q_scale=ONE, kv_scale=ONE, **dict(zip(NAMES, buffers)))
"""

KEEPS_ORDER = """
qo, kv, buffers = static(700, 500)
given = tensors(2)
attend(*given, qo, kv, buffers)
expected = given[2].clone()
given[2].zero_()
side, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
side.wait_stream(torch.cuda.current_stream())
with torch.cuda.stream(side):
    attend(*given, qo, kv, buffers)
torch.cuda.current_stream().wait_stream(side)
given[2].zero_()
counter = torch.zeros(1, device="cuda")
with torch.cuda.graph(graph):
    counter.add_(1)
    doubled = counter * 2
    attend(*given, qo, kv, buffers)
    out = given[2] + 0
assert counter.item() == 0 and not given[2].any(), "a capture does nothing"
assert out.isnan().all(), "nor does it compute"
graph.replay()
torch.cuda.synchronize()
assert counter.item() == 1 and doubled.item() == 2
assert torch.equal(out, expected)
kv.copy_(indptr(300, 40))
planned(qo, kv, buffers=buffers)
graph.replay()
assert counter.item() == 2 and doubled.item() == 4
assert not torch.equal(out, expected), "the memory as it is then"
attend(*given, qo, kv, buffers)
assert torch.equal(out, given[2])
"""


def kinds(done: Verification) -> set[tuple[FindingKind, Party, str]]:
    return {(seen.finding.kind, seen.finding.party, seen.finding.tensor) for seen in done.findings}


def test_a_graph_that_keeps_the_contract_is_silent(tmp_path: Path) -> None:
    """A capture does nothing, a replay does all of it on the memory as it is then; each replay's decode call is judged."""
    done = run(tmp_path, GRAPH + KEEPS_ORDER)
    assert (done.code, done.findings) == (0, ()), done.output
    assert done.reports[0].decode_calls == 5


def test_an_operation_loads_no_compiler(tmp_path: Path) -> None:
    """torch imports its own, half of a script's start, to leave out of it what stands in for the GPU; nothing compiles here."""
    done = run(tmp_path, "import sys\nassert float(ONE + 1) == 2\nassert 'torch._dynamo' not in sys.modules")
    assert done.exit_code == 0, done.output


@pytest.mark.parametrize("where", ["eager", "replayed"])
def test_metadata_written_on_another_stream_without_an_edge(tmp_path: Path, where: str) -> None:
    run_it = {"eager": "attend(*given, qo, kv, buffers)", "replayed": "graph.replay()"}[where]
    done = run(
        tmp_path,
        GRAPH
        + f"""
qo, kv, buffers = static(700, 500)
given = tensors(2)
graph, side = torch.cuda.CUDAGraph(), torch.cuda.Stream()
with torch.cuda.graph(graph):
    attend(*given, qo, kv, buffers)
torch.cuda.synchronize()
with torch.cuda.stream(side):
    planned(qo, kv, buffers=buffers)
{run_it}
""",
    )
    assert done.code == 1, done.output
    found = kinds(done)
    assert {kind for kind, _, _ in found} == {FindingKind.STREAM_RACE}
    assert {party for _, party, _ in found} == {Party.CALLER}
    assert "work_info_set" in {tensor for _, _, tensor in found}


@pytest.mark.parametrize(
    "edge",
    [
        "torch.cuda.current_stream().wait_stream(side)",
        "torch.cuda.current_stream().wait_event(side.record_event())",
        "event = torch.cuda.Event(); event.record(side); event.wait()",
        "side.synchronize()",
        "torch.cuda.synchronize()",
        "event = side.record_event(); event.synchronize()",
    ],
)
def test_each_edge_orders_two_streams(tmp_path: Path, edge: str) -> None:
    done = run(
        tmp_path,
        GRAPH
        + f"""
qo, kv, buffers = static(700, 500)
given = tensors(2)
side = torch.cuda.Stream()
side.wait_stream(torch.cuda.current_stream())
with torch.cuda.stream(side):
    planned(qo, kv, buffers=buffers)
{edge}
attend(*given, qo, kv, buffers)
""",
    )
    assert (done.code, done.findings) == (0, ()), done.output


@pytest.mark.parametrize("reused", [False, True])
def test_a_tensor_freed_under_a_graph(tmp_path: Path, reused: bool) -> None:
    done = run(
        tmp_path,
        GRAPH
        + f"""
qo, kv, buffers = static(700, 500)
given = list(tensors(2))
graph = torch.cuda.CUDAGraph()
with torch.cuda.graph(graph):
    attend(*given, qo, kv, buffers)
graph.replay()
shape = given[3].shape
given[3] = None
other = torch.zeros(shape, dtype=torch.int32, device="cuda") if {reused} else None
graph.replay()
""",
    )
    assert done.code == 1, done.output
    assert (FindingKind.FREED_UNDER_GRAPH, Party.CALLER, "kv_indices") in kinds(done)
    said = next(s.finding.message for s in done.findings if s.finding.kind is FindingKind.FREED_UNDER_GRAPH)
    assert ("another tensor" in said) == reused
    assert "nobody's" in said or reused


def test_a_buffer_written_while_another_stream_still_reads_it(tmp_path: Path) -> None:
    """The next batch's lengths, written behind a replay that nobody waited for, on a stream of their own."""
    text = """
qo, kv, buffers = static(700, 500)
given, side, graph = tensors(2), torch.cuda.Stream(), torch.cuda.CUDAGraph()
with torch.cuda.graph(graph):
    attend(*given, qo, kv, buffers)
graph.replay()
EDGE
with torch.cuda.stream(side):
    given[3].copy_(torch.arange(4096, dtype=torch.int32, device="cuda"))
"""
    done = run(tmp_path, GRAPH + text.replace("EDGE", "side.wait_stream(torch.cuda.current_stream())"))
    assert (done.code, done.findings) == (0, ()), done.output
    done = run(tmp_path, GRAPH + text.replace("EDGE", "torch.cuda.current_stream().wait_stream(side)"))
    assert kinds(done) == {(FindingKind.STREAM_RACE, Party.CALLER, "kv_indices")}, done.output


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("x.sum().item()", "not permitted when stream is capturing"),
        ("torch.cuda.synchronize()", "not permitted when stream is capturing"),
        ("x[x > 0]", "not permitted when stream is capturing"),
        ("torch.tensor([1], device='cuda')", "not permitted when stream is capturing"),
        ("x.copy_(torch.zeros(4))", "not permitted when stream is capturing"),
        ("torch.cuda.current_stream().wait_event(before)", "uncaptured work"),
    ],
)
def test_what_no_capture_holds_raises_as_on_hardware(tmp_path: Path, text: str, said: str) -> None:
    """And it is the script's own exception, by which it ends."""
    done = run(
        tmp_path,
        f"""
x, before, graph = torch.zeros(4, device="cuda"), torch.cuda.Stream().record_event(), torch.cuda.CUDAGraph()
with torch.cuda.graph(graph):
    {text}
""",
    )
    assert said in done.output
    assert (done.exit_code, done.could_not_run) == (1, None)


def test_what_has_no_model_is_could_not_run(tmp_path: Path) -> None:
    done = run(tmp_path, "torch.cuda.make_graphed_callables(lambda x: x, (ONE,))")
    assert done.code == 3
    assert "make_graphed_callables" in str(done.could_not_run)


def test_streams_that_fork_and_join_in_a_capture(tmp_path: Path) -> None:
    """Two halves of a batch, side by side; without the join the capture raises, without the fork it is no part of it."""
    text = """
qo, kv, buffers = static(700, 500)
first, second = tensors(2), tensors(2)
side, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
with torch.cuda.graph(graph):
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        attend(*second, qo, kv, buffers)
    attend(*first, qo, kv, buffers)
    JOIN
graph.replay()
print("two results", bool(first[2].isfinite().all() and second[2].isfinite().all()))
"""
    done = run(tmp_path, GRAPH + text.replace("JOIN", "torch.cuda.current_stream().wait_stream(side)"))
    assert (done.code, done.findings) == (0, ()), done.output
    assert "two results True" in done.output
    done = run(tmp_path, GRAPH + text.replace("JOIN", "pass"))
    assert "unjoined work" in done.output


@pytest.mark.parametrize(
    ("text", "is_the_scripts"),
    [
        ("torch.zeros(3, device='cuda') @ torch.zeros(4, device='cuda')", True),
        ("torch.zeros(3, device='cuda').numpy()", True),
        ("mla_decode_fwd(1)", True),
        ("torch.cuda.current_stream().nothing", True),
        ("1 / 0", True),
        ("torch.cuda.ExternalStream(3)", False),
        ("torch.cuda.memory_snapshot()", False),
        ("torch.accelerator.current_stream()", False),
        ("from backend.real.script.timeline import Timeline; Timeline().wait(99, {1: 2})", False),  # planted
    ],
)
def test_an_error_of_ours_is_never_the_scripts(tmp_path: Path, text: str, is_the_scripts: bool) -> None:
    """What lacks on the simulated GPU, and what breaks in it, is exit 3; what torch and AITER raise is the script's."""
    done = run(tmp_path, text)
    assert ("exit 1, by the script itself" in "\n".join(verification_lines(done))) == is_the_scripts, done.output
    assert (done.code == 3) == (not is_the_scripts)
