"""Forms of lines: one row each. Whoever knows a further form adds a row; nothing else needs to know of it.

A row is a word that a line must hold (which is looked for first, as most lines hold none), and a pattern whose groups are
named after topics. The forms are those of ROCR, amdgpu's kernel driver, HIP's queue dump, the ROCm debug agent, rocgdb on a
GPU core dump, AITER, sglang, vLLM, pip and docker. A setting is one row with every name under which it is met: a server's
command line, its arguments as it prints them, a configuration, a test's own print. Values are taken as they stand; what they
mean is evidence.py's.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from reprod.diagnose.facts import Topic


@dataclass(frozen=True, slots=True)
class Form:
    """One form. word: in lower case, what a line holds if it can be of the form. says: facts beside those of the groups."""

    word: str
    pattern: re.Pattern[str]
    says: Mapping[Topic, str] = field(default_factory=dict)


def _form(word: str, pattern: str, **says: str) -> Form:
    return Form(word, re.compile(pattern, re.IGNORECASE), {Topic(name): value for name, value in says.items()})


_VERSION = r"v?\d+(?:\.\d+)+[\w.+!-]*"
_SYMBOL = r"[A-Za-z_.$][\w.$]*(?:::[A-Za-z_~][\w.$]*)*"
"""Of a kernel, mangled or as c++filt has it."""

FAULTS = (
    _form(
        "fault by gpu",
        r"fault by GPU.*?on address (?P<fault_address>0x[0-9a-f]+|\(nil\))"
        r"(?:\.?\s*Reason:\s*(?P<fault_reason>[^.]+))?",
    ),
    _form("fault by gpu", r"fault by GPU(?!.*on address)", fault_reason="not in the line"),
    _form("memory fault error", rf"Memory Fault Error.*?kernel:\s*(?P<faulting_kernel>{_SYMBOL})"),
    _form("page fault", r"\[?(?:gfxhub|mmhub)\d*\]?.*?(?P<page_fault>(?:no-)?retry page fault|page fault)"),
    _form("in page starting at", r"in page starting at address (?P<fault_address>0x[0-9a-f]+)"),
    _form("hsa_status_error", r"(?P<queue_error>HSA_STATUS_ERROR_\w+)"),
    _form("aborting with", r"Queue (?:at )?\S* ?aborting with (?P<queue_error>[^.]*)"),
    _form("illegal memory access", r"(?P<queue_error>an illegal memory access was encountered)"),
    _form("kernel name", rf"Kernel Name:\s*(?:void\s+)?(?P<faulting_kernel>{_SYMBOL})"),
    _form("swq", r"grid\s*=\s*\[(?P<grid>[\d, ]+)\]"),
    _form("dispatch header", r"grid\s*=\s*\[(?P<grid>[\d, ]+)\]"),
    _form("kernel_code_entry", rf"kernel_code_entry=(?P<code_entry>0x[0-9a-f]+)(?:\s*<(?P<faulting_kernel>{_SYMBOL})[^>]*>)?"),
    _form("wave_", r"wave_\w+:.*?\bpc=(?P<pc>0x[0-9a-f]+)"),
    _form("memory_violation", r"(?P<queue_error>MEMORY_VIOLATION)"),
    _form("disassembly for function", rf"Disassembly for function (?P<faulting_kernel>{_SYMBOL})"),
    _form("loaded at", r"loaded at:?\s*\[?(?P<code_base>0x[0-9a-f]+)"),
    _form("=>", rf"=>\s*(?P<pc>0x[0-9a-f]+)\s*<(?P<faulting_kernel>{_SYMBOL})(?:\([^>]*\))?\+(?P<pc_offset>\d+)>"),
    _form("=>", r"=>\s*(?P<pc>0x[0-9a-f]+)(?:\s*<\+(?P<pc_offset>\d+)>)?\s*:"),
    _form("#0", rf"#0\s+(?P<pc>0x[0-9a-f]+)\s+in\s+(?P<faulting_kernel>{_SYMBOL})"),
)
"""What ends a process on a GPU, and where."""

KERNELS = (
    _form(
        "loadkernel",
        rf"LoadKernel:\s*(?P<kernel>{_SYMBOL})\s*hsaco:\s*(?:\[embedded\]\s*)?(?:\S*/)?(?P<kernel_file>[\w.+-]+\.co)",
    ),
    _form("loadkernel", rf"LoadKernel:\s*(?P<kernel>{_SYMBOL})(?!\S*\s*hsaco)"),
    _form("hipmoduleload", r"hipModuleLoad(?:Data)?:?\s*\(?\S*?(?P<kernel_file>[\w.+-]+\.co)\b"),
    _form("shadername", rf"ShaderName\s*:\s*(?P<kernel>{_SYMBOL})"),
    _form("getfunction", rf"GetFunction:\s*(?P<kernel>{_SYMBOL})"),
    _form("/hsa/", r"/hsa/+(?P<arch>gfx\d+\w*)/"),
    _form("hsa//", r"/hsa/+(?P<arch>gfx\d+\w*)/"),
    _form(".co", r"(?P<kernel_file>\b(?:mla|MLA)_[\w.+-]+\.co)\b"),
)
"""Which code was loaded or launched. AITER prints it at a kernel's first use only, HIP (AMD_LOG_LEVEL=4) at each launch."""

