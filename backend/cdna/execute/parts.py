"""How numba puts a function and those that it calls together: each is typed and lowered, all are optimised as one.

numba makes machine code of every function, wrappers for Python included, and again of it inside of each caller. Most functions
here are parts of handlers and called by compiled code alone: their own machine code would never run. Without it compiling is
two to three times faster, and with the parts known to have no other callers the result is faster too. Knows nothing of
instructions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import binding
from numba.core import types
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
    """Compiles a function that has an address."""

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
