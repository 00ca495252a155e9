"""How the machine's Python becomes machine code: decorators over numba, and access to raw memory by address.

Knows nothing of instructions. A function and those that it calls are typed and lowered each, and optimised as one: numba makes
machine code of every function, and again of it inside of each caller, while most functions here are parts of handlers whose own
code would never run. Without it compiling is two to three times faster, and with the parts known to have no other callers the
result is faster too.

Everything compiled is cached on disk. numba's own cache looks at the one file in which a function stands, so a change in a
function that it calls would go unnoticed; here the cache is stamped with a digest of the module and of all that it imports of
this package.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from llvmlite import binding, ir
from numba import njit
from numba.core import cgutils, types
from numba.core.caching import FunctionCache
from numba.core.ccallback import CFunc
from numba.core.codegen import CodeLibrary, JITCodeLibrary
from numba.core.compiler import CompilerBase
from numba.core.compiler_machinery import LoweringPass, PassManager, register_pass
from numba.core.registry import CPUDispatcher
from numba.core.typed_passes import (
    IRLegalization,
    NativeLowering,
    NoPythonBackend,
    NopythonTypeInference,
    PreLowerStripPhis,
)
from numba.core.untyped_passes import FixupArgs, GenericRewrites, IRProcessing, ReconstructSSA, TranslateByteCode
from numba.extending import intrinsic
from numba.np.arrayobj import populate_array


class _Library(JITCodeLibrary):  # type: ignore[misc]
    """Code as it was lowered, and the parts that it calls: callers before what they call, since linking drops what has no
    caller yet."""

    def add_linking_library(self, library: CodeLibrary) -> None:
        library._ensure_finalized()
        found = [library, *library._linking_libraries] if isinstance(library, _Part) else [library]
        self._linking_libraries += [each for each in found if each not in self._linking_libraries]


class _Part(_Library):
    """Code that is linked into others and never runs by itself."""

    def finalize(self) -> None:
        self._finalized = True


class _Whole(_Library):
    """Code with an address of its own."""

    def _optimize_final_module(self) -> None:
        """Nobody else calls the parts, which is what a linkage "internal" lets LLVM make use of."""
        for function in self._final_module.functions:
            if not function.is_declaration and function.linkage is binding.Linkage.linkonce_odr:
                function.linkage = "internal"
        super()._optimize_final_module()


@register_pass(mutates_CFG=False, analysis_only=False)
class _WithoutReferenceCounts(LoweringPass):  # type: ignore[misc]
    """Arrays are views of memory whose references nobody counts."""

    _name = "without_reference_counts"

    def __init__(self) -> None:
        LoweringPass.__init__(self)

    def run_pass(self, state: Any) -> bool:
        state.targetctx.enable_nrt = False  # of this compilation's copy of the target
        return False


_PASSES = (
    TranslateByteCode,
    FixupArgs,
    IRProcessing,
    GenericRewrites,
    ReconstructSSA,
    NopythonTypeInference,
    PreLowerStripPhis,
    _WithoutReferenceCounts,
    IRLegalization,
    NativeLowering,
    NoPythonBackend,
)
"""numba's own, without those for what no function here does: closures, parallel loops, array expressions, overloads inlined."""


class WholeCompiler(CompilerBase):  # type: ignore[misc]
    """Compiles a function that has an address of its own."""

    library: type[_Library] = _Whole

    def define_pipelines(self) -> list[PassManager]:
        state = self.state
        state.library = self.library(state.targetctx.codegen(), state.func_id.func_qualname)
        state.library.enable_object_caching()
        passes = PassManager("machine")
        for each in _PASSES:
            passes.add_pass(each, each.__name__)
        passes.finalize()
        return [passes]


class _PartCompiler(WholeCompiler):
    library = _Part

    def define_pipelines(self) -> list[PassManager]:
        # numba binds calls to the executable of what is called; here something takes its place that is as good a key.
        self.state.targetctx.get_executable = lambda *_: object().__sizeof__
        return super().define_pipelines()


def _widest(argument: Any) -> Any:
    """The type that a part is compiled for in place of `argument`: one for all that mean the same to it. numba computes with
    signed integers in 64 bits whatever they are."""
    argument = types.unliteral(argument)
    return types.int64 if argument in (types.int8, types.int16, types.int32) else argument