MACHINE = (
    _form("gfx9", r"\b(?P<arch>gfx9[0-9a-f]{2})\b"),
    _form("mi3", r"\b(?P<product>MI3\d\d[A-Z]?)\b"),
)

VERSIONS = (
    _form("sglang", rf"\bsglang\b(?:\s*version)?\s*(?:==|:|=|\s)\s*(?P<sglang_version>{_VERSION})", framework="sglang"),
    _form("sgl-dev", r"(?:sgl-dev|sglang):(?P<sglang_version>v\d+(?:\.\d+)+(?:\.?(?:post|rc)\d+)?)", framework="sglang"),
    _form("lmsysorg", r"sglang:(?P<sglang_version>v\d+(?:\.\d+)+(?:\.?(?:post|rc)\d+)?)", framework="sglang"),
    _form("serverargs(", r"ServerArgs\(", framework="sglang"),
    _form("sglang.launch_server", r"sglang[. ](?:launch_server|serve)", framework="sglang"),
    _form("sglang/srt", r"sglang/srt/", framework="sglang"),
    _form("vllm", rf"\bvLLM(?: API server)?(?:\s*version)?\s*(?:==|:|=|\s)\s*(?P<vllm_version>{_VERSION})", framework="vllm"),
    _form("llm engine (v", rf"LLM engine \((?P<vllm_version>{_VERSION})\)", framework="vllm"),
    _form("vllm-openai", r"vllm-openai(?:-rocm)?:(?P<vllm_version>v\d+(?:\.\d+)+)", framework="vllm"),
    _form("vllm serve", r"\bvllm serve\b(?:\s+(?P<model>[\w./-]+/[\w.-]+))?", framework="vllm"),
    _form("vllm/v1", r"/vllm/v1/", framework="vllm"),
    _form("enginecore", r"\bEngineCore", framework="vllm"),
    _form("rocm_aiter_mla", r"(?P<attention>ROCM_AITER_MLA\w*)", framework="vllm"),
    _form("aiter", rf"\b(?:amd[-_])?aiter(?:\s*version)?[-=: (]+(?P<aiter_version>{_VERSION})(?:\.dist-info)?\b"),
    _form("aiter", r"\baiter\b[^\n]{0,60}?\b(?:commit|rev|revision|sha|@)[ :=\"'`(]*(?P<aiter_commit>[0-9a-f]{7,40})\b"),
    _form("rocm/aiter", r"ROCm/aiter(?:\.git)?[ @#]+(?P<aiter_commit>[0-9a-f]{7,40})\b"),
    _form("aiter_commit", r"AITER_(?:COMMIT|BRANCH)\w*\s*[=: ]\s*[\"']?(?P<aiter_version>v\d[\w.]*)"),
    _form("aiter_branch", r"AITER_(?:COMMIT|BRANCH)\w*\s*[=: ]\s*[\"']?(?P<aiter_version>v\d[\w.]*)"),
    _form("aiter_commit", r"AITER_COMMIT\w*\s*[=: ]\s*[\"']?(?P<aiter_commit>[0-9a-f]{7,40})\b"),
)

