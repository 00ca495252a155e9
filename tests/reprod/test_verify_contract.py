"""Scripts that break AITER's contract: the caller is named, AITER's refusals are its own, what keeps the contract is silent."""

from __future__ import annotations

from pathlib import Path

import pytest

from backend.aiter.planners.result import EDITED
from backend.findings import FindingKind, Party
from backend.real.script.messages import ScriptReport
from reprod.verify import Verification, verification_lines
from tests.reprod.contract_script import run


def test_what_keeps_the_contract_is_silent(tmp_path: Path) -> None:
    """Among it: a plan that is made again in the same buffers, and one that was copied; what AITER refuses runs nowhere; a
    request without a row; lengths of last pages that nobody filled, where a page holds one token."""
    done = run(
        tmp_path,
        """
buffers = planned(two, indptr(2000, 9))
planned(two, kv, buffers=buffers)
decode(two, kv, buffers)
copies = [torch.empty_like(each) for each in buffers]
for copy, each in zip(copies[1:], buffers[1:]):
    copy.copy_(each)
copies[0].copy_(torch.tensor([copies[1].data_ptr(), copies[2].data_ptr()], dtype=torch.uint64))
decode(two, kv, copies)
refused(lambda: decode(two, kv, buffers, o_type=torch.float32))
decode(two, kv, buffers, last=torch.zeros(2, dtype=torch.int32, device="cuda"))
some, of_three = indptr(1, 0, 1), indptr(700, 300, 500)
decode(some, of_three, planned(some, of_three, uniform=-1))
""",
    )
    assert (done.code, done.findings) == (0, ()), done.output
    assert "refused: kn_mla_reduce_v1 doesn't support output type Float." in done.output
    assert any("AITER refuses a call" in note for note in done.reports[0].notes)


def test_a_stale_plan_is_the_callers(tmp_path: Path) -> None:
    done = run(tmp_path, "decode(two, kv, planned(two, indptr(300, 40)))")
    assert done.code == 1, done.output
    first = done.findings[0].finding
    assert (first.kind, first.party) == (FindingKind.PLAN_MISMATCH, Party.CALLER)
    assert {seen.finding.party for seen in done.findings} == {Party.CALLER}


def test_metadata_that_was_written_over_is_the_callers(tmp_path: Path) -> None:
    done = run(
        tmp_path,
        """
buffers = planned(two, kv)
decode(two, kv, buffers, last=torch.tensor([700, 500], dtype=torch.int32, device="cuda"))
buffers[2][0, 5] += 16
decode(two, kv, buffers)
""",
    )
    assert Party.PLANNER not in {seen.finding.party for seen in done.findings}  # lengths of a page of one token say nothing
    assert FindingKind.BAD_LAST_PAGE_LEN in {seen.finding.kind for seen in done.findings}
    assert {(seen.finding.kind, seen.finding.party) for seen in done.findings} >= {(FindingKind.COVERED_TWICE, Party.CALLER)}
    assert {seen.finding.stage for seen in done.findings if seen.finding.tensor == "work_info_set"} == {
        "metadata, not as planned"
    }


EDITS = {
    "work_indptr": "buffers[1][1:] -= 1",
    "rows of an item": "buffers[2][0, 2:4] += 1",
    "tokens of an item": "buffers[2][0, 4:6] += 4",
    "partial row of an item": "buffers[2][0, 1] += 1",
    "reduce_indptr": "buffers[3][1:] -= 1",
    "reduce_final_map": "buffers[4][0] += 1",
    "reduce_partial_map": "buffers[5][0] += 5",
}


@pytest.mark.parametrize("edit", EDITS)
def test_whichever_word_of_the_metadata_is_edited_the_caller_is_at_fault(edit: str, tmp_path: Path) -> None:
    """Kernel and merge do as they are told."""
    done = run(tmp_path, f"buffers = planned(two, kv)\n{EDITS[edit]}\ndecode(two, kv, buffers)")
    assert (done.code, {seen.finding.party for seen in done.findings}) == (1, {Party.CALLER}), done.output
    assert EDITED in {seen.finding.stage for seen in done.findings}


