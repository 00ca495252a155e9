"""q, o and the pool as views with gaps between their rows: what AITER refuses, what comes out wrong, what does not."""

from __future__ import annotations

from pathlib import Path as FilePath

import numpy as np
import pytest

from backend.aiter.codefiles import installed_wheel, open_source
from backend.aiter.launch import Launch
from backend.aiter.tensors import NO_VIEW, ElementType, TensorSpec, contiguous_strides, gap_between_rows, viewed_strides
from backend.call import Call
from backend.case import Case, DType, MetadataMode, OutputType
from backend.devices.cdna.device import CdnaDevice
from backend.devices.model.device import ModelDevice
from backend.devices.two_devices import differences
from backend.fate import Fate
from backend.findings import FindingKind, Party
from backend.host import BuiltIn, Host
from backend.path import Path
from backend.revision.revision import host_of
from reprod.script import script_text

SHORT = Case(16, (40, 30), release="2025-11", backend="direct", mode=MetadataMode.FAST, num_cu=8)
SPLIT = SHORT.replace(kv_lens=(4000, 4000))
NON_PERSISTENT = SHORT.replace(mode=MetadataMode.NON_PERSISTENT)


@pytest.mark.parametrize(
    ("case", "wrong"),
    [
        (SHORT.replace(o_gap=64), True),
        (SHORT.replace(o_gap=64, kv_lens=(40,)), False),  # one row has none behind it
        (SPLIT.replace(o_gap=64), False),  # the merge is given strides
        (NON_PERSISTENT.replace(o_gap=64, num_kv_splits=2, kv_lens=(700, 700)), False),
        (NON_PERSISTENT.replace(o_gap=64, num_kv_splits=1), True),  # o is the kernel's own output
        (SHORT.replace(kv_gap=64), False),  # the launcher passes the stride of pages
        (NON_PERSISTENT.replace(kv_gap=576), False),
    ],
)
def test_model_and_machine_see_the_same_and_the_caller_is_told(case: Case, wrong: bool) -> None:
    source = installed_wheel()
    path = Path(BuiltIn(source), CdnaDevice(source, record=True))
    outcome = path.run(case)
    assert outcome.observation is not None
    assert differences(outcome.observation, ModelDevice(record=True).observe(outcome.observation.call)) == []
    if not wrong:
        assert (outcome.fate, outcome.findings) == (Fate.CLEAN, ())
        return
    assert outcome.cause is not None
    assert (outcome.cause.kind, outcome.cause.tensor) == (FindingKind.VIEW_WITH_GAPS, "o")
    assert {each.party for each in outcome.findings} == {Party.CALLER}
    assert {each.kind for each in outcome.findings} == {FindingKind.VIEW_WITH_GAPS, FindingKind.ROW_NOT_WRITTEN}


def test_numbers_of_a_pool_with_gaps_are_right() -> None:
    """The gaps hold NaN, which would show."""
    outcome = Path(BuiltIn(installed_wheel()), CdnaDevice(installed_wheel(), numbers=True)).run(SHORT.replace(kv_gap=64))
    assert outcome.observation is not None
    assert outcome.observation.numbers is not None
    assert outcome.observation.numbers.compared == 2 * 16
    assert (outcome.fate, outcome.findings) == (Fate.CLEAN, ())


FOLDED = SHORT.replace(num_head=32, q_dtype=DType.BF16, release="2026-08")
REFUSED = [
    (SHORT.replace(q_gap=64, release="2026-08"), "only support Q.is_contiguous() for now"),
    (NON_PERSISTENT.replace(q_gap=64, release="2026-08"), "only support Q.is_contiguous() for now"),
    (FOLDED.replace(q_gap=64), NO_VIEW),
    (FOLDED.replace(q_gap=64, max_seqlen_q=2), None),  # copied before the launcher looks at it
    (FOLDED.replace(o_gap=64), NO_VIEW),
    (FOLDED.replace(o_gap=64, max_seqlen_q=2), NO_VIEW),
    (FOLDED.replace(o_gap=64, kv_lens=(40,)), None),
]


