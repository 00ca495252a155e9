"""Host code of C++, lowered and run, against what a C++ compiler makes of the same text."""

from __future__ import annotations

import itertools
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from backend.cxx.errors import CxxError, HostTrap
from backend.cxx.host import lower_host
from backend.cxx.host_values import Class, Surroundings
from backend.cxx.module import host_functions
from backend.cxx.syntax import parse_unit
from backend.cxx.types import INT

COMPILER = shutil.which("g++")

SOURCE = """
#include <cstdint>
#include <algorithm>
#include <string>
using std::min; using std::max;
#define TWICE(x) ((x) + (x))
#define CASE(N, ...) case N: { constexpr int32_t kN = N; __VA_ARGS__; break; }
#define PICK(VALUE, ...) \\
    switch(VALUE) { CASE(1, __VA_ARGS__); CASE(2, __VA_ARGS__); default: { constexpr int32_t kN = 0; __VA_ARGS__; break; } }
enum class Kind : int { none, some = 5, more };
struct Pair { int32_t first; int32_t second; int32_t sum() const { return first + second; } };
struct __attribute__((packed)) Packed { void* a; unsigned int b; uint8_t c; };
union Item { struct { int32_t x; int32_t y; }; uint32_t words[4]; };
template <typename T> constexpr T ceil_divide(T x, T y) { return (x + y - 1) / y; }
template <int32_t kRows, bool kSplits> int32_t rows(int32_t q)
{
    if constexpr(kSplits) { return ceil_divide(q, kRows); } else { return kRows; }
}
template <int32_t A_, bool B_> struct Traits
{
    static constexpr int32_t A = A_;
    static constexpr bool B = B_;
    static constexpr int32_t Twice = 2 * A_;
};
static constexpr int32_t LIMIT = 7;
static int64_t narrow(int64_t v)
{
    int8_t a = (int8_t)v;
    uint16_t b = static_cast<uint16_t>(v);
    bool c = v;
    return a * 1000 + b + c;
}

int64_t mixed(int32_t a, int32_t b)
{
    unsigned int u = a;
    int64_t wide = (int64_t)a * b;
    int32_t wrapped = a * b + TWICE(b);
    int32_t d = b == 0 ? 0 : a / b - a % b;
    uint32_t shifted = (u >> 3) ^ (uint32_t(b) << 2);
    int32_t arithmetic = (a >> 2) + (b << 1);
    bool compares = (a < u) || (u > (unsigned)b && b < a);
    int64_t sizes = sizeof(Packed) + sizeof(Item);
    return wide + wrapped + d + shifted + arithmetic + compares + (a ? -1 : 1) + ~b + sizes + narrow(wide);
}
int64_t flow(int32_t a, int32_t b)
{
    int32_t total = 0;
    for(int32_t i = 0; i < 10; ++i) { if(i == (a & 7)) { continue; } if(i > (b & 15)) { break; } total += i * a; }
    int32_t n = b & 31;
    do { total ^= n; n -= 3; } while(n > 0);
    while(n < 5) { n++; total++; }
    PICK(a & 3, total += kN * 10 + rows<kN + 1, true>(b & 63));
    auto add = [&](const int32_t by) { if(by > 3) { total += by; return true; } total -= 1; return false; };
    bool taken = add(a & 7);
    const int32_t made = [&]() { if(taken) { return 100; } else { return min(a, b); } }();
    using T = Traits<3, true>;
    const int32_t kind = (a & 1) ? (int)Kind::more : (int)Kind::none;
    return total + made + T::A + T::Twice + T::B + LIMIT + kind + rows<4, false>(a) + max(a, 3);
}
int64_t objects(int32_t a, int32_t b)
{
    Pair p = {};
    p.first = a;
    Pair q = p;
    q.second = b;
    std::string name = "row";
    if(a > b) name = "other";
    int32_t known = name == "row" ? 1 : name.find("the") != 1 ? 2 : 3;
    float f = a * 0.01f + 10.0f;
    return p.second + q.first * 3 + q.second + known + int32_t(f * 2) + (name + "s").size();
}
template <typename T, typename V> int32_t of_traits(V x)
{
    if constexpr(T::B) { return T::A + x; } else { return T::Twice - x; }
}
int64_t tables(int32_t a, int32_t b)
{
    static constexpr int32_t kSteps[] = {1, 2, 4, 8, 16, 64};
    static constexpr int32_t kLast = kSteps[sizeof(kSteps) / sizeof(int32_t) - 1];
    int32_t found = kLast;
    for(const int32_t step : kSteps) { if((a & 63) <= step) { found = step; break; } }
    const int32_t zeros = a == 0 ? 0 : __builtin_clz(a) * 100 + __builtin_ctz(a);
    int32_t made = 0;
    switch(b & 3)
    {
    case 0: { using T = Traits<16, true>; made = of_traits<T, int64_t>(a & 7); }
    break;
    case 1: { using T = Traits<24, false>; made = of_traits<T, int64_t>(a & 7); }
    break;
    default: made = kSteps[a & 3];
    }
    return found + zeros + made;
}
"""

NUMBERS = (0, 1, -1, 2, 3, 5, 7, 16, 100, -100, 255, 4096, 65535, 123456789, -123456789, 2147483647, -2147483648)
FUNCTIONS = ("mixed", "flow", "objects", "tables")


