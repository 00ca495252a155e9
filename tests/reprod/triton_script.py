"""A person's script with Triton kernels of its own, for `aiterfuzz verify`. Prints what it computes; `--stray` writes past y.

bf16 and fp8 arithmetic, a product, libdevice, an autotuner, heuristics, a table of pointers, the driver's target, a benchmark.
"""

import sys

import torch
import triton
import triton.language as tl
from triton.language.extra import libdevice


@triton.autotune([triton.Config({"block": 64}, num_warps=1), triton.Config({"block": 128}, num_warps=2)], key=["n"])
@triton.heuristics({"is_even": lambda given: given["n"] % given["block"] == 0})
@triton.jit
def twice(x, y, n, block: tl.constexpr, is_even: tl.constexpr):
    place = tl.program_id(0) * block + tl.arange(0, block)
    if is_even:
        value = tl.load(x + place)
        tl.store(y + place, value + value)
    else:
        value = tl.load(x + place, mask=place < n)
        tl.store(y + place, value + value, mask=place < n)


@triton.jit
def convert(x, y, n, block: tl.constexpr):
    place = tl.arange(0, block)
    tl.store(y + place, tl.load(x + place, mask=place < n).to(y.dtype.element_ty), mask=place < n)


@triton.jit
def product(table, c, size: tl.constexpr):
    row = tl.arange(0, size)
    place = row[:, None] * size + row[None, :]
    a = tl.load(tl.load(table).to(tl.pointer_type(tl.bfloat16)) + place)
    b = tl.load(tl.load(table + 1).to(tl.pointer_type(tl.bfloat16)) + place)
    tl.store(c + place, libdevice.rint(tl.dot(a, b) / 2))


def main():
    arch = triton.runtime.driver.active.get_current_target().arch
    print("arch", arch)
    n = 128 if "--stray" in sys.argv else 100
    x = torch.arange(1, 129, device="cuda").to(torch.bfloat16)
    y = torch.zeros(100, dtype=torch.bfloat16, device="cuda")
    twice[lambda meta: (triton.cdiv(n, meta["block"]),)](x, y, n)
    print("twice", torch.equal(y.cpu(), 2 * x[:100].cpu()))
    numbers = torch.tensor([127.0, -63.9, 31.7, 4.1, 1.01, 1.015, -1.005, 0.1], device="cuda")
    for kind in (torch.bfloat16, torch.float8_e4m3fnuz if arch == "gfx942" else torch.float8_e4m3fn):
        rounded = torch.empty(8, dtype=kind, device="cuda")
        convert[(1,)](numbers, rounded, 8, block=8)
        print(kind, rounded.float().tolist() == numbers.to(kind).float().tolist())
    a, b = torch.eye(16, device="cuda").to(torch.bfloat16), torch.arange(256, device="cuda").to(torch.bfloat16).view(16, 16)
    c = torch.empty(16, 16, device="cuda")
    product[(1,)](torch.tensor([a.data_ptr(), b.data_ptr()], device="cuda"), c, size=16)
    print("product", torch.equal(c.cpu(), (b.float() / 2).round().cpu()))
    print("milliseconds", triton.testing.do_bench(lambda: convert[(1,)](numbers, rounded, 8, block=8)))


if __name__ == "__main__":
    main()
