"""Kernels of our own, lowered and run: what lanes do in lockstep, memory past its ends, templates as arguments."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from backend.cxx.arithmetic import POISON
from backend.cxx.errors import CxxError
from backend.cxx.kernel import TemplateShape, lower_kernel
from backend.cxx.kernel_calls import lane_number, shuffle, wave_size, wave_sum
from backend.cxx.memory import Spaces
from backend.cxx.syntax import parse_unit
from backend.cxx.types import BOOL, INT

WAVE = {"lane": lane_number(False), "size": wave_size, "shfl": shuffle, "sum": wave_sum}


class Run:
    """A kernel's run: what it left in each of its spaces."""

    def __init__(
        self,
        source: str,
        given: dict[str, list[int]],
        integers: dict[str, int],
        waves: int = 1,
        shapes: tuple[TemplateShape, ...] = (),
        uniform: tuple[str, ...] = (),
    ) -> None:
        kernel = lower_kernel(parse_unit([("k.cu", source)]), "k", shapes, WAVE, uniform=uniform)
        namespace: dict[str, Any] = {}
        from backend.cxx import arithmetic

        names = {name: getattr(function, "py_func", function) for name, function in vars(arithmetic).items()}
        namespace |= names | {"np": np, "f32": np.float32}
        exec(kernel.source, namespace)
        self.spaces = Spaces.of_kernel(len(kernel.spaces))
        self.names = kernel.spaces
        arrays = {kernel.spaces.index(name): np.array(values, np.int32) for name, values in given.items()}
        flat = np.array([integers[name] for name in kernel.integers], np.int64)
        self.ended = self.spaces.run(namespace["kernel"], arrays, waves, flat, np.zeros(0, np.float32))

    def left(self, name: str) -> dict[int, int]:
        """Words written, by number; inputs included."""
        low, words, marks = self.spaces.left(self.names.index(name))
        return {low + place: int(word) for place, word in enumerate(words) if marks[place]}


def test_a_loop_over_lanes_and_a_sum() -> None:
    source = """
void k(int32_t* out, const int32_t* in, int32_t n)
{
    int32_t total = 0;
    for(int32_t i = lane(); i < n; i += size()) { if(in[i] % 2 == 0) { total += in[i]; } else { total -= 1; } }
    total = sum(total);
    if(lane() == 0) { out[0] = total; }
    out[1 + lane()] = shfl(lane() * 10, lane() - 1);
}
"""
    values = list(range(100, 250))
    run = Run(source, {"in": values}, {"n": 150})
    expected = sum(each if each % 2 == 0 else -1 for each in values)
    assert run.left("out") == {0: expected} | {1 + lane: (lane - 1) % 64 * 10 for lane in range(64)}


def test_lanes_store_after_all_have_loaded() -> None:
    """A statement is done by all lanes before the next; within it every load comes before any store."""
    source = "void k(int32_t* a) { a[lane()] = a[lane() + 1] + 1; }"
    run = Run(source, {"a": list(range(65))}, {})
    assert run.left("a") == {lane: lane + 2 for lane in range(64)} | {64: 64}


def test_of_lanes_that_write_one_word_the_last_wins() -> None:
    assert Run("void k(int32_t* a) { a[lane() / 32] = lane(); }", {}, {}).left("a") == {0: 31, 1: 63}


def test_memory_past_its_ends() -> None:
    source = """
void k(int32_t* out, const int32_t* in, int32_t n)
{
    out[0 - 2] = in[n];
    out[100000] = 5;
    extern uint8_t s[];
    int32_t* p = reinterpret_cast<int32_t*>(s);
    out[1] = p[3];
}
"""
    run = Run(source, {"in": [7, 8]}, {"n": 2})
    assert run.left("out") == {-2: POISON, 1: POISON, 100000: 5}
    assert run.spaces.stray_reads() == [(1, 2), (2, 3)]


def test_arithmetic_as_the_gpu_does_it() -> None:
    source = "void k(int32_t* out, int32_t a, int32_t b) { out[0] = a / b; out[1] = a % b; out[2] = a * a; out[3] = a >> 1; }"
    assert Run(source, {}, {"a": -70000, "b": 0}).left("out") == {0: -70001, 1: -70000, 2: 605032704, 3: -35000}
    assert Run(source, {}, {"a": 0, "b": 0}).left("out") == {0: 2, 1: 0, 2: 0, 3: 0}
    assert Run(source, {}, {"a": -7, "b": 2}).left("out") == {0: -3, 1: -1, 2: 49, 3: -4}


