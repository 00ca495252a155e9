"""A real backend file, held open in a child process: decisions and recordings on demand.

This is what other rooms use; nothing here imports torch, and nothing of the stranger's runs in this process.
"""

from __future__ import annotations

import ast
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path

from backend.aiter.codefiles import open_source as open_code_source
from backend.aiter.codefiles import switches_of
from backend.case import Arch, DType
from backend.child.service import Child
from backend.child.tree import Limits
from backend.errors import CannotRunError
from backend.git import folders_of
from backend.real.frameworks.fetch import BackendSource, cache_folder, from_here, named_file, open_source, with_text
from backend.real.frameworks.record import DecisionRow, Recording
from backend.real.frameworks.scenarios import HEADS, KV_DTYPES, Scenario
from backend.real.noted_call import SourceLine
from backend.real.python.slicing import parse
from backend.serving.frameworks import TARGETS

WORKER = "backend.real.frameworks.worker:ScenarioWorker"


class SourceSession:
    """One source against one AITER.

    source: what `open_source` understands. text: another text of the file under test. aiter: PATH[@REVISION] of a
    checkout, whose Python then runs; None: built-in rules. release: AITER's, None: the checkout's nearest, or 2026-06.
    Raises CannotRunError where the source is not to be had, does not parse, or lacks the class; a context manager.
    """

    def __init__(
        self,
        source: str,
        *,
        text: str | None = None,
        aiter: str | None = None,
        release: str | None = None,
        limits: Limits | None = None,
    ) -> None:
        self._opened = open_source(source)
        self.source: BackendSource = self._opened if text is None else with_text(self._opened, text)
        require_class(self.source)
        there = None if aiter is None else from_here(aiter)
        arguments = {"source": from_here(source), "text": text, "aiter": there, "release": release}
        variables = {"TRITON_INTERPRET": "1", "AITERFUZZ_CACHE": str(cache_folder().absolute())}
        variables |= {} if aiter is None else switches_of(open_code_source(aiter))
        self._child = Child(WORKER, arguments, limits, variables, _readable(source, aiter))
        about = self._child.request("about", dict[str, str | None])
        self.release: str = about["release"]
        self.aiter: str = about["aiter"]
        self.warning: str | None = about["warning"]

    def __enter__(self) -> SourceSession:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """End the child process."""
        self._child.close()

    def use(self, text: str | None) -> None:
        """Go on with another text of the file under test (a change, a mutant); None: the source's own.

        Saves starting a process and parsing the framework around the file. CannotRunError as on opening.
        """
        changed = self._opened if text is None else with_text(self._opened, text)
        require_class(changed)
        self._child.request("use", text=text)
        self.source = changed

    @property
    def peak_memory(self) -> int:
        """Most resident bytes that the child was seen with."""
        return self._child.peak_memory

    def decide(
        self, arch: Arch = Arch.GFX950, heads: Sequence[int] = HEADS, kv_dtypes: Sequence[DType] = KV_DTYPES
    ) -> list[DecisionRow]:
        """The decision table, from the real constructor; see DecisionRow."""
        rows: tuple[DecisionRow, ...] = self._child.request(
            "decide", tuple[DecisionRow, ...], arch=arch, heads=tuple(heads), kv_dtypes=tuple(kv_dtypes)
        )
        return list(rows)

    def taken(self, scenarios: Sequence[Scenario]) -> tuple[Scenario, ...]:
        """Those of some scenarios that the file has a part in, as far as that is known before anything runs."""
        takes = self._child.request("takes", tuple[bool, ...], scenarios=tuple(scenarios))
        return tuple(itertools.compress(scenarios, takes))

    def run(self, scenario: Scenario, environment: Mapping[str, str] | None = None) -> Recording:
        """Run a scenario in a fresh framework process; `environment`: variables of the framework to set."""
        recording: Recording = self._child.request("run", Recording, scenario=scenario, environment=dict(environment or {}))
        return recording


def _readable(source: str, aiter: str | None) -> tuple[Path, ...]:
    """What a child that runs the source must see."""
    source = named_file(source)[0]
    found = [cache_folder(), *(() if aiter is None else folders_of(aiter)), *folders_of(source)]
    file = Path(source).resolve()
    known = {each.module.partition(".")[0] for each in TARGETS}
    if file.is_file():
        packages = [folder.parent for folder in file.parents if folder.name in known]
        found.append(packages[-1] if packages else file.parent)
    return tuple(found)


def decision_table(source: str, arch: Arch = Arch.GFX950, heads: Sequence[int] = HEADS) -> list[DecisionRow]:
    """The decision table of a source in one call, on built-in rules."""
    with SourceSession(source) as session:
        return session.decide(arch, heads)


def require_class(source: BackendSource) -> None:
    """CannotRunError where the file under test does not parse or does not define the class."""
    tree = parse(source.target)
    wanted = source.framework.backend_class
    defined = [node.name for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    if wanted not in defined:
        known = ", ".join(defined) or "no class at all"
        raise CannotRunError(
            f"{source.target.filename}: defines no class {wanted} (it has: {known}); give {source.framework.name}'s file"
        )


def gate_line(source: BackendSource) -> SourceLine | None:
    """Where the constructor decides for the fast planner: the `if` that sets fast_mode True and intra_batch_mode False.

    The first of them in sglang's file; None where there is none (the rule was rewritten, or the file is vLLM's).
    """
    for function in ast.walk(parse(source.target)):
        if not isinstance(function, ast.FunctionDef) or function.name != "__init__":
            continue
        for node in ast.walk(function):
            if isinstance(node, ast.If) and {("fast_mode", True), ("intra_batch_mode", False)} <= _assigned(node.body):
                return SourceLine(source.target.filename, node.lineno, function.name)
    return None


def _assigned(body: Sequence[ast.stmt]) -> set[tuple[str, object]]:
    return {
        (target.id, statement.value.value)
        for statement in body
        if isinstance(statement, ast.Assign) and isinstance(statement.value, ast.Constant)
        for target in statement.targets
        if isinstance(target, ast.Name)
    }