class PartDispatcher(CPUDispatcher):  # type: ignore[misc]
    """A function that compiled code calls and Python can't."""

    def __init__(self, function: Callable[..., Any], options: dict[str, Any]) -> None:
        without_wrappers = {"nopython": True, "no_cpython_wrapper": True, "no_cfunc_wrapper": True}
        super().__init__(function, targetoptions={**options, **without_wrappers}, pipeline_class=_PartCompiler)

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        """Raises TypeError: there is nothing to call."""
        raise TypeError(f"{self.py_func.__name__} is a part of compiled functions, which alone can call it")

    def get_call_template(self, args: Any, kws: Any) -> Any:
        """What a call with arguments of these types means (numba's own interface)."""
        return super().get_call_template(tuple(map(_widest, args)), {name: _widest(each) for name, each in kws.items()})


Function = TypeVar("Function", bound=Callable[..., Any])
_PACKAGE = Path(__file__).parent

HandlerFunction = Callable[[int, int, int], None]


_IMPORT = re.compile(r"^from backend\.cdna\.execute(?:\.(\w+))? import (.+)$", re.MULTILINE)


def _imports(name: str) -> set[str]:
    """Modules of this package that a module of it imports."""
    text = (_PACKAGE / f"{name}.py").read_text()
    found = set()
    for module, names in _IMPORT.findall(text):
        found |= {module} if module else {part.split()[0] for part in names.split(",")}
    return found


@cache
def _source_digest(name: str) -> str:
    """Digest of what the compiled code of a module depends on: its source and those that it imports, of this package."""
    pending, seen = [name], {name}
    while pending:
        new = _imports(pending.pop()) - seen
        seen |= new
        pending += new
    digest = hashlib.sha256()
    for each in sorted(seen):
        digest.update(each.encode() + b"\0" + (_PACKAGE / f"{each}.py").read_bytes())
    return digest.hexdigest()


