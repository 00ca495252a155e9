"""What integer instructions compute, as expressions: sums, products, shifts, carries, comparisons, selections.

Knows the arithmetic of the operations that addresses are made with (ISA: "Scalar ALU", "Vector ALU Operations") and nothing
of registers, lanes or traces. What is not listed stays an operation with the instruction's own name.
"""

from __future__ import annotations

from collections.abc import Callable

from backend.cdna.expression import ZERO, Carry, Expression, Operation, atom, constant

MASK32 = (1 << 32) - 1
Function = Callable[[tuple[Expression, ...]], Expression]
LARGEST_SUM = 64
"""Terms beyond which a product is not multiplied out: nobody reads more."""


def operation(name: str, *arguments: Expression) -> Expression:
    """An operation that has no better form."""
    return atom(Operation(name, arguments))


def multiplied(left: Expression, right: Expression) -> Expression:
    """A product, multiplied out while it stays readable."""
    if len(left.terms) * len(right.terms) > LARGEST_SUM:
        return operation("*", left, right)
    return left * right


def shifted_left(value: Expression, places: Expression) -> Expression:
    """value << places, the places taken modulo 32 by the caller's instruction."""
    number = places.number
    return operation("<<", value, places) if number is None else value.scaled(1 << (number & 63))


def shifted_right(value: Expression, places: Expression) -> Expression:
    """value >> places of an unsigned value: exact where every term divides, and for constants."""
    number = places.number
    if number is None:
        return operation(">>", value, places)
    if value.number is not None:
        return constant((value.number & MASK32) >> (number & 31))
    exact = value.divided(1 << (number & 31))
    return exact if exact is not None else operation(">>", value, constant(number & 31))


def shifted_right_signed(value: Expression, places: Expression) -> Expression:
    """value >> places of a signed value."""
    number = places.number
    if number is None or value.number is None:
        exact = None if number is None else value.divided(1 << (number & 31))
        return exact if exact is not None else operation(">>", value, places)
    return constant(signed(value.number) >> (number & 31))


def signed(number: int) -> int:
    """The low 32 bits as a signed integer."""
    low = number & MASK32
    return low - (1 << 32) if low >> 31 else low


def largest(value: Expression) -> int:
    """An upper bound of a non-negative expression, 2^32 - 1 where nothing is known."""
    total = 0
    for atoms, factor in value.terms:
        bound = 1
        for each in atoms:
            masks = [argument.number for argument in each.arguments] if isinstance(each, Operation) and each.name == "&" else []
            known = [mask for mask in masks if mask is not None and mask >= 0]
            bound *= min(known, default=MASK32)
        if factor < 0:
            return MASK32
        total += bound * factor
    return min(total, MASK32)


def bitwise_and(left: Expression, right: Expression) -> Expression:
    """left & right; a mask that keeps every bit that can be set is nothing."""
    if left.number is not None and right.number is not None:
        return constant(left.number & right.number)
    value, mask = (right, left) if right.number is None else (left, right)
    number = mask.number
    if number is not None and number >= 0 and number & (number + 1) == 0 and largest(value) <= number:
        return value
    return ZERO if number == 0 else operation("&", value, mask)


def bitwise_or(left: Expression, right: Expression) -> Expression:
    """left | right; a sum where the constant's bits lie above all bits of the other."""
    if left.number is not None and right.number is not None:
        return constant(left.number | right.number)
    value, bits = (right, left) if right.number is None else (left, right)
    number = bits.number
    if number is not None and (number == 0 or largest(value) < number & -number):
        return value + bits
    if number is not None and number > 0 and _multiple_of_power(value) > number:
        return value + bits
    return operation("|", value, bits)


def _multiple_of_power(value: Expression) -> int:
    """The largest power of two that divides every coefficient."""
    power = 1 << 32
    for _, factor in value.terms:
        power = min(power, factor & -factor)
    return power


def field(value: Expression, first: Expression, width: Expression) -> Expression:
    """Bit field extraction, unsigned."""
    if first.number is None or width.number is None:
        return operation("bfe", value, first, width)
    return bitwise_and(shifted_right(value, first), constant((1 << (width.number & 31)) - 1))


def scalar_field(arguments: tuple[Expression, ...]) -> Expression:
    """s_bfe_u32: first bit and width packed into the second source."""
    packed = arguments[1].number
    if packed is None:
        return operation("bfe", *arguments)
    return field(arguments[0], constant(packed & 31), constant(packed >> 16 & 0x7F))


def carry(total: Expression) -> Expression:
    """What a 32-bit sum or product overflows by."""
    return ZERO if total.number is not None and 0 <= total.number <= MASK32 else atom(Carry(total))


def _shift_add(places: int) -> Function:
    return lambda x: x[0].scaled(1 << places) + x[1]