BATCHES = (
    _form("#running-req", r"Decode batch.*?#running-req:\s*(?P<batch>\d+).*?#(?:full )?token:\s*(?P<tokens>\d+)"),
    _form("cuda graph:", r"cuda graph:\s*(?P<replayed>True|False)"),
    _form("capturing batches", r"Capturing batches.*?\bbs=(?P<capturing>\d+)"),
    _form("capture cuda graph bs", r"Capture cuda graph bs\s*(?P<graph_batches>\[[\d, ]+\])"),
    _form("capture target verify", r"(?:num_tokens_per_bs|num_draft_tokens)[=: ]+(?P<draft_tokens>\d+)"),
    _form("capturing cuda graph", r"(?P<capturing>Capturing CUDA graphs)"),
    _form("capture cuda graph", r"(?P<capturing>Capture cuda graph) begin"),
    _form("num_computed_tokens", r"num_computed_tokens=(?P<kv_lens>\[[\d, ]+\])"),
    _form("num_scheduled_tokens", r"total_num_scheduled_tokens=(?P<tokens>\d+)"),
    _form("kv cache is allocated", r"#tokens:\s*(?P<pool_tokens>\d+)"),
    _form("gpu kv cache size", r"GPU KV cache size:\s*(?P<pool_tokens>[\d,]+) tokens"),
    _form("running:", r"Running:\s*(?P<batch>\d+) reqs"),
    _form("test_mla", r"-n\s+(?P<heads>\d+),(?P<query_rows>\d+)"),
    _form("test_mla", r"\s-b\s+(?P<batch>\d+)\b"),
    _form("test_mla", r"\s-c\s+(?P<kv_lens>\d+)\b"),
    _form("test_mla", r"\s-d\s+(?P<q_dtype>\w+)"),
    _form("test_mla", r"\s-kvd\s+(?P<kv_dtype>\w+)"),
    _form("test_mla", r"\s-blk\s+(?P<page_size>\d+)"),
    _form("test_mla", r"\s-lse\b", lse="True"),
    _form("test_mla_persistent", r"\s-nps\b", mode="fake"),
    _form("test_mla.py", r"test_mla\.py", mode="non-persistent"),
    _form("vllm serve", r"\s-tp\s+(?P<tensor_parallel>\d+)"),
    _form("vllm serve", r"\s-dp\s+(?P<data_parallel>\d+)"),
)

_CHECK = (
    r"(?P<refusal>(?:mla_decode_\w+|get_mla_metadata\w*|get_heuristic_kernel_mla|mla_reduce_v1|mla_prefill_\w+|mla_gluon)\b"
    r"[\w:\[\]]*\s*[:,]?\s*(?:only\s?support|unsupport|does(?:n't| not) support|cannot|not find|fp8 Q requires|requires|"
    r"expected|must)[^\n]{0,200})"
)

ENDS = (
    _form("mla", _CHECK),
    _form("requires q_scale", r"(?P<refusal>fp8 Q requires q_scale and kv_scale[^\n]{0,120})"),
    _form("heuristic kernel", r"(?P<refusal>(?:get_heuristic_kernel\w*:?\s*)?cannot get heuristic kernel[^\n]{0,200})"),
    _form("no kernel", r"(?P<refusal>no kernel (?:found|for)[^\n]{0,160})"),
    _form("not supported", r"aiter[^\n]{0,80}?(?P<refusal>\S+ (?:is )?not supported[^\n]{0,120})"),
    _form("assertionerror", r"^\W*+(?:\S+ ){0,8}(?P<exception>AssertionError\b[^\n]{0,160})"),
    _form(
        "error:",
        r"(?:^|\s)(?P<exception>(?:Runtime|Value|Type|NotImplemented|Key|Attribute|Import)Error: [^\n]{1,200})",
    ),
    _form(
        "out of memory",
        r"(?P<out_of_memory>(?:HIP|CUDA)[^\n]{0,80}out of memory)",
    ),
    _form("outofmemory", r"(?P<out_of_memory>OutOfMemory\w*)"),
    _form(
        "hipmoduleload",
        r"(?P<not_loaded>(?:fail(?:ed)? to call )?hipModuleLoad(?:Data)?\b[^\n]{0,120}"
        r"(?:HIP error|failed|error:|returned)[^\n]{0,80})",
    ),
    _form("failed to load module", r"(?P<not_loaded>failed to load module[^\n]{0,100})"),
    _form(
        "hiperror",
        r"(?P<not_loaded>hipError(?:NoBinaryForGpu|FileNotFound|InvalidImage|InvalidKernelFile|SharedObjectInitFailed)\b)",
    ),
    _form("not enough memory", r"(?P<out_of_memory>not enough memory[^\n]{0,80})"),
    _form(
        "out of memory", r"(?P<out_of_memory>Out of memory: Killed process[^\n]{0,60})", killed="by the kernel, out of memory"
    ),
    _form("gpu hang", r"(?P<hang>HW Exception by GPU[^\n]{0,60}GPU Hang|GPU hang)"),
    _form("watchdog", r"(?P<hang>(?:Watchdog|watchdog)[^\n]{0,40}time\s?out[^\n]{0,80})"),
    _form(
        "timed out", r"(?P<hang>(?:RPC call|execute_model|Health check|collective operation|sample_tokens)[^\n]{0,60}timed out)"
    ),
    _form("timeout", r"(?P<hang>(?:Scheduler|Detokenizer|forward)[^\n]{0,40}timeout[^\n]{0,60})"),
    _form("no available shared memory", r"(?P<hang>No available shared memory broadcast block[^\n]{0,40})"),
    _form(
        "nccl",
        r"(?P<collective>NCCL (?:WARN|ERROR)[^\n]{0,100}|ProcessGroupNCCL[^\n]{0,100}|nccl(?:System|Internal|Remote)Error)",
    ),
    _form("rccl", r"(?P<collective>RCCL (?:WARN|ERROR|error)[^\n]{0,100})"),
    _form("gibberish", r"(?P<wrong_output>gibberish)"),
    _form("garbage", r"(?P<wrong_output>garbage (?:output|text|token)\w*|output\w* (?:is|are) garbage)"),
    _form(
        "nan",
        r"(?P<wrong_output>(?:o|out|output|logits)\S* (?:has|have|contains?|holds?|is|are) NaN\w*|nan detected)",
    ),
    _form("probability tensor", r"(?P<wrong_output>probability tensor contains either)"),
    _form("accuracy", r"(?P<wrong_output>[Aa]ccuracy:?\s*0\.[0-4]\d*)"),
    _form("checkallclose", r"(?P<wrong_output>checkAllclose[^\n]{0,60}failed[^\n]{0,60})"),
    _form("not close", r"(?P<wrong_output>Tensor-likes are not close)"),
    _form("exit code: -9", r"(?P<killed>exit code:? -9)"),
    _form("sigkill", r"(?P<killed>SIGKILL)"),
)
"""How a process ended where no GPU faulted, in its own words."""

