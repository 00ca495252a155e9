"""Integer expressions in normal form, sums of products of atoms: how they are written for people, and their number at a launch.

Knows arithmetic and words in memory by the name of what points to them; knows no registers and no instructions.
An expression stands for a register's value before it was cut to 32 bits: 2^32 is added and lost without a trace here, and
whoever has the true value compares (see backend.cdna.provenance).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import product


@dataclass(frozen=True, slots=True)
class Symbol:
    """Something with a name of its own: a workgroup id, or a register whose origin is not known."""

    name: str


@dataclass(frozen=True, slots=True)
class Word:
    """`size` bytes (4, or 8 for a pointer) in memory, `offset` bytes behind where the pointer called `tensor` points."""

    tensor: str
    offset: Expression
    size: int = 4


@dataclass(frozen=True, slots=True)
class Operation:
    """What is no sum of products: min, >>, &, select and so on, of whole expressions."""

    name: str
    arguments: tuple[Expression, ...]


@dataclass(frozen=True, slots=True)
class Carry:
    """What overflowed 32 bits: the floor of an expression divided by 2^32."""

    of: Expression


Atom = Symbol | Word | Operation | Carry
Product = tuple[Atom, ...]


@dataclass(frozen=True, slots=True)
class Expression:
    """A sum: (product of atoms, integer coefficient other than 0) in canonical order; the empty product is the constant's."""

    terms: tuple[tuple[Product, int], ...] = ()

    @property
    def number(self) -> int | None:
        """The value of a constant, None for anything else."""
        if not self.terms:
            return 0
        (atoms, coefficient), *others = self.terms
        return coefficient if not others and not atoms else None

    def __add__(self, other: Expression) -> Expression:
        return _sum((*self.terms, *other.terms))

    def __neg__(self) -> Expression:
        return self.scaled(-1)

    def __sub__(self, other: Expression) -> Expression:
        return self + -other

    def __mul__(self, other: Expression) -> Expression:
        return _sum(((*left, *right), a * b) for (left, a), (right, b) in product(self.terms, other.terms))

    def scaled(self, factor: int) -> Expression:
        """The expression times an integer."""
        return Expression(tuple((atoms, coefficient * factor) for atoms, coefficient in self.terms)) if factor else ZERO

    def divided(self, divisor: int) -> Expression | None:
        """Divided by a positive integer, where every coefficient is a multiple of it; else None."""
        if any(coefficient % divisor for _, coefficient in self.terms):
            return None
        return Expression(tuple((atoms, coefficient // divisor) for atoms, coefficient in self.terms))

    def constant_part(self) -> int:
        """The constant term of the sum."""
        return next((coefficient for atoms, coefficient in self.terms if not atoms), 0)


ZERO = Expression()


def _sum(terms: Iterable[tuple[Product, int]]) -> Expression:
    total: dict[Product, int] = {}
    for atoms, coefficient in terms:
        key = tuple(sorted(atoms, key=repr)) if len(atoms) > 1 else atoms
        total[key] = total.get(key, 0) + coefficient
    return Expression(tuple(sorted((item for item in total.items() if item[1]), key=lambda item: repr(item[0]))))


def constant(value: int) -> Expression:
    """The expression of an integer."""
    return Expression((((), value),)) if value else ZERO


def atom(of: Atom) -> Expression:
    """The expression that is one atom, once."""
    return Expression((((of,), 1),))


@dataclass(frozen=True, slots=True)
class RecordLayout:
    """How a tensor of records is read: `stride` bytes each, and the fields' names by their byte offset."""

    stride: int
    fields: Mapping[int, str]


@dataclass(frozen=True, slots=True)
class ExpressionNames:
    """What the caller calls things.

    words: (tensor, constant byte offset) -> name of the word or pointer there, shown instead of tensor[index]. The kernarg
    segment is the tensor KERNARG. element_sizes: bytes an element by tensor, 4 where absent. records: tensors of records.
    """

    words: Mapping[tuple[str, int], str] = field(default_factory=dict)
    element_sizes: Mapping[str, int] = field(default_factory=dict)
    records: Mapping[str, RecordLayout] = field(default_factory=dict)

    def with_defaults(self, words: Mapping[tuple[str, int], str]) -> ExpressionNames:
        """These names, and others where there are none."""
        return ExpressionNames({**words, **self.words}, self.element_sizes, self.records)

    def word(self, word: Word) -> str:
        """A word as it is shown: its own name, or the tensor with an index."""
        number = word.offset.number
        if number is not None and (word.tensor, number) in self.words:
            return self.words[word.tensor, number]
        if word.tensor in self.records:
            return self._field(word, self.records[word.tensor])
        index = word.offset.divided(self.element_sizes.get(word.tensor, 4))
        if index is None:
            return f"{word.tensor}[byte {self.text(word.offset)}]"
        return f"{word.tensor}[{self.text(index)}]"

    def _field(self, word: Word, record: RecordLayout) -> str:
        within = word.offset.constant_part() % record.stride
        index = (word.offset - constant(within)).divided(record.stride)
        name = record.fields.get(within, f"byte {within}")
        return f"{word.tensor}[{'?' if index is None else self.text(index)}].{name}"

    def text(self, expression: Expression) -> str:
        """An expression for people: pointers first, products by size, the constant last."""
        parts = [
            (self._product(atoms, abs(factor)), factor < 0) for atoms, factor in sorted(expression.terms, key=_written_order)
        ]
        if not parts:
            return "0"
        first = f"-{parts[0][0]}" if parts[0][1] else parts[0][0]
        return first + "".join(f" {'-' if negative else '+'} {text}" for text, negative in parts[1:])

    def _product(self, atoms: Product, factor: int) -> str:
        texts = [self._atom(each) for each in sorted(atoms, key=_factor_order)]
        if factor != 1 or not texts:
            texts.append(str(factor))
        return " * ".join(texts)

    def _atom(self, of: Atom) -> str:
        if isinstance(of, Symbol):
            return of.name
        if isinstance(of, Word):
            return self.word(of)
        if isinstance(of, Carry):
            return f"(({self.text(of.of)}) >> 32)"
        arguments = [self.text(argument) for argument in of.arguments]
        if of.name.isidentifier():
            return f"{of.name}({', '.join(arguments)})"
        return f"({f' {of.name} '.join(self._operand(each) for each in of.arguments)})"

    def _operand(self, expression: Expression) -> str:
        text = self.text(expression)
        single = len(expression.terms) <= 1 and " " not in text
        return text if single else f"({text})"


ADDRESS_HIGH_MASK = 0xFFFF
"""What is left of an address above its low 32 bits: it has 48."""

KERNARG = "kernarg"
"""The tensor that the kernarg pointer points to."""


def _written_order(term: tuple[Product, int]) -> tuple[int, int, int, str]:
    """Pointers, then longer products, then single atoms by falling factor, then the constant."""
    atoms, factor = term
    pointer = len(atoms) == 1 and _is_pointer(atoms[0])
    return (0 if pointer else 1 if atoms else 2, -len(atoms), -abs(factor), repr(atoms))


def _factor_order(of: Atom) -> tuple[int, str]:
    """In a product: loaded words, then ids, then kernargs and the like, then operations."""
    if isinstance(of, Word):
        return (0 if of.offset.number is None else 2, repr(of))
    return (1 if isinstance(of, Symbol) else 3, repr(of))


def whole_pointer(low: Expression, high: Expression) -> Expression:
    """The 64-bit value of two registers. Carries in the high one are those of the low one, which is kept uncut.

    A pair of words that lie side by side becomes one word of 8 bytes, a pointer.
    """
    rest: list[tuple[Product, int]] = []
    joined: list[tuple[Product, int]] = []
    remaining = dict(low.terms)
    for masked, coefficient in high.terms:
        atoms = _without_mask(masked)
        if len(atoms) == 1 and isinstance(atoms[0], Carry):
            continue
        partner = _lower_half(atoms)
        if partner is not None and remaining.get(partner) == coefficient:
            del remaining[partner]
            (below,) = partner
            assert isinstance(below, Word)
            joined.append(((Word(below.tensor, below.offset, 8),), coefficient))
        else:
            rest.append((atoms, coefficient << 32))
    return _sum((*remaining.items(), *joined, *rest))


def _without_mask(atoms: Product) -> Product:
    """x for the single atom x & 0xffff: an address has 48 bits, so this keeps all of a pointer's upper half."""
    if len(atoms) == 1 and isinstance(atoms[0], Operation) and atoms[0].name == "&":
        value, mask = atoms[0].arguments
        if mask.number == ADDRESS_HIGH_MASK and len(value.terms) == 1 and value.terms[0][1] == 1:
            return value.terms[0][0]
    return atoms


def _lower_half(atoms: Product) -> Product | None:
    """The word in front of a single word."""
    if len(atoms) != 1 or not isinstance(atoms[0], Word) or atoms[0].size != 4:
        return None
    return (Word(atoms[0].tensor, atoms[0].offset - constant(4)),)


def pointer_and_offset(address: Expression, names: ExpressionNames) -> tuple[str, Expression] | None:
    """Split an address into the one pointer that it counts from, by its shown name, and the rest; None without exactly one."""
    pointers = [atoms for atoms, factor in address.terms if factor == 1 and len(atoms) == 1 and _is_pointer(atoms[0])]
    if len(pointers) != 1:
        return None
    (pointer,) = pointers[0]
    assert isinstance(pointer, Word)
    return names.word(pointer), address - atom(pointer)


def _is_pointer(of: Atom) -> bool:
    return isinstance(of, Word) and of.size == 8


_AXES = {"workgroup_x": 0, "workgroup_y": 1, "workgroup_z": 2}


@dataclass(frozen=True, slots=True)
class LaunchValues:
    """What a launch was given, to decide selections and to compute the address. workgroup: its ids x, y, z.

    kernarg_address: where the kernarg segment lies. read: `size` bytes of memory at an address as an unsigned integer, None
    where nothing is known.
    """

    kernarg_address: int
    workgroup: tuple[int, int, int]
    read: Callable[[int, int], int | None]


@dataclass
class Evaluation:
    """Computes expressions in full integers. launch: None knows constants only.

    pointers: for each tensor the pointer that its words lie behind, filled in by whoever makes words of it.
    """

    launch: LaunchValues | None
    pointers: dict[str, Expression] = field(default_factory=dict)

    def number(self, expression: Expression) -> int | None:
        """The value of an expression, None where a part is not known."""
        total = 0
        for atoms, factor in expression.terms:
            product = factor
            for each in atoms:
                value = self._atom(each)
                if value is None:
                    return None
                product *= value
            total += product
        return total

    def _atom(self, of: Atom) -> int | None:
        if self.launch is None:
            return None
        if isinstance(of, Symbol):
            return self.launch.workgroup[_AXES[of.name]] if of.name in _AXES else None
        if isinstance(of, Word):
            return self._word(of, self.launch)
        if isinstance(of, Carry):
            value = self.number(of.of)
            return None if value is None else value >> 32
        return self._operation(of)

    def _word(self, word: Word, launch: LaunchValues) -> int | None:
        if word.tensor == "":
            return launch.kernarg_address
        pointer: int | None = launch.kernarg_address
        if word.tensor != KERNARG:
            behind = self.pointers.get(word.tensor)
            pointer = None if behind is None else self.number(behind)
        offset = self.number(word.offset)
        return None if pointer is None or offset is None else launch.read(pointer + offset, word.size)

    def _operation(self, of: Operation) -> int | None:
        function = _FUNCTIONS.get(of.name)
        values = [value for value in map(self.number, of.arguments) if value is not None]
        return function(*values) if function is not None and len(values) == len(of.arguments) else None


_FUNCTIONS: dict[str, Callable[..., int]] = {
    "&": lambda a, b: a & b,
    "|": lambda a, b: a | b,
    "^": lambda a, b: a ^ b,
    ">>": lambda a, b: a >> b,
    "<<": lambda a, b: a << b,
    "*": lambda a, b: a * b,
    "min": min,
    "max": max,
    "==": lambda a, b: int(a == b),
    "!=": lambda a, b: int(a != b),
    "<": lambda a, b: int(a < b),
    "<=": lambda a, b: int(a <= b),
    ">": lambda a, b: int(a > b),
    ">=": lambda a, b: int(a >= b),
    "select": lambda condition, a, b: a if condition else b,
}
"""Operations that can be computed. Their arguments are full integers: what a comparison sees in 32 bits may differ only
where arithmetic wrapped, which the value of the whole then shows."""
