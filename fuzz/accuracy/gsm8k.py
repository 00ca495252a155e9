"""GSM8K: questions, the prompt with worked examples before it, what counts as a right answer, and asking all of them.

The file is GSM8K's own: a JSON object a line with "question" and "answer", the answer ending in "#### NUMBER". It is given by
the user and not distributed here. Each answer is kept as it comes, so that a run that was killed goes on: a first line says
what is asked and of whom, then one line an answered question. A question that got no answer has no line: the next run asks it
again. A last line that was cut off by a kill is dropped.
"""

from __future__ import annotations

import hashlib
import json
import os
import queue
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path

from backend.codec import dumps, from_plain
from backend.errors import CannotRunError, UsageError
from backend.file_text import text_of
from backend.words import counted
from fuzz.accuracy.server import Api, NoAnswerError, Server

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
    text = text_of(path, "GSM8K's own test.jsonl")
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


GIVE_UP = 16
"""Questions in a row without an answer, each tried several times, after which the server is taken for gone."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What makes two files comparable. questions: fingerprint of those asked; shots: of the worked examples."""

    model: str
    api: Api
    questions: str
    shots: str
    max_tokens: int


@dataclass(frozen=True, slots=True)
class Answer:
    """index: of the question. number: the last one of `text`, as text, None for none; expected: the right one."""

    index: int
    right: bool
    number: str | None
    expected: str
    truncated: bool
    tries: int
    text: str


@dataclass(frozen=True, slots=True)
class LostQuestion:
    """A question without an answer."""

    index: int
    reason: str


class AnswerFile:
    """Answers of one run. Raises UsageError where the file is of another run or none of ours. Use as a context manager."""

    def __init__(self, path: Path, asked: Asked) -> None:
        self.answers: dict[int, Answer] = {}
        known = path.exists()
        if known:
            found, answers, size = read_answers(path)
            if found != asked:
                raise UsageError(
                    f"--out: {path} holds answers to something else: {dumps(found)}; asked now: {dumps(asked)}; "
                    "give another file"
                )
            self.answers = {answer.index: answer for answer in answers}
        try:
            if known:
                os.truncate(path, size)
            self._file = path.open("a", encoding="utf-8", buffering=1)
        except OSError as error:
            raise UsageError(
                f"--out: given {str(path)!r}; it cannot be written to ({error.strerror}); give another file"
            ) from error
        if not known:
            self._file.write(dumps(asked) + "\n")

    def __enter__(self) -> AnswerFile:
        return self

    def __exit__(self, *exception: object) -> None:
        self._file.close()

    def add(self, answer: Answer) -> None:
        """One more, on disk before this returns."""
        self.answers[answer.index] = answer
        self._file.write(dumps(answer) + "\n")


def read_answers(path: Path) -> tuple[Asked, tuple[Answer, ...], int]:
    """What was asked, the answers, and the bytes of the whole lines."""
    try:
        text = path.read_bytes()
        whole = text[: text.rfind(b"\n") + 1]
        first, *lines = [json.loads(line) for line in whole.splitlines()]
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"{path}: no answers of an earlier run ({error})") from error
    answers = tuple(from_plain(Answer, line, f"{path}: answer") for line in lines)
    return from_plain(Asked, first, f"{path}: first line"), answers, len(whole)


def ask_all(
    server: Server,
    asked: Asked,
    shots: Sequence[Question],
    questions: Sequence[Question],
    concurrency: int,
) -> Iterator[Answer | LostQuestion]:
    """Asks, at most `concurrency` at a time; answers come as they are ready, in any order.

    Raises CannotRunError for what no other try would mend, and where the server is gone (GIVE_UP). Threads are daemons: an
    interrupted run ends at once, and what was asked and not answered is asked again next time.
    """
    waiting: queue.SimpleQueue[Question] = queue.SimpleQueue()
    for question in questions:
        waiting.put(question)
    done: queue.SimpleQueue[Answer | LostQuestion | CannotRunError] = queue.SimpleQueue()
    stop = threading.Event()

    def work() -> None:
        while not stop.is_set():
            try:
                question = waiting.get_nowait()
            except queue.Empty:
                return
            found = _asked(server, asked, shots, question)
            if isinstance(found, CannotRunError):
                stop.set()  # here: whoever reads what is done may come too late for the next question
            done.put(found)

    for _ in range(min(concurrency, len(questions))):
        threading.Thread(target=work, daemon=True).start()
    try:
        yield from _collected(done.get, len(questions), server.url)
    finally:
        stop.set()


def _collected(
    next_one: Callable[[], Answer | LostQuestion | CannotRunError], count: int, url: str
) -> Iterator[Answer | LostQuestion]:
    in_a_row = 0
    for _ in range(count):
        found = next_one()
        if isinstance(found, CannotRunError):
            raise found
        in_a_row = in_a_row + 1 if isinstance(found, LostQuestion) else 0
        yield found
        if isinstance(found, LostQuestion) and in_a_row >= GIVE_UP:
            raise CannotRunError(f"{url}: {counted(in_a_row, 'question')} in a row without an answer, the last: {found.reason}")


def _asked(
    server: Server, asked: Asked, shots: Sequence[Question], question: Question
) -> Answer | LostQuestion | CannotRunError:
    try:
        reply = server.answer(asked.model, prompt(shots, question), asked.max_tokens, STOP)
    except NoAnswerError as error:
        return LostQuestion(question.index, str(error))
    except CannotRunError as error:
        return error
    made = graded(question, reply.text)
    return replace(made, truncated=reply.truncated, tries=reply.tries)


def graded(question: Question, text: str) -> Answer:
    """Whether the last number of a text is the right one, to the digit (18, 18.0 and 18.00 are one number)."""
    number: Decimal | None = last_number(text)
    given = None if number is None else str(number)
    return Answer(question.index, number == question.expected, given, str(question.expected), False, 1, text)
