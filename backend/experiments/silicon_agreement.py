"""The simulated CDNA machine held against silicon: one Triton source, the same runs and values, output rows side by side.

`python -m backend.experiments.silicon_agreement write FILE` on a machine with a GPU keeps what it computed;
`python -m backend.experiments.silicon_agreement compare FILE` anywhere runs the same kernels as CDNA code objects and compares.
What differs beyond rounding is an error of the machine, of the compiler or of the kernel. Slow: full mode executes every
instruction.
"""

from __future__ import annotations

import argparse
import itertools
import struct
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from backend.call import Call
from backend.case import V_HEAD_DIM, Arch, DType
from backend.cdna.code_object import load_code_object
from backend.cdna.machine import Machine, MachineLaunch
from backend.cdna.memory import AddressSpace
from backend.cdna.result import BadAccess, Mode, Schedule
from backend.devices.cuda.compile import Compiled, Variant, compiled_for, grid_for, kernels_for, scalars_for, variant_for
from backend.devices.cuda.kernel_run import KernelRun, kernel_run_of
from backend.devices.gpu.decode import Decode
from backend.devices.gpu.values import is_fnuz
from backend.devices.kinds import open_device
from backend.experiments.gpu_selftest import well_formed_calls
from backend.path import judge
from backend.words import number_of

WRITTEN = ("o", "logits", "attn_lse", "final_lse")


@dataclass(frozen=True, slots=True, eq=False)
class Simulated:
    """decode: holds the outputs (`outputs`, `comparison`). bad: accesses outside of tensors or to what may not be written."""

    decode: Decode
    bad: tuple[BadAccess, ...]
    instructions: int


def simulate(kernel_run: KernelRun, arch: Arch, schedule: Schedule = Schedule.ROUND_ROBIN) -> Simulated:
    """Runs stage 1 and the merge of a run. Raises UnmodelledError where the machine has no model of an instruction."""
    decode = Decode(kernel_run, torch.device("cpu"), separate=True, fnuz=is_fnuz(arch))
    space = AddressSpace()
    addresses: dict[str, int] = {}
    for name, _, size in decode.memory.ranges():
        array = decode.memory.tensor(name, torch.uint8).numpy()
        addresses[name] = space.add_array(name, array, writable=name in WRITTEN).base
        assert size == array.size
    variant = variant_for(kernel_run, arch)
    bad: list[BadAccess] = []
    instructions = 0
    for kernel in kernels_for(kernel_run):
        made = compiled_for(arch, kernel, variant)
        result = _run(kernel_run, kernel, variant, made, addresses, space, schedule)
        bad += result.bad_accesses
        instructions += result.executed
    return Simulated(decode, tuple(bad), instructions)


def _run(
    kernel_run: KernelRun,
    kernel: str,
    variant: Variant,
    made: Compiled,
    addresses: Mapping[str, int],
    space: AddressSpace,
    schedule: Schedule,
) -> Any:
    machine = Machine(load_code_object(made.code_object).kernel(made.symbol))
    launch = MachineLaunch(
        grid=grid_for(kernel_run, kernel, variant),
        block=(made.threads, 1, 1),
        kernarg=kernarg_bytes(made, addresses, scalars_for(kernel_run, variant)),
        dynamic_lds=made.lds,
    )
    return machine.run(launch, space, Mode.FULL, schedule)


def kernarg_bytes(made: Compiled, addresses: Mapping[str, int], scalars: Mapping[str, int | float]) -> bytes:
    """The argument segment; a tensor that the launch does not have, and what the runtime fills in, are null."""
    segment = bytearray(made.segment)
    for argument in made.kernargs:
        kind, _, name = argument.value.partition(" ")
        if kind == "tensor":
            struct.pack_into("<Q", segment, argument.offset, addresses.get(name, 0))
        elif kind == "scalar":
            value = scalars[name]
            struct.pack_into("<f" if isinstance(value, float) else "<i", segment, argument.offset, value)
    return bytes(segment)


Bits = npt.NDArray[np.int16]

MAX_TOKENS = 600
"""KV tokens of a batch: the machine executes every instruction."""