class _StampedCache(FunctionCache):  # type: ignore[misc]
    """numba's file cache, valid as long as neither the function's module nor what it imports has changed."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__(function)
        self._cache_file._source_stamp = _source_digest(function.__module__.rpartition(".")[2])


_OPTIONS = {"nogil": True, "error_model": "numpy"}


def compiled(function: Function) -> Function:
    """Compile `function` when it is first called from Python; cached on disk."""
    dispatcher = njit(nogil=True, error_model="numpy", pipeline_class=WholeCompiler)(function)
    dispatcher._cache = _StampedCache(dispatcher.py_func)
    return dispatcher  # type: ignore[no-any-return]


def inlined(function: Function) -> Function:
    """A function that only other compiled code calls: it is compiled with each caller and not cached itself."""
    return PartDispatcher(function, _OPTIONS)  # type: ignore[return-value]


class Handler:
    """A compiled function of three addresses that compiled code calls through its own address (`call_handler`).

    It compiles, or loads from the cache, when its address is first asked for: a sliced program never pays for matrices.
    """

    def __init__(self, function: HandlerFunction) -> None:
        self.function = function
        self.name = function.__name__
        self._address = 0

    @property
    def address(self) -> int:
        """Address of machine code with the C signature `void (int64, int64, int64)`."""
        if not self._address:
            arguments = (types.int64, types.int64, types.int64)
            self._callback = CFunc(
                self.function, (arguments, types.void), locals={}, options=_OPTIONS, pipeline_class=WholeCompiler
            )
            self._callback._cache = _StampedCache(self.function)
            self._callback.compile()
            self._address = int(self._callback.address)
        return self._address


def handler(function: HandlerFunction) -> Handler:
    """Decorator: `function(wave, record, context)` becomes a Handler."""
    return Handler(function)


def _view(element: Any) -> Any:
    """An intrinsic: memory at an address as a C-contiguous array of `element` with the shape of a tuple. Nobody owns it."""

    def view(typing_context: Any, address: Any, shape: Any) -> Any:
        result = types.Array(element, len(shape), "C")
        signature = result(types.int64, types.UniTuple(types.int64, len(shape)))

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            word = ir.IntType(64)
            size = ir.Constant(word, element.bitwidth // 8)
            extents = cgutils.unpack_tuple(builder, arguments[1])
            strides = [size]
            for extent in extents[:0:-1]:
                strides.insert(0, builder.mul(strides[0], extent))
            array = context.make_array(result)(context, builder)
            populate_array(
                array,
                data=builder.inttoptr(arguments[0], context.get_value_type(element).as_pointer()),
                shape=extents,
                strides=strides,
                itemsize=size,
                meminfo=None,
            )
            return array._getvalue()

        return signature, generate

    return intrinsic(view)


view_u8 = _view(types.uint8)
view_u16 = _view(types.uint16)
view_u32 = _view(types.uint32)
view_i32 = _view(types.int32)
view_u64 = _view(types.uint64)
view_i64 = _view(types.int64)
view_f32 = _view(types.float32)


@intrinsic
def call_handler(typing_context: Any, function: Any, wave: Any, record: Any, context: Any) -> Any:
    """Calls the handler at address `function`."""
    signature = types.void(types.int64, types.int64, types.int64, types.int64)

    def generate(target: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        word = ir.IntType(64)
        callee = ir.FunctionType(ir.VoidType(), [word, word, word])
        builder.call(builder.inttoptr(arguments[0], callee.as_pointer()), arguments[1:])
        return target.get_dummy_value()

    return signature, generate


@intrinsic
def fused_multiply_add(typing_context: Any, a: Any, b: Any, c: Any) -> Any:
    """a * b + c with one rounding, in the type of its arguments (float32 or float64)."""
    signature = a(a, a, a)

    def generate(target: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.fma(*arguments)

    return signature, generate


def _cast(given: Any, gives: Any) -> Any:
    """An intrinsic: the bits of a number of one type as a number of another."""

    def cast(typing_context: Any, value: Any) -> Any:
        def generate(target: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return builder.bitcast(arguments[0], target.get_value_type(gives))

        return gives(given), generate

    return intrinsic(cast)


float_bits, bits_float = _cast(types.float32, types.uint32), _cast(types.uint32, types.float32)
double_bits, bits_double = _cast(types.float64, types.uint64), _cast(types.uint64, types.float64)

_QUIET = {32: 1 << 22, 64: 1 << 51}
"""The bit that tells a quiet NaN of that width from a signalling one."""


def _by_bits(combine: Callable[[Any, Any, Any], Any]) -> Any:
    """An intrinsic: two floats of one type, float32 or float64, made one by their bits."""

    def combined(typing_context: Any, a: Any, b: Any) -> Any:
        def generate(target: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            words = [builder.bitcast(each, ir.IntType(a.bitwidth)) for each in arguments]
            return builder.bitcast(combine(builder, *words), target.get_value_type(a))

        return a(a, a), generate

    return intrinsic(combined)


bits_of_both = _by_bits(lambda builder, a, b: builder.and_(a, b))
bits_of_either = _by_bits(lambda builder, a, b: builder.or_(a, b))


@intrinsic
def quieted(typing_context: Any, value: Any) -> Any:
    """Makes a NaN, float32 or float64, a quiet one."""

    def generate(target: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        word = ir.IntType(value.bitwidth)
        quiet = builder.or_(builder.bitcast(arguments[0], word), ir.Constant(word, _QUIET[value.bitwidth]))
        return builder.bitcast(quiet, target.get_value_type(value))

    return value(value), generate


@intrinsic
def signals(typing_context: Any, value: Any) -> Any:
    """Tells whether a float32 or float64 is a signalling NaN."""

    def generate(target: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        word = ir.IntType(value.bitwidth)
        bit = builder.and_(builder.bitcast(arguments[0], word), ir.Constant(word, _QUIET[value.bitwidth]))
        is_nan = builder.fcmp_unordered("uno", arguments[0], arguments[0])
        return builder.and_(is_nan, builder.icmp_unsigned("==", bit, ir.Constant(word, 0)))

    return types.boolean(value), generate


@intrinsic
def add_lanes(typing_context: Any, target: Any, a: Any, b: Any) -> Any:
    """64 uint32 additions of memory at addresses a and b into `target`, which may be a or b: all is read before anything is
    written."""
    signature = types.void(types.int64, types.int64, types.int64)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        lanes = ir.VectorType(ir.IntType(32), 64).as_pointer()
        target, first, second = (builder.inttoptr(address, lanes) for address in arguments)
        total = builder.add(builder.load(first, align=4), builder.load(second, align=4))
        builder.store(total, target, align=4)
        return context.get_dummy_value()

    return signature, generate
