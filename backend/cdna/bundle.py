"""Code objects inside a host file: the fat binary that hipcc puts into a program or library, compressed or not.

Formats: clang's "Offload Bundler" documentation: an uncompressed bundle begins with __CLANG_OFFLOAD_BUNDLE__ and lists entries
of (offset, size, target); a compressed one begins with CCOB, and version, method and sizes precede a zlib or zstd stream of an
uncompressed bundle. A library holds one bundle for each of its device translation units, in its section .hip_fatbin.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import zstandard
from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile

from backend.errors import CannotRunError

PLAIN_MAGIC, COMPRESSED_MAGIC = b"__CLANG_OFFLOAD_BUNDLE__", b"CCOB"
SECTION = ".hip_fatbin"
LARGEST = 1 << 30
"""Bytes of an uncompressed bundle beyond which a header is taken for garbage."""

_METHODS = {0: "zlib", 1: "zstd"}


@dataclass(frozen=True, slots=True)
class BundledCode:
    """One code object of a bundle. target: as clang names it, e.g. "hipv4-amdgcn-amd-amdhsa--gfx942"."""

    target: str
    content: bytes

    @property
    def arch(self) -> str:
        """The processor, features such as ":xnack-" left out; "" for host code."""
        _, dashes, processor = self.target.partition("--")
        return processor.partition(":")[0].lstrip("-") if dashes else ""


def code_objects(content: bytes, archs: tuple[str, ...] = ()) -> tuple[BundledCode, ...]:
    """The code objects in a bundle, or in an ELF file with bundles in its section .hip_fatbin, in the order of the file.

    archs: processors to take, e.g. ("gfx942",); empty takes all. Host entries and empty ones are left out.
    Raises CannotRunError where there is no bundle, or one is cut short.
    """
    data = _fat_binary(content) if content[:4] == b"\x7fELF" else content
    found = [each for bundle in _bundles(data) for each in _entries(bundle)]
    return tuple(each for each in found if each.content and each.arch and (not archs or each.arch in archs))


def _fat_binary(content: bytes) -> bytes:
    try:
        section = ELFFile(io.BytesIO(content)).get_section_by_name(SECTION)
    except ELFError as error:
        raise CannotRunError(f"host file: given an ELF file that cannot be read ({error}); fetch it again") from error
    if section is None:
        raise CannotRunError(f"host file: given one without a section {SECTION}; needed: a program or library made by hipcc")
    data: bytes = section.data()
    return data


def _bundles(data: bytes) -> Iterator[memoryview]:
    """Uncompressed bundles, one behind the other with padding between."""
    at, any_found = 0, False
    starts = {PLAIN_MAGIC: -1, COMPRESSED_MAGIC: -1}
    while at < len(data):
        for magic, start in starts.items():
            if start < at:  # looked for once: from each place anew, it would be the square of their number
                found = data.find(magic, at)
                starts[magic] = found if found >= 0 else len(data)
        at = min(starts.values())
        if at == len(data):
            break
        any_found = True
        if at == starts[COMPRESSED_MAGIC]:
            bundle, size = _decompressed(data, at)
            yield memoryview(bundle)
            at += size
        else:
            yield memoryview(data)[at:]
            at += _plain_size(memoryview(data)[at:])
    if not any_found:
        raise CannotRunError("offload bundle: given bytes without one; needed: __CLANG_OFFLOAD_BUNDLE__ or CCOB")


def _decompressed(data: bytes, at: int) -> tuple[bytes, int]:
    """(bundle, bytes that it takes in the file). Version 1 has no sizes of its own, 2 has them in 32 bits, 3 in 64."""
    try:
        version, method = struct.unpack_from("<HH", data, at + 4)
        header, total, size = 0, 0, 0
        if version == 3:
            total, size = struct.unpack_from("<QQ", data, at + 8)
            header = 32
        elif version == 2:
            total, size = struct.unpack_from("<II", data, at + 8)
            header = 24
        else:
            raise CannotRunError(f"offload bundle: given a compressed one of version {version}; known: 2 and 3")
        if method not in _METHODS or not header < total <= len(data) - at or size > LARGEST:
            raise CannotRunError(f"offload bundle: given method {method}, {total} bytes of {size}; known: zlib and zstd, whole")
        body = data[at + header : at + total]
        if _METHODS[method] == "zlib":
            bundle = zlib.decompressobj().decompress(body, size + 1)
        else:
            bundle = zstandard.ZstdDecompressor(max_window_size=LARGEST).stream_reader(body).read(size + 1)
        if len(bundle) != size:
            raise CannotRunError(
                f"offload bundle: given one that is not of the {size} bytes that it names; fetch the file again"
            )
        return bundle, total
    except (struct.error, zlib.error, zstandard.ZstdError) as error:
        raise CannotRunError(f"offload bundle: given one that cannot be unpacked ({error}); fetch the file again") from error


def _headers(bundle: memoryview) -> list[tuple[int, int, str]]:
    """(offset, size, target) of each entry of an uncompressed bundle."""
    try:
        (count,) = struct.unpack_from("<Q", bundle, len(PLAIN_MAGIC))
        at, found, room = len(PLAIN_MAGIC) + 8, [], len(bundle)
        for _ in range(count):
            offset, size, length = struct.unpack_from("<QQQ", bundle, at)
            name, room = bytes(bundle[at + 24 : at + 24 + length]), room - size
            if len(name) != length or offset + size > len(bundle) or room < 0:
                raise CannotRunError("offload bundle: given one whose entries lie beyond its end or overlap; fetch it again")
            found.append((offset, size, name.decode()))
            at += 24 + length
        return found
    except (struct.error, UnicodeDecodeError) as error:
        raise CannotRunError(f"offload bundle: given one whose header is cut or damaged ({error})") from error


def _plain_size(bundle: memoryview) -> int:
    return max([len(PLAIN_MAGIC), *(offset + size for offset, size, _ in _headers(bundle))])


def _entries(bundle: memoryview) -> Iterator[BundledCode]:
    for offset, size, target in _headers(bundle):
        yield BundledCode(target, bytes(bundle[offset : offset + size]))