def test_the_batch_of_an_item_is_not_loaded_and_says_nothing(tmp_path: Path) -> None:
    done = run(tmp_path, "buffers = planned(two, kv)\nbuffers[2][:, 0] += 1\ndecode(two, kv, buffers)")
    assert (done.code, done.findings) == (0, ()), done.output


def test_a_tensor_on_the_cpu_is_named(tmp_path: Path) -> None:
    done = run(tmp_path, "decode(two, kv, planned(two, kv), indices=torch.arange(4096, dtype=torch.int32))")
    assert done.code == 134, done.output
    assert [(seen.finding.kind, seen.finding.tensor) for seen in done.findings] == [(FindingKind.HOST_TENSOR, "kv_indices")]


@pytest.mark.parametrize(
    ("text", "tensor"),
    [
        ("first, second = planned(two, kv), planned(two, indptr(40, 2000))\ndecode(two, kv, first[:3] + second[3:])", ""),
        ("decode(two, kv, [each.clone() for each in planned(two, kv)])", "work_meta_data"),
        ("work = planned(two, kv)\ndecode(two, kv, [work[0], *(each.clone() for each in work[1:])])", "work_meta_data"),
    ],
    ids=["of two plans", "a copy, whose original is freed", "a copy beside its original"],
)
def test_metadata_that_is_not_of_one_planning_call_is_the_callers(text: str, tensor: str, tmp_path: Path) -> None:
    """A copy keeps the addresses of the buffers that were planned into, which kernels follow."""
    done = run(tmp_path, text)
    found = [seen.finding for seen in done.findings]
    assert (FindingKind.PLAN_MISMATCH, tensor) in {(each.kind, each.tensor) for each in found}, done.output
    assert {each.party for each in found} == {Party.CALLER}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("refused(lambda: planned(two.long(), kv))", "seqlens_qo_indptr's element type should be int!"),
        ("refused(lambda: planned(two, kv.float()))", "seqlens_kv_indptr's element type should be int!"),
        ("refused(lambda: planned(two, indptr(1, 2, 3, 4)[::2]))", "seqlens_kv_indptr should be continuous!"),
    ],
)
def test_planning_asks_for_words(text: str, words: str, tmp_path: Path) -> None:
    done = run(tmp_path, f"decode(two, kv, planned(two, kv))\n{text}")
    assert (done.code, done.findings) == (0, ()), done.output
    assert f"refused: get_mla_metadata_v1: {words}" in done.output


INDICES = "torch.arange(4096, dtype=torch.int32, device='cuda')"


@pytest.mark.parametrize(
    ("text", "tensors", "kind"),
    [
        (f"decode(two, kv, planned(two, kv), indices={INDICES}.long())", ["kv_indices"], FindingKind.WRONG_TYPE),
        (f"decode(two, kv, planned(two, kv), indices={INDICES}.float())", ["kv_indices"], FindingKind.WRONG_TYPE),
        (f"decode(two, kv, planned(two, kv), indices={INDICES}[::2])", ["kv_indices"], FindingKind.VIEW_WITH_GAPS),
        ("decode(two, kv.long(), planned(two, kv))", ["kv_indptr"], FindingKind.WRONG_TYPE),
        ("decode(two.long(), kv.long(), planned(two, kv))", ["qo_indptr", "kv_indptr"], FindingKind.WRONG_TYPE),
        (
            "decode(indptr(1), indptr(1), planned(indptr(1), indptr(1)), indices=torch.zeros(1, device='cuda'))",
            ["kv_indices"],
            FindingKind.WRONG_TYPE,
        ),
        (f"decode(two, kv, planned(two, kv), indices={INDICES}[64:])", [], None),
        (
            "decode(indptr(1), indptr(1), planned(indptr(1), indptr(1)), indices=torch.zeros(1, device='cuda').long())",
            [],
            None,
        ),
    ],
    ids=["int64", "float32", "strided", "int64 ends", "both ends", "one float", "a part", "one int64"],
)
def test_index_tensors_are_read_as_words(text: str, tensors: list[str], kind: FindingKind | None, tmp_path: Path) -> None:
    """AITER hands over their addresses alone, whatever their elements are."""
    done = run(tmp_path, text)
    found = [seen.finding for seen in done.findings]
    assert [each.tensor for each in found if each.kind is kind] == tensors, done.output
    assert {each.party for each in found} <= {Party.CALLER}
    assert bool(found) == bool(tensors)


