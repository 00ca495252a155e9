"""Device rocm without an AMD GPU: the real worker on a stand-in for aiter that faults, hangs and refuses as the real one."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from backend.call import Call
from backend.case import Case, DType, MetadataMode
from backend.checks.check import check
from backend.checks.numerics import death_once
from backend.child.messages import Task
from backend.child.process_end import EndKind
from backend.child.supervisor import Ended
from backend.child.tree import Limits
from backend.decision import Decision
from backend.devices.child_device import NOT_HARDWARE
from backend.devices.kinds import open_device
from backend.devices.rocm import RocmDevice
from backend.errors import CannotRunError
from backend.findings import FindingKind
from backend.host import BuiltIn
from backend.observation import Observation
from backend.serving.policy import decide
from backend.serving.registry import policy
from fuzz.campaign.summary import Reliability, is_weather

STUB = Path(__file__).parent / "stub_aiter"
COMMAND = [sys.executable, "-m", "backend.devices.gpu.rocm_worker", "--cpu"]
FAULTS, HANGS, LACKS_MEMORY, DIES, WRONG, REFUSES = 2, 4, 8, 16, 32, 64  # as stub_aiter/aiter/mla.py has them


@pytest.fixture(scope="module")
def stub_path() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(STUB))
        yield


@pytest.fixture(scope="module")
def device(stub_path: None) -> Iterator[RocmDevice]:
    with RocmDevice(command=COMMAND, limits=Limits(seconds=4.0)) as opened:
        yield opened


def make(page_size: int = 1, batch: int = 2, queries: int = 1, mode: MetadataMode = MetadataMode.FAST) -> Call:
    lens = tuple(range(40, 40 + batch))
    case = Case(16, lens, max_seqlen_q=queries, page_size=page_size, backend="direct", mode=mode)
    decision = decide(policy("direct"), case)
    assert isinstance(decision, Decision)
    return BuiltIn().call(decision)


def test_right_outputs_are_within_the_budget_and_say_where_they_come_from(device: RocmDevice) -> None:
    for queries, mode in ((1, MetadataMode.FAST), (3, MetadataMode.FAST), (1, MetadataMode.NON_PERSISTENT)):
        observed = device.observe(make(queries=queries, mode=mode))
        assert observed.end is not None
        assert observed.end.kind is EndKind.COMPLETED
        assert observed.numbers is not None
        assert (observed.numbers.compared, observed.numbers.outside) == (2 * queries * 16, 0)
        assert 0 < observed.numbers.relative_rms < 0.005
        assert observed.notes[0].startswith(NOT_HARDWARE)


def test_tokens_left_out_leave_the_budget(device: RocmDevice) -> None:
    observed = device.observe(make(WRONG))
    assert observed.numbers is not None
    # A head whose weight lies on other tokens hardly feels the three that are missing.
    assert observed.numbers.outside > 0.7 * observed.numbers.compared
    assert FindingKind.NUMERICS in {finding.kind for finding in check(observed)}


def test_a_fault_is_named_with_its_tensor_and_the_rest_goes_on(device: RocmDevice) -> None:
    calls = [make(), make(FAULTS), make(batch=3), make(FAULTS, batch=3), make()]
    observed = list(device.observe_all(calls))
    assert [one.call for one in observed if isinstance(one, Observation)] == calls
    ends = [one.end for one in observed if isinstance(one, Observation)]
    kinds = [end.kind for end in ends if end is not None]
    faulted, fine = EndKind.MEMORY_FAULT, EndKind.COMPLETED
    assert kinds == [fine, faulted, fine, faulted, fine]
    for end, batch in ((ends[1], 2), (ends[3], 3)):
        assert end is not None
        assert end.again
        assert end.message.startswith("Memory access fault by GPU node-2")
        assert end.tensor == "q"
        assert end.offset is not None
        assert batch * 16 * 576 - 4096 <= end.offset < batch * 16 * 576
        assert end.address is not None
        assert end.address % 4096 == 0
    (finding,) = [f for f in check(observed[1]) if f.kind is FindingKind.MEMORY_FAULT]  # type: ignore[arg-type]
    assert "Page not present" in str(finding.evidence["message"])


@pytest.mark.slow(guard="child/test_supervisor.py::test_a_hang_is_killed_in_time")
def test_a_hang_is_killed_and_a_silent_death_is_told_from_a_fault(device: RocmDevice) -> None:
    hung, died = (one for one in device.observe_all([make(HANGS), make(DIES)]) if isinstance(one, Observation))
    assert hung.end is not None
    assert died.end is not None
    assert (hung.end.kind, died.end.kind) == (EndKind.HANG, EndKind.SIGNAL)
    assert "SIGABRT" in died.end.message
    assert {f.kind for f in check(hung)} >= {FindingKind.HANG}


def test_lack_of_memory_and_refusals_are_no_findings(device: RocmDevice) -> None:
    lacks, refused, fine = device.observe_all([make(LACKS_MEMORY), make(REFUSES), make()])
    assert isinstance(lacks, CannotRunError)
    assert "out of memory" in str(lacks)
    assert isinstance(refused, CannotRunError)
    assert "nhead=3 not supported" in str(refused)
    assert isinstance(fine, Observation)
    with pytest.raises(CannotRunError, match="out of memory"):
        device.observe(make(LACKS_MEMORY))


@pytest.mark.slow(guard="child/test_supervisor.py::test_ranks_meet_before_the_launch_and_outlive_one_of_them")
def test_ranks_launch_together_and_a_fault_on_them_is_one_observation(stub_path: None) -> None:
    with RocmDevice(ranks=2, command=COMMAND, limits=Limits(seconds=20.0)) as ranks:
        right, faulted, after = (ranks.observe(made) for made in (make(), make(FAULTS), make()))
    assert right.notes[-1].startswith("2 ranks, launched within ")
    assert float(right.notes[-1].split()[-2]) < 500.0
    assert faulted.end is not None
    assert faulted.end.kind is EndKind.MEMORY_FAULT
    assert after.numbers is not None
    assert after.numbers.outside == 0


def test_without_a_gpu_it_says_so() -> None:
    with pytest.raises(CannotRunError, match="does not start"):
        open_device("rocm")


def test_another_architecture_is_refused_and_other_compute_units_are_noted() -> None:
    pytest.importorskip("torch")
    from backend.devices.gpu.rocm_worker import RocmWorker

    worker = RocmWorker.__new__(RocmWorker)
    worker.facts = lambda: {"arch": "gfx942", "num_cu": 80}  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match="asks for gfx950, this GPU is gfx942"):
        worker._fits(make().decision)
    worker.facts = lambda: {"arch": "gfx950", "num_cu": 80}  # type: ignore[method-assign]
    assert "80 compute units" in worker._fits(make().decision)[0]


def signature_of(source: str, name: str) -> inspect.Signature:
    """The signature of a function as its source has it, without importing anything."""
    node = next(n for n in ast.walk(ast.parse(source)) if isinstance(n, ast.FunctionDef) and n.name == name)
    arguments, kind = node.args, inspect.Parameter.POSITIONAL_OR_KEYWORD
    first_default = len(arguments.args) - len(arguments.defaults)
    return inspect.Signature(
        [
            inspect.Parameter(one.arg, kind, default=None if index >= first_default else inspect.Parameter.empty)
            for index, one in enumerate(arguments.args)
        ]
    )


class Recorder:
    """Stands for a function of aiter: has its signature, keeps what it was called with, returns what it is told to."""

    def __init__(self, name: str, signature: inspect.Signature, returns: object = None) -> None:
        self.__name__ = name
        self.__signature__ = signature
        self.bound: dict[str, object] = {}
        self._returns = returns

    def __call__(self, *given: object, **named: object) -> object:
        self.bound = self.__signature__.bind(*given, **named).arguments
        return self._returns


def recorded(sources: dict[str, str], made: Call) -> dict[str, Recorder]:
    """The worker's three calls for a decision, on the signatures of a release's sources."""
    torch = pytest.importorskip("torch")
    from types import SimpleNamespace

    from backend.devices.gpu import rocm_worker

    shapes = [(1, torch.int32)] * len(rocm_worker.BUFFERS)
    names = ("get_mla_metadata_info_v1", "get_mla_metadata_v1")
    made_of = {name: Recorder(name, signature_of(sources["ops"], name), shapes) for name in names}
    made_of["mla_decode_fwd"] = Recorder("mla_decode_fwd", signature_of(sources["mla"], "mla_decode_fwd"))
    worker = rocm_worker.RocmWorker.__new__(rocm_worker.RocmWorker)
    worker._aiter = SimpleNamespace(**made_of, dtypes=SimpleNamespace(fp8=torch.float8_e4m3fn))
    worker._device = torch.device("cpu")
    batch = rocm_worker._Batch(made.decision, worker._device, 0)
    buffers = worker._buffers(made.decision)
    worker._plan(made.decision, batch, buffers)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "aiter", SimpleNamespace(mla=made_of_module(made_of)))
        worker._decode(made.decision, batch, buffers)
    return made_of


def made_of_module(made_of: dict[str, Recorder]) -> object:
    from types import SimpleNamespace

    return SimpleNamespace(mla_decode_fwd=made_of["mla_decode_fwd"])


def check_recorded(calls: dict[str, Recorder], made: Call) -> None:
    sizing, planning = made.decision.sizing, made.decision.planning
    assert sizing is not None
    assert planning is not None
    info, metadata, decode = (calls[n].bound for n in ("get_mla_metadata_info_v1", "get_mla_metadata_v1", "mla_decode_fwd"))
    assert (info["batch_size"], info["num_head_qo"], info["fast_mode"]) == (sizing.batch, sizing.num_head, sizing.fast_mode)
    assert metadata["num_heads_per_head_k"] == planning.num_heads_per_head_k
    assert metadata["kv_granularity"] == planning.kv_granularity
    indptr = metadata["seqlens_kv_indptr"]
    assert np.array_equal(indptr.numpy(), planning.kv_indptr)  # type: ignore[attr-defined]
    assert decode["work_meta_data"] is metadata["work_metadata_ptrs"]
    assert decode["work_info_set"] is metadata.get("work_info_set", metadata.get("work_info"))
    assert decode["work_indptr"] is metadata["work_indptr"]
    assert decode["max_seqlen_q"] == made.decode.max_seqlen_q


def test_the_calls_bind_to_the_wheels_signatures() -> None:
    from importlib.util import find_spec

    found = find_spec("aiter")
    if found is None or found.origin is None or not (Path(found.origin).parent / "mla.py").is_file():
        pytest.skip("the wheel amd-aiter is not installed")
    root = Path(found.origin).parent
    sources = {"ops": (root / "ops/attention.py").read_text(), "mla": (root / "mla.py").read_text()}
    made = make()
    check_recorded(recorded(sources, made), made)
    with pytest.raises(TypeError, match="no argument 'intra_batch_mode'"):
        recorded(sources, make(mode=MetadataMode.FAKE))


@pytest.mark.checkout
@pytest.mark.parametrize("revision", ["2988812e134a", "e4048607a535ace3a2b51ded31b1c8c2d45c0879"])
def test_the_calls_bind_to_a_checkouts_signatures(aiter_checkout: Path, revision: str) -> None:
    def read(path: str) -> str:
        return subprocess.run(
            ["git", "-C", str(aiter_checkout), "show", f"{revision}:{path}"], capture_output=True, text=True, check=True
        ).stdout

    sources = {"ops": read("aiter/ops/attention.py"), "mla": read("aiter/mla.py")}
    for mode in (MetadataMode.FAST, MetadataMode.FAKE):
        made = make(mode=mode)
        check_recorded(recorded(sources, made), made)
    assert DType.FP8 is made.decode.q_dtype


def test_a_kill_from_outside_is_noted_and_the_case_comes_out_as_undisturbed(device: RocmDevice) -> None:
    """What its child is killed over is run again; the death is told beside the case, which has no finding."""
    made = make(batch=3)
    calm = device.observe(made)
    died = device._one.run

    def killed(tasks: Iterator[Task]) -> Iterator[Ended]:
        for ended in died(tasks):
            death = Ended(ended.task, None, EndKind.SIGNAL, "killed by SIGKILL", None, (), 0.1)
            yield dataclasses.replace(ended, once=death)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(device._one, "run", killed)
        disturbed = device.observe(made)
    assert disturbed.numbers == calm.numbers
    assert disturbed.end is not None
    assert disturbed.end.kind is EndKind.COMPLETED
    assert any("lost once" in note and "SIGKILL" in note for note in disturbed.notes)
    assert check(disturbed) == check(calm)
    death = death_once(disturbed)
    assert death is not None
    assert (death.kind, death_once(calm)) == (FindingKind.DIED, None)
    assert is_weather(death, Reliability(0, 5))