FUNCTIONS: dict[str, Function] = {
    "mov_b32": lambda x: x[0],
    "movk_i32": lambda x: constant(signed16(x[0].number or 0)),
    "addk_i32": lambda x: x[0] + constant(signed16(x[1].number or 0)),
    "mulk_i32": lambda x: x[0].scaled(signed16(x[1].number or 0)),
    "accvgpr_read_b32": lambda x: x[0],
    "accvgpr_write_b32": lambda x: x[0],
    "accvgpr_mov_b32": lambda x: x[0],
    "add_u32": lambda x: x[0] + x[1],
    "add_i32": lambda x: x[0] + x[1],
    "add_co_u32": lambda x: x[0] + x[1],
    "addc_u32": lambda x: x[0] + x[1] + x[2],
    "addc_co_u32": lambda x: x[0] + x[1] + x[2],
    "sub_u32": lambda x: x[0] - x[1],
    "sub_i32": lambda x: x[0] - x[1],
    "sub_co_u32": lambda x: x[0] - x[1],
    "subb_u32": lambda x: x[0] - x[1] - x[2],
    "subb_co_u32": lambda x: x[0] - x[1] - x[2],
    "subrev_u32": lambda x: x[1] - x[0],
    "subrev_co_u32": lambda x: x[1] - x[0],
    "subbrev_co_u32": lambda x: x[1] - x[0] - x[2],
    "add3_u32": lambda x: x[0] + x[1] + x[2],
    "mul_i32": lambda x: multiplied(x[0], x[1]),
    "mul_lo_u32": lambda x: multiplied(x[0], x[1]),
    "mul_u32_u24": lambda x: multiplied(x[0], x[1]),
    "mul_i32_i24": lambda x: multiplied(x[0], x[1]),
    "mul_hi_u32": lambda x: carry(multiplied(x[0], x[1])),
    "mad_u32_u24": lambda x: multiplied(x[0], x[1]) + x[2],
    "mad_i32_i24": lambda x: multiplied(x[0], x[1]) + x[2],
    "mad_u64_u32": lambda x: multiplied(x[0], x[1]) + x[2],
    "mad_i64_i32": lambda x: multiplied(x[0], x[1]) + x[2],
    "lshl_b32": lambda x: shifted_left(x[0], x[1]),
    "lshlrev_b32": lambda x: shifted_left(x[1], x[0]),
    "lshl_b64": lambda x: shifted_left(x[0], x[1]),
    "lshlrev_b64": lambda x: shifted_left(x[1], x[0]),
    "lshl_add_u32": lambda x: shifted_left(x[0], x[1]) + x[2],
    "lshl_add_u64": lambda x: shifted_left(x[0], x[1]) + x[2],
    "add_lshl_u32": lambda x: shifted_left(x[0] + x[1], x[2]),
    "lshl_or_b32": lambda x: bitwise_or(shifted_left(x[0], x[1]), x[2]),
    "lshl1_add_u32": _shift_add(1),
    "lshl2_add_u32": _shift_add(2),
    "lshl3_add_u32": _shift_add(3),
    "lshl4_add_u32": _shift_add(4),
    "lshr_b32": lambda x: shifted_right(x[0], x[1]),
    "lshrrev_b32": lambda x: shifted_right(x[1], x[0]),
    "ashr_i32": lambda x: shifted_right_signed(x[0], x[1]),
    "ashrrev_i32": lambda x: shifted_right_signed(x[1], x[0]),
    "and_b32": lambda x: bitwise_and(x[0], x[1]),
    "or_b32": lambda x: bitwise_or(x[0], x[1]),
    "or3_b32": lambda x: bitwise_or(bitwise_or(x[0], x[1]), x[2]),
    "and_or_b32": lambda x: bitwise_or(bitwise_and(x[0], x[1]), x[2]),
    "bfe_u32": lambda x: field(x[0], x[1], x[2]),
    "min_u32": lambda x: operation("min", *x),
    "min_i32": lambda x: operation("min", *x),
    "max_u32": lambda x: operation("max", *x),
    "max_i32": lambda x: operation("max", *x),
    "xor_b32": lambda x: operation("^", *x),
}
"""Mnemonic without its first letter and underscore -> result of its sources; a carry-in is the last source."""

CARRYING: dict[str, Function] = {
    "add_u32": lambda x: carry(x[0] + x[1]),
    "add_co_u32": lambda x: carry(x[0] + x[1]),
    "addc_u32": lambda x: carry(x[0] + x[1] + x[2]),
    "addc_co_u32": lambda x: carry(x[0] + x[1] + x[2]),
    "sub_u32": lambda x: -carry(x[0] - x[1]),
    "sub_co_u32": lambda x: -carry(x[0] - x[1]),
    "subb_u32": lambda x: -carry(x[0] - x[1] - x[2]),
    "subb_co_u32": lambda x: -carry(x[0] - x[1] - x[2]),
    "subrev_co_u32": lambda x: -carry(x[1] - x[0]),
    "subbrev_co_u32": lambda x: -carry(x[1] - x[0] - x[2]),
}
"""The same names -> carry or borrow out: into SCC, or into the lane's bit of a mask. A borrow is minus the floor."""

RELATIONS: dict[str, str] = {"eq": "==", "lg": "!=", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">="}


def signed16(number: int) -> int:
    """A 16-bit field as a signed integer."""
    return (number & 0x7FFF) - (number & 0x8000)


def comparison(name: str, arguments: tuple[Expression, ...]) -> Expression | None:
    """s_cmp_*, s_cmpk_* and v_cmp_* of integers as 0 or 1; None for another instruction. name: without the first letter."""
    parts = name.split("_")
    if parts[0] not in ("cmp", "cmpk", "cmpx") or parts[1] not in RELATIONS or parts[-1] not in ("i32", "u32"):
        return None
    return operation(RELATIONS[parts[1]], *arguments)