VIEWS = """
kinds = {"q": dtypes.fp8, "pool": dtypes.fp8, "o": torch.bfloat16}
dense = {"q": torch.randn(2, 16, 576, device="cuda"), "pool": torch.randn(800, 1, 1, 576, device="cuda"),
         "o": torch.zeros(2, 16, 512, device="cuda")}
dense = {name: tensor.to(kinds[name]) for name, tensor in dense.items()}
indices, last = torch.arange(800, dtype=torch.int32, device="cuda"), torch.ones(2, dtype=torch.int32, device="cuda")

def apart(tensor):
    return torch.zeros(len(tensor) * 2, *tensor.shape[1:], device="cuda").to(tensor.dtype)[::2].copy_(tensor)

def sliced(tensor):
    return torch.zeros(*tensor.shape[:-1], 640, device="cuda").to(tensor.dtype)[..., : tensor.shape[-1]].copy_(tensor)

def heads_apart(tensor):
    return torch.zeros(2, 32, 512, device="cuda").to(tensor.dtype)[:, ::2].copy_(tensor)

def transposed(tensor):
    return torch.zeros(16, 2, 512, device="cuda").to(tensor.dtype).transpose(0, 1).copy_(tensor)

def attend(kv, splits=None, **views):
    given = dense | views
    how = dict(zip(NAMES, planned(two, kv))) if splits is None else dict(num_kv_splits=splits)
    mla_decode_fwd(given["q"], given["pool"], given["o"], two, kv, indices, last, 1, sm_scale=0.04, q_scale=ONE, kv_scale=ONE,
                   **how)
    return given["o"]

SHORT, SPLIT = indptr(7, 5), indptr(500, 300)
"""


@pytest.mark.parametrize(
    ("text", "kinds"),
    [
        ("same(SHORT, o=apart(dense['o']))", {(FindingKind.VIEW_WITH_GAPS, "o"), (FindingKind.ROW_NOT_WRITTEN, "o")}),
        ("same(SHORT, o=sliced(dense['o']))", {(FindingKind.VIEW_WITH_GAPS, "o")}),
        ("same(SHORT, o=heads_apart(dense['o']))", {(FindingKind.VIEW_WITH_GAPS, "o")}),
        ("same(SHORT, o=transposed(dense['o']))", {(FindingKind.VIEW_WITH_GAPS, "o")}),
        ("same(SPLIT, o=apart(dense['o']))", set()),  # the merge is given strides
        ("same(SPLIT, o=sliced(dense['o']))", set()),
        ("same(SPLIT, o=heads_apart(dense['o']))", set()),
        ("same(SPLIT, o=transposed(dense['o']))", set()),
        ("same(SPLIT, splits=4, o=heads_apart(dense['o']))", set()),
        ("same(SPLIT, pool=apart(dense['pool']))", set()),  # the launcher passes the stride of pages
        ("same(SHORT, pool=sliced(dense['pool']))", set()),
    ],
)
def test_views_are_run_as_aiter_runs_them(text: str, kinds: set[tuple[FindingKind, str]], tmp_path: Path) -> None:
    """Wrong where the kernel itself stores rows of o, whose stride it is not told, and nowhere else."""
    compared = """
def same(kv, splits=None, **views):
    expected, shown = attend(kv, splits).clone(), attend(kv, splits, **views)
    print("the same", torch.equal(expected, shown))

"""
    done = run(tmp_path, VIEWS + compared + text)
    assert done.could_not_run is None, done.output
    assert {(seen.finding.kind, seen.finding.tensor) for seen in done.findings} == kinds, done.output
    assert {seen.finding.party for seen in done.findings} == ({Party.CALLER} if kinds else set())
    assert f"the same {not kinds}" in done.output