STATUS = re.compile(r"\b(?:GC)?VM_L2_PROTECTION_FAULT_STATUS\s*:?\s*(?P<status>0x[0-9a-f]+)", re.IGNORECASE)

RW_BIT = 18
"""Of VM_L2_PROTECTION_FAULT_STATUS on gfx9: 1 for a write (bits 0 more faults, 1..3 walker, 4..7 permissions, 8 mapping,
9..17 client; Linux, amdgpu's gc_9_4_3_sh_mask.h)."""

FORMS = (*FAULTS, *KERNELS, *MACHINE, *VERSIONS, *BATCHES, *ENDS)

_TAKEN_APART = 4
"""Matches of one form in one line that are looked at: folded lines hold several."""


_VARYING = re.compile(r"(?<![a-f])[a-f]*+[0-9][0-9a-f]*")
"""What differs between lines that are alike: numbers, addresses, ids. In lower case."""

MOST_KINDS = 20_000
"""Kinds of lines that are remembered at once."""


class LineReader:
    """Reads lines; remembers which forms lines of a kind can have, as a server prints millions of few kinds."""

    def __init__(self) -> None:
        self._kinds: dict[str, tuple[tuple[Form, ...], bool]] = {}

    def facts_of(self, line: str) -> Iterator[tuple[Topic, str]]:
        """(topic, value) of everything that a line says, in the order of the forms."""
        kind = _VARYING.sub("#", line.lower())
        found = self._kinds.get(kind)
        if found is None:
            if len(self._kinds) >= MOST_KINDS:
                self._kinds.clear()
            forms = tuple(form for form, word in _WORDS if word in kind)
            found = self._kinds[kind] = forms, next(settings_of(line), None) is not None
        forms, has_settings = found
        for form in forms:
            yield from _matches(form, line)
        if "protection_fault_status" in kind:
            yield from _status(line)
        if has_settings:
            yield from settings_of(line)


_WORDS = tuple((form, _VARYING.sub("#", form.word)) for form in FORMS)


def _matches(form: Form, line: str) -> Iterator[tuple[Topic, str]]:
    for found in itertools.islice(form.pattern.finditer(line), _TAKEN_APART):
        yield from ((Topic(name), value.strip()) for name, value in found.groupdict().items() if value)
        yield from form.says.items()


def _status(line: str) -> Iterator[tuple[Topic, str]]:
    status = STATUS.search(line)
    if status is not None and int(status["status"], 16):
        yield Topic.FAULT_IS_WRITE, str(int(status["status"], 16) >> RW_BIT & 1)


