"""sglang's real backend file, executed as shipped: what it decides, what reaches AITER, and what a broken file does.

Three releases are fetched through pip. The decision table and the gate lines are sglang's, read off its files.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import numpy as np
import pytest

from backend.case import Arch, DType
from backend.child.tree import Limits
from backend.codec import from_plain, to_plain
from backend.errors import CannotRunError, UsageError
from backend.real.frameworks.fetch import _single_file, _whole_wheel, open_source
from backend.real.frameworks.record import Phase, RecordedStep, Recording
from backend.real.frameworks.scenarios import BackendConfig, Scenario, Step, StepKind
from backend.real.frameworks.session import SourceSession, decision_table, gate_line
from tests.kept_sources import KeptSources, Sessions
from tests.scenes import BUFFER_ROLES, data_parallel, eager_decode, graph_decode

BEFORE, AFTER, LATEST = "sglang==0.5.12.post1", "sglang==0.5.13", "sglang==0.5.23"
each_wheel = pytest.mark.parametrize("wheel", [BEFORE, AFTER, pytest.param(LATEST, marks=pytest.mark.slow)])
FP8, BF16 = DType.FP8, DType.BF16


@pytest.fixture(scope="module")
def sessions(kept_sources: KeptSources) -> Iterator[dict[str, SourceSession]]:
    opened = Sessions(kept_sources)
    yield opened
    opened.close()


def table(fast_64: bool, twelve: str | None) -> dict[tuple[int, DType], tuple[str | None, int | None, int | None]]:
    """sglang's rule, by heads and KV dtype: flags ps, fast, intra; splits without and with draft tokens. None: refused."""
    fake, fast, none = ("TFT", 64, 32), ("TTF", 64, 32), ("FFF", None, None)
    expected: dict[tuple[int, DType], tuple[str | None, int | None, int | None]] = {}
    for heads in (4, 8, 16):
        expected[heads, FP8], expected[heads, BF16] = fake, none
    for heads in (32, 48, 64, 80, 96, 112):
        is_fast = heads == 32 or (heads == 64 and fast_64)
        expected[heads, FP8] = expected[heads, BF16] = fast if is_fast else fake
    expected[128, FP8], expected[128, BF16] = fast, none
    expected[12, FP8] = expected[12, BF16] = (twelve, 64, 32) if twelve else (None, None, None)
    return expected


@pytest.mark.parametrize(
    ("wheel", "fast_64", "twelve", "line"),
    [
        (BEFORE, False, None, 280),
        (AFTER, True, None, 312),
        pytest.param(LATEST, True, "TFT", 635, marks=pytest.mark.slow),
    ],
)
def test_decision_table(sessions: dict[str, SourceSession], wheel: str, fast_64: bool, twelve: str | None, line: int) -> None:
    rows = sessions[wheel].decide()
    found = {
        (row.num_head, row.kv_dtype): (None if row.refused else row.flags, row.splits, row.splits_speculative) for row in rows
    }
    assert found == table(fast_64, twelve)
    assert all("AssertionError" in (row.refused or "") for row in rows if row.refused)
    assert {row.num_head_kernel for row in rows if row.num_head < 16 and not row.refused} == {16}
    place = gate_line(sessions[wheel].source)
    assert place is not None
    assert place.line == line
    assert place.file.endswith("sglang/srt/layers/attention/aiter_backend.py")


def only(recording: Recording, phase: Phase) -> list[RecordedStep]:
    assert recording.refused is None
    assert not recording.failed
    assert not recording.unknown_calls
    return [step for step in recording.steps if step.phase is phase]