@pytest.mark.parametrize("view", ["apart", "sliced"])
def test_q_as_a_view_is_refused_by_aiter(view: str, tmp_path: Path) -> None:
    done = run(tmp_path, VIEWS + f"attend(SHORT, q={view}(dense['q']))")
    assert done.code not in (0, 3)
    assert "only support Q.is_contiguous() for now" in done.output
    assert done.findings == ()


@pytest.mark.parametrize("judged", [True, False])
def test_a_call_that_ran_and_that_nobody_judged_is_not_clean(judged: bool) -> None:
    left = () if judged else ("mla_decode_fwd call 2 is not judged byte by byte: no model of it",)
    report = ScriptReport(1, "gfx950", 256, "2026-06", "machine code", None, (), 2, 2, (), None, not_judged=left)
    done = Verification((), 0, (report,), "", None, 1.0, 1)
    lines = "\n".join(verification_lines(done))
    assert done.code == (0 if judged else 3)
    assert ("no finding byte by byte" in lines) == judged
    assert ("1 of 2 decode calls ran and were not judged: mla_decode_fwd call 2" in lines) == (not judged)


EIGHT_HEADS = """
sizes = aiter.get_mla_metadata_info_v1(2, 1, 8, dtypes.fp8, dtypes.fp8, is_sparse=False, fast_mode=True)
made = [torch.empty(size, dtype=kind, device="cuda") for size, kind in sizes]
last = torch.ones(2, dtype=torch.int32, device="cuda")
try:
    aiter.get_mla_metadata_v1(two, kv, last, 8, 1, True, made[0], made[2], made[1], *made[3:], kv_granularity=16,
                              max_seqlen_qo=1, uni_seqlen_qo=1, fast_mode=True, dtype_q=dtypes.fp8, dtype_kv=dtypes.fp8)
except Exception as error:
    print("refused:", error)
"""


@pytest.mark.parametrize("release", ["2026-06", "2026-08"])
def test_a_planner_that_aborts_ends_the_script(release: str, tmp_path: Path) -> None:
    """From c16d44b93 on a failed check of the planner is std::abort(), which no `except` of the script's outlives."""
    done = run(tmp_path, f"decode(two, kv, planned(two, kv))\n{EIGHT_HEADS}\nprint('still here')", release)
    assert ("still here" in done.output, done.exit_code) == (release == "2026-06", 0 if release == "2026-06" else 134)
    (report,) = done.reports
    (said,) = [note for note in report.notes if note.startswith("AITER refuses a call")]
    assert ("ends the process" in said) == (release == "2026-08")
    assert done.could_not_run is None
    last = list(verification_lines(done))[-1]
    assert last.startswith("exit 0" if release == "2026-06" else "exit 134, by AITER's refusal: get_mla_metadata_v1: ")


def test_a_launcher_that_aborts_ends_the_script(tmp_path: Path) -> None:
    """AITER_CHECK of the scales of an fp8 q, in the launcher since a6bb49937."""
    done = run(tmp_path, "refused(lambda: decode(two, kv, planned(two, kv), q_scale=None))\nprint('still here')")
    assert (done.exit_code, "still here" in done.output) == (134, False)
    assert "requires q_scale and kv_scale" in done.output
    last = list(verification_lines(done))[-1]
    assert last.startswith("exit 134, by AITER's refusal: ")
    assert "requires q_scale and kv_scale" in last


