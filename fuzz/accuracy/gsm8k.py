"""GSM8K: questions, the prompt with worked examples before it, and what counts as a right answer. Knows no server.

The file is GSM8K's own: a JSON object a line with "question" and "answer", the answer ending in "#### NUMBER". It is given by
the user and not distributed here.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

from backend.errors import UsageError

SHOTS = 5

STOP = ("\nQuestion:", "Question:")
"""A model that goes on by itself asks the next question; what follows is not its answer."""

_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?|-?\.\d+")


@dataclass(frozen=True, slots=True)
class Question:
    """index: line of the file, from 0. answer: as the file has it, working included; expected: its number."""

    index: int
    question: str
    answer: str
    expected: Decimal


def read_questions(path: Path) -> tuple[Question, ...]:
    """All questions of a file; UsageError names file and line of what is none."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: cannot be read ({error}); give GSM8K's own test.jsonl") from error
    questions = tuple(_question(line, index, path) for index, line in enumerate(text.splitlines()) if line.strip())
    if not questions:
        raise UsageError(f"{path}: holds no question; give GSM8K's own test.jsonl")
    return questions


def prompt(shots: Sequence[Question], question: Question) -> str:
    """Worked examples, then the question."""
    worked = "".join(f"Question: {shot.question}\nAnswer: {shot.answer}\n\n" for shot in shots)
    return f"{worked}Question: {question.question}\nAnswer:"


def last_number(text: str) -> Decimal | None:
    """The last number of an answer, thousands separators left out; None where there is none."""
    found = _NUMBER.findall(text)
    return Decimal(found[-1].replace(",", "")) if found else None


def fingerprint(questions: Sequence[Question]) -> str:
    """Of what is asked: two runs with the same one can be compared question by question."""
    digest = hashlib.sha256()
    for one in questions:
        digest.update(json.dumps([one.question, one.answer]).encode())
    return digest.hexdigest()[:16]


def _question(line: str, index: int, path: Path) -> Question:
    try:
        plain = json.loads(line)
        question, answer = plain["question"], plain["answer"]
        expected = last_number(answer.rpartition("####")[2])
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(f'{path}, line {index + 1}: needed: {{"question": ..., "answer": "... #### NUMBER"}}') from error
    if not isinstance(question, str) or "####" not in answer or expected is None:
        raise UsageError(f'{path}, line {index + 1}: given an answer without "#### NUMBER"; give GSM8K\'s own file')
    return Question(index, question, answer, expected)
