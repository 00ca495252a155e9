"""The rooms' import rules, checked on the source text: who may know whom, and what is imported only where it is used."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

SOURCES = sorted(path for room in ("backend", "fuzz", "reprod") for path in (ROOT / room).rglob("*.py"))

HEAVY = ("ray", "torch", "triton", "aiter", "rocm")
"""Packages that cost seconds or need hardware: imported inside the functions that use them."""

HEAVY_ROOMS = ("backend.devices.gpu", "backend.experiments.silicon_agreement", "backend.real")
"""Rooms about such a package (they subclass its types): they may import it at the top, and are imported where used."""

FORBIDDEN: dict[str, tuple[str, ...]] = {
    "backend": ("fuzz", "reprod"),
    "reprod": ("fuzz",),
    "backend.child": tuple(
        f"backend.{room}" for room in ("aiter", "cdna", "checks", "devices", "real", "serving", "case", "path")
    ),
    "backend.cxx": tuple(
        f"backend.{room}" for room in ("aiter", "cdna", "checks", "devices", "real", "serving", "case", "path", "revision")
    ),
    "backend.aiter": ("backend.devices", "backend.cdna", "backend.checks", "backend.serving", "backend.real"),
}
"""Room -> what it must not import."""

CDNA_MAY_IMPORT = ("backend.cdna", "backend.errors")
"""All that the machine knows of the backend; besides, the name of an architecture (backend.case.Arch)."""

FLOORS: tuple[tuple[str, ...], ...] = (
    ("backend",),  # words: Case, Finding, Fate, errors, the codec
    ("backend.git", "backend.child", "backend.cdna", "backend.cxx", "backend.real.python"),  # tools that know no MLA
    ("backend.aiter",),
    ("backend.decision", "backend.call", "backend.observation", "backend.outcome"),  # what a case becomes
    (
        *("backend.serving", "backend.host", "backend.revision", "backend.checks", "backend.devices", "backend.real"),
        *("backend.real.script.timeline", "backend.real.script.streams", "backend.real.script.graphs"),  # torch's, by any file
    ),
    ("backend.path",),
    ("backend.experiments", "backend.real.frameworks"),
    ("backend.real.script",),
    ("reprod",),
    ("fuzz",),  # what is drawn, verdicts, what every command needs
    ("fuzz.accuracy", "fuzz.campaign"),
    ("fuzz.report",),
    ("fuzz.gate",),
    ("fuzz.commands",),
    ("fuzz.cli",),
)
"""Rooms from the ground up. A module is in the room that its name begins with, the longest that does; it may know those of its
own floor and below."""

MOST_LINES = 500
"""A module has fewer: what one holds in the head while reading it."""

COMMAND_LINE = ("fuzz.cli", "fuzz.commands")


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def parsed(path: Path) -> ast.Module:
    """The source of a module, read once for all tests here."""
    return ast.parse(path.read_text(encoding="utf-8"))


def imports(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of every import; `from a import b` counts as a.b."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: relative import"
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def eager_imports(node: ast.AST) -> Iterator[tuple[int, str]]:
    """Imports that run when the module is imported: not those inside functions or under `if TYPE_CHECKING`."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)):
            continue
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        if isinstance(child, (ast.Import, ast.ImportFrom)):
            yield from imports(child)
        yield from eager_imports(child)


def is_in(name: str, room: str) -> bool:
    return name == room or name.startswith(room + ".")


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_imports_keep_to_the_rooms(path: Path) -> None:
    name, tree = module_name(path), parsed(path)
    complaints = []
    for line, imported in imports(tree):
        for room, forbidden in FORBIDDEN.items():
            if is_in(name, room) and any(is_in(imported, other) for other in forbidden):
                complaints.append(f"line {line}: {room} must not import {imported}")
        if is_in(name, "backend.cdna") and is_in(imported, "backend"):
            allowed = imported == "backend.case.Arch" or any(is_in(imported, room) for room in CDNA_MAY_IMPORT)
            if not allowed:
                complaints.append(f"line {line}: backend.cdna must not import {imported}")
    assert not complaints


def test_heavy_packages_are_imported_where_they_are_used() -> None:
    """Nothing outside HEAVY_ROOMS loads a heavy package on import, not even through a module of a heavy room."""
    eager = {module_name(path): set(eager_imports(parsed(path))) for path in SOURCES}
    heavy: set[str] = set()
    grown = True
    while grown:
        found = {
            module
            for module, names in eager.items()
            if any(name.split(".")[0] in HEAVY or name in heavy or name.rpartition(".")[0] in heavy for _, name in names)
        }
        grown = found != heavy
        heavy = found
    assert not {module for module in heavy if not any(is_in(module, room) for room in HEAVY_ROOMS)}


@pytest.mark.parametrize("path", [p for p in SOURCES if module_name(p).startswith(COMMAND_LINE)], ids=module_name)
def test_the_command_line_imports_nothing_slow(path: Path) -> None:
    tree = parsed(path)
    ours = [name for _, name in eager_imports(tree) if name.split(".")[0] in ("backend", "fuzz", "reprod")]
    quick = ("backend.errors", "backend.words", "backend.case", "fuzz.cli", "fuzz.commands", "reprod.text")
    slow = [name for name in ours if not name.startswith(quick)]
    third_party = [name for _, name in eager_imports(tree) if name.split(".")[0] in ("numpy", "numba", "rich", "msgpack")]
    assert not slow
    assert not third_party


