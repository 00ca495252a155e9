"""Whatever bytes a code object, a bundle, a kernel table, C++ text, a recording or a log holds: a value or one line.

The same inputs everywhere, bounded in number; what would take memory or time without end is among them by hand.
"""

from __future__ import annotations

import json
import os
import resource
import struct
import sys
import traceback
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backend.aiter.codefiles import FolderSource, open_source
from backend.aiter.kernels import source_table
from backend.case import Arch
from backend.cdna.bundle import LARGEST, PLAIN_MAGIC, code_objects
from backend.cdna.code_object import load_code_object
from backend.cxx.syntax import parse_unit
from backend.errors import AiterfuzzError
from fuzz.commands.agree import _read
from reprod.diagnose.log_lines import read_logs

ROOT = Path(__file__).parents[2]
BOUNDED = settings(
    max_examples=100 if os.environ.get("AITERFUZZ_SLOW") else 40,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)


def header(*entries: tuple[int, int, bytes], count: int | None = None) -> bytes:
    listed = b"".join(struct.pack("<QQQ", offset, size, len(name)) + name for offset, size, name in entries)
    return PLAIN_MAGIC + struct.pack("<Q", len(entries) if count is None else count) + listed


def packed(body: bytes, size: int, method: int, version: int = 3, total: int | None = None) -> bytes:
    layout = "<4sHHQQQ" if version == 3 else "<4sHHIIQ"
    whole = struct.calcsize(layout) + len(body) if total is None else total
    return struct.pack(layout, b"CCOB", version, method, whole, size, 0) + body


GFX942 = b"hipv4-amdgcn-amd-amdhsa--gfx942"
BUNDLE = header((200, 5, GFX942)).ljust(200, b"\0") + b"first"
CODE = open_source(None).read("hsa/gfx950/mla/mla_a8w8_qh16_qseqlen1_gqaratio16.co") or b""
TABLE = b"qType,kvType,Gqa,ps,qSeqLen,prefill,causal,lse,knl_name,co_name\nfp8,fp8,16,1,1,0,0,0,_Z1k,a.co\n"
CXX = """#include <x>
#define TWICE(x) ((x) + (x))
#define CAT(a, b) a##b
#if defined(TWICE) && (1 + 2 > 2)
template <int N> struct Traits { static constexpr int A = N; };
int f(int q) { k<<<dim3(1), 64, 0, 0>>>(q); return TWICE(q) + CAT(1, 2); }
#else
#error "no"
#endif
"""
RECORDED = json.dumps({"case": {"num_head": 64, "kv_lens": [5]}, "seen": {}}) + "\n"
LOG = (ROOT / "tests" / "data" / "logs" / "no_kernel.log").read_bytes()[:4000]


def table(path: Path) -> object:
    place = path.parent / "csv" / "hsa" / "gfx950" / "mla"
    place.mkdir(parents=True, exist_ok=True)
    (place / "mla_asm.csv").write_bytes(path.read_bytes())
    source_table.cache_clear()
    return source_table(FolderSource("a checkout", (("", str(path.parent / "csv")),)), Arch.GFX950)


PARSERS: dict[str, tuple[Callable[[Path], object], bytes]] = {
    "bundle": (lambda path: code_objects(path.read_bytes()), BUNDLE),
    "zlib bundle": (lambda path: code_objects(path.read_bytes()), packed(zlib.compress(BUNDLE), len(BUNDLE), 0)),
    "zstd bundle": (
        lambda path: code_objects(path.read_bytes()),
        packed(zstandard.ZstdCompressor().compress(BUNDLE), len(BUNDLE), 1, version=2),
    ),
    "code object": (lambda path: load_code_object(path.read_bytes()), CODE),
    "kernel table": (table, TABLE),
    "C++": (lambda path: parse_unit([("a.cu", path.read_bytes().decode(errors="replace"))]), CXX.encode()),
    "recording": (lambda path: list(_read(path)), RECORDED.encode()),
    "log": (lambda path: read_logs([path]), LOG),
}


def comes_to_something(name: str, content: bytes, path: Path) -> None:
    """A value, or one line of ours; whatever else is raised fails the test."""
    path.write_bytes(content)
    try:
        PARSERS[name][0](path)
    except AiterfuzzError as error:
        said = str(error)
        assert said
        assert len(said) < 4_000
        assert "\n" not in said