SETTINGS: dict[Topic, tuple[str, ...]] = {
    Topic.MODEL: ("model_path", "model-path", "model", "model_tag", "served_model_name"),
    Topic.TENSOR_PARALLEL: ("tp_size", "tp-size", "tensor_parallel_size", "tensor-parallel-size", "tp"),
    Topic.DATA_PARALLEL: ("dp_size", "dp-size", "data_parallel_size", "data-parallel-size", "dp"),
    Topic.DP_ATTENTION: ("enable_dp_attention", "enable-dp-attention"),
    Topic.KV_DTYPE: (
        "kv_cache_dtype",
        "kv-cache-dtype",
        "kv_dtype",
        "kvtype",
        "kv.dtype",
        "kv_buffer.dtype",
        "dtype_kv",
        "kvd",
    ),
    Topic.Q_DTYPE: ("q_dtype", "qtype", "q.dtype", "dtype_q"),
    Topic.PAGE_SIZE: ("page_size", "page-size", "block_size", "block-size"),
    Topic.DRAFT_TOKENS: ("speculative_num_draft_tokens", "speculative-num-draft-tokens"),
    Topic.SPECULATIVE_TOKENS: ("num_speculative_tokens", "num_spec_tokens", "num-speculative-tokens"),
    Topic.MAX_REQUESTS: ("max_running_requests", "max-running-requests", "max_num_seqs", "max-num-seqs"),
    Topic.GRAPH_BATCHES: (
        "cuda_graph_max_bs",
        "cuda-graph-max-bs",
        "cuda_graph_bs",
        "max_cudagraph_capture_size",
        "cudagraph_capture_sizes",
        "cuda_graph_sizes",
    ),
    Topic.GRAPHS_OFF: ("disable_cuda_graph", "disable-cuda-graph", "enforce_eager", "enforce-eager"),
    Topic.ATTENTION: ("attention_backend", "attention-backend", "decode_attention_backend", "decode-attention-backend"),
    Topic.POOL_TOKENS: ("max_total_num_tokens", "max_total_tokens", "max-total-tokens", "num_slots"),
    Topic.BATCH: ("batch_size", "batch", "bs", "num_reqs", "running_bs"),
    Topic.KV_LENS: ("seq_lens", "kv_lens", "seqlens", "kv_len", "ctx_len", "context_len", "ctx_lens", "seq_lens_cpu"),
    Topic.HEADS: ("nhead", "num_heads", "num_head", "num_q_heads", "gqa_ratio", "n_head", "heads_per_rank", "nheads"),
    Topic.ALL_HEADS: ("num_attention_heads",),
    Topic.QUERY_ROWS: ("max_seqlen_q", "max_seqlen_qo", "qlen", "decode_qlen", "mtp", "uni_seqlen_qo", "max_q_len"),
    Topic.ROPE_DIM: ("qk_rope_head_dim",),
    Topic.LATENT_DIM: ("kv_lora_rank",),
    Topic.LSE: ("return_lse",),
    Topic.FIRST_PAGE: ("page_id", "max_page_id", "max_block_id", "slot"),
}

FLAGS = (Topic.DP_ATTENTION, Topic.GRAPHS_OFF, Topic.LSE)
"""Settings that stand on a command line without a value."""

_NAMES = {name: topic for topic, names in SETTINGS.items() for name in names}

_BRACKETS = r"\[[\d,\s]*\]"
_SETTING = re.compile(
    r"(?<![\w.-])(?P<dashes>-{0,2})(?P<quote>['\"]?)"
    rf"(?P<name>{'|'.join(sorted(map(re.escape, _NAMES), key=len, reverse=True))})"
    r"(?P=quote)(?:\s*(?P<mark>=|:|,)\s*|\s+|$)"
    rf"(?:tensor\(\s*)?(?P<value>{_BRACKETS}|['\"][^'\"]*['\"]|[^\s,;)}}\]'\"]+)?",
    re.IGNORECASE,
)

_MOST = 256
"""Settings of one line that are looked at."""


def settings_of(line: str) -> Iterator[tuple[Topic, str]]:
    """(topic, value) of each setting in a line. A bare word followed by a bare word is prose, not a setting."""
    for count, found in enumerate(_SETTING.finditer(line)):
        if count == _MOST:
            return
        topic = _NAMES[found["name"].lower()]
        dashes, mark, value = found["dashes"], found["mark"], (found["value"] or "").strip("'\"")
        if not dashes and mark not in ("=", ":") and not (mark == "," and found["quote"]):
            continue
        if topic in FLAGS and (not value or value.startswith("-") or mark is None):
            value = "True"
        if not value or value in ("None", "null", "auto") or (value.startswith("-") and not dashes):
            continue
        if topic is Topic.MODEL and mark is not None and len(value) < 3:
            continue
        yield topic, value
