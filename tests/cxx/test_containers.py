"""The order of an unordered map, against the standard library itself."""

from __future__ import annotations

import random
import shutil
import subprocess
from pathlib import Path

import pytest

from backend.cxx.containers import map_order, string_hash

COMPILER = shutil.which("g++")


def test_the_hash_of_nothing() -> None:
    """As libstdc++ 12 gives it."""
    assert string_hash(b"") == 0x553E93901E462A6E


@pytest.mark.skipif(COMPILER is None, reason="needs g++")
def test_the_library_gives_the_same_order(tmp_path: Path) -> None:
    draw = random.Random(1)
    listed = []
    for count in (1, 2, 3, 7, 13, 14, 15, 29, 30, 31, 59, 60, 100, 127, 128, 200):
        keys = [f"gfx950_ZN5aiter{draw.randrange(10**9)}" + "x" * draw.randrange(12) for _ in range(count)]
        listed.append(keys + keys[: count // 5])
    code = "#include <unordered_map>\n#include <string>\n#include <cstdio>\nint main() {\n"
    for keys in listed:
        pairs = ",".join(f'{{"{key}",1}}' for key in keys)
        code += f"{{ static std::unordered_map<std::string,int> m = {{{pairs}}};"
        code += ' for(auto& e : m) printf("%s ", e.first.c_str()); puts(""); }\n'
    (tmp_path / "map.cpp").write_text(code + "}\n", encoding="utf-8")
    subprocess.run([str(COMPILER), "-O0", "-o", tmp_path / "map", tmp_path / "map.cpp"], check=True, timeout=120)
    done = subprocess.run([tmp_path / "map"], capture_output=True, text=True, check=True, timeout=60)
    assert [line.split() for line in done.stdout.splitlines()] == [map_order(keys) for keys in listed]
