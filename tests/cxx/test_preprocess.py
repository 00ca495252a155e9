"""The preprocessor: what macros become, and where lines stand."""

from __future__ import annotations

import pytest

from backend.cxx.errors import CxxError
from backend.cxx.preprocess import preprocess


def one(text: str, *given: str) -> str:
    return preprocess([("a.cu", text)], given)[0]


def squeezed(text: str) -> str:
    return "".join(text.split())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("#define A 1 + 2\nA * A", "1+2*1+2"),
        ("#define F(x, y) x-y\nF(a(1, 2), F(b, c))", "a(1,2)-b-c"),
        ('#define F(x) #x\nF(a + "b")', '"a + \\"b\\""'),
        ("#define F(a, b) a##b##_t\nF(int, 32)", "int32_t"),
        ("#define F(n, ...) g(n __VA_OPT__(,) __VA_ARGS__)\nF(1) F(1, 2, 3)", "g(1)g(1,2,3)"),
        ("#define A B\n#define B A\nA", "A"),
        ("#define F(x) x\nF", "F"),
        ("#define N 3\n#if N > 2 && defined(N) && !defined(M)\nyes\n#elif 1\nno\n#else\nno\n#endif", "yes"),
        ("#if UNKNOWN\nno\n#else\nyes\n#endif", "yes"),
        ("#ifdef X\n#if 1\nno\n#endif\n#else\nyes\n#endif", "yes"),
        ('a = "no // comment"; // comment\n/* more */ b', 'a="nocomment";b'.replace("nocomment", "no//comment")),
        ("k<<<g, b,\n l, s>>>(a, c);", "k(__launch(g,b,l,s),a,c);"),
        ("#define A 1\n#undef A\nA", "A"),
    ],
)
def test_expansion(text: str, expected: str) -> None:
    assert squeezed(one(text)) == squeezed(expected)


def test_lines_stay_where_they_were() -> None:
    text = "a\n#define F(x, \\\n          y) x + \\\n   y\nb __LINE__\nF(1,\n  2) __LINE__\nc\n/* d\n e */ f\n"
    lines = one(text).split("\n")
    assert lines[4].split() == ["b", "5"]
    assert lines[5].split()[:3] == ["1", "+", "2"]
    assert (lines[7], lines[9].strip()) == ("c", "f")


def test_macros_hold_in_the_files_that_follow() -> None:
    first, second = preprocess([("a.h", "#define F(x) (x)\n"), ("b.cu", "F(3)\n")])
    assert (first.strip(), second.strip()) == ("", "(3)")


def test_what_is_given_is_not_defined_anew() -> None:
    assert one("#define CHECK(x) broken\nCHECK(1)", "CHECK(x) kept(x)").split() == ["kept(1)"]


def test_a_condition_that_is_not_provided_for() -> None:
    with pytest.raises(CxxError, match=r"a\.cu:2: the condition #if 3 \? 1 : 2 is not provided for"):
        one("\n#if 3 ? 1 : 2\n#endif")
    with pytest.raises(CxxError, match=r"a\.cu:1: a directive without its #if"):
        one("#endif")