def assert_truthful(step: RecordedStep) -> None:
    """What holds for each correct step: index tensors tell the batch that the driver ran, kv_indices its rows."""
    decode, count = step.decode, len(step.kv_lens)
    kv_lens = [*step.kv_lens, *[step.padded_kv_len] * step.padded]
    assert decode.kv_indptr.tolist() == np.cumsum([0, *kv_lens]).tolist()
    rows = [*step.query_lens, *[step.query_lens[0] if count else decode.max_seqlen_q] * step.padded]
    assert decode.qo_indptr.tolist() == np.cumsum([0, *rows]).tolist()
    assert decode.kv_indices[: step.slots.size].tolist() == step.slots.tolist()
    assert decode.q_rows == sum(rows)
    assert decode.kv_last_page_lens.tolist() == [1] * step.batch
    assert not step.strays
    assert not step.swapped_buffers
    if step.persistent:
        assert step.planning is not None
        assert step.planning.kv_indptr.tolist() == decode.kv_indptr.tolist()
        assert step.planning.max_seqlen_qo == decode.max_seqlen_q
        assert sorted(b.role for b in step.decode_buffers) == sorted(BUFFER_ROLES)
        assert all(b.words == b.allocated_words and b.offset == 0 for b in step.decode_buffers)
        assert set(step.lines) == {"sizing", "planning", "decode"}


@each_wheel
@pytest.mark.parametrize("kv", [FP8, BF16])
def test_eager_decode(sessions: dict[str, SourceSession], wheel: str, kv: DType) -> None:
    for heads in (8, 16, 64):
        (step,) = only(sessions[wheel].run(eager_decode(heads, (5, 1, 700), kv)), Phase.EAGER)
        assert_truthful(step)
        assert (step.decode.num_head, step.head_repeat) == ((16, 2) if heads == 8 else (heads, 1))
        assert (step.decode.q_dtype, step.decode.kv_dtype) == (kv, kv)
        assert step.sizing is None or (step.sizing.batch, step.sizing.max_seqlen_q) == (3, 1)


@each_wheel
@pytest.mark.parametrize(
    ("kind", "draft_tokens"), [(StepKind.DECODE, None), (StepKind.TARGET_VERIFY, 3), (StepKind.DRAFT_EXTEND, 2)]
)
def test_graphs(sessions: dict[str, SourceSession], wheel: str, kind: StepKind, draft_tokens: int | None) -> None:
    config = BackendConfig(64, draft_tokens=draft_tokens, max_requests=8, graph_batches=(1, 4, 8))
    recording = sessions[wheel].run(graph_decode(config, ((40, 50, 60), (700,), (9,) * 8, (3, 3)), kind))
    captured = only(recording, Phase.CAPTURE)
    assert [step.batch for step in captured] == [8, 4, 1]
    replayed = only(recording, Phase.REPLAY)
    assert [(step.batch, step.padded) for step in replayed] == [(4, 1), (1, 0), (8, 0), (4, 2)]
    for step in (*captured, *replayed):
        assert_truthful(step)
        assert step.sizing is not None
        assert (step.sizing.batch, step.sizing.max_seqlen_q) == (8, draft_tokens or 1)
    assert len({b.tag for step in recording.steps for b in step.decode_buffers}) == 6, "graphs keep their buffers"
    added = draft_tokens or 0 if kind is StepKind.TARGET_VERIFY else 0
    assert replayed[0].kv_lens == (40 + added, 50 + added, 60 + added)


@each_wheel
def test_draft_steps_and_verification(sessions: dict[str, SourceSession], wheel: str) -> None:
    drafting = BackendConfig(64, draft_tokens=4, max_requests=8, graph_batches=(4,), is_draft=True)
    lens = (5, 300)
    steps = (Step(StepKind.MULTI_STEP_DRAFT, lens), Step(StepKind.MULTI_STEP_DRAFT, lens, graph=True))
    recording = sessions[wheel].run(Scenario("drafting", (drafting,), steps))
    for phase in (Phase.EAGER, Phase.REPLAY):
        found = only(recording, phase)
        assert [step.kv_lens for step in found] == [(6, 301), (7, 302)]
        for step in found:
            assert_truthful(step)
    verifying = BackendConfig(64, draft_tokens=4, max_requests=8)
    (step,) = only(sessions[wheel].run(Scenario("verify", (verifying,), (Step(StepKind.TARGET_VERIFY, lens),))), Phase.EAGER)
    assert_truthful(step)
    assert (step.kv_lens, step.query_lens, step.splits) == ((9, 304), (4, 4), 32)


