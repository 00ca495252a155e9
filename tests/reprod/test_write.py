"""A finding's folder: its files, its texts against golden ones, and that it is written whole or not at all.

Golden texts are those of examples/finding. After a wanted change of wording:

    AITERFUZZ_WRITE_GOLDEN=1 pytest tests/reprod/test_write.py

and read the diff.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from backend.call import Call
from backend.case import Arch, Case, DType, MetadataMode
from backend.codec import read_file
from backend.decision import Decision
from backend.errors import UsageError
from backend.findings import Party
from backend.host import BuiltIn
from backend.observation import Numbers
from backend.outcome import Outcome
from backend.path import Path as CasePath
from backend.serving.policy import Policy
from reprod.addressees import addressee
from reprod.blame import blame
from reprod.explain import explain_text
from reprod.folder import CASE, EXPLAIN, ISSUE, REQUEST, SCRIPT, folder_name, write_folder
from reprod.issue import MOST_LINES, NEWEST_CHECKED, issue_notes
from reprod.shrink import shrink
from reprod.write import Notes, cause_of, finding_files

GOLDEN = Path(__file__).parents[2] / "examples" / "finding"

REWRITE = "AITERFUZZ_WRITE_GOLDEN"

FOUNDING = Case(num_head=64, kv_lens=(1,), backend="sglang-before-27188")


@dataclass(frozen=True)
class Fixed:
    """A context that is the same on every machine."""

    project: str = "0.1.0"
    rules: str = "0123456789ab"
    python: str = "3.11"
    versions: dict[str, str] = field(default_factory=lambda: {"numpy": "2.4.6", "amd-aiter": "0.1.7.post2.dev18"})
    device: str = "model"
    source: str | None = None
    warnings: tuple[str, ...] = ()


def outcome_of(case: Case) -> Outcome:
    outcome = CasePath().run(case)
    assert outcome.findings
    return outcome


def written(outcome: Outcome, parent: Path, context: Fixed) -> Path:
    """The folder of an outcome's finding, written below `parent`."""
    files = finding_files(outcome, context)
    return write_folder(parent, folder_name(cause_of(outcome).signature, outcome.case), files)


@functools.cache
def golden_files() -> Mapping[str, str]:
    return finding_files(
        outcome_of(FOUNDING), Fixed(), seed=0, command="aiterfuzz run --backend sglang-before-27188 --shapes tp2"
    )


@pytest.mark.parametrize("name", [CASE, EXPLAIN, SCRIPT, ISSUE, REQUEST])
def test_golden(name: str) -> None:
    text = golden_files()[name]
    file = GOLDEN / name
    if os.environ.get(REWRITE):
        GOLDEN.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    assert text == file.read_text(encoding="utf-8"), f"wanted? then {REWRITE}=1 writes it anew"


def test_what_provenance_warns_of_stands_in_the_issue() -> None:
    warned = "a fingerprint is unknown"
    texts = [finding_files(outcome_of(FOUNDING), Fixed(warnings=given))[ISSUE] for given in ((), (warned,))]
    assert [warned in text for text in texts] == [False, True]


def test_the_founding_fault_shrinks_to_one_request_of_one_token() -> None:
    large = FOUNDING.replace(kv_lens=(4096, 17, 900, 1, 333), graph_batch=8, max_batch=16, num_cu=80)
    result = shrink(large, CasePath())
    assert result.minimal
    assert result.case == FOUNDING
    figures = {f"{f.kind.value} {f.tensor}": f.evidence for f in result.outcome.findings}
    assert figures["out-of-bounds-read q"]["bytes_outside"] == 3 * 64 * 576
    assert figures["out-of-bounds-write o"]["bytes_outside"] == 3 * 64 * 512 * 2
    assert figures["planner-overrun reduce_indptr"]["words"] == 3
    assert figures["planner-overrun reduce_final_map"]["rows"] == 3


def test_the_folder_holds_files_that_hold_together(tmp_path: Path) -> None:
    outcome = outcome_of(FOUNDING)
    folder = written(outcome, tmp_path / "new" / "findings", Fixed())
    assert re.fullmatch(r"bug-head-width-planner-v1_0-[0-9a-f]{8}", folder.name)
    assert sorted(path.name for path in folder.iterdir()) == sorted([CASE, EXPLAIN, SCRIPT, ISSUE, REQUEST])
    assert list(folder.parent.iterdir()) == [folder]
    assert read_file(Case, folder / CASE) == outcome.case
    assert (folder / SCRIPT).read_text(encoding="utf-8").rstrip() in (folder / ISSUE).read_text(encoding="utf-8")
    assert (folder / EXPLAIN).read_text(encoding="utf-8").startswith(explain_text(outcome))
    ended = subprocess.run([sys.executable, folder / SCRIPT], capture_output=True, text=True, check=False)
    assert ended.returncode == 3


