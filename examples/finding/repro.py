"""Head width in AITER's MLA decode, ROCm/aiter 2988812e134a (here called release 2026-06).

With fast_mode=False, intra_batch_mode=True, planner v1_0 plans rows of 16 heads (64 heads in 4 groups), the launched
kernel mla_a8w8_qh64_qseqlen1_gqaratio64_v3_ps.co takes rows of 64.
Needs torch and aiter, nothing else. Run it on a gfx950 GPU:

    python repro.py          # red zones around every tensor: an overrun inside mapped memory shows too (exit 1)
    python repro.py --fixed  # fast_mode=True, intra_batch_mode=False

Exit code: 0 right result and no red zone touched; 1 wrong result or a red zone touched; 134 the runtime aborted on a memory
fault; 3 could not run here.
"""

import argparse
import importlib.metadata
import pathlib
import platform
import subprocess
import sys

# ---- the case -------------------------------------------------------------------------------------------------------
AITER_COMMIT = "2988812e134a"  # of ROCm/aiter, with which this was found
WANTED_ARCH = "gfx950"
NUM_CU = 256
MODEL_HEADS = 64  # query heads of this rank
HEAD_REPEAT = 1  # how often q's heads are repeated, to the kernel's minimum of 16
NUM_HEADS = 64  # what AITER is told
KV_LENS = [1]  # tokens of each request
QUERY_LENS = [1]  # q rows of each request
MAX_SEQLEN_Q = 1
PAGE_SIZE = 1
FIRST_PAGE = 0  # first physical page held; the pool ends with the last
PAGES_REVERSED = False
KV_INDPTR_ENTRIES = 2
KV_LAST_PAGE_LENS = [1]
Q_DTYPE = "fp8"
KV_DTYPE = "fp8"
NUM_KV_SPLITS = 64
INTRA_BATCH_MODE = True
FAST_MODE = False
IS_CAUSAL = False
SIZING_BATCH = 1
SIZING_MAX_SEQLEN_Q = 1
SIZING_KV_SPLITS = 64
METADATA_Q_DTYPE = "fp8"  # what the metadata calls are told
METADATA_KV_DTYPE = "fp8"
PLANNER_PAGE_SIZE = 1
KV_GRANULARITY = 16
UNI_SEQLEN_QO = 1
MAX_SPLIT_PER_BATCH = 64
FIXED = {  # for --fixed
    "INTRA_BATCH_MODE": False,
    "FAST_MODE": True,
}
RED_ZONE = 1 << 20  # bytes around each tensor, at least twice what the fault reaches
EXPECTATION = """\
expected: right numbers, nothing written outside of a tensor (exit 0)
a fault looks like one of
  a red zone touched, a wrong row or a NaN (exit 1)
  Memory access fault by GPU node-N (Agent handle: 0x...) on address 0x.... Reason: Unknown. (exit 134)
found by aiterfuzz on device model:
  caller: planner v1_0 plans rows of 16 heads (64 heads in 4 groups), the launched kernel
    mla_a8w8_qh64_qseqlen1_gqaratio64_v3_ps.co takes rows of 64
  planner: writes 3 words outside reduce_indptr (2 words): first word 2, last 4
  planner: writes 6 words outside reduce_final_map (2 words): first word 2, last 7
  kernel: write of o 196608 bytes past the end: ptr_RP + q_begin * s_MQA * 1024
  kernel: read of q 110592 bytes past the end: ptr_Q + q_begin * s_MQA * row bytes
"""
# ---- how it is checked ----------------------------------------------------------------------------------------------
SEED = 0
QK_HEAD_DIM = 576  # 512 latent + 64 rope
V_HEAD_DIM = 512  # V is the first 512 of a KV token
SM_SCALE = QK_HEAD_DIM**-0.5
POISON = 0xFF  # NaN in bf16, float32 and fp8 e4m3fn; -1 as int32
BESIDE_OUTPUT = 0xA5  # around what the kernel only writes: it may well store a NaN, which POISON would hide
MARGIN = 3.0  # times the error that rounding alone makes, before a result counts as wrong

