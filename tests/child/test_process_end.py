"""What runtimes print when they end, and where an address lies. Lines as public issue threads have them."""

from __future__ import annotations

import signal

import pytest

from backend.child.messages import Range
from backend.child.process_end import EndKind, death_of, failure_of, fault_in, place

NOT_PRESENT = "Page not present or supervisor privilege"


@pytest.mark.parametrize(
    ("text", "node", "address", "reason"),
    [
        (
            "Memory access fault by GPU node-1 (Agent handle: 0x1f829860) on address 0x7a8a4be00000. "
            "Reason: Page not present or supervisor privilege.\nAborted (core dumped)",
            1,
            0x7A8A4BE00000,
            NOT_PRESENT,
        ),
        (
            "Memory access fault by GPU node-2 (Agent handle: 0x38b6960) on address 0x1000. "
            "Reason: Page not present or supervisor privilege.",
            2,
            0x1000,
            NOT_PRESENT,
        ),
        (
            "Memory access fault by GPU node-4 (Agent handle: 0x152e220) on address (nil). "
            "Reason: Page not present or supervisor privilege.",
            4,
            0,
            NOT_PRESENT,
        ),
        ("Memory access fault by GPU node-3 on address 0x7f10. Reason: Unknown.", 3, 0x7F10, "Unknown"),
        (
            "warning: x\nMemory access fault by GPU node-9 (Agent handle: 0x5) on address 0xabc000. "
            "Reason: Write access to a read-only page.",
            9,
            0xABC000,
            "Write access to a read-only page",
        ),
    ],
)
def test_fault_lines_of_rocr(text: str, node: int, address: int, reason: str) -> None:
    fault = fault_in(text)
    assert fault is not None
    assert (fault.node, fault.address, fault.reason) == (node, address, reason)
    assert fault.line.startswith("Memory access fault by GPU node-")
    assert "\n" not in fault.line
    assert death_of(-signal.SIGABRT, text) == (EndKind.MEMORY_FAULT, fault.line)


def test_faults_without_an_address() -> None:
    cuda = "CUDA error: an illegal memory access was encountered\nSearch for `cudaErrorIllegalAddress' in https://docs\n"
    fault = fault_in(cuda)
    assert fault is not None
    assert (fault.node, fault.address) == (None, None)
    assert fault.line == "CUDA error: an illegal memory access was encountered"
    aperture = ":0:rocdevice.cpp:2992: Queue 0x7f aborting with error : HSA_STATUS_ERROR_MEMORY_APERTURE_VIOLATION: code: 0x29"
    assert death_of(-signal.SIGABRT, aperture)[0] is EndKind.MEMORY_FAULT
    assert fault_in("Killed") is None
    assert fault_in("RuntimeError: shape mismatch at address 0x10") is None


def test_other_ends_are_told_apart() -> None:
    hang = "HW Exception by GPU node-1 (Agent handle: 0x55d) reason :GPU Hang"
    assert death_of(-signal.SIGABRT, hang) == (EndKind.HANG, hang)
    lack = "torch.OutOfMemoryError: HIP out of memory. Tried to allocate 2.00 GiB."
    assert death_of(1, f"Traceback\n{lack}\n") == (EndKind.OUT_OF_MEMORY, lack)
    assert death_of(-signal.SIGSEGV, "")[0] is EndKind.MEMORY_FAULT
    death, said = death_of(-signal.SIGKILL, "")
    assert death is EndKind.SIGNAL
    assert "SIGKILL" in said
    assert death_of(3, "first\nlast words\n\n") == (EndKind.EXIT, "exit status 3: last words")


def test_what_an_exception_means() -> None:
    assert failure_of("HIP out of memory. Tried to allocate") is EndKind.OUT_OF_MEMORY
    assert failure_of("CUDA error: misaligned address") is EndKind.MEMORY_FAULT
    assert failure_of("out of resource: shared memory, Required: 262144") is EndKind.ERROR


def test_what_rocm_7_prints_around_a_fault() -> None:
    """A queue error comes first, the kernel's dispatch and a failed core dump after; other output may cut the line in two."""
    text = """Warning: Queue error - HSA_STATUS_ERROR_MEMORY_FAULT
Memory access fault by GPU node-2 (Agent handle: 0x5614) on address 0x7f20e5e5b000
Reason: Unknown.
Kernel Name: _ZN5aiter39mla_a8w8_qh64_qseqlen1_gqaratio64_v3_psE
GPU coredump: handler exited with error (status: 1)
GPU core dump failed
"""
    death, said = death_of(-signal.SIGABRT, text)
    assert (death, said) == (
        EndKind.MEMORY_FAULT,
        "Memory access fault by GPU node-2 (Agent handle: 0x5614) on address 0x7f20e5e5b000 Reason: Unknown",
    )
    bare = fault_in("Memory access fault by GPU node-4 on address 0x7551d8402000\n")
    assert bare is not None
    assert (bare.address, bare.reason) == (0x7551D8402000, "not said")
    cut = fault_in("Memory access fault by GPU node-4 (Agent han[aiter] import [module_mla]\n")
    assert cut is not None
    assert (cut.node, cut.address) == (None, None)


@pytest.mark.parametrize(
    "line",
    [
        ":0:rocdevice.cpp :3586: 92087492418 us:  Callback: Queue 0x772c40900000 aborting with error : "
        "HSA_STATUS_ERROR_EXCEPTION: An HSAIL operation resulted in a hardware exception. code: 0x1016",
        "HW Exception by GPU node-3 (Agent handle: 0x55d) reason :ECC Error",
    ],
)
def test_a_queue_or_a_gpu_that_is_given_up_is_quoted_and_no_memory_fault(line: str) -> None:
    """A trap, an ECC error, a GPU that somebody else's hang reset: whether it comes again decides what it is worth."""
    death, said = death_of(-signal.SIGABRT, f"{line}\nVGPU=0x30344200 SWq=0x73a0c79fe000\nAborted (core dumped)\n")
    assert death is EndKind.SIGNAL
    assert said == f"killed by SIGABRT: {line}"


def test_an_address_is_placed_by_the_nearest_edge() -> None:
    ranges = (Range("q", 0x1000, 0x800), Range("o", 0x4000, 0x100))
    inside, after, before, between = (place(ranges, address) for address in (0x17FF, 0x1800, 0x0F00, 0x3F00))
    assert inside is not None
    assert after is not None
    assert before is not None
    assert between is not None
    assert (inside.name, inside.offset, inside.outside) == ("q", 0x7FF, 0)
    assert (after.name, after.offset, after.outside) == ("q", 0x800, 1)
    assert (before.name, before.offset, before.outside) == ("q", -0x100, -0x100)
    assert (between.name, between.offset) == ("o", -0x100)
    assert place((), 0x1000) is None
