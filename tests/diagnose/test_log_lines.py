"""Reading of strangers' text: encodings, colours, folded and endless lines, sizes; and that nothing of it is taken for more."""

from __future__ import annotations

import dataclasses
import gzip
import html
import json
import lzma
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.case import Arch, DType
from backend.errors import UsageError
from backend.outcome import not_run
from reprod.corpus import load_corpus, shipped_corpus
from reprod.diagnose import log_lines
from reprod.diagnose.candidates import Candidate
from reprod.diagnose.causes import fit
from reprod.diagnose.evidence import Ending, evidence_of
from reprod.diagnose.facts import LogFact, LogFacts, Topic
from reprod.diagnose.forms import LineReader
from reprod.diagnose.kernel_name import bare_name, family, is_decode
from reprod.diagnose.log_lines import LONGEST_LINE, MOST_FACTS, read_logs

FAULT = "Memory access fault by GPU node-3 (Agent handle: 0x3a5c) on address 0x7f1c5d200000. Reason: Unknown."
ROOT = Path(__file__).parents[2]

LOAD = (
    "[aiter] LoadKernel: _ZN5aiter36mla_a8w8_qh16_qseqlen1_gqaratio16_psE "
    "hsaco: /x/hsa//gfx950/mla/mla_a8w8_qh16_qseqlen1_gqaratio16_ps.co"
)


def read(tmp_path: Path, content: bytes, name: str = "a.log", seconds: float = 60.0) -> LogFacts:
    file = tmp_path / name
    file.write_bytes(content)
    return read_logs([file], seconds)


def summary(facts: LogFacts) -> list[tuple[Topic, str, int]]:
    return [(fact.topic, fact.value, fact.line) for fact in facts.found]


def records(text: str, key: str, **others: str) -> bytes:
    """Each line as a JSON object: docker's with its line feed, journald's as bytes, since it is coloured."""
    made = []
    for line in text.splitlines():
        told: object = f"{line}\n" if key == "log" else list(f"\x1b[1m{line}\x1b[0m".encode()) if key == "MESSAGE" else line
        made.append(json.dumps({key: told, **others}))
    return "\n".join(made).encode()