@pytest.mark.parametrize(
    ("text", "by_aiter"),
    [
        ("decode(two, kv, planned(two, kv), o_type=torch.float32)", True),
        ("refused(lambda: decode(two, kv, planned(two, kv), o_type=torch.float32)); raise ValueError('mine')", False),
    ],
)
def test_an_exception_of_aiters_that_nobody_catches_is_told_as_aiters(text: str, by_aiter: bool, tmp_path: Path) -> None:
    done = run(tmp_path, text)
    last = list(verification_lines(done))[-1]
    assert done.exit_code == 1
    assert ("by AITER's refusal: kn_mla_reduce_v1 doesn't support output type Float." in last) == by_aiter, done.output
    assert ("by the script itself" in last) == (not by_aiter)


def test_a_call_that_cannot_be_followed_is_no_result_whatever_the_script_makes_of_it(tmp_path: Path) -> None:
    done = run(
        tmp_path,
        """
work, buffers = planned(two, kv), None
decode(two, kv, work)
try:
    aiter.get_mla_metadata_v1(two, kv, two[1:], 16, 1, True, work[0], work[2], work[1], *work[3:], kv_granularity=16,
                              max_seqlen_qo=1, uni_seqlen_qo=1, dtype_q_nope=dtypes.fp8, dtype_q_rope=torch.bfloat16)
except Exception:
    pass
""",
        "2026-08",
    )
    assert done.code == 3
    assert "dtype_q_rope" in str(done.could_not_run)


OF_TWO = """
q = torch.zeros(2, 16, 576, device="cuda").to(TYPE)
pool = torch.zeros(4096, 1, 1, 576, device="cuda").to(TYPE_OF_KV)
o = torch.empty(ROWS, HEADS, 512, device="cuda", dtype=torch.bfloat16)
entries = torch.arange(4096, dtype=torch.int32, device="cuda")
last = torch.ones(2, dtype=torch.int32, device="cuda")
mla_decode_fwd(q, pool, o, two, kv, entries, last, 1, sm_scale=0.04, q_scale=SCALE, kv_scale=SCALE, **metadata)
"""

FP8, PLANNED = "float8_e4m3fn", "dict(zip(NAMES, planned(two, kv)))"


def of_two(
    rows: int = 2, heads: int = 16, metadata: str = "{}", q: str = "bfloat16", kv: str = "bfloat16", scale: str = "ONE"
) -> str:
    """A decode call of two requests into an o of so many rows and heads."""
    text = f"metadata = {metadata}{OF_TWO}"
    for name, value in {
        "TYPE_OF_KV": f"torch.{kv}",
        "TYPE": f"torch.{q}",
        "ROWS": rows,
        "HEADS": heads,
        "SCALE": scale,
    }.items():
        text = text.replace(name, str(value))
    return text


@pytest.mark.parametrize("changes", [{}, {"metadata": PLANNED, "q": FP8, "kv": FP8}], ids=["by splits", "persistent"])
@pytest.mark.parametrize("rows", [1, 5])
def test_o_has_rows_of_its_own(changes: dict[str, str], rows: int, tmp_path: Path) -> None:
    """AITER makes its own tensors for as many; kernels and merge store into o as many as q has, whatever it has."""
    done = run(tmp_path, of_two(rows, **changes))  # type: ignore[arg-type]
    found = [seen.finding for seen in done.findings]
    assert bool(found) == (rows == 1), done.output
    if found:
        assert (found[0].kind, found[0].party, found[0].discriminator) == (FindingKind.BAD_INDPTR, Party.CALLER, "past o")
        assert (FindingKind.OUT_OF_BOUNDS_WRITE, "o") in {(each.kind, each.tensor) for each in found}


@pytest.mark.parametrize(
    ("text", "code", "said"),
    [
        (of_two(q=FP8, kv=FP8, scale="ONE[:0]"), 134, "fp8 Q requires q_scale and kv_scale"),
        (of_two(kv=FP8, metadata=PLANNED, scale="ONE[:0]"), 134, "kv_scale data_ptr must not be null"),
        (of_two(q=FP8, kv=FP8, metadata=f"{PLANNED} | {{'reduce_indptr': None}}"), 1, "reduce_indptr is None"),
        ("no = indptr()\ndecode(no, no, [])", 1, "divides the KV tokens by no requests (ZeroDivisionError)"),
    ],
    ids=["scales without elements", "a KV scale without elements", "no map", "no request"],
)
def test_what_ends_a_call_before_it_runs_is_said(text: str, code: int, said: str, tmp_path: Path) -> None:
    done = run(tmp_path, text)
    assert (done.code, done.findings) == (code, ()), done.output
    assert said in done.output


