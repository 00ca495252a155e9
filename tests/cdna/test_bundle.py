"""Offload bundles: plain and compressed, in a file of their own and one behind the other; damaged ones are refused in words."""

from __future__ import annotations

import struct
import zlib

import pytest
import zstandard

from backend.cdna.bundle import PLAIN_MAGIC, code_objects
from backend.errors import CannotRunError

GFX942, GFX950 = "hipv4-amdgcn-amd-amdhsa--gfx942", "hipv4-amdgcn-amd-amdhsa--gfx950:sramecc+"
HOST = "host-x86_64-unknown-linux-gnu-"


def bundle(entries: dict[str, bytes]) -> bytes:
    """As clang's documentation draws it."""
    size = len(PLAIN_MAGIC) + 8 + sum(24 + len(name) for name in entries)
    header, body = PLAIN_MAGIC + struct.pack("<Q", len(entries)), b""
    for name, content in entries.items():
        header += struct.pack("<QQQ", size + len(body), len(content), len(name)) + name.encode()
        body += content
    return header + body


def compressed(plain: bytes, version: int, method: int) -> bytes:
    body = zlib.compress(plain) if method == 0 else zstandard.ZstdCompressor().compress(plain)
    layout = "<4sHHQQQ" if version == 3 else "<4sHHIIQ"
    total = struct.calcsize(layout) + len(body)
    return struct.pack(layout, b"CCOB", version, method, total, len(plain), 0x1234) + body


PLAIN = bundle({HOST: b"", GFX942: b"first", GFX950: b"second"})


@pytest.mark.parametrize(
    "content", [PLAIN, *(compressed(PLAIN, version, method) for version in (2, 3) for method in (0, 1))]
)  # fmt: skip
def test_entries_by_processor(content: bytes) -> None:
    assert [(each.arch, each.content) for each in code_objects(content)] == [("gfx942", b"first"), ("gfx950", b"second")]
    assert [each.content for each in code_objects(content, ("gfx950",))] == [b"second"]


def test_several_bundles_with_padding_between() -> None:
    other = bundle({GFX942: b"third"})
    content = compressed(PLAIN, 3, 1).ljust(4096, b"\0") + other.ljust(4096, b"\0") + compressed(other, 2, 0)
    assert [each.content for each in code_objects(content, ("gfx942",))] == [b"first", b"third", b"third"]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"nothing of the kind",
        b"\x7fELF but no more",
        PLAIN[:-3],
        PLAIN[:40],
        compressed(PLAIN, 3, 1)[:-8],
        compressed(PLAIN, 3, 7 - 6)[:40] + bytes(40),
        compressed(PLAIN, 2, 0).replace(b"CCOB\x02", b"CCOB\x09"),
        PLAIN_MAGIC + struct.pack("<Q", 1 << 60),
    ],
)
def test_what_is_no_bundle_or_half_of_one_is_refused(content: bytes) -> None:
    with pytest.raises(CannotRunError):
        code_objects(content)