WAYS: Mapping[str, Callable[[str], bytes]] = {
    "utf-8 with a mark": lambda text: text.encode("utf-8-sig"),
    "utf-16": lambda text: text.encode("utf-16"),
    "utf-16 without a mark": lambda text: text.encode("utf-16-le"),
    "windows lines": lambda text: text.replace("\n", "\r\n").encode(),
    "progress bars": lambda text: text.replace("\n", "\r").encode(),
    "coloured": lambda text: (
        text.replace("aiter]", "\x1b[36maiter\x1b[0m]").replace("Memory", "\x1b[1;31mMem\x1b[0mory").encode()
    ),
    "colours spelt out": lambda text: (
        text.replace("aiter]", r"\x1b[36maiter#033[0m]").replace("Memory", "^[[31mMem^[[0mory").encode()
    ),
    "docker's records": lambda text: records(text, "log", stream="stderr"),
    "journald's bytes": lambda text: records(text, "MESSAGE", _HOSTNAME="n7"),
    "a structured logger's": lambda text: records(text, "message", level="info"),
    "out of a page's source": lambda text: html.escape(f"<1>{text}").encode(),
    "gzipped": lambda text: gzip.compress(text.encode()),
    "beside other bytes": lambda text: b"\xff\xfe\xfd caf\xe9\n".replace(b"\xff\xfe", b"\x80\x81") + text.encode(),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_log_says_the_same_however_it_is_written(tmp_path: Path, way: str) -> None:
    text = f"{LOAD}\n{FAULT}\n"
    plainly = {(fact.topic, fact.value) for fact in read(tmp_path, text.encode()).found}
    assert (Topic.FAULT_ADDRESS, "0x7f1c5d200000") in plainly
    assert {(fact.topic, fact.value) for fact in read(tmp_path, WAYS[way](text)).found} == plainly


def test_a_line_that_docker_cut_is_one_line(tmp_path: Path) -> None:
    parts = (FAULT[:70], FAULT[70:90], FAULT[90:] + "\n", "next\n")
    content = "\n".join(json.dumps({"log": part, "stream": "stderr"}) for part in parts)
    assert (Topic.FAULT_ADDRESS, "0x7f1c5d200000", 3) in summary(read(tmp_path, content.encode()))


@pytest.mark.parametrize(
    "line", ['{"log": 5, "stream": "x"}', '{"MESSAGE": [300]}', "{" * 5000, '{"other": "x"}', "{", "{}", "[1]"]
)
def test_a_line_that_only_looks_like_a_record_is_read_as_it_stands(tmp_path: Path, line: str) -> None:
    facts = read(tmp_path, f"{line}\n{FAULT}".encode())
    assert (facts.lines, facts.value(Topic.FAULT_ADDRESS)) == (2, "0x7f1c5d200000")


@pytest.mark.parametrize(
    "name", ["aiter::mla_a8w8_qh16_ps", "void aiter::mla_a8w8_qh16_ps(KernelArgs)", "_ZN5aiter16mla_a8w8_qh16_psE"]
)
def test_a_kernel_is_the_same_mangled_or_not(tmp_path: Path, name: str) -> None:
    found = read(tmp_path, f"Kernel Name: {name}\n".encode()).value(Topic.FAULTING_KERNEL)
    assert found is not None
    assert bare_name(found) == "mla_a8w8_qh16_ps"


def test_a_fault_line_that_is_cut_at_either_end_is_one(tmp_path: Path) -> None:
    assert read(tmp_path, FAULT[10:].encode()).value(Topic.FAULT_ADDRESS) == "0x7f1c5d200000"
    assert read(tmp_path, FAULT[:45].encode()).value(Topic.FAULT_REASON) == "not in the line"


def test_a_folded_line_says_all_that_it_holds(tmp_path: Path) -> None:
    facts = read(tmp_path, f"{LOAD} | {FAULT} {FAULT.replace('5d2', '6e3')}".encode())
    assert [fact.value for fact in facts.of(Topic.FAULT_ADDRESS)] == ["0x7f1c5d200000", "0x7f1c6e300000"]
    assert facts.value(Topic.KERNEL_FILE) == "mla_a8w8_qh16_qseqlen1_gqaratio16_ps.co"


def test_what_is_printed_of_a_line_can_command_nobody(tmp_path: Path) -> None:
    facts = read(tmp_path, f"{FAULT} \x1b]0;title\x07 ##[error]x \u202egnp.exe".encode())
    fact = facts.first(Topic.FAULT_ADDRESS)
    assert fact is not None
    assert "\x1b" not in fact.text
    assert "##[" not in fact.text
    assert "\u202e" not in fact.text


def test_an_endless_line_is_cut_and_the_rest_is_read(tmp_path: Path) -> None:
    facts = read(tmp_path, b"x" * (3 * LONGEST_LINE) + b"\n" + FAULT.encode())
    assert facts.first(Topic.FAULT_ADDRESS) is not None
    assert any("longer than" in note for note in facts.notes)


def test_of_many_facts_the_first_and_the_last_are_kept(tmp_path: Path) -> None:
    lines = "".join(f"Decode batch. #running-req: {n}, #token: {10 * n}, cuda graph: True\n" for n in range(1, 2 * MOST_FACTS))
    facts = read(tmp_path, lines.encode())
    numbers = facts.numbers(Topic.BATCH)
    assert len(numbers) == MOST_FACTS
    assert (numbers[0], numbers[-1]) == (1, 2 * MOST_FACTS - 1)
    assert any("not kept" in note for note in facts.notes)


def test_the_end_is_read_when_time_is_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The crash stands at the end of a log that nobody has the time to read whole."""
    monkeypatch.setattr(log_lines, "TAIL", 1 << 12)
    monkeypatch.setattr(log_lines, "_PIECE", 1 << 12)
    facts = read(tmp_path, b"INFO 10.2.3.4 GET /health 200 OK, all is well\n" * 1_000 + FAULT.encode(), seconds=0.0)
    assert facts.value(Topic.FAULT_ADDRESS) == "0x7f1c5d200000"
    assert facts.lines < 500
    assert any("for want of time" in note for note in facts.notes)


def test_a_damaged_archive_gives_what_came_before(tmp_path: Path) -> None:
    facts = read(tmp_path, gzip.compress(f"{FAULT}\n".encode() * 3_000, mtime=0)[:-20])
    assert any("ends early" in note for note in facts.notes)


@pytest.mark.parametrize("what", ["absent", "folder"])
def test_what_is_no_file_is_said(tmp_path: Path, what: str) -> None:
    path = tmp_path / what
    if what == "folder":
        path.mkdir()
    with pytest.raises(UsageError, match="LOG"):
        read_logs([path])


BINARIES: Mapping[str, Callable[[], bytes]] = {
    "executable": lambda: Path(sys.executable).resolve().read_bytes()[: 1 << 20],
    "picture": lambda: (ROOT / "docs" / "pictures" / "page.png").read_bytes(),
    "compressed otherwise": lambda: lzma.compress(FAULT.encode() * 999),
    "gzipped executable": lambda: gzip.compress(Path(sys.executable).resolve().read_bytes()[: 1 << 20]),
}


@pytest.mark.parametrize("what", BINARIES)
def test_what_is_no_text_is_said_and_not_diagnosed(tmp_path: Path, what: str) -> None:
    with pytest.raises(UsageError, match=r"a\.log: no text, nor gzipped text; give a log"):
        read(tmp_path, BINARIES[what]())


@pytest.mark.parametrize("before", [b"\0" * 9_999, b"\0" * 300_000])
def test_a_log_that_was_cut_under_its_writer_begins_with_zeros(tmp_path: Path, before: bytes) -> None:
    """As logrotate's copytruncate leaves it."""
    facts = read(tmp_path, before + f"\n{LOAD}\n{FAULT}\n".encode())
    assert facts.has(Topic.FAULT_ADDRESS)
    assert facts.has(Topic.KERNEL)


@given(st.text(max_size=400))
def test_any_line_is_read(text: str) -> None:
    """No text makes a reader or the evidence fail; what is no known form says nothing of a fault."""
    reader = LineReader()
    for _ in range(2):  # the second time by the remembered kind
        facts = list(reader.facts_of(text))
    assert all(isinstance(value, str) for _, value in facts)


@given(
    st.lists(
        st.sampled_from([LOAD, FAULT, "tp_size=", "seq_lens=[", "nhead=99999999999999", "pc=0x", "=> 0x1 <a+9>:", "kv_len=0"]),
        max_size=8,
    )
)
def test_any_mixture_comes_to_some_evidence(lines: list[str]) -> None:
    reader = LineReader()
    found = [LogFact(topic, value, "a", n, line) for n, line in enumerate(lines) for topic, value in reader.facts_of(line)]
    evidence = evidence_of(LogFacts(tuple(found)))
    assert evidence.ending is Ending.FAULT or FAULT not in lines


def test_a_kind_of_line_is_remembered_and_its_figures_are_not() -> None:
    """Lines that are alike but for their figures are looked at anew, whatever the first of them came to."""
    reader = LineReader()
    assert (Topic.WRONG_OUTPUT, "Accuracy: 0.03") not in list(reader.facts_of("Accuracy: 0.95"))
    assert (Topic.WRONG_OUTPUT, "Accuracy: 0.03") in list(reader.facts_of("Accuracy: 0.03"))


SETTINGS = (
    ("python3 -m sglang.launch_server --model-path deepseek-ai/DeepSeek-R1 --tp 2 --kv-cache-dtype fp8_e4m3", 64, DType.FP8),
    ("server_args=ServerArgs(model_path='/m/Kimi-K2-Instruct', tp_size=4, kv_cache_dtype='bfloat16')", 16, DType.BF16),
    ("sglang: ServerArgs(model_path='DeepSeek-V3', tp_size=8, dp_size=8, enable_dp_attention=True)", 128, None),
    ("vllm serve deepseek-ai/DeepSeek-R1 -tp 4 --kv-cache-dtype=fp8", 32, DType.FP8),
    ("vLLM engine: non-default args: {'model': 'GLM-5.1-FP8', 'data_parallel_size': 8, 'tensor_parallel_size': 1}", 64, None),
    ("nhead=48 q.dtype=torch.bfloat16 kv_buffer.dtype=torch.float8_e4m3fnuz", 48, DType.FP8),
    ("ServerArgs(model_path='Some/Unknown-70B', tp_size=8)", None, None),
)


@pytest.mark.parametrize(("line", "heads", "kv_dtype"), SETTINGS)
def test_settings_come_to_the_heads_of_a_rank(tmp_path: Path, line: str, heads: int | None, kv_dtype: DType | None) -> None:
    evidence = evidence_of(read(tmp_path, line.encode()))
    assert (evidence.heads, evidence.kv_dtype) == (heads, kv_dtype)


def test_the_driver_says_whether_it_was_a_write(tmp_path: Path) -> None:
    status = "amdgpu: VM_L2_PROTECTION_FAULT_STATUS:{}"
    written, was_read = (evidence_of(read(tmp_path, status.format(s).encode())) for s in ("0x00841051", "0x00801031"))
    assert (written.is_write, was_read.is_write) == (True, False)


def test_names_of_kernels() -> None:
    assert bare_name("_ZN5aiter36mla_a8w8_qh16_qseqlen1_gqaratio16_psE") == "mla_a8w8_qh16_qseqlen1_gqaratio16_ps"
    assert is_decode("MLA_A16W16_1TG_4W_32mx1_16nx1_Coex0_Msk1_QH16.co")
    assert not is_decode("mla_pfl_bf16_a16w16_causal_subQ128_mqa128.co")
    assert not is_decode("kn_get_mla_metadata_v1_2")
    assert family("_ZN5aiter43fmoe_bf16_blockscaleFp8_g1u1_vs_silu_32x384E") == "fused MoE"
    assert evidence_of(LogFacts(())).arch is None
    assert Arch.GFX950.value == "gfx950"


def test_a_batch_in_the_log_weighs_against_requests_without_tokens() -> None:
    """A fault that needs an empty request explains no batch that has none."""
    nothing = evidence_of(LogFacts(()))
    case = next(side.case for entry in load_corpus(shipped_corpus()) for side in entry.faulty if len(side.case.kv_lens) > 1)
    empty, full = (case.replace(kv_lens=(length, *case.kv_lens[1:])) for length in (0, 7))

    def weights(*batches: tuple[int, ...]) -> list[int]:
        evidence = dataclasses.replace(nothing, batches=batches)
        return [sum(weight for weight, _ in fit(not_run(each, ""), Candidate(each), evidence, None)) for each in (empty, full)]

    assert weights()[0] == weights()[1]
    assert weights((5, 9))[0] < weights((5, 9))[1]
    assert weights((5, 0))[0] == weights((5, 0))[1]
