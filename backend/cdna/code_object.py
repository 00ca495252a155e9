"""AMDGPU code objects: ELF file to kernels with their machine code and what the hardware sets up for them at launch.

Knows ELF, the kernel descriptor and the metadata note; decodes no instruction and knows no particular kernel.
Layouts: LLVM's "User Guide for AMDGPU Backend", sections "ELF Code Object", "Code Object V3+ Metadata", "Kernel Descriptor"
and "Initial Kernel Execution State".
"""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import msgpack
from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile

from backend.errors import CannotRunError, UsageError

_MACHINE_AMDGPU = 224
_MACHINES = {0x4C: "gfx942", 0x4F: "gfx950"}
_NOTE_METADATA = 32
_DESCRIPTOR = struct.Struct("<III4xq20xIIIHH4x")

_MALFORMED = (
    ELFError,
    msgpack.UnpackException,
    struct.error,
    LookupError,
    TypeError,
    ValueError,
    AttributeError,
    OverflowError,
    AssertionError,
    MemoryError,
)
"""What the ELF and MessagePack readers raise on bytes that were cut or changed; found by changing bytes at random."""

_USER_REGISTERS = (
    (0, "private segment buffer", 4),
    (1, "dispatch packet pointer", 2),
    (2, "queue pointer", 2),
    (3, "kernarg pointer", 2),
    (4, "dispatch id", 2),
    (5, "flat scratch initialisation", 2),
    (6, "private segment size", 1),
)
"""Bits of the descriptor's kernel_code_properties: what the user SGPRs hold, and how many each takes, in their order."""

_UNMODELLED = ("private segment buffer", "queue pointer", "flat scratch initialisation", "private segment size")
_WAVE32 = 1 << 10
_RELATIVE64, _ABSOLUTE64 = 13, 3
"""Relocations of LLVM's AMDGPU guide: base + addend, and symbol + addend."""


class Denormals(IntEnum):
    """Denormal mode of rsrc1: whether denormal sources and results are kept or flushed to zero."""

    FLUSH = 0
    KEEP_SOURCES = 1  # results are flushed
    KEEP_RESULTS = 2  # sources are flushed
    KEEP = 3


@dataclass(frozen=True, slots=True)
class FloatMode:
    """Floating-point state at launch (rsrc1 bits 12-26). Rounding: 0 to nearest even, 1 up, 2 down, 3 to zero."""

    round_32: int
    round_16_64: int
    denormals_32: Denormals
    denormals_16_64: Denormals
    dx10_clamp: bool  # clamp turns NaN into 0
    ieee: bool  # quiet signalling NaNs in min, max and the like
    fp16_overflow: bool  # overflow gives the largest finite value instead of infinity


@dataclass(frozen=True, slots=True)
class Argument:
    """One entry of the kernarg segment as the metadata says it: offset and size in bytes; `kind` as LLVM names it.

    name: as the compiler wrote it, "" where it wrote none.
    """

    name: str
    offset: int
    size: int
    kind: str


@dataclass(frozen=True, slots=True)
class ImageSegment:
    """A part of the file's image that is loaded beside the code. address: virtual; relocations: (offset, virtual address) of
    the 64-bit words that hold an address of the image."""

    address: int
    content: bytes
    writable: bool
    relocations: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Kernel:
    """One kernel of a code object.

    text: machine code from the entry to the kernel's end (its symbol's size, or the next function, or the section's end).
    entry: virtual address of pc 0 in the file's image. Sizes in bytes, except registers: vgpr_count and agpr_count are
    32-bit registers a lane, as allocated (AGPRs begin at accum_offset in the unified file, the count of VGPRs here).
    kernarg_size: the metadata's; many hand-written kernels leave the descriptor's at 0. lds_size: static LDS.
    private_segment_size: scratch a lane. user_sgpr_count: SGPRs set up before the workgroup ids; s[0:1] hold the kernarg
    pointer, then `kernarg_preload_length` dwords of the kernarg segment from dword `kernarg_preload_offset` on (a kernel
    that wants these begins with code that loads them itself, 256 bytes long, for firmware that does not).
    workgroup_id_x, y, z: whether each follows in the next SGPR. work_item_id_mode: 0 x, 1 x and y, 2 x, y and z packed into
    v0 at bits 0, 10 and 20.
    user_registers: what the user SGPRs hold, by name, and the first of each. segments: constants and variables of the file.
    unmodelled: launch state that the kernel asks for and the machine cannot give, "" for none.
    """

    name: str
    arch: str
    text: bytes
    entry: int
    kernarg_size: int
    lds_size: int
    private_segment_size: int
    vgpr_count: int
    agpr_count: int
    user_sgpr_count: int
    has_kernarg_pointer: bool
    kernarg_preload_offset: int
    kernarg_preload_length: int
    workgroup_id_x: bool
    workgroup_id_y: bool
    workgroup_id_z: bool
    work_item_id_mode: int
    float_mode: FloatMode
    max_workgroup_size: int
    arguments: tuple[Argument, ...]
    user_registers: tuple[tuple[str, int], ...] = (("kernarg pointer", 0),)
    segments: tuple[ImageSegment, ...] = ()
    unmodelled: str = ""


