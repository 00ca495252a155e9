"""A GPU kernel as the source of a Python function that numba compiles: blocks of one grid cell, waves between barriers one
after the other, lanes in lockstep.

The function is `kernel(words, written, spans, strays, waves, integers, floats)`: memory by backend.cxx.arithmetic, arguments
flattened as `LoweredKernel` says.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from backend.cxx.kernel_calls import COMMON, Builtin
from backend.cxx.kernel_statements import BARRIER, KernelStatements
from backend.cxx.syntax import Declaration, Node, Unit, check_syntax, children, declared_name, text
from backend.cxx.types import BOOL, Float, Int, Pointer, Record
from backend.cxx.values import Aggregate, Scope, TypeName, Value, Variable

_MOST_ROUNDS = 40

SHARED = "shared memory"
"""Name of the space that a block's lanes share."""


@dataclass(frozen=True, slots=True)
class TemplateShape:
    """A template argument of a kernel. kind: "value", whose value is given when it runs, or "record" or "type".

    record: name of a record template and the shapes of its arguments; type: a plain type.
    """

    kind: str
    name: str = ""
    arguments: tuple[TemplateShape, ...] = ()
    type: Any = None

    def values(self) -> int:
        """How many values it takes."""
        return 1 if self.kind == "value" else sum(each.values() for each in self.arguments)


@dataclass(frozen=True, slots=True, eq=False)
class LoweredKernel:
    """A lowered kernel; equal to itself only.

    integers, floats: what its arguments are flattened to, by path such as `params.num_cu`; the template's values come first, by
    number. parameters: their names. spaces: the memory that its pointers point into, by path, and what its lanes share.
    """

    name: str
    source: str
    integers: tuple[str, ...]
    floats: tuple[str, ...]
    spaces: tuple[str, ...]
    parameters: tuple[str, ...]


def lower_kernel(
    unit: Unit,
    name: str,
    shapes: tuple[TemplateShape, ...] = (),
    builtins: Mapping[str, Builtin] | None = None,
    uniform: Iterable[str] = (),
) -> LoweredKernel:
    """The kernel `name` of a unit with template arguments of these shapes.

    builtins: what a library's names stand for, by full name; see backend.cxx.kernel_calls. uniform: functions whose result is
    taken to be the same for all lanes; the kernel returns 1 where it is not, otherwise twice the union of bits of the branches
    that it took. Raises CxxError.
    """
    varying: set[Any] = set()
    crossing: set[Any] = set()
    for _ in range(_MOST_ROUNDS):
        writer = _Writer(unit, varying, crossing)
        writer.builtins = {**COMMON, BARRIER: _misplaced_barrier, **(builtins or {})}
        writer.uniform = frozenset(uniform)
        made = writer.write(name, shapes)
        if not writer.changed:
            return made
    raise AssertionError(f"{name}: which of its variables differ between lanes does not settle")


def _misplaced_barrier(kernel: Any, node: Node, arguments: list[Node]) -> Value:
    raise kernel.unknown(node, "a barrier that is not among a kernel's outermost statements,")


class _Writer(KernelStatements):
    """Writes the Python of one kernel."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.prologue: list[str] = []
        self.statics: dict[Any, Value] = {}
        self._integers: list[str] = []
        self._floats: list[str] = []
        self._spaces: list[str] = []
        self._unpack: list[str] = []

    def write(self, name: str, shapes: tuple[TemplateShape, ...]) -> LoweredKernel:
        declaration = self.unit.find(name, "function")
        if declaration is None:
            raise AssertionError(f"no kernel {name}")
        check_syntax(declaration)
        self.file = declaration.file
        given = [self._argument(shape, declaration.node) for shape in shapes]
        self.scope = Scope(names=self.bound(declaration, given))
        parameters = []
        for parameter in self._kernel_parameters(declaration):
            declarator = parameter.child_by_field_name("declarator")
            of = self.declared_type(parameter.child_by_field_name("type"), declarator)
            path = text(declared_name(declarator))
            parameters.append(path)
            self.scope.names[path] = self._flattened(path, of, parameter)
        self._spaces.append(SHARED)
        self._phases(children(declaration.node.child_by_field_name("body")))
        return LoweredKernel(
            name, self._source(), tuple(self._integers), tuple(self._floats), tuple(self._spaces), tuple(parameters)
        )

    def _kernel_parameters(self, declaration: Declaration) -> list[Node]:
        declarator = declaration.node.child_by_field_name("declarator")
        return children(declarator.child_by_field_name("parameters"))

    def _argument(self, shape: TemplateShape, node: Node) -> Any:
        if shape.kind == "value":
            return self._scalar(str(sum(path.isdigit() for path in self._integers)), shape.type, node)
        if shape.kind == "type":
            return TypeName(shape.type)
        declaration = self.unit.find(shape.name, "record")
        if declaration is None:
            raise AssertionError(shape.name)
        arguments = [self._argument(each, node) for each in shape.arguments]
        return TypeName(self.record(declaration, self.bound(declaration, arguments)))

    def _scalar(self, path: str, of: Any, node: Node) -> Value:
        name = self.fresh("given")
        if isinstance(of, Float):
            self._unpack.append(f"    {name} = f32(floats[{len(self._floats)}])")
            self._floats.append(path)
        else:
            code = f"integers[{len(self._integers)}]"
            self._unpack.append(f"    {name} = {code + ' != 0' if of == BOOL else code}")
            self._integers.append(path)
        return Value(name, of, simple=True)

    def _flattened(self, path: str, of: Any, node: Node) -> Any:
        """A kernel's argument: scalars by number, a pointer as a memory space of its own, a record member by member."""
        if isinstance(of, Pointer):
            self._spaces.append(path)
            return Value("0", of, space=len(self._spaces) - 1, simple=True)
        if isinstance(of, Record):
            listed = self.member_types(of, node)
            return Aggregate(of, {name: self._flattened(f"{path}.{name}", inner, node) for name, inner, _ in listed})
        if isinstance(of, (Int, Float)):
            value = self._scalar(path, of, node)
            return Variable(value.code, (path,), of, varying=False, crossing=False, mask=None, phase=-1, constant=True)
        raise self.unknown(node, f"a kernel's argument of type {of},")

    def shared_space(self, node: Node) -> int:
        return len(self._spaces) - 1

    def _phases(self, statements: list[Node]) -> None:
        """The waves of a block one after the other from barrier to barrier."""
        parts: list[list[Node]] = [[]]
        for each in statements:
            if each.type == "expression_statement" and text(each).replace(" ", "").startswith(BARRIER + "("):
                parts.append([])
            else:
                parts[-1].append(each)
        for number, part in enumerate(parts):
            self.phase = number
            with self.block("for wave in range(waves):"):
                for each in part:
                    self.statement(each)

    def _source(self) -> str:
        head = "def kernel(words, written, spans, strays, waves, integers, floats):"
        arrays = [f"    {name} = {made}" for name, made in self.arrays.items()]
        return "\n".join(
            [head, "    taken = 0", *self._unpack, *arrays, *self.prologue, *self.lines, "    return 2 * taken", ""]
        )