@each_wheel
def test_a_later_backend_changes_an_earlier_one(sessions: dict[str, SourceSession], wheel: str) -> None:
    """The flags are module globals: a bf16 backend of 16 heads takes persistence from the fp8 one built before it."""
    alone = BackendConfig(64)
    steps = (Step(StepKind.DECODE, (9, 9)),)
    (single,) = only(sessions[wheel].run(Scenario("one", (alone,), steps)), Phase.EAGER)
    (second,) = only(sessions[wheel].run(Scenario("two", (alone, BackendConfig(16, BF16, BF16)), steps)), Phase.EAGER)
    assert single.persistent
    assert not second.persistent
    assert second.decode.num_kv_splits is None


@each_wheel
def test_data_parallel_splits_follow_the_batch(sessions: dict[str, SourceSession], wheel: str) -> None:
    config = BackendConfig(128, max_requests=200, dp_attention=True)
    found = only(sessions[wheel].run(data_parallel(config, ((2,) * 200, (5,), (5,) * 5))), Phase.EAGER)
    assert [step.splits for step in found] == [2, 64, 52]
    for step in found:
        assert_truthful(step)
        assert step.sizing is not None
        assert step.sizing.num_kv_splits == step.splits


def test_architecture_and_page_size(sessions: dict[str, SourceSession]) -> None:
    config = BackendConfig(32, page_size=64, max_requests=4)
    scenario = Scenario("gfx942", (config,), (Step(StepKind.DECODE, (130, 7)),), arch=Arch.GFX942)
    (step,) = only(sessions[AFTER].run(scenario), Phase.EAGER)
    assert_truthful(step)
    assert (step.kv_dtype_name, step.device.num_cu) == ("float8_e4m3fnuz", 304)
    assert step.planning is not None
    assert (step.planning.kv_granularity, step.planning.page_size, step.decode.page_size) == (64, 1, 1)


@each_wheel
@pytest.mark.parametrize(("kind", "draft_tokens", "padding"), [(StepKind.DECODE, None, 1), (StepKind.TARGET_VERIFY, 3, 6)])
def test_kv_of_padding_rows(
    sessions: dict[str, SourceSession], wheel: str, kind: StepKind, draft_tokens: int | None, padding: int
) -> None:
    """A padding row's seq_len is 1, or the draft tokens; verification then adds the draft tokens as for every row."""
    config = BackendConfig(64, draft_tokens=draft_tokens, max_requests=4, graph_batches=(4,))
    (step,) = only(sessions[wheel].run(graph_decode(config, ((50, 60),), kind)), Phase.REPLAY)
    assert np.diff(step.decode.kv_indptr).tolist()[2:] == [padding, padding]


def test_recordings_go_through_json(sessions: dict[str, SourceSession]) -> None:
    recording = sessions[BEFORE].run(graph_decode(BackendConfig(16, max_requests=4, graph_batches=(2,)), ((5, 6), (1,))))
    plain = json.loads(json.dumps(to_plain(recording)))
    assert to_plain(from_plain(Recording, plain)) == plain
    assert plain["steps"][0]["lines"]["decode"]["line"] > 0


def test_variables_of_the_framework(sessions: dict[str, SourceSession]) -> None:
    scenario = eager_decode(64, (9,))
    without = sessions[BEFORE].run(scenario, {"SGLANG_AITER_MLA_PERSIST": "False"})
    assert not only(without, Phase.EAGER)[0].persistent
    assert only(sessions[BEFORE].run(scenario), Phase.EAGER)[0].persistent


@pytest.mark.slow(guard="test_variables_of_the_framework")
def test_the_user_s_shell_does_not_reach_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SGLANG_AITER_MLA_PERSIST", "False")
    with SourceSession(BEFORE) as session:
        assert only(session.run(eager_decode(64, (9,))), Phase.EAGER)[0].persistent