@pytest.mark.parametrize("name", sorted(PARSERS))
@BOUNDED
@given(data=st.data())
def test_any_bytes_in_any_place(name: str, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Up to three places; a half of them among the first 300 bytes, where headers are."""
    content = PARSERS[name][1]
    assert content
    for _ in range(data.draw(st.integers(1, 3))):
        near = data.draw(st.booleans())
        place = data.draw(st.integers(0, min(len(content), 300 if near else len(content))))
        gone = data.draw(st.sampled_from([0, 0, 1, 4, 8, 40]))
        junk = data.draw(
            st.one_of(
                st.binary(max_size=9),
                st.sampled_from(
                    [b"\xff" * 8, b"\0" * 8, b"\x7f" + b"\xff" * 7, b"(" * 50, b"#if 1\n", b"##", b'"', b"\n", b","]
                ),
            )
        )
        content = content[:place] + junk + content[place + gone :]
    comes_to_something(name, content, tmp_path_factory.getbasetemp() / "parsed")


LAUGHS = "".join(f"#define A{n + 1} A{n} A{n}\n" for n in range(60)) + "int A60;\n"

BOMBS: dict[str, tuple[str, bytes | Callable[[], bytes]]] = {
    "no end in sight": ("bundle", packed(b"", 0, 0, total=0)),
    "behind itself": ("bundle", packed(b"", 0, 0, total=4)),
    "more than it says, zlib": ("bundle", lambda: packed(zlib.compress(bytes(1 << 28), 9), 10, 0)),
    "more than it says, zstd": ("bundle", lambda: packed(zstandard.ZstdCompressor().compress(bytes(1 << 28)), 10, 1)),
    "as much as can be said": ("bundle", lambda: packed(zstandard.ZstdCompressor().compress(bytes(1 << 28)), LARGEST, 1)),
    "all entries are the whole": ("bundle", header(*[(0, 2_000_000, GFX942)] * 30_000).ljust(2_000_000, b"\0")),
    "nothing but beginnings": ("bundle", header() * 60_000),
    "a table of one long field": ("kernel table", TABLE + b"x" * 200_000 + b",1\n"),
    "a table that is no text": ("kernel table", TABLE + b"\xff\xfe\n"),
    "a table with NUL": ("kernel table", TABLE + b"\0,\0\n"),
    "a macro of macros": ("C++", LAUGHS.encode()),
    "arguments in arguments": ("C++", b"#define F(x) x\nint a = " + b"F(" * 3_000 + b"1" + b")" * 3_000 + b";\n"),
    "a condition in conditions": ("C++", b"#if " + b"(" * 3_000 + b"1" + b")" * 3_000 + b"\n#endif\n"),
    "a long no": ("C++", b"#if " + b"!" * 20_000 + b"1\n#endif\n"),
    "a long minus": ("C++", b"#if " + b"- " * 20_000 + b"1\n#endif\n"),
    "a condition about nothing": ("C++", b"#ifdef\n#endif\n"),
    "a macro without a name": ("C++", b"#define\n#define (\n"),
    "an error of 5,000 letters": ("C++", b"#error " + b"9" * 5_000 + b"\n"),
    "declarations cut short": ("C++", CXX.replace("int N> ", "int\x7f\ufffd").replace("0, 0>>>", "0, 0>##>>").encode()),
    "braces in braces": ("C++", b"void f() {" + b"{" * 20_000),
    "names in names": ("C++", b"namespace a {" * 5_000),
    "a number of 5,000 digits": ("recording", b"9" * 5_000),
    "a list in a list": ("recording", b"[" * 100_000),
    "a line of 40 MB": ("log", b"x" * 40_000_000),
    "a fault line of 4 MB": ("log", b"Memory access fault by GPU node-1 on address 0x" + b"f" * 4_000_000),
}


@pytest.mark.parametrize("name", sorted(BOMBS))
def test_what_would_not_end_or_fill_the_memory(name: str, tmp_path: Path) -> None:
    """In a child that may take 2 GiB more than it begins with; one that hangs is seen as a test that hangs."""
    parser, given = BOMBS[name]
    content = given if isinstance(given, bytes) else given()
    child = os.fork()
    if child == 0:
        try:
            pages = int(Path("/proc/self/statm").read_text().split()[0])
            resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + (2 << 30),) * 2)
            resource.setrlimit(resource.RLIMIT_CPU, (60, 60))
            comes_to_something(parser, content, tmp_path / "parsed")
            os._exit(0)
        except BaseException:
            traceback.print_exc(limit=-6, file=sys.__stderr__)
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
