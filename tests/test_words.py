"""Counts in words: one of a thing is never told as several, in whatever is said."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from backend.words import counted, noun, number_of

ROOT = Path(__file__).parents[1]

THINGS = (
    "accesses address(?:es)? batches bytes calls cases changes chunks commits decisions devices elements entries facts faults "
    "files findings functions groups instructions items kernels lanes launches lines lives lists nodes pages places processes "
    "queries questions ranks reasons releases requests revisions rows scenarios scripts shapes signatures splits steps "
    "stores tensors tests things times tokens tries units words workers"
)
SEVERAL = rf"(?:[a-z0-9]+ )?(?:{'|'.join(THINGS.split())})\b"

TOOLS = ("backend/cdna", "backend/child", "backend/cxx")
"""Rooms that know nothing of us."""

ALWAYS_SEVERAL = (
    "case.max_batch|max_batch|plan.fold|groups|call.launched.fold|len.differences.|ranks|max_seqlen_q|arguments.q_rows|most|"
    "query_lens|partial_rows|finding.reliability|reliability|lengths.batch.|length|rows|needed|self.rows|self.groups|space.max_batch|"
    "by|end.offset|match..size..|launch.sub_q|plan.planner|launch.code_object|tuple.kv.shape.|answer.end.how|counted.*|number_of.*"
)
"""Expressions that are no count of one where they stand."""


@pytest.mark.parametrize(
    ("count", "one", "many", "said"),
    [
        (1, "row", "", "1 row"),
        (0, "row", "", "0 rows"),
        (2, "entry", "", "2 entries"),
        (2, "batch", "", "2 batches"),
        (2, "process", "", "2 processes"),
        (2, "day", "", "2 days"),
        (2, "random life", "random lives", "2 random lives"),
        (1, "entry does", "entries do", "1 entry does"),
        (1234, "case", "", "1,234 cases"),
    ],
)
def test_one_and_several(count: int, one: str, many: str, said: str) -> None:
    assert counted(count, one, many) == said
    assert number_of(count, one, many) == said.replace(",", "")
    assert said.endswith(noun(count, one, many))


def several_of_one(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """(line, text) where a text puts several behind a number that may be one."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.JoinedStr):
            continue
        for value, after in zip(node.values, node.values[1:], strict=False):
            if not isinstance(value, ast.FormattedValue) or not isinstance(after, ast.Constant):
                continue
            number = ast.unparse(value.value)
            if re.fullmatch(f"[A-Z_\\d]+|{ALWAYS_SEVERAL}", number) or "join" in number or "listed" in number:
                continue
            if re.match(f" {SEVERAL}", str(after.value)):
                yield node.lineno, f"{{{number}}}{str(after.value)[:40]}"


def test_no_text_puts_several_behind_a_count_of_one() -> None:
    sources = [path for room in ("backend", "fuzz", "reprod") for path in sorted((ROOT / room).rglob("*.py"))]
    found = [
        f"{path.relative_to(ROOT)}:{line}: {text}"
        for path in sources
        if not path.relative_to(ROOT).as_posix().startswith(TOOLS)
        for line, text in several_of_one(ast.parse(path.read_text(encoding="utf-8")))
    ]
    assert found == []


def test_such_a_text_is_seen() -> None:
    assert [*several_of_one(ast.parse('f"{count:,} cases ran"'))] == [(1, "{count} cases ran")]
    assert [*several_of_one(ast.parse("f\"{counted(count, 'case')} ran\""))] == []


KEPT = [
    *(ROOT / "corpus" / "findings").rglob("*.*"),
    *(ROOT / "examples").rglob("*.*"),
    *(ROOT / "tests" / "data").rglob("*.txt"),
]


def test_nothing_that_is_kept_says_so() -> None:
    """What was written by these texts and is kept. "1 of 1 rows" is a script's, which must be short."""
    several = re.compile(rf"(?<![\w.,-])(?<!of )1 {SEVERAL}")
    found = [
        f"{path.relative_to(ROOT)}: {match.group(0)}"
        for path in KEPT
        if path.suffix in (".md", ".txt", ".py")
        for match in several.finditer(path.read_text(encoding="utf-8"))
    ]
    assert found == []