def test_a_child_that_goes_to_the_next_test_runs_the_release_s_own_file_again(kept_sources: KeptSources) -> None:
    with kept_sources.open(AFTER) as session:
        own = session.decide(heads=(64,))
        session.use(session.source.target.text.replace("in (32, 64, 128)", "in (32, 128)"))
        assert session.decide(heads=(64,)) != own
    with kept_sources.open(AFTER) as again:
        assert again is session
        assert again.decide(heads=(64,)) == own


Change = Callable[[str, str], AbstractContextManager[SourceSession]]


@pytest.fixture
def changed(sessions: dict[str, SourceSession]) -> Change:
    """The file before the fix, with one change, in the process of the unchanged one."""
    session = sessions[BEFORE]

    @contextmanager
    def change(old: str, new: str) -> Iterator[SourceSession]:
        text = open_source(BEFORE).target.text
        assert old in text
        session.use(text.replace(old, new))
        try:
            yield session
        finally:
            session.use(None)

    return change


def test_lengths_without_the_draft_tokens_are_seen(changed: Change) -> None:
    with changed("kv_lens = forward_batch.seq_lens + draft_num", "kv_lens = forward_batch.seq_lens") as session:
        config = BackendConfig(64, draft_tokens=3)
        (step,) = session.run(Scenario("verify", (config,), (Step(StepKind.TARGET_VERIFY, (10, 20)),))).steps
    assert step.kv_lens == (13, 23)
    assert step.decode.kv_indptr.tolist() == [0, 10, 30]


def test_swapped_buffers_are_seen(changed: Change) -> None:
    with changed(
        "work_info_set=work_info_set,\n                reduce_indptr=reduce_indptr,",
        "work_info_set=reduce_indptr,\n                reduce_indptr=work_info_set,",
    ) as session:
        (step,) = session.run(eager_decode(64, (10, 20))).steps
    assert step.swapped_buffers == ("work_info_set", "reduce_indptr")


def test_an_index_buffer_that_is_too_small_is_seen(changed: Change) -> None:
    """The framework's own kernel writes past it: noted, wherever that lies, and the file goes on as on a GPU."""
    with changed(
        "(max_bs * max_num_blocks_per_seq),\n                dtype=torch.int32",
        "(max_bs * 4),\n                dtype=torch.int32",
    ) as session:
        config = BackendConfig(64, max_requests=2, graph_batches=(2,))
        recording = session.run(graph_decode(config, ((100, 3),)))
    (step,) = [step for step in recording.steps if step.phase is Phase.REPLAY]
    assert {(stray.kernel, stray.is_write) for stray in step.strays} == {("create_flashinfer_kv_indices_triton", True)}
    assert sum(stray.lanes for stray in step.strays) == 95


def test_stale_metadata_is_seen(sessions: dict[str, SourceSession]) -> None:
    """A replay that plans nothing leaves the plan of an earlier batch: the record shows which."""
    old = "self.make_mla_meta_data(\n                        qo_indptr,"
    text = open_source(BEFORE).target.text
    at = text.index(old, text.index("def init_forward_metadata_replay_cuda_graph"))
    session = sessions[BEFORE]
    session.use(text[:at] + "(lambda *a, **k: None)(\n                        qo_indptr," + text[at + len(old) :])
    config = BackendConfig(64, max_requests=4, graph_batches=(2, 4))
    replayed = [s for s in session.run(graph_decode(config, ((50, 60),))).steps if s.phase is Phase.REPLAY]
    session.use(None)
    assert replayed[0].planning is not None
    assert replayed[0].planning.kv_indptr.tolist() == [0, 1, 2]
    assert replayed[0].decode.kv_indptr.tolist() == [0, 50, 110]