def test_heads_of_o_that_q_has_not_are_judged_by_nobody(tmp_path: Path) -> None:
    done = run(tmp_path, of_two(heads=32))
    assert (done.code, done.findings) == (3, ())
    assert [each for report in done.reports for each in report.not_judged] == [
        "mla_decode_fwd call 1 is not judged byte by byte: mla_decode_fwd(o=(2, 32, 512)): only [rows, 16, width] is modelled, "
        "for q's heads"
    ]


@pytest.mark.parametrize("name", ["q_scale", "kv_scale"])
def test_a_scale_is_a_float32(name: str, tmp_path: Path) -> None:
    done = run(tmp_path, f"decode(two, kv, planned(two, kv), {name}=ONE.to(torch.bfloat16))")
    found = [(seen.finding.kind, seen.finding.party, seen.finding.tensor) for seen in done.findings]
    assert found == [(FindingKind.WRONG_TYPE, Party.CALLER, name)], done.output


@pytest.mark.parametrize("metadata", ["{}", "dict(zip(NAMES, planned(two, kv)))"], ids=["by splits", "persistent"])
def test_kernels_without_metadata_count_from_where_an_indptr_begins(metadata: str, tmp_path: Path) -> None:
    """Planners count from 0 instead."""
    text = f"kv = torch.tensor([100, 800, 1300], dtype=torch.int32, device='cuda')\n{of_two(metadata=metadata)}"
    found = [(seen.finding.kind, seen.finding.discriminator) for seen in run(tmp_path, text).findings]
    assert found[:1] == ([(FindingKind.BAD_INDPTR, "start")] if metadata != "{}" else [])


def test_a_page_is_read_where_the_kernel_looks_for_it(tmp_path: Path) -> None:
    """The entry -1 of an unused place: this kernel keeps 24 bits of it, and is aborted 1 GiB on as its machine code is."""
    text = "entries = torch.arange(4096, dtype=torch.int32, device='cuda')\nentries[3] = -1\n"
    done = run(tmp_path, f"{text}decode(two, kv, planned(two, kv), indices=entries)")
    assert (done.code, done.findings[0].finding.kind) == (134, FindingKind.BAD_PAGE_ID), done.output
    assert "reads page -1: kv_buffer + 1,073,741,248 bytes" in done.output


def test_metadata_of_random_words_is_no_error_of_ours(tmp_path: Path) -> None:
    done = run(tmp_path, "torch.manual_seed(3)\nwork = planned(two, kv)\nwork[2].random_(0, 2**31 - 1)\ndecode(two, kv, work)")
    assert done.code == 134, done.output
    assert "an error of aiterfuzz itself" not in " ".join(done.not_judged)


def test_lists_lie_topk_entries_apart(tmp_path: Path) -> None:
    """Packed ones that were planned for with topk: the kernel reads past kv_indices, and the caller is at fault."""
    done = run(
        tmp_path,
        """
lists, buffers = indptr(64, 64), planned(two, indptr(64, 64))
aiter.get_mla_metadata_v1(two, lists, two[1:], 16, 1, True, buffers[0], buffers[2], buffers[1], *buffers[3:], kv_granularity=16,
                          max_seqlen_qo=1, uni_seqlen_qo=1, fast_mode=True, dtype_q=dtypes.fp8, dtype_kv=dtypes.fp8, topk=2048)
decode(two, lists, buffers, indices=torch.arange(128, dtype=torch.int32, device="cuda"))
""",
    )
    first = done.findings[0].finding
    assert (first.party, first.discriminator) == (Party.CALLER, "lists past kv_indices"), done.output