def test_a_forbidden_import_is_seen() -> None:
    """The checker itself: an import in a function counts for the rooms, and not for the heavy packages."""
    tree = ast.parse("def f():\n    import torch\n    from fuzz import cli\n")
    assert [name for _, name in imports(tree)] == ["torch", "fuzz.cli"]
    assert list(eager_imports(tree)) == []
    assert list(eager_imports(ast.parse("try:\n    import torch\nexcept ImportError:\n    pass\n"))) == [(2, "torch")]


def public_classes() -> dict[str, list[str]]:
    """Modules by the name of each public class at their top."""
    found: dict[str, list[str]] = {}
    for path in SOURCES:
        for node in parsed(path).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                found.setdefault(node.name, []).append(module_name(path))
    return found


def test_no_two_classes_have_one_name() -> None:
    """A name means one thing in the whole source, so that nobody imports one class under the name of another."""
    assert {name: modules for name, modules in public_classes().items() if len(modules) > 1} == {}


@cache
def module_graph() -> dict[str, set[str]]:
    """Module -> the modules of ours that it imports: at its top, inside of functions, and for types only."""
    names = {module_name(path) for path in SOURCES}
    graph: dict[str, set[str]] = {}
    for path in SOURCES:
        found = set()
        for _, imported in imports(parsed(path)):
            while imported and imported not in names:
                imported = imported.rpartition(".")[0]
            found.add(imported)
        graph[module_name(path)] = found - {"", module_name(path)}
    return graph


def circles(graph: dict[str, set[str]]) -> list[frozenset[str]]:
    """Groups of modules that reach each other."""
    reached: dict[str, set[str]] = {}
    for start in graph:
        seen: set[str] = set()
        pending = [start]
        while pending:
            pending += graph[pending.pop()] - seen
            seen.update(pending)
        reached[start] = seen
    return sorted(
        {frozenset(other for other in reached[name] if name in reached[other]) for name in graph if name in reached[name]},
        key=sorted,
    )


def test_no_import_circle() -> None:
    assert [sorted(circle) for circle in circles(module_graph())] == []


def test_a_circle_is_seen() -> None:
    graph = {"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"a"}}
    assert circles(graph) == [frozenset("bc")]


def floor_of(module: str) -> int:
    """The floor of the longest room that a module is in."""
    rooms = {room: floor for floor, there in enumerate(FLOORS) for room in there}
    return rooms[max((room for room in rooms if is_in(module, room)), key=len)]


def upward(graph: dict[str, set[str]]) -> list[str]:
    """Imports of a higher floor's modules."""
    return sorted(
        f"{module} (floor {floor_of(module)}) imports {other} (floor {floor_of(other)})"
        for module, others in graph.items()
        for other in others
        if floor_of(other) > floor_of(module)
    )


def test_no_arrow_from_a_lower_floor_to_a_higher_one() -> None:
    assert upward(module_graph()) == []


def test_an_arrow_upward_is_seen() -> None:
    """Also from a room into one inside of it, and one that runs inside of a function only; downward and level are fine."""
    graph = {"backend.real.observe": {"backend.real.frameworks.record"}, "backend.aiter.launch": {"backend.case"}}
    assert len(upward(graph)) == 1
    assert len(upward({"backend.errors": {"reprod.shrink"}, "fuzz.space": {"fuzz.spec"}})) == 1


def test_floors_name_rooms_that_are_there() -> None:
    """A room that moved or went takes its row along."""
    modules = {module_name(path) for path in SOURCES}
    assert {room for there in FLOORS for room in there} <= modules


def too_long(lines: dict[str, int]) -> dict[str, int]:
    """Modules with MOST_LINES lines or more."""
    return {module: count for module, count in lines.items() if count >= MOST_LINES}


def test_modules_are_short() -> None:
    paths = (*SOURCES, *(ROOT / "benchmarks").glob("*.py"))
    assert too_long({module_name(path): len(path.read_text(encoding="utf-8").splitlines()) for path in paths}) == {}


def test_a_long_module_is_seen() -> None:
    assert too_long({"a": 499, "b": 500}) == {"b": 500}


def lines_with(pattern: str) -> dict[str, list[str]]:
    """Modules with the lines of theirs that the pattern finds something in."""
    found: dict[str, list[str]] = {}
    for path in SOURCES:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if re.search(pattern, line)]
        if lines:
            found[module_name(path)] = lines
    return found


def test_one_path_judges() -> None:
    """Who else ran a call on a device would answer anew what AITER refuses; the others hold two devices against each other."""
    assert set(lines_with(r"check_call\(|\.observe\(")) == {
        "backend.path",
        "backend.checks.check",  # where check_call is
        "backend.devices.two_devices",
        "backend.experiments.kernel_traits",
    }


@pytest.mark.parametrize(
    ("what", "places"),
    [
        (r'release\.name ==|release == "', {}),
        (r"def junit", {"fuzz.report.render": 1}),
        (r"memory_info\(|memory_full_info\(|/statm|VmRSS", {"backend.child.tree": 2}),
    ],
)
def test_what_is_done_in_one_place(what: str, places: dict[str, int]) -> None:
    """A release's abilities are asked for, not its name; one JUnit writer; one reader of a process' memory."""
    assert {module: len(lines) for module, lines in lines_with(what).items()} == places


def short_docstrings(tree: ast.AST) -> list[str]:
    """Names of what the outside may use whose docstring is no sentence: under four words."""
    return [
        node.name
        for node in ast.walk(tree)
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_")
        for text in (ast.get_docstring(node),)
        if text is not None and len(text.split()) < 4
    ]


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_docstrings_are_sentences(path: Path) -> None:
    assert short_docstrings(parsed(path)) == []


def test_a_docstring_that_is_no_sentence_is_seen() -> None:
    assert short_docstrings(ast.parse('def f():\n    """As above."""\nclass A:\n    """The way back to text."""\n')) == ["f"]