EXIT_FINE, EXIT_WRONG, EXIT_CANNOT_RUN = 0, 1, 3


def cannot_run(why):
    print(f"cannot run here: {why}")
    sys.exit(EXIT_CANNOT_RUN)


try:
    import torch
except ImportError as missing:
    cannot_run(f"torch is not installed ({missing})")
if not torch.cuda.is_available():
    cannot_run("torch sees no ROCm GPU")
GPU = torch.cuda.get_device_properties(0)
ARCH = str(getattr(GPU, "gcnArchName", "")).split(":")[0]
if ARCH != WANTED_ARCH:
    cannot_run(f"this is a finding of {WANTED_ARCH}, the GPU is {GPU.name} ({ARCH or 'not AMD'})")
try:
    import aiter
    from aiter import dtypes
    from aiter.mla import mla_decode_fwd
except Exception as broken:  # aiter raises RuntimeError where ROCm's files are missing
    cannot_run(f"aiter cannot be imported ({type(broken).__name__}: {broken})")

DTYPES = {"fp8": dtypes.fp8, "bf16": dtypes.bf16}


def aiter_version():
    folder = pathlib.Path(aiter.__file__).resolve().parent.parent
    try:
        version = importlib.metadata.version("amd-aiter")
    except importlib.metadata.PackageNotFoundError:
        version = str(getattr(aiter, "__version__", "unknown"))
    commit = "not a git checkout"
    if (folder / ".git").exists():
        asked = subprocess.run(["git", "-C", str(folder), "rev-parse", "HEAD"], capture_output=True, text=True)
        commit = asked.stdout.strip() or "unknown"
    return f"{version}, commit {commit}, {folder}"


def print_environment():
    print(f"python  {platform.python_version()}, {platform.platform()}")
    print(f"torch   {torch.__version__}, HIP {torch.version.hip}")
    print(f"aiter   {aiter_version()}")
    if AITER_COMMIT not in aiter_version():
        print(f"        the finding was made with ROCm/aiter {AITER_COMMIT}: another one neither shows nor refutes it")
    print(f"GPU     {GPU.name}, {ARCH}, {GPU.multi_processor_count} compute units")
    if GPU.multi_processor_count != NUM_CU:
        print(f"        the finding was made for {NUM_CU} compute units: the plan differs in detail here")


class Memory:
    """Tensors full of POISON as slices of larger allocations, so that what is written around them can be seen."""

    def __init__(self):
        self.blocks = []

    def empty(self, name, shape, dtype, around=RED_ZONE, beside=POISON):
        size = dtype.itemsize
        for extent in shape:
            size *= extent
        total = around + (size + 255) // 256 * 256 + around
        start = around
        block = torch.full((total,), beside, dtype=torch.uint8, device="cuda")
        block[start : start + size] = POISON
        self.blocks.append((name, block, start, size, beside))
        return block[start : start + size].view(dtype).view(shape)

    def copy(self, name, values):
        tensor = self.empty(name, values.shape, values.dtype)
        tensor.copy_(values)
        return tensor

    def touched(self):
        """Lines about bytes outside of a tensor that are not what they were filled with."""
        lines = []
        for name, block, start, size, beside in self.blocks:
            for where, zone in (("past the end", block[start + size :]), ("before the start", block[:start].flip(0))):
                written = (zone != beside).nonzero().flatten()
                if len(written):
                    reach = int(written[-1]) + 1
                    lines.append(f"  {name}: {len(written):,} bytes written {where}, up to {reach:,} bytes from it")
        return lines