@dataclass(frozen=True, slots=True)
class CodeObject:
    """A loaded file: one architecture, at least one kernel."""

    arch: str
    kernels: tuple[Kernel, ...]

    def kernel(self, name: str) -> Kernel:
        """The kernel of that name; UsageError names those that there are."""
        for kernel in self.kernels:
            if kernel.name == name:
                return kernel
        raise UsageError.not_allowed("kernel name", name, ", ".join(kernel.name for kernel in self.kernels))


@dataclass(frozen=True, slots=True)
class _Symbol:
    address: int
    size: int
    section: int


def load_code_object(content: bytes) -> CodeObject:
    """Read an ELF code object for gfx942 or gfx950.

    Raises CannotRunError: not an ELF file, truncated, another architecture, no kernels or no descriptor for one.
    """
    try:
        elf = ELFFile(io.BytesIO(content))
        arch = _architecture(elf)
        metadata = _metadata(elf)
        symbols = _symbols(elf)
        segments = _segments(elf)
        kernels = tuple(_kernel(elf, arch, symbols, segments, entry) for entry in metadata.get("amdhsa.kernels", ()))
    except CannotRunError:
        raise
    except _MALFORMED as error:
        raise CannotRunError(
            f"code object: given {len(content)} bytes that end or differ where an AMDGPU ELF file would not ({error!s}); "
            "needed: a whole .co or .hsaco file; fetch it again (a Git LFS pointer or a cut download looks like this)"
        ) from error
    if not kernels:
        raise CannotRunError("code object: its metadata lists no kernel; needed: a file with at least one")
    return CodeObject(arch, kernels)


def _architecture(elf: Any) -> str:
    if elf.header["e_machine"] not in ("EM_AMDGPU", _MACHINE_AMDGPU):
        raise CannotRunError(f"code object: given an ELF file for {elf.header['e_machine']}; needed: EM_AMDGPU")
    number = elf.header["e_flags"] & 0xFF
    arch = _MACHINES.get(number)
    if arch is None:
        target = _metadata(elf).get("amdhsa.target", f"machine number {number:#x}")
        raise CannotRunError(f"code object: given one for {target}; modelled: {' and '.join(_MACHINES.values())}")
    return arch


def _metadata(elf: Any) -> dict[str, Any]:
    for segment in elf.iter_segments():
        if segment["p_type"] != "PT_NOTE":
            continue
        for note in segment.iter_notes():
            if note["n_name"] == "AMDGPU" and note["n_type"] in (_NOTE_METADATA, "NT_AMDGPU_METADATA"):
                description = note["n_descdata"]
                if len(description) != note["n_descsz"]:
                    raise CannotRunError("code object: the metadata note is cut short; needed: a whole file")
                return dict(msgpack.unpackb(description, strict_map_key=False))
    raise CannotRunError("code object: no AMDGPU metadata note; needed: a file of code object version 3 or later")


def _symbols(elf: Any) -> dict[str, _Symbol]:
    table = elf.get_section_by_name(".dynsym") or elf.get_section_by_name(".symtab")
    if table is None:
        raise CannotRunError("code object: no symbol table; needed: a whole file")
    defined = [symbol for symbol in table.iter_symbols() if isinstance(symbol["st_shndx"], int)]
    return {symbol.name: _Symbol(symbol["st_value"], symbol["st_size"], symbol["st_shndx"]) for symbol in defined}


def _bytes_at(elf: Any, address: int, size: int, what: str) -> bytes:
    """`size` bytes of the loaded image at a virtual address."""
    for segment in elf.iter_segments():
        begin = segment["p_vaddr"]
        if segment["p_type"] == "PT_LOAD" and begin <= address and address + size <= begin + segment["p_filesz"]:
            elf.stream.seek(segment["p_offset"] + address - begin)
            content: bytes = elf.stream.read(size)
            if len(content) == size:
                return content
    raise CannotRunError(f"code object: {what} ({size} bytes at {address:#x}) is not in the file; is it truncated?")