def test_an_exception_of_the_file_is_an_observation(changed: Change) -> None:
    with changed("num_kv_splits = self.max_split_per_batch\n", "num_kv_splits = self.max_split_per_batch // 0\n") as session:
        recording = session.run(eager_decode(64, (10,)))
    (failed,) = recording.failed
    assert failed.error.startswith("ZeroDivisionError")
    assert failed.line is not None
    assert failed.line.function == "init_forward_metadata"
    assert recording.steps == ()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("class AiterAttnBackend", "class RenamedBackend", r"defines no class AiterAttnBackend \(it has: .*RenamedBackend"),
        ("class WrapperDispatch(Enum):", "class WrapperDispatch(Enum:", r"aiter_backend\.py:\d+: syntax error"),
    ],
)
def test_files_that_cannot_be_driven(changed: Change, old: str, new: str, message: str) -> None:
    with pytest.raises(CannotRunError, match=message) as raised, changed(old, new):
        pass
    assert raised.value.exit_code == 3


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "skip_prefill: bool = False,\n        kv_indptr_buf",
            "brand_new,\n        kv_indptr_buf",
            r"parameter 'brand_new' is not known .*declare",
        ),
        (
            "self.page_size = model_runner.server_args.page_size",
            "self.page_size = model_runner.server_args.unheard_of",
            r"aiter_backend\.py:\d+ \(__init__\): server_args\.unheard_of is read but not declared",
        ),
        (
            "if self.num_head == 32 or",
            "if __import__('aiter').brand_new or",
            r"aiter_backend\.py:\d+ \(__init__\): aiter\.brand_new is unknown here",
        ),
        (
            "            mla_decode_fwd(q, k_buffer_flat, o, **kwargs)\n            return o\n",
            "            from aiter import brand_new\n            brand_new(q)\n            return o\n",
            r"brand_new .* nothing serves it",
        ),
    ],
)
def test_what_nobody_declared_is_named(changed: Change, old: str, new: str, message: str) -> None:
    with changed(old, new) as session, pytest.raises(CannotRunError, match=message):
        session.run(eager_decode(64, (10,)))


def test_a_file_that_fails_on_import(changed: Change) -> None:
    named = r"aiter_backend\.py:\d+: the file raises ModuleNotFoundError: .*not_installed_anywhere"
    with changed("import logging\n", "import not_installed_anywhere\n") as session, pytest.raises(CannotRunError, match=named):
        session.run(eager_decode(64, (10,)))


def test_unknown_functions_that_are_called_are_told(changed: Change) -> None:
    old = "            if self.use_mla:\n                qo_indptr = self.qo_indptr_[: bs + 1]\n"
    new = old + "                from sglang.srt.utils import brand_new\n                brand_new(bs)\n"
    with changed(old, new) as session:
        recording = session.run(eager_decode(64, (10,)))
    assert [call.partition(" ")[0] for call in recording.unknown_calls] == ["sglang.srt.utils.brand_new"]


def test_sources_that_are_not_there(tmp_path_factory: pytest.TempPathFactory) -> None:
    with pytest.raises(CannotRunError, match=r"sglang==0\.0\.0\.nothing: not fetched"):
        open_source("sglang==0.0.0.nothing")
    with pytest.raises(UsageError, match="numpy==1"):
        open_source("numpy==1.0")
    with pytest.raises(UsageError, match="no such file or folder"):
        open_source("no/such/place")
    empty = tmp_path_factory.mktemp("empty")
    with pytest.raises(UsageError, match=r"holds no sglang/srt/layers/attention/aiter_backend\.py"):
        open_source(str(empty))
    (empty / "aiter_backend.py").write_text("x = 1\n")
    with pytest.raises(UsageError, match="does not lie in its package"):
        open_source(str(empty / "aiter_backend.py"))


def test_a_file_near_the_root_has_no_package_around_it() -> None:
    with pytest.raises(UsageError, match="does not lie in its package"):
        _single_file("given", Path("/aiter_backend.py"))


@pytest.mark.slow(guard="test_a_file_near_the_root_has_no_package_around_it")
def test_a_tree_on_disk_and_its_file(tmp_path_factory: pytest.TempPathFactory) -> None:
    """A checkout's `python` folder with only the files that the constructor needs: the rest is unknown, and not asked."""
    root = tmp_path_factory.mktemp("checkout")
    needed = tuple(
        f"sglang/srt/{name}"
        for name in ("layers/attention/", "model_executor/", "utils", "configs/model_config", "mem_cache/swa", "environ")
    )
    tree = open_source(AFTER).tree.tree
    for name in tree._names:  # type: ignore[attr-defined]
        if name.startswith(needed):
            found = tree.read(name)
            assert found is not None
            path = root / "python" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(found[0])
    file = root / "python/sglang/srt/layers/attention/aiter_backend.py"
    for given in (str(root), str(root / "python"), str(file)):
        assert open_source(given).target.filename == str(file)
    with SourceSession(str(root)) as session:
        assert [row.flags for row in session.decide(heads=(64,))] == ["TTF", "TTF"]


