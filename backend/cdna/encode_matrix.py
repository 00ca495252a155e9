"""Matrix instructions -> the fields of their records; see backend/cdna/encode.py."""

from __future__ import annotations

import re

from backend.cdna.encoded import Constants, Encoded, NotModelledError, operand_code, row_of
from backend.cdna.execute import matrix, matrix_rare
from backend.cdna.execute.matrix_rare import ElementKind
from backend.cdna.instruction import Instruction, Operand

_NAME = re.compile(r"v_(mfma|mfma_scale|smfmac)_(f32|i32|f64)_(\d+)x\d+x\d+(?:_(\d+)b)?_(\w+)$")
_FAST_TYPES = {
    "f32": matrix.Element.F32,
    "xf32": matrix.Element.XF32,
    "bf16": matrix.Element.BF16,
    "f16": matrix.Element.F16,
    "fp8": matrix.Element.FP8,
    "bf8": matrix.Element.BF8,
}
_KINDS = {
    "f32": ElementKind.F32,
    "bf16": ElementKind.BF16,
    "f16": ElementKind.F16,
    "fp8": ElementKind.FP8,
    "bf8": ElementKind.BF8,
    "i8": ElementKind.I8,
}
_F8F6F4 = (ElementKind.FP8, ElementKind.BF8, ElementKind.FP6, ElementKind.BF6, ElementKind.FP4)
_BITS = {
    ElementKind.F32: 32,
    ElementKind.F16: 16,
    ElementKind.BF16: 16,
    ElementKind.FP8: 8,
    ElementKind.BF8: 8,
    ElementKind.I8: 8,
}


def encode_matrix(instruction: Instruction, constants: Constants) -> Encoded | None:
    """V_MFMA, V_MFMA_SCALE and V_SMFMAC; None for the moves that share the format."""
    match = _NAME.match(instruction.mnemonic)
    if match is None:
        return None
    what, result, size_text, blocks_text, types = match.groups()
    size, blocks = int(size_text), int(blocks_text or 1)
    first, second = (types.split("_") * 2)[:2]
    if what == "smfmac":
        return _sparse(instruction, size, first, second)
    encoded = Encoded(None, size | blocks << 8)
    encoded.destination = row_of(instruction.destinations[0])
    a, b, c = instruction.sources[:3]
    encoded.sources = [row_of(a), row_of(b), operand_code(c, constants)]
    modifiers = instruction.modifiers
    if result == "f64":
        if modifiers.cbsz or modifiers.abid:
            raise NotModelledError("blocks of a fp64 operand broadcast (cbsz, abid)")
        encoded.handler, encoded.opcode, encoded.target = matrix_rare.matrix_double, size, modifiers.blgp
        return encoded
    if types == "f8f6f4":
        return _eight_six_four(encoded, instruction, size)
    broadcasts = bool(modifiers.cbsz or modifiers.abid or modifiers.blgp)
    if result == "f32" and blocks == 1 and not broadcasts:
        return _fast(encoded, a, b, size, _FAST_TYPES[first], _FAST_TYPES[second], _partly_overlaps(encoded, instruction))
    if first not in _KINDS or (broadcasts and blocks == 1 and (modifiers.cbsz or modifiers.abid)):
        raise NotModelledError("matrix operands broadcast (cbsz, abid) of one block, or of xf32")
    encoded.immediate = _elements(a, _KINDS[first]) | _elements(b, _KINDS[second]) << 8
    encoded.count = _KINDS[first] | _KINDS[second] << 8
    encoded.target = modifiers.cbsz | modifiers.abid << 3 | modifiers.blgp << 7
    encoded.handler = matrix_rare.matrix_integer if result == "i32" else matrix_rare.matrix_blocks
    return encoded


def _partly_overlaps(encoded: Encoded, instruction: Instruction) -> bool:
    """Whether C and D share some registers, not all."""
    c = instruction.sources[2]
    return c.kind is instruction.destinations[0].kind and 0 < abs(encoded.sources[2] - encoded.destination) < c.count


def _fast(encoded: Encoded, a: Operand, b: Operand, size: int, first: int, second: int, overlaps: bool) -> Encoded:
    """Says what matrix.py executes for a mnemonic."""
    if overlaps and size == 32:
        raise NotModelledError("a 32x32 result that overlaps a part of its third operand, which the ISA does not allow")
    encoded.handler, encoded.opcode = matrix.matrix, size
    encoded.count = first | second << 8
    encoded.immediate = a.count | b.count << 8
    return encoded


def _eight_six_four(encoded: Encoded, instruction: Instruction, size: int) -> Encoded:
    """f8f6f4, with or without scales: the operands' formats are in cbsz and blgp."""
    modifiers = instruction.modifiers
    if max(modifiers.cbsz, modifiers.blgp) >= len(_F8F6F4):
        raise NotModelledError("an operand format that is none")
    first, second = _F8F6F4[modifiers.cbsz], _F8F6F4[modifiers.blgp]
    scales = instruction.sources[3:]
    if not scales and _BITS.get(first) == _BITS.get(second) == 8:
        elements = {ElementKind.FP8: matrix.Element.FP8, ElementKind.BF8: matrix.Element.BF8}
        a, b = instruction.sources[:2]
        return _fast(encoded, a, b, size, elements[first], elements[second], _partly_overlaps(encoded, instruction))
    encoded.handler = matrix_rare.matrix_scaled
    encoded.count = first | second << 8
    encoded.destination_2 = encoded.target = -1
    if scales:
        low, high = modifiers.op_sel, modifiers.op_sel_hi
        encoded.destination_2 = row_of(scales[0]) | (low[0] | high[0] << 1) << 16
        encoded.target = row_of(scales[1]) | (low[1] | high[1] << 1) << 16
    return encoded


def _sparse(instruction: Instruction, size: int, first: str, second: str) -> Encoded:
    """V_SMFMAC: which part of the index register is used is in cbsz and abid."""
    a, b, index = instruction.sources
    kinds = _KINDS[first], _KINDS[second]
    encoded = Encoded(matrix_rare.matrix_sparse, size | 1 << 8)
    encoded.destination = row_of(instruction.destinations[0])
    encoded.sources = [row_of(a), row_of(b), row_of(index)]
    elements = _elements(a, kinds[0])
    encoded.immediate = elements | _elements(b, kinds[1]) << 8
    encoded.count = kinds[0] | kinds[1] << 8
    sets = 32 // (2 * elements)
    selected = instruction.modifiers.abid if instruction.modifiers.cbsz == 0 else 0
    if selected >= sets:
        raise NotModelledError("a set of sparse indices beyond the register (abid)")
    encoded.target = 2 * elements * selected
    return encoded


def _elements(operand: Operand, kind: ElementKind) -> int:
    """Elements of an operand in a lane."""
    return operand.count * 32 // _BITS[kind]
