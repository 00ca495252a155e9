"""Our Triton kernels as CDNA code objects, with what a loader needs to run them. Needs triton, no GPU.

The same source that runs on a GPU, for gfx942 (fp8 e4m3fnuz) and gfx950 (e4m3fn). A `Compiled` says what goes where in the
kernel argument segment; the `arguments` functions say what the values are for a KernelRun. Knows no machine that runs it.
"""

from __future__ import annotations

import functools
import io
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from backend.case import QK_HEAD_DIM, Arch, DType
from backend.devices.cuda.kernel_run import KernelRun
from backend.errors import CannotRunError

DECODE, DECODE_SPLIT = "mla_decode_persistent", "mla_decode_split"
REDUCE, MERGE = "mla_reduce", "mla_merge"

_POINTERS: Mapping[str, str] = {
    "o": "*bf16",
    "logits": "*fp32",
    "attn_lse": "*fp32",
    "final_lse": "*fp32",
    "qo_indptr": "*i32",
    "kv_indptr": "*i32",
    "kv_indices": "*i32",
    "kv_last_page_lens": "*i32",
    "work_indptr": "*i32",
    "work_info_set": "*i32",
    "num_kv_splits_indptr": "*i32",
    "reduce_indptr": "*i32",
    "reduce_final_map": "*i32",
    "reduce_partial_map": "*i32",
}

_TENSORS = {"kv": "kv_buffer"}
"""Tensor of a launch behind a kernel parameter, where the names differ."""


@dataclass(frozen=True, slots=True)
class KernelArgument:
    """One field of the segment. offset, size: bytes. value: "tensor NAME" for an address, "scalar NAME" for a number, or
    "hidden" for what the runtime fills in (scratch pointers of Triton: null)."""

    name: str
    offset: int
    size: int
    value: str


@dataclass(frozen=True, slots=True)
class Variant:
    """What is compiled in. block_m, block_n: tile rows and tokens; is_paged: page size above 1; stores_lse: final_lse too;
    logits_is_o: stage 1 of a call without a plan stores bf16 rows to o."""

    q_dtype: DType = DType.FP8
    kv_dtype: DType = DType.FP8
    is_paged: bool = False
    stores_lse: bool = False
    logits_is_o: bool = False
    block_m: int = 16
    block_n: int = 32
    num_warps: int = 4


@dataclass(frozen=True, slots=True)
class Compiled:
    """A code object and how it is launched. threads: of a workgroup; lds: bytes of dynamic LDS; segment: kernarg bytes."""

    arch: Arch
    symbol: str
    code_object: bytes
    kernargs: tuple[KernelArgument, ...]
    segment: int
    threads: int
    lds: int


def variant_for(kernel_run: KernelRun, arch: Arch) -> Variant:
    """The variant that it runs on."""
    rows = kernel_run.heads * kernel_run.max_seqlen_q
    block_m = 16 if rows <= 16 else 32 if rows <= 32 else 64
    # With more waves LLVM lets the result of a 16x16x16 MFMA overlap a part of its third operand, which our machine refuses.
    num_warps = 1 if arch is Arch.GFX942 and block_m == 16 else 4
    stores = kernel_run.stores_lse
    return Variant(
        kernel_run.q_dtype,
        kernel_run.kv_dtype,
        kernel_run.page_size > 1,
        stores,
        kernel_run.logits_is_o,
        block_m=block_m,
        num_warps=num_warps,
    )


def kernels_for(kernel_run: KernelRun) -> tuple[str, ...]:
    """Kernels of a run in the order of their launch."""
    if kernel_run.persistent:
        return DECODE, REDUCE
    return (DECODE_SPLIT,) if kernel_run.logits_is_o else (DECODE_SPLIT, MERGE)