HEADINGS = {
    "aiter": [
        "Problem Description",
        "Steps to Reproduce",
        "Operating System, CPU, GPU, ROCm Version, ROCm Component",
        "Additional Information",
    ],
    "sglang": ["Describe the bug", "Reproduction", "Environment"],
    "vllm": ["Your current environment", "Describe the bug"],
}


def outside_of_code(text: str) -> str:
    return re.sub(r"```python.*?```", "", text, flags=re.DOTALL)


@pytest.mark.parametrize("name", HEADINGS)
def test_an_issue_has_the_headings_of_whom_it_is_for_and_is_a_page(name: str) -> None:
    text = outside_of_code(finding_files(outcome_of(FOUNDING), Fixed(), notes=Notes(addressee=addressee(name)))[ISSUE])
    assert re.findall(r"^### (.+)$", text, re.MULTILINE) == HEADINGS[name]
    assert text.startswith(f"# {addressee(name).prefix}MLA decode ")
    assert "_To fill in" in text
    assert "not yet seen on a GPU" in text
    assert len(text.splitlines()) <= MOST_LINES
    assert f"ROCm/aiter after {NEWEST_CHECKED}" in text


def test_a_callers_fault_is_the_frameworks_and_aiter_is_asked_to_refuse() -> None:
    files = finding_files(outcome_of(FOUNDING), Fixed())
    assert files[ISSUE].startswith("# [Bug] MLA decode")
    assert files[REQUEST].startswith("# [Issue]: refuse an MLA decode call that")
    assert "is reported to sgl-project/sglang" in files[REQUEST]
    assert "**Asked for:** compare the head width of plan and kernel and refuse." in files[REQUEST]
    planner = outcome_of(TITLES["leaves KV tokens out"])
    assert REQUEST not in finding_files(planner, Fixed())
    with pytest.raises(UsageError, match="--for"):
        addressee("rocm")


TITLES = {
    "is planned and launched with different head widths, writes past o and reads past q": FOUNDING,
    "leaves KV tokens out": Case(
        num_head=16, kv_lens=(17,), q_dtype=DType.BF16, kv_dtype=DType.FP8, arch=Arch.GFX942, release="2026-08"
    ),
}


@pytest.mark.parametrize("symptom", TITLES)
def test_a_title_says_what_goes_wrong_and_the_steps_only_what_can_be_seen(symptom: str) -> None:
    text = finding_files(outcome_of(TITLES[symptom]), Fixed())[ISSUE]
    assert re.match(rf"# \[(Issue\]:|Bug\]) MLA decode {symptom}: gfx9", text)
    overruns = "writes past" in symptom
    steps = text[text.index("with torch and aiter only") : text.index("<details>")]
    assert ("red zones" in steps) == overruns
    assert "--layout" not in steps
    assert [line[:2] for line in steps.splitlines() if line[:1].isdigit()] == ["1.", "2."]
    assert "(1 such" not in text
    assert "1 groups" not in text


def table_row(text: str, what: str) -> list[str]:
    """Cells of the row of an issue's table about something that differs."""
    line = next(line for line in text.splitlines() if line.startswith(f"| {what} |"))
    return [cell.strip() for cell in line.strip("|").split("|")][1:]


def test_the_issue_tells_affected_from_unaffected_shapes() -> None:
    text = finding_files(outcome_of(FOUNDING), Fixed())[ISSUE]
    assert table_row(text, "heads, q fp8, KV fp8") == ["**64**", "4, 8, 16, 32, 48, 80, 96, 112, 128", "12", ""]
    affected, unaffected, refused, _ = table_row(text, "flags")
    assert "fast_mode=False, intra_batch_mode=True (planner v1_0)" in affected
    assert unaffected == "fast_mode=True (planner v1_2)"
    assert refused == "no metadata (non-persistent)"
    assert table_row(text, "requests")[0] == "**1, 2, 16, 256**"
    assert table_row(text, "release")[0] == "**2988812e134a, e4048607a535**"
    assert "2. `python repro.py --fixed`: the same batch with fast_mode=True, intra_batch_mode=False. Exit 0." in text


class OfARevision(BuiltIn):
    """Rules of 2026-06 that are told to be a revision's, as an evaluated one's calls are, whatever release is asked for."""

    def stood_for(self, case: Case) -> Case:
        return case.replace(release="2026-06")

    def call(self, decision: Decision) -> Call:
        return dataclasses.replace(super().call(decision), revision="f00dfeedcafe" + 28 * "0")


