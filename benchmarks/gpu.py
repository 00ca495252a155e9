"""`python -m benchmarks.gpu`: our Triton kernel against the memory bandwidth that this GPU has, and cases/s by stage.

A reference, not a race: the kernel exists to run AITER's plans, and this says how far from the machine it is and why. Every
figure is a ratio to something measured in the same run on the same card. Without a GPU it says so and ends well.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial

from backend.aiter.launch import Refusal
from backend.case import QK_HEAD_DIM, V_HEAD_DIM, Case, DType, MetadataMode
from backend.decision import Decision
from backend.devices.cuda import CudaDevice
from backend.devices.cuda.kernel_run import KernelRun, kernel_run_of
from backend.errors import CannotRunError
from backend.experiments.gpu_selftest import well_formed_calls
from backend.host import BuiltIn
from backend.serving.policy import decide
from backend.serving.registry import policy

BATCH, KV_LEN = 64, 8192
"""The shape that the figures are for."""

HEADS = (16, 32, 64, 128)


def shape(heads: int, dtype: DType, num_cu: int) -> KernelRun:
    """The run of the benchmark's batch, planned by v1_2 for `num_cu` compute units; gfx950 bf16 runs any heads unfolded."""
    case = Case(
        heads,
        (KV_LEN,) * BATCH,
        q_dtype=dtype,
        kv_dtype=dtype,
        num_cu=num_cu,
        backend="direct",
        mode=MetadataMode.FAST,
        release="2026-06",
    )
    decision = decide(policy("direct"), case)
    assert isinstance(decision, Decision)
    made = BuiltIn().call(decision)
    assert not isinstance(made.launch, Refusal), made.launch
    return kernel_run_of(made)


MORE_TILES = (
    (16, 32, 4, 2),
    (16, 64, 4, 2),
    (16, 128, 8, 2),
    (16, 64, 8, 2),
    (16, 64, 8, 3),
    (32, 32, 8, 2),
    (32, 64, 8, 2),
    (64, 32, 8, 3),
    (64, 64, 8, 3),
)
"""block_m, block_n, num_warps, num_stages tried beside the default ones."""


def milliseconds(run: Callable[[], object]) -> float:
    """Median time of a launch by device events, after a warm-up."""
    import triton

    return float(triton.testing.do_bench(run, warmup=20, rep=150, return_mode="median"))


def ceilings() -> tuple[float, float]:
    """What this card does: GB/s of a large copy (read + written), TFLOP/s of a large bf16 product."""
    import torch

    large = torch.ones(1 << 30, dtype=torch.int32, device="cuda")
    other = torch.empty_like(large)
    size = large.numel() * 4
    copied = 2 * size / milliseconds(partial(other.copy_, large)) / 1e6
    square = torch.randn(8192, 8192, dtype=torch.bfloat16, device="cuda")
    return copied, 2 * 8192**3 / milliseconds(partial(torch.mm, square, square)) / 1e9


def kernel_lines(quick: bool) -> Iterator[str]:
    """Milliseconds of stage 1 and of the reduction, and their share of the bandwidth and of the arithmetic rate."""
    import torch

    copied, product = ceilings()
    yield f"ceilings: copy of 4 GiB {copied:.0f} GB/s (read + written), bf16 product {product:.0f} TFLOP/s"
    units = torch.cuda.get_device_properties(0).multi_processor_count
    yield f"batch {BATCH} x kv {KV_LEN}, planner v1_2 (fast)"
    yield "type heads planned-for tile(m,n,warps,stages)  stage1 ms  reduce ms   GB/s  of copy  TFLOP/s  of product"
    for dtype in (DType.BF16, DType.FP8):
        for heads in HEADS:
            for num_cu in (units, 256):
                yield from _kernel(dtype, heads, num_cu, copied, product, num_cu == units and not quick)


def _kernel(dtype: DType, heads: int, num_cu: int, copied: float, product: float, tries_more: bool) -> Iterator[str]:
    import torch

    from backend.devices.gpu.decode import Decode, Tiles, tiles_for

    made = shape(heads, dtype, num_cu)
    decode = Decode(made, torch.device("cuda"))
    default = tiles_for(made.heads, made.max_seqlen_q, dtype)
    more = [Tiles(*sizes) for sizes in MORE_TILES if sizes[0] == default.block_m and Tiles(*sizes) != default]
    second = milliseconds(decode.stage2)
    for tiles in [default, *(more if tries_more else [])]:
        name = f"{dtype:4} {heads:5} {num_cu:11} {tiles.block_m},{tiles.block_n},{tiles.num_warps},{tiles.num_stages}"
        try:
            first = milliseconds(partial(decode.stage1, tiles))
        except Exception as error:  # a tile that does not fit this GPU's shared memory
            yield f"{name}: {str(error).splitlines()[0][:80]}"
            continue
        rate = BATCH * KV_LEN * QK_HEAD_DIM * dtype.itemsize / first / 1e6
        done = 2 * BATCH * KV_LEN * heads * (QK_HEAD_DIM + V_HEAD_DIM) / first / 1e9
        shares = f"{rate:6.0f} {rate / copied:7.1%} {done:8.1f} {done / product:10.1%}"
        yield f"{name:<40} {first:12.3f} {second:10.3f} {shares}"


def case_lines(count: int) -> Iterator[str]:
    """Cases/s through the device, and where the time goes."""
    calls = list(well_formed_calls(7, count))
    with CudaDevice() as device:
        list(device.observe_all(calls[:24]))  # compiles most of the kernels
        began = time.monotonic()
        list(device.observe_all(calls))
        seconds = time.monotonic() - began
        again = time.monotonic()
        list(device.observe_all(calls))
        warm = time.monotonic() - again
    yield f"{count} cases of up to 64 Ki tokens: {count / seconds:.1f} cases/s, compiled before {count / warm:.1f} cases/s"


def stage_lines(count: int) -> Iterator[str]:
    """Milliseconds of each stage of a case, medians, in one process."""
    from backend.child.messages import ReportKind
    from backend.child.serve import Reporter
    from backend.codec import to_plain
    from backend.devices.gpu.triton_worker import TritonWorker

    class Silent(Reporter):
        def __init__(self) -> None:
            super().__init__(-1, 0)

        def say(self, word: ReportKind, **fields: object) -> None:
            return

    worker = TritonWorker(interpret=False, separate=False)
    kernel_runs = [to_plain(kernel_run_of(made)) for made in well_formed_calls(7, count)]
    for plain in kernel_runs:
        worker.run(plain, Silent())
    results = [worker.run(plain, Silent())["seconds"] for plain in kernel_runs]
    medians = {stage: statistics.median(result[stage] for result in results) * 1e3 for stage in results[0]}
    yield "medians of a case, ms: " + ", ".join(f"{stage} {value:.2f}" for stage, value in medians.items())


def main(arguments: Sequence[str]) -> int:
    """Prints all lines."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--cases", type=int, default=200)
    parser.add_argument("--quick", action="store_true", help="default tiles only, fewer repetitions")
    given = parser.parse_args(arguments)
    try:
        CudaDevice().close()
    except CannotRunError as error:
        print(f"skipped: {error}", file=sys.stderr)
        return 0
    for lines in (kernel_lines(given.quick), case_lines(given.cases), stage_lines(min(given.cases, 64))):
        for text in lines:
            print(text, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