MAX_ROWS = 4096
"""Rows (query x head) of a batch, for the same reason."""

KEPT_ROWS = 48
"""Rows of a run that are kept and compared, evenly spaced: 200 runs in some 10 MiB."""

ALLOWED = 2.0**-7
"""Difference over size (rms) of a row: P and o are each rounded to bf16 (2^-8) on both sides, and either may round first."""


def kernel_runs(count: int, seed: int) -> Iterator[tuple[Call, KernelRun]]:
    """The same on every machine."""
    made = ((one, kernel_run_of(one)) for one in well_formed_calls(seed, 4 * count, MAX_TOKENS))
    yield from itertools.islice((one for one in made if one[1].rows * one[1].heads <= MAX_ROWS), count)


def rows_of(decode: Decode) -> Bits:
    """The rows of o that are compared, bf16 bits [rows, 512]."""
    every = decode.outputs()[0].reshape(-1, V_HEAD_DIM)
    at = torch.linspace(0, every.shape[0] - 1, min(KEPT_ROWS, every.shape[0])).long()
    bits: Bits = every[at.to(every.device)].cpu().numpy()
    return bits


def difference(first: Bits, second: Bits) -> float:
    """Largest difference / size of a row, both rms; infinite where a row holds a NaN."""
    one, two = (torch.from_numpy(bits.copy()).view(torch.bfloat16).double() for bits in (first, second))
    size = ((one.square() + two.square()).mean(-1) / 2).sqrt()
    return float(((one - two).square().mean(-1).sqrt() / size).nan_to_num(nan=float("inf")).amax())


def write(path: str, count: int, seed: int) -> int:
    """Keeps the outputs of a GPU."""
    device = torch.device("cuda")
    kept = {"count": np.array(count), "seed": np.array(seed)}
    for index, (_, wanted) in enumerate(kernel_runs(count, seed)):
        decode = Decode(wanted, device)
        decode.stage1()
        decode.stage2()
        decode.synchronize()
        kept[str(index)] = rows_of(decode)
    np.savez_compressed(path, allow_pickle=False, **kept)
    print(f"{count} orders on {torch.cuda.get_device_name(device)} in {path}")
    return 0


def compare(path: str) -> int:
    """Runs the runs on the machine; 1 where rows differ beyond rounding or the machine saw a bad access."""
    from backend.experiments.silicon_agreement import simulate

    kept = np.load(path)
    differences: list[float] = []
    wrong = instructions = foretold = 0
    model = open_device("model")
    for index, (made_by, wanted) in enumerate(kernel_runs(int(kept["count"]), int(kept["seed"]))):
        # NVIDIA has no e4m3fnuz: with fp8 the values are those of gfx950.
        arch = Arch.GFX942 if index % 2 and DType.FP8 not in (wanted.q_dtype, wanted.kv_dtype) else Arch.GFX950
        made = simulate(wanted, arch)
        found = difference(kept[str(index)], rows_of(made.decode))
        differences.append(found)
        instructions += made.instructions
        seen = judge(made_by, model).observation
        foretold += seen is not None and bool(seen.violations)
        if found > ALLOWED or made.bad:
            wrong += 1
            print(f"order {index} on {arch}: rows differ by {found:.4f}, {number_of(len(made.bad), 'bad access')}")
    print(
        f"{len(differences)} orders, {number_of(instructions, 'wave instruction')}: {wrong} disagree with the GPU; "
        f"device model foretold violations of AITER's own kernel in {foretold}; "
        f"a row differs by at most {max(differences):.5f} of its size, median over orders {np.median(differences):.5f}"
    )
    return int(wrong > 0)


def main(arguments: Sequence[str]) -> int:
    """The command line; the module says what it does."""
    parser = argparse.ArgumentParser(prog="python -m backend.experiments.silicon_agreement", description=__doc__)
    parser.add_argument("what", choices=("write", "compare"))
    parser.add_argument("file", help=".npz")
    parser.add_argument("--cases", type=int, default=200)
    parser.add_argument("--seed", type=int, default=11)
    given = parser.parse_args(arguments)
    return write(given.file, given.cases, given.seed) if given.what == "write" else compare(given.file)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