def test_texts_name_the_revision_that_ran_and_no_release_that_did_not() -> None:
    path = CasePath(OfARevision())
    files = finding_files(path.run(FOUNDING), Fixed(), path)
    assert f"aiter, ROCm/aiter at f00dfeedcafe{28 * '0'}" in files[ISSUE]
    assert "Smallest case: 64 heads, fp8/fp8, qlen 1, kv [1], gfx950, f00dfeedcafe; " in files[ISSUE]
    assert "**Not checked:** ROCm/aiter at any revision but f00dfeedcafe." in files[ISSUE]
    assert table_row(files[ISSUE], "release") == ["", "", "", "e6015f3a6a88, 2988812e134a, e4048607a535"]
    assert "ROCm/aiter f00dfeedcafe." in files[SCRIPT].partition("\n")[0]
    assert "gfx950, f00dfeedcafe\n" in files[EXPLAIN]
    assert "2026-06" not in files[ISSUE] + files[SCRIPT]


def test_a_table_holds_valid_calls_only() -> None:
    """A request has a token for each of its queries at least."""
    outcome = outcome_of(Case(num_head=64, kv_lens=(4,), max_seqlen_q=4, backend="sglang-before-27188"))
    lengths = " ".join(table_row(finding_files(outcome, Fixed())[ISSUE], "kv tokens"))
    assert [int(n) for n in re.findall(r"\d+", lengths)] == [4, 16, 17, 197, 4096]


def test_a_find_of_our_own_names_the_heads_that_share_it() -> None:
    """bf16 with 48, 80, 96 and 112 heads stays in fake mode after sglang#27188."""
    outcome = outcome_of(Case(num_head=48, kv_lens=(1,), q_dtype=DType.BF16, kv_dtype=DType.BF16))
    text = finding_files(outcome, Fixed())[ISSUE]
    assert table_row(text, "heads, q bf16, KV bf16")[0] == "**48, 80, 96, 112**"


NULL = Case(
    num_head=32,
    kv_lens=(1,) * 153,
    q_dtype=DType.BF16,
    kv_dtype=DType.BF16,
    arch=Arch.GFX942,
    release="2026-08",
    backend="direct",
    mode=MetadataMode.NON_PERSISTENT,
)


def test_a_null_pointer_has_no_tensor_and_no_layout_of_memory() -> None:
    """One split for 153 requests: 32 heads of 512 bf16 each go to address 0 on, and no row of o is written."""
    outcome = outcome_of(NULL)
    files = finding_files(outcome, Fixed())
    kernel, end = "MLA_A16W16_1TG_4W_32mx1_16nx1_Coex0_Msk1_QH16.co", 153 * 32 * 512 * 2
    sentence = f" {kernel} writes through a null pointer (addresses 0 to {end - 1:,}). The first bad access: "
    assert sentence in files[ISSUE]
    assert f"  {kernel}: write through a null pointer: bytes 0 to {end:,}; " in files[EXPLAIN]
    unwritten = "153 rows of o (32 heads) are written by nobody, the first is row 0"
    assert f"({Party.KERNEL.value}, {kernel}): {unwritten}\n" in files[EXPLAIN]
    for text in files.values():
        assert "--layout" not in text
        assert " of ," not in text
        assert "red zones around" not in text[: text.find("import argparse")]


NOTES = """\
Plainly
wrong.

* First.

* Second.

## Op test
`op_tests/test_mla.py -n 64,1` fails.

## Suggested change
```diff
-a
+b
```
"""


def test_an_issue_tells_what_was_read_off_the_sources_part_by_part() -> None:
    text = finding_files(outcome_of(FOUNDING), Fixed(), notes=Notes(cause=tuple(NOTES.splitlines())))[ISSUE]
    assert "### Describe the bug\n\nPlainly\nwrong.\n\nSmallest case: 64 heads" in text
    assert (
        "\n\n* First.\n\n* Second.\n\n**AITER's own op test:** `op_tests/test_mla.py -n 64,1` fails.\n\nAffected shapes" in text
    )
    assert "\n\n**Suggested change:**\n\n```diff\n-a\n+b\n```\n\n**Not checked:**" in text
    assert "* At fault" not in text
    listed = finding_files(outcome_of(FOUNDING), Fixed(), notes=Notes(cause=("* First.",)))[ISSUE]
    assert "### Describe the bug\n\nSmallest case: 64 heads" in listed
    with pytest.raises(UsageError, match=r"cause\.md: heading"):
        issue_notes(["## Nothing known"])