def make_inputs(memory):
    """q, the KV pool and the index tensors, the same in every run."""
    generator = torch.Generator().manual_seed(SEED)

    def random(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float32)

    rows = sum(QUERY_LENS)
    pages = [(length + PAGE_SIZE - 1) // PAGE_SIZE for length in KV_LENS]
    page_ids = torch.arange(FIRST_PAGE, FIRST_PAGE + sum(pages), dtype=torch.int32)
    if PAGES_REVERSED:
        page_ids = page_ids.flip(0)
    q = random(rows, MODEL_HEADS, QK_HEAD_DIM).repeat_interleave(HEAD_REPEAT, dim=1).to(DTYPES[Q_DTYPE])
    pool = memory.empty("kv_buffer", (FIRST_PAGE + sum(pages), PAGE_SIZE, 1, QK_HEAD_DIM), DTYPES[KV_DTYPE])
    owned = random(sum(pages), PAGE_SIZE, 1, QK_HEAD_DIM).to(DTYPES[KV_DTYPE])
    in_pool = owned.view(torch.uint8).flip(0).view(owned.dtype) if PAGES_REVERSED else owned
    pool[FIRST_PAGE:].copy_(in_pool)
    inputs = {
        "q": memory.copy("q", q),
        "kv_buffer": pool,
        "qo_indptr": memory.copy("qo_indptr", indptr(QUERY_LENS)),
        "kv_indptr": memory.copy("kv_indptr", indptr(pages)[:KV_INDPTR_ENTRIES]),
        "kv_indices": memory.copy("kv_indices", page_ids),
        "kv_last_page_lens": memory.copy("kv_last_page_lens", torch.tensor(KV_LAST_PAGE_LENS, dtype=torch.int32)),
    }
    tokens = owned.view(-1, QK_HEAD_DIM).cpu().to(torch.float64)
    return inputs, q.cpu().to(torch.float64), tokens


def indptr(counts):
    return torch.tensor([0, *counts], dtype=torch.int32).cumsum(0, dtype=torch.int32)


def make_metadata(memory, inputs):
    """The six buffers, sized and filled by AITER."""
    sizes = aiter.get_mla_metadata_info_v1(
        SIZING_BATCH,
        SIZING_MAX_SEQLEN_Q,
        NUM_HEADS,
        DTYPES[METADATA_Q_DTYPE],
        DTYPES[METADATA_KV_DTYPE],
        is_sparse=False,
        fast_mode=FAST_MODE,
        num_kv_splits=SIZING_KV_SPLITS,
        intra_batch_mode=INTRA_BATCH_MODE,
    )
    names = ("work_meta_data", "work_indptr", "work_info_set", "reduce_indptr", "reduce_final_map", "reduce_partial_map")
    metadata = {}
    for name, (shape, dtype) in zip(names, sizes, strict=True):
        metadata[name] = memory.empty(name, (shape,) if isinstance(shape, int) else tuple(shape), dtype)
    aiter.get_mla_metadata_v1(
        inputs["qo_indptr"],
        inputs["kv_indptr"],
        inputs["kv_last_page_lens"],
        NUM_HEADS,
        1,
        IS_CAUSAL,
        metadata["work_meta_data"],
        metadata["work_info_set"],
        metadata["work_indptr"],
        metadata["reduce_indptr"],
        metadata["reduce_final_map"],
        metadata["reduce_partial_map"],
        page_size=PLANNER_PAGE_SIZE,
        kv_granularity=KV_GRANULARITY,
        max_seqlen_qo=MAX_SEQLEN_Q,
        uni_seqlen_qo=UNI_SEQLEN_QO,
        fast_mode=FAST_MODE,
        max_split_per_batch=MAX_SPLIT_PER_BATCH,
        intra_batch_mode=INTRA_BATCH_MODE,
        dtype_q=DTYPES[METADATA_Q_DTYPE],
        dtype_kv=DTYPES[METADATA_KV_DTYPE],
    )
    torch.cuda.synchronize()
    items = int(metadata["work_indptr"][-1])
    print(f"planned {items} work items; reduce_indptr has {metadata['reduce_indptr'].numel()} entries")
    return metadata


def decode(inputs, metadata, o):
    """o, filled by AITER."""
    one = torch.ones(1, dtype=torch.float32, device="cuda")
    mla_decode_fwd(
        inputs["q"],
        inputs["kv_buffer"],
        o,
        inputs["qo_indptr"],
        inputs["kv_indptr"],
        inputs["kv_indices"],
        inputs["kv_last_page_lens"],
        MAX_SEQLEN_Q,
        page_size=PAGE_SIZE,
        sm_scale=SM_SCALE,
        logit_cap=0.0,
        num_kv_splits=NUM_KV_SPLITS,
        q_scale=one if Q_DTYPE == "fp8" else None,
        kv_scale=one if KV_DTYPE == "fp8" else None,
        intra_batch_mode=INTRA_BATCH_MODE,
        **metadata,
    )
    torch.cuda.synchronize()
    return o[:, ::HEAD_REPEAT].cpu().to(torch.float64)


def reference(q, tokens):
    """Attention in float64, and the same rounded as a kernel must: probabilities as it holds them, o in bf16.

    Row r of a request of n rows and m tokens sees the tokens [0, m - n + r + 1).
    """
    held = DTYPES["fp8"] if Q_DTYPE == KV_DTYPE == "fp8" else DTYPES["bf16"]
    exact = torch.zeros(q.shape[0], MODEL_HEADS, V_HEAD_DIM, dtype=torch.float64)
    rounded = torch.zeros_like(exact)
    row, token = 0, 0
    for rows, length in zip(QUERY_LENS, KV_LENS, strict=True):
        kv = tokens[token : token + length]
        for r in range(rows):
            seen = kv[: max(length - rows + r + 1, 0)]
            if len(seen):
                scores = q[row, ::HEAD_REPEAT] @ seen.T * SM_SCALE
                weights = torch.exp(scores - scores.amax(dim=1, keepdim=True))
                total = weights.sum(dim=1, keepdim=True)
                exact[row] = weights @ seen[:, :V_HEAD_DIM] / total
                rounded[row] = weights.to(torch.float32).to(held).to(torch.float64) @ seen[:, :V_HEAD_DIM] / total
            row += 1
        token += (length + PAGE_SIZE - 1) // PAGE_SIZE * PAGE_SIZE
    return exact, rounded.to(torch.bfloat16).to(torch.float64)


def compare(shown, exact, rounded):
    """Lines about what is wrong with a result: rows with NaN, and rows whose error is beyond what rounding alone makes."""
    lines = []
    nan = shown.isnan().flatten(1).any(dim=1)
    if nan.any():
        lines.append(f"  o: {int(nan.sum())} of {len(nan)} rows hold NaN (not written, or made of memory that nobody wrote)")
    difference, rounding = (shown - exact).nan_to_num(0.0), rounded - exact
    measures = {"largest": lambda t: t.abs().amax(dim=2), "root mean square": lambda t: t.square().mean(dim=2).sqrt()}
    for name, measured in measures.items():
        alone = float(measured(rounding).max())
        allowed = MARGIN * alone + 2.0**-20
        errors = measured(difference).amax(dim=1)
        print(f"{name} error of a row {float(errors.max()):.3e}; rounding alone makes {alone:.3e}, allowed {allowed:.3e}")
        wrong = int((errors > allowed).sum())
        if wrong:
            lines.append(f"  o: {wrong} of {len(nan)} rows are wrong by their {name} error")
    return lines


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fixed", action="store_true", help="with the arguments of the fix")
    arguments = parser.parse_args()
    if arguments.fixed:
        globals().update(FIXED)
    print_environment()
    print(EXPECTATION, end="")
    memory = Memory()
    inputs, q, tokens = make_inputs(memory)
    metadata = make_metadata(memory, inputs)
    planner_wrote = memory.touched()
    if planner_wrote:
        print("the planner wrote outside its buffers:", *planner_wrote, sep="\n")
        sys.stdout.flush()  # the decode below may abort the process
    o = memory.empty("o", (sum(QUERY_LENS), NUM_HEADS, V_HEAD_DIM), dtypes.bf16, beside=BESIDE_OUTPUT)
    shown = decode(inputs, metadata, o)
    outside = memory.touched()
    wrong = compare(shown, *reference(q, tokens))
    if outside:
        print("red zones touched:", *outside, sep="\n")
    if wrong:
        print("wrong result:", *wrong, sep="\n")
    print("FAULTY" if outside or wrong else "fine: right result, no red zone touched")
    sys.exit(EXIT_WRONG if outside or wrong else EXIT_FINE)


if __name__ == "__main__":
    main()