RECORDS = """
union Item { struct { int32_t a; int32_t b; int32_t pad[1]; }; uint32_t all[3]; };
template <int32_t N_, bool B_> struct Traits { static constexpr int32_t N = N_; static constexpr bool B = B_; };
template <typename T> class State
{
    public:
    explicit State(const int32_t base, const int32_t* p) : base_(base), p_(p) {}
    static constexpr bool wide() { return T::N > 2; }
    int32_t at(const int32_t i) { if constexpr(T::B) { return p_[i]; } else { return base_ * i; } }
    private:
    const int32_t base_;
    const int32_t* const p_;
};
struct Args { int32_t* out; const int32_t* in; int32_t n; };
template <typename T> void k(const Args args)
{
    using State = State<T>;
    State state(args.n, args.in);
    Item* items = reinterpret_cast<Item*>(args.out);
    int32_t count = 0;
    auto put = [&](const int32_t i) {
        Item item{};
        item.a = state.at(i);
        item.b = State::wide() ? i : -i;
        items[count] = item;
        ++count;
    };
    for(int32_t i = 0; i < T::N; ++i) { put(i); }
}
"""


@pytest.mark.parametrize(("number", "flag", "expected"), [(2, 0, [0, 0, 0, 5, -1, 0]), (3, 1, [9, 0, 0, 8, 1, 0, 7, 2, 0])])
def test_records_templates_and_lambdas(number: int, flag: int, expected: list[int]) -> None:
    """Template values are given when the kernel runs: one lowering serves all."""
    shape = TemplateShape("record", "Traits", (TemplateShape("value", type=INT), TemplateShape("value", type=BOOL)))
    run = Run(RECORDS, {"args.in": [9, 8, 7]}, {"0": number, "1": flag, "args.n": 5}, shapes=(shape,))
    assert run.left("args.out") == dict(enumerate(expected))


def test_waves_between_barriers() -> None:
    source = """
void k(int32_t* out, int32_t n)
{
    extern uint8_t s[];
    int32_t* p = reinterpret_cast<int32_t*>(s);
    const int32_t tid = threadIdx.x;
    const int32_t wave_id = tid / size();
    int32_t mine = wave_id * 1000;
    p[tid] = tid + n;
    __syncthreads();
    out[tid] = p[blockDim.x - 1 - tid] + mine;
}
"""
    run = Run(source, {}, {"n": 7}, waves=3)
    assert run.left("out") == {tid: 191 - tid + 7 + tid // 64 * 1000 for tid in range(192)}


def test_what_is_taken_to_be_shared_is_checked() -> None:
    source = (
        "int32_t top(int32_t x) { return x; }\nvoid k(int32_t* out, int32_t n) { int32_t t = top(lane() * n); out[0] = t; }"
    )
    assert Run(source, {}, {"n": 0}, uniform=("top",)).left("out") == {0: 0}
    assert Run(source, {}, {"n": 1}, uniform=("top",)).ended == 1


@pytest.mark.parametrize(
    ("source", "complaint"),
    [
        (
            "void k(int32_t* a) {\n for(int32_t i = 0; i < 3; ++i) { if(lane() > i) { break; } } }",
            r"k\.cu:2: a loop that some lanes",
        ),
        ("void k(int32_t* a) {\n\n if(lane() == 0) { __syncthreads(); } }", r"k\.cu:3: a barrier"),
        ("void k(int32_t* a) { a[0] = unknown(3); }", r"k\.cu:1: the function `unknown\(3\)`"),
        ("void k(int32_t* a, int32_t* b) { int32_t* p = a; p = b; }", r"a pointer that changes what it points into"),
    ],
)
def test_what_is_not_provided_for_is_named(source: str, complaint: str) -> None:
    with pytest.raises(CxxError, match=complaint):
        lower_kernel(parse_unit([("k.cu", source)]), "k", (), WAVE)


def test_branches_that_were_taken_are_told() -> None:
    """One bit each, for a lane's branch as for all lanes'; twice their union, since the lowest bit says something else."""
    source = """
void k(int32_t* out, int32_t n)
{
    if(n > 3) { out[0] = 1; } else { out[0] = 2; }
    if(lane() == n) { out[1] = 3; }
}
"""
    taken = {n: Run(source, {}, {"n": n}).ended for n in (1, 5, 99)}
    assert taken == {1: 2 * 0b110, 5: 2 * 0b101, 99: 2 * 0b001}
