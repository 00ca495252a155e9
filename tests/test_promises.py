"""Every promise of docs/promises.md has a test, and that test is there."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "promises.md"
TEST = re.compile(r"`([\w/]+\.py)::(test_\w+)`")

ROWS = [line.split("|")[1:-1] for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("|")][2:]
PROMISES = [(promise.strip(), said.strip(), tests) for promise, said, tests in ROWS if tests.strip()]


def test_the_page_is_a_table_of_promises() -> None:
    assert len(PROMISES) > 25
    assert all(promise.strip().startswith("**") for promise, said, tests in ROWS if not tests.strip())


@pytest.mark.parametrize(("promise", "said", "tests"), PROMISES, ids=[promise[:60] for promise, _, _ in PROMISES])
def test_a_promise_names_where_it_is_made_and_the_tests_that_hold_it(promise: str, said: str, tests: str) -> None:
    named = TEST.findall(tests)
    assert named, promise
    assert re.sub(r"[\s,]", "", TEST.sub("", tests)) == "", "nothing but tests"
    for file, name in named:
        tree = ast.parse((ROOT / "tests" / file).read_text(encoding="utf-8"))
        assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, f"{file} has no {name}"
    place = re.search(r"\]\((\w+\.md)\)|`([\w/]+\.py)`|(README|CONTRIBUTING)", said)
    assert place, said
    page, source, top = place.groups()
    assert (PAGE.parent / page if page else ROOT / (source or f"{top}.md")).is_file(), said