@pytest.mark.skipif(COMPILER is None, reason="needs g++")
def test_a_compiler_says_the_same(tmp_path: Path) -> None:
    main = '#include <cstdio>\nint main() { int a, b; while(scanf("%d %d", &a, &b) == 2) { printf("'
    main += " ".join("%ld" for _ in FUNCTIONS) + '\\n", ' + ", ".join(f"(long){name}(a, b)" for name in FUNCTIONS) + "); } }\n"
    (tmp_path / "code.cpp").write_text(SOURCE + main, encoding="utf-8")
    subprocess.run(
        [str(COMPILER), "-std=c++17", "-fwrapv", "-O1", "-w", "-o", tmp_path / "code", tmp_path / "code.cpp"],
        check=True,
        timeout=120,
    )
    pairs = list(itertools.product(NUMBERS, NUMBERS))
    pairs = [(a, b) for a, b in pairs if not (a == -2147483648 and b == -1)]  # the division traps on the host
    given = "\n".join(f"{a} {b}" for a, b in pairs)
    done = subprocess.run([tmp_path / "code"], input=given, capture_output=True, text=True, check=True, timeout=60)
    functions = lowered(SOURCE, *FUNCTIONS)
    for (a, b), line in zip(pairs, done.stdout.splitlines(), strict=True):
        assert [functions[name](a, b) for name in FUNCTIONS] == [int(each) for each in line.split()], (a, b)


def lowered(
    source: str, *names: str, around: Surroundings | None = None, python: dict[str, Any] | None = None
) -> dict[str, Any]:
    unit = parse_unit([("code.cpp", source)])
    return host_functions(lower_host(unit, list(names), around or Surroundings()), python or {})


def test_what_is_not_provided_for_ends_where_it_is_reached() -> None:
    """A statement that nobody reaches does not matter; one that is reached names file, line and construct."""
    source = (
        "int f(int a)\n{\n    if(a > 3)\n    {\n        int* p = new int[3];\n        return p[0];\n    }\n    return a;\n}\n"
    )
    function = lowered(source, "f")["f"]
    assert function(2) == 2
    with pytest.raises(CxxError, match=r"code\.cpp:5: .*new int\[3\].* is not provided for"):
        function(4)


def test_an_unknown_function_is_no_guess() -> None:
    with pytest.raises(CxxError, match=r"code\.cpp:1: the function `lost\(a\)` is not provided for"):
        lowered("int f(int a) { return lost(a); }", "f")["f"](1)


def test_one_function_serves_all_values_of_a_template() -> None:
    """Only its types make another one: a table of kernels by head count and width would be hundreds."""
    unit = parse_unit([("code.cpp", SOURCE)])
    module = lower_host(unit, ["tables"], Surroundings())
    assert module.source.count("def of_traits") == 1


def test_an_element_outside_of_an_array_ends_the_process() -> None:
    with pytest.raises(HostTrap, match="element 3 of an array of 3"):
        lowered("int f(int a) { static const int t[] = {5, 6, 7}; return t[a]; }", "f")["f"](3)


def test_an_optional_is_looked_into() -> None:
    around = Surroundings(classes={"Tensor": Class({"size": INT}, code={"size": "len({0})"})})
    source = "int f(std::optional<Tensor> t) { return t.has_value() ? t->size() : -1; }\n"
    source += "int g(std::optional<Tensor> t) { return t->size(); }\n"
    functions = lowered(source, "f", "g", around=around)
    assert [functions["f"](each) for each in ("abc", None)] == [3, -1]
    with pytest.raises(HostTrap):
        functions["g"](None)


def test_a_division_by_zero_ends_the_process() -> None:
    with pytest.raises(HostTrap, match="SIGFPE"):
        lowered("int f(int a) { return 5 / a; }", "f")["f"](0)


def test_a_syntax_error_matters_where_it_is_used() -> None:
    source = "int good(int a) { return a; }\nint bad(int a) { return a +* ; }\n"
    assert lowered(source, "good")["good"](7) == 7
    with pytest.raises(CxxError, match=r"code\.cpp:2"):
        lowered(source, "bad")["bad"](7)


def test_a_check_says_where_and_what() -> None:
    source = 'void f(int a)\n{\n    if(!(a > 1)) { __check_failed(__FILE__, __LINE__, __func__, ": given ", a); }\n}\n'
    with pytest.raises(Exception, match=r"code\.cpp:3 f: given 1"):
        lowered(source, "f")["f"](1)


def test_a_kernel_is_launched_with_its_template_and_arguments() -> None:
    source = """
template <int32_t A_, bool B_> struct Traits { static constexpr int32_t A = A_; };
template <typename T> void kn(Params p) {}
struct Params { int32_t x; int32_t* where; };
void f(int32_t n) { Params p = {}; p.x = n; using T = Traits<4, true>; kn<T><<<dim3(n, 1, 1), 64, 128, stream>>>(p); }
"""
    seen: list[Any] = []
    around = Surroundings(
        functions={"dim3": ("dim3", object)},
        constants={"stream": ("0", object)},
    )
    names = {"dim3": lambda *extents: extents, "launch_kernel": lambda *arguments: seen.append(arguments)}
    lowered(source, "f", around=around, python=names)["f"](3)
    (number, template, arguments, grid, threads, lds, stream) = seen[0]
    assert (number, template, grid, threads, lds, stream) == (0, (4, True), (3, 1, 1), 64, 128, 0)
    assert vars(arguments[0]) == {"x": 3, "where": None}