class Named(CasePath):
    """The model under another device's name, with or without numbers."""

    def __init__(self, name: str, numbers: Numbers | None) -> None:
        super().__init__()
        self.named, self.numbers = name, numbers

    def run(self, case: Case, rule: Policy | None = None) -> Outcome:
        outcome = super().run(case, rule)
        seen = outcome.observation
        if seen is None:
            return outcome
        return dataclasses.replace(outcome, observation=dataclasses.replace(seen, device=self.named, numbers=self.numbers))


RIGHT = Numbers(1, 0, 0, 0, None, None, None, 0.1, 0.001, None, "P in bf16")


@pytest.mark.parametrize(
    ("path", "heading"),
    [
        (Named("model", None), "worked out by the model of each kernel's accesses"),
        (Named("cdna", None), "seen in the accesses of AITER's machine code on the simulated GPU"),
        (
            Named("cdna", RIGHT),
            "seen by running the kernels whole on the simulated GPU and comparing o with attention in float64",
        ),
        (Named("rocm", RIGHT), "seen on device rocm"),
    ],
)
def test_a_sweep_says_what_ran_it(path: Named, heading: str) -> None:
    text = finding_files(outcome_of(FOUNDING), Fixed(), path)[ISSUE]
    assert f"\nAffected shapes, {heading}, all else as in the smallest case:\n" in text


def test_dtypes_told_to_the_metadata_alone_are_blamed_and_not_the_flags() -> None:
    """sglang names one dtype for q and KV, that of the KV cache; with bf16 q, 128 heads are planned whole, launched as 16."""
    case = Case(num_head=128, kv_lens=(1,), q_dtype=DType.BF16, kv_dtype=DType.FP8, arch=Arch.GFX942, release="2026-08")
    found = blame(outcome_of(case))
    assert "told that q is fp8 and KV fp8 where they are bf16 and fp8, planner v1_2 plans rows of 128 heads" in found.sentence
    assert found.reason.startswith("it tells the metadata calls other dtypes than the tensors have")
    assert found.who == "the caller"


def test_the_same_finding_replaces_its_folder(tmp_path: Path) -> None:
    outcome = outcome_of(FOUNDING)
    first = written(outcome, tmp_path, Fixed(project="1"))
    (first / "left over").write_text("x", encoding="utf-8")
    second = written(outcome, tmp_path, Fixed(project="2"))
    assert first == second
    assert not (second / "left over").exists()
    assert "aiterfuzz 2 " in (second / ISSUE).read_text(encoding="utf-8")
    assert list(tmp_path.iterdir()) == [second]
    other = outcome_of(FOUNDING.replace(kv_lens=(2,)))
    assert folder_name(cause_of(other).signature, other.case) != first.name


def test_a_folder_that_cannot_be_written_is_a_usage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    with pytest.raises(UsageError, match="cannot be written"):
        written(outcome_of(FOUNDING), tmp_path / "file" / "below", Fixed())
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("nth", [1, 2, 3, 4, 5])
def test_nothing_is_left_of_a_write_that_fails(nth: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk is full at the nth file; an earlier folder of the same finding stays as it was."""
    kept = written(outcome_of(FOUNDING), tmp_path, Fixed(project="1"))
    names: list[str] = []
    real = Path.write_text

    def full(self: Path, text: str, encoding: str | None = None) -> int:
        names.append(self.name)
        if len(names) == nth:
            raise OSError(28, "No space left on device")
        return real(self, text, encoding=encoding)

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(UsageError, match="No space left on device"):
        written(outcome_of(FOUNDING), tmp_path, Fixed(project="2"))
    assert list(tmp_path.iterdir()) == [kept]
    assert "aiterfuzz 1 " in (kept / ISSUE).read_text(encoding="utf-8")


def test_an_outcome_without_a_finding_has_no_folder(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="shows no finding"):
        written(CasePath().run(Case(num_head=64, kv_lens=(1,))), tmp_path / "none", Fixed())
    with pytest.raises(UsageError, match="12 heads"):
        written(CasePath().run(Case(num_head=12, kv_lens=(1,))), tmp_path / "none", Fixed())
    assert not (tmp_path / "none").exists()


def test_explain_shows_as_many_items_as_asked_for() -> None:
    outcome = outcome_of(FOUNDING.replace(kv_lens=(4096,)))
    assert "80 work items, room for 64" in explain_text(outcome)
    assert "and 72 more" not in explain_text(outcome, max_items=80)
    few, many = explain_text(outcome, max_items=0), explain_text(outcome, max_items=80)
    assert len(many.splitlines()) - len(few.splitlines()) >= 60
    assert "at fault: the caller" in few