@pytest.mark.slow(guard="child/test_service.py::test_time_limit")
def test_a_file_that_never_ends_is_stopped() -> None:
    text = open_source(BEFORE).target.text.replace("self.forward_metadata: ForwardMetadata = None", "while True: pass", 1)
    with SourceSession(BEFORE, text=text, limits=Limits(seconds=3)) as session:
        stopped = pytest.raises(CannotRunError, match="stopped at its limit of 3 s")
        with stopped:
            session.run(eager_decode(64, (10,)))


def test_scenarios_refuse_what_cannot_be() -> None:
    with pytest.raises(UsageError, match=r"steps\[0\]\.kv_lens.*max_requests=16"):
        Scenario("x", (BackendConfig(64),), (Step(StepKind.DECODE, (1,) * 17),))
    with pytest.raises(UsageError, match=r"steps\[0\]\.graph.*largest captured batch 0"):
        Scenario("x", (BackendConfig(64),), (Step(StepKind.DECODE, (1,), graph=True),))
    with pytest.raises(UsageError, match=r"steps\[0\]\.kind"):
        Scenario("x", (BackendConfig(64),), (Step(StepKind.TARGET_VERIFY, (1,)),))
    with pytest.raises(UsageError, match="page_size"):
        BackendConfig(64, page_size=3)
    with pytest.raises(UsageError, match=r"steps\[0\]\.backend"):
        Scenario("x", (BackendConfig(64),), (Step(StepKind.DECODE, (1,), backend=1),))


@pytest.mark.checkout
@pytest.mark.parametrize(
    ("wheel", "commit", "release"), [(BEFORE, "2988812e134a", "2026-06"), (LATEST, "e4048607a535", "2026-08")]
)
def test_aiter_s_own_python_gives_what_the_built_in_rules_give(
    wheel: str, commit: str, release: str, aiter_checkout: object
) -> None:
    graph = BackendConfig(64, max_requests=4, graph_batches=(4,))
    fold = BackendConfig(48, BF16, BF16, draft_tokens=2)
    scenarios = [
        graph_decode(graph, ((5, 6, 7),)),
        Scenario("fold", (fold,), (Step(StepKind.TARGET_VERIFY, (9, 100)),)),
        eager_decode(8, (9, 1), BF16),
    ]
    with SourceSession(wheel, aiter=f"{aiter_checkout}@{commit}") as real, SourceSession(wheel, release=release) as ours:
        assert real.release == release
        assert real.warning is not None
        assert real.warning.endswith(f"its host code is that of release {release}, byte for byte: built in and equal")
        for scenario in scenarios:
            assert to_plain(real.run(scenario)) == to_plain(ours.run(scenario))


@pytest.mark.slow(guard="test_decision_table")
def test_decision_table_in_one_call() -> None:
    assert [(row.kv_dtype, row.flags) for row in decision_table(AFTER, Arch.GFX942, (64,))] == [(FP8, "TTF"), (BF16, "TTF")]


def test_pip_is_asked_for_wheels_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A source distribution would be built, which runs its setup; what a wheel depends on is not wanted."""
    asked: list[list[str]] = []

    def runs(command: list[str], **options: object) -> subprocess.CompletedProcess[str]:
        asked.append(command)
        return subprocess.CompletedProcess(command, 1, "", "ERROR: no")

    monkeypatch.setattr(subprocess, "run", runs)
    with pytest.raises(CannotRunError, match="not fetched: ERROR: no"):
        _whole_wheel("sglang", "0.0.0", tmp_path)
    (command,) = asked
    assert {"--no-deps", "--only-binary=:all:", "download"} <= {*command}
    assert "install" not in command