@pytest.mark.parametrize(("case", "reason"), REFUSED)
def test_what_aiter_refuses_itself(case: Case, reason: str | None) -> None:
    outcome = Path().run(case)
    assert outcome.fate is (Fate.CLEAN if reason is None else Fate.REFUSED)
    assert reason is None or reason in str(outcome.reason)


@pytest.mark.checkout
def test_its_own_text_says_the_same(aiter_checkout: FilePath) -> None:
    host = host_of(open_source(f"{aiter_checkout}@e4048607a5"))
    for case, _ in REFUSED:
        by_text, by_rules = Path(host).run(case), Path().run(case)
        assert (by_text.fate, by_text.reason) == (by_rules.fate, by_rules.reason), case
    given = [SHORT.replace(release="2026-08", **gaps) for gaps in ({"o_gap": 64}, {"kv_gap": 64}, {"o_gap": 8, "kv_gap": 8})]
    for case in [*given, *(each.replace(mode=MetadataMode.NON_PERSISTENT, num_kv_splits=1) for each in given)]:
        evaluated, built_in = launched(case, host), launched(case, BuiltIn())
        for name in ("q", "o", "kv_buffer"):
            assert evaluated.tensors[name] == built_in.tensors[name], name
        strides = [{each.name: each.value for each in one.kernargs}["s_Bs"] for one in (evaluated, built_in)]
        assert strides == [576 + case.kv_gap] * 2


def launched(case: Case, host: Host) -> Launch:
    made = Path(host).launched(case)
    assert isinstance(made, Call)
    return made.launched


def test_a_framework_that_hands_no_views_refuses_them() -> None:
    assert "q_gap" in str(Path().run(Case(16, (40,), q_gap=8)).refused)


def test_the_script_hands_views_over() -> None:
    outcome = Path().run(SHORT.replace(release="2026-08", o_gap=64, kv_gap=32))
    text = script_text(outcome, None)
    compile(text, "repro.py", "exec")
    assert "O_GAP = 64" in text
    assert 'o = memory.view("o", (sum(QUERY_LENS), NUM_HEADS, V_HEAD_DIM), DTYPES[O_DTYPE], O_GAP, BESIDE_OUTPUT)' in text
    assert "DTYPES[KV_DTYPE], KV_GAP)" in text
    assert "Q_GAP" not in text
    plain = script_text(Path().run(SHORT.replace(release="2026-08", o_dtype=OutputType.FP8)), None)
    assert "memory.view" not in plain


@pytest.mark.parametrize("shape", [(6, 4, 2), (1, 4, 2), (6, 1, 2), (6, 4, 0), (2, 3, 4, 5)])
def test_strides_of_views_are_torchs(shape: tuple[int, ...]) -> None:
    """Every reshape of a tensor with and without gaps between its rows, transposed and not."""
    torch = pytest.importorskip("torch")
    count = int(np.prod(shape))
    wholes = [
        torch.zeros(shape),
        torch.zeros(shape[0] * 2, *shape[1:])[::2],
        torch.zeros(shape[1], shape[0], *shape[2:]).transpose(0, 1),
    ]
    for tensor in wholes:
        for wanted in [shape, (count,), (shape[0] * shape[1], *shape[2:]), (shape[0], 1, *shape[1:]), (2, count // 2)]:
            if int(np.prod(wanted)) != count:
                continue
            try:
                made = tensor.view(wanted)
            except RuntimeError:
                made = None
            found = viewed_strides(shape, tuple(tensor.stride()), wanted)
            assert (found is None) == (made is None), (tensor.stride(), wanted)
            if made is not None and found is not None and count:
                strides = zip(wanted, found, made.stride(), strict=True)
                assert all(extent == 1 or one == other for extent, one, other in strides), (tensor.stride(), wanted)


def test_gaps_and_bytes() -> None:
    assert gap_between_rows((4, 2, 8), contiguous_strides((4, 2, 8))) == 0
    assert gap_between_rows((4, 2, 8), (40, 8, 1)) == 24
    assert gap_between_rows((1, 2, 8), (40, 8, 1)) == 0
    assert gap_between_rows((4, 2, 8), (20, 10, 1)) is None
    assert gap_between_rows((4, 2, 8), (8, 32, 1)) is None
    assert TensorSpec((4, 2, 8), ElementType.BF16, 24).nbytes == (3 * 40 + 16) * 2