def _shares(kernel_run: KernelRun, variant: Variant) -> int:
    return max(1, -(-kernel_run.heads * kernel_run.max_seqlen_q // variant.block_m))


def grid_for(kernel_run: KernelRun, kernel: str, variant: Variant) -> tuple[int, int, int]:
    """Workgroups of a launch."""
    shares = _shares(kernel_run, variant)
    return {
        DECODE: (kernel_run.programs, shares, 1),
        REDUCE: (kernel_run.tiles, kernel_run.heads, 1),
        DECODE_SPLIT: (shares, len(kernel_run.kv_lens), kernel_run.splits),
        MERGE: (len(kernel_run.kv_lens), kernel_run.heads, 1),
    }[kernel]


def scalars_for(kernel_run: KernelRun, variant: Variant) -> Mapping[str, int | float]:
    """Numbers of every kernel, by parameter name."""
    return {
        "scale_log2": QK_HEAD_DIM**-0.5 / math.log(2),
        "uniform_queries": kernel_run.queries_that_hide,
        "rows_a_request": kernel_run.max_seqlen_q * kernel_run.fold,
        "heads": kernel_run.heads,
        "page_log2": kernel_run.page_size.bit_length() - 1,
        "min_split": kernel_run.min_split,
        "splits": kernel_run.splits,
        "shares": _shares(kernel_run, variant),
    }


@functools.lru_cache(maxsize=64)
def compiled_for(arch: Arch, kernel: str = DECODE, variant: Variant | None = None) -> Compiled:
    """A kernel compiled for an architecture; remembered. Raises CannotRunError without triton or its AMD backend."""
    variant = variant or Variant()
    try:
        import triton
        from triton.backends.compiler import GPUTarget
        from triton.compiler import ASTSource

        from backend.devices.gpu import kernels
    except ImportError as error:
        raise CannotRunError(f"compiling our kernels needs triton ({error}); pip install triton") from error
    function = getattr(kernels, kernel)
    constants = _constants(variant)
    signature = {name: _type_of(name, kernel, arch, variant, constants) for name in function.arg_names}
    aligned = [(index,) for index, name in enumerate(function.arg_names) if signature[name].startswith("*")]
    source = ASTSource(
        fn=function,
        signature=signature,
        constexprs={name: constants[name] for name in function.arg_names if name in constants},
        attrs={place: [["tt.divisibility", 16]] for place in aligned},
    )
    options = {"num_warps": variant.num_warps, "num_stages": 1}
    made = triton.compile(source, target=GPUTarget("hip", arch.value, 64), options=options)
    return _described(arch, made, [name for name in function.arg_names if name not in constants], kernel, variant)


def _constants(variant: Variant) -> dict[str, Any]:
    import triton.language as tl

    return {
        "is_paged": variant.is_paged,
        "stores_lse": variant.stores_lse,
        "block_m": variant.block_m,
        "block_n": variant.block_n,
        "dot_type": tl.bfloat16,
    }


def _type_of(name: str, kernel: str, arch: Arch, variant: Variant, constants: Mapping[str, Any]) -> str:
    if name in constants:
        return "constexpr"
    if name in ("q", "kv"):
        dtype = variant.q_dtype if name == "q" else variant.kv_dtype
        if dtype is DType.BF16:
            return "*bf16"
        return "*fp8e4b8" if arch is Arch.GFX942 else "*fp8e4nv"
    if name == "logits" and kernel == DECODE_SPLIT and variant.logits_is_o:
        return "*bf16"
    return _POINTERS.get(name) or ("fp32" if name == "scale_log2" else "i32")


def _described(arch: Arch, made: Any, parameters: list[str], kernel: str, variant: Variant) -> Compiled:
    """The kernel argument segment as the code object's own metadata has it (AMDGPU code object V5, NT_AMDGPU_METADATA)."""
    import msgpack
    from elftools.elf.elffile import ELFFile

    data: bytes = made.asm["hsaco"]
    section: Any = ELFFile(io.BytesIO(data)).get_section_by_name(".note")
    described = next(note["n_desc"] for note in section.iter_notes() if note["n_name"] == "AMDGPU")
    metadata = msgpack.unpackb(described if isinstance(described, bytes) else described.encode("latin-1"))
    (entry,) = metadata["amdhsa.kernels"]
    fields = []
    for index, field in enumerate(entry[".args"]):
        name = parameters[index] if index < len(parameters) else f"hidden_{index - len(parameters)}"
        if index >= len(parameters):
            value = "hidden"
        elif field[".value_kind"] == "global_buffer":
            to_o = name == "logits" and kernel == DECODE_SPLIT and variant.logits_is_o
            value = f"tensor {'o' if to_o else _TENSORS.get(name, name)}"
        else:
            value = f"scalar {name}"
        fields.append(KernelArgument(name, field[".offset"], field[".size"], value))
    return Compiled(
        arch,
        entry[".name"],
        data,
        tuple(fields),
        entry[".kernarg_segment_size"],
        variant.num_warps * 64,
        made.metadata.shared,
    )