def _segments(elf: Any) -> tuple[ImageSegment, ...]:
    """What is loaded besides code, with the words that relocations fill."""
    words: dict[int, int] = {}
    for section in elf.iter_sections():
        if section["sh_type"] != "SHT_RELA":
            continue
        symbols = elf.get_section(section["sh_link"])
        for each in section.iter_relocations():
            kind = each["r_info_type"]
            if kind == _RELATIVE64:
                words[each["r_offset"]] = each["r_addend"]
            elif kind == _ABSOLUTE64:
                words[each["r_offset"]] = symbols.get_symbol(each["r_info_sym"])["st_value"] + each["r_addend"]
    found = []
    for segment in elf.iter_segments():
        if segment["p_type"] != "PT_LOAD" or segment["p_flags"] & 1 or not segment["p_memsz"]:
            continue
        begin = segment["p_vaddr"]
        content = segment.data().ljust(segment["p_memsz"], b"\0")
        inside = tuple((at - begin, to) for at, to in sorted(words.items()) if begin <= at and at + 8 <= begin + len(content))
        found.append(ImageSegment(begin, content, bool(segment["p_flags"] & 2), inside))
    return tuple(found)


def _kernel(
    elf: Any, arch: str, symbols: dict[str, _Symbol], segments: tuple[ImageSegment, ...], metadata: dict[str, Any]
) -> Kernel:
    name = metadata[".name"]
    descriptor_name = metadata[".symbol"]
    descriptor = symbols.get(descriptor_name)
    if descriptor is None:
        raise CannotRunError(f"code object: no descriptor {descriptor_name} for kernel {name}; present: {', '.join(symbols)}")
    fields = _DESCRIPTOR.unpack(_bytes_at(elf, descriptor.address, _DESCRIPTOR.size, f"the descriptor of {name}"))
    lds_size, private_size, _, entry_offset, rsrc3, rsrc1, rsrc2, properties, preload = fields
    registers = _user_registers(properties)
    entry = descriptor.address + entry_offset
    vgprs = 4 * ((rsrc3 & 0x3F) + 1)
    return Kernel(
        name=name,
        arch=arch,
        text=_bytes_at(elf, entry, _text_size(elf, symbols, entry, name), f"the code of {name}"),
        entry=entry,
        kernarg_size=metadata[".kernarg_segment_size"],
        lds_size=lds_size,
        private_segment_size=private_size,
        vgpr_count=vgprs,
        agpr_count=max(0, 8 * ((rsrc1 & 0x3F) + 1) - vgprs),
        user_sgpr_count=rsrc2 >> 1 & 0x1F,
        has_kernarg_pointer="kernarg pointer" in dict(registers),
        kernarg_preload_offset=preload >> 7,
        kernarg_preload_length=preload & 0x7F,
        workgroup_id_x=bool(rsrc2 >> 7 & 1),
        workgroup_id_y=bool(rsrc2 >> 8 & 1),
        workgroup_id_z=bool(rsrc2 >> 9 & 1),
        work_item_id_mode=rsrc2 >> 11 & 3,
        float_mode=_float_mode(rsrc1),
        max_workgroup_size=metadata[".max_flat_workgroup_size"],
        arguments=tuple(_argument(each) for each in metadata.get(".args", ())),
        user_registers=registers,
        segments=segments,
        unmodelled=_unmodelled(registers, properties),
    )


def _user_registers(properties: int) -> tuple[tuple[str, int], ...]:
    """(what, first SGPR) of what the descriptor asks for."""
    found, register = [], 0
    for bit, name, dwords in _USER_REGISTERS:
        if properties >> bit & 1:
            found.append((name, register))
            register += dwords
    return tuple(found)


def _unmodelled(registers: tuple[tuple[str, int], ...], properties: int) -> str:
    wanted = [name for name, _ in registers if name in _UNMODELLED]
    return ", ".join(wanted + ["wavefronts of 32 lanes"] * bool(properties & _WAVE32))


def _text_size(elf: Any, symbols: dict[str, _Symbol], entry: int, name: str) -> int:
    """Bytes from the entry to the end: hand-written kernels give their symbol no size."""
    function = next((symbol for symbol in symbols.values() if symbol.address == entry), None)
    if function is None:
        raise CannotRunError(f"code object: no function symbol at the entry {entry:#x} of {name}")
    if function.size:
        return function.size
    section = elf.get_section(function.section)
    end: int = section["sh_addr"] + section["sh_size"]
    later = [other.address for other in symbols.values() if entry < other.address < end and other.section == function.section]
    return min([end, *later]) - entry


def _float_mode(rsrc1: int) -> FloatMode:
    return FloatMode(
        round_32=rsrc1 >> 12 & 3,
        round_16_64=rsrc1 >> 14 & 3,
        denormals_32=Denormals(rsrc1 >> 16 & 3),
        denormals_16_64=Denormals(rsrc1 >> 18 & 3),
        dx10_clamp=bool(rsrc1 >> 21 & 1),
        ieee=bool(rsrc1 >> 23 & 1),
        fp16_overflow=bool(rsrc1 >> 26 & 1),
    )


def _argument(metadata: dict[str, Any]) -> Argument:
    return Argument(metadata.get(".name", ""), int(metadata[".offset"]), int(metadata[".size"]), str(metadata[".value_kind"]))
