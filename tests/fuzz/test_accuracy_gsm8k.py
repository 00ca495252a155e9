"""GSM8K against a server on loopback whose error rate is known: what is asked, counted, retried, resumed and said."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import pytest
from gsm8k_server import table_server

from backend.errors import CannotRunError, UsageError
from fuzz.accuracy.gsm8k import Answer, Asked, LostQuestion, ask_all, last_number, prompt, read_questions
from fuzz.accuracy.server import Api, Server
from fuzz.cli import main

COUNT = 45
"""Questions in the file: 5 worked examples and 40 that are asked."""


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "test.jsonl"
    lines = (
        {"question": f"What is {n} + 1000?", "answer": f"{n} + 1000 = {n + 1000}\n#### {n + 1000:,}"} for n in range(COUNT)
    )
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def answers(wrong: int) -> dict[str, str]:
    """The first `wrong` of the questions that are asked are answered wrongly."""
    return {f"What is {n} + 1000?": f"That makes {n + 1000 + (5 <= n < 5 + wrong):,}.00." for n in range(COUNT)}


def command(url: str, data: Path, *more: str) -> list[str]:
    out = str(data.parent / "answers.jsonl")
    return ["accuracy", "gsm8k", "--url", url, "--data", str(data), "--questions", "40", "--out", out, *more]


def test_the_known_error_rate_comes_out(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with table_server(answers(wrong=4)) as server:
        assert main(command(server.url, data, "--threshold", "0.9")) == 0
        assert main(command(server.url, data, "--threshold", "0.91")) == 1
    out = capsys.readouterr().out
    assert "accuracy 0.900: 36 of 40 right; 95% interval (Clopper-Pearson) 0.763 to 0.972" in out
    assert "threshold 0.9: met; 40 questions do not settle it" in out
    assert "threshold 0.91: NOT met" in out
    assert sum(server.tries.values()) == 40


def test_the_result_is_a_report_like_any_other(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with table_server(answers(wrong=4)) as server:
        assert main(command(server.url, data, "--threshold", "0.91", "--json")) == 1
    told = json.loads(capsys.readouterr().out)
    assert (told["verdict"], told["exit_code"], told["right"], told["asked"]) == ("faulty", 1, 36, 40)
    assert told["counts"]["clean"] == 36
    assert told["not_run"] == []


def test_what_is_asked(data: Path) -> None:
    with table_server(answers(wrong=0)) as server:
        assert main(command(server.url, data, "--questions", "3")) == 0
    questions = read_questions(data)
    assert {body["prompt"] for body in server.bodies} == {prompt(questions[:5], one) for one in questions[5:8]}
    assert all(body["temperature"] == 0 and body["model"] == "table" for body in server.bodies)
    shown = server.bodies[0]["prompt"]
    assert shown.count("Question:") == 6
    assert shown.startswith("Question: What is 0 + 1000?\nAnswer: 0 + 1000 = 1000\n#### 1,000\n\n")


def test_worked_examples_of_another_file_leave_all_questions_to_be_asked(data: Path, tmp_path: Path) -> None:
    train = tmp_path / "train.jsonl"
    train.write_text(json.dumps({"question": "One and one?", "answer": "Two.\n#### 2"}) + "\n")
    with table_server(answers(wrong=0)) as server:
        assert main(command(server.url, data, "--questions", "all", "--train", str(train), "--api", "chat")) == 0
    assert len(server.tries) == COUNT
    assert server.bodies[0]["messages"][0]["content"].startswith("Question: One and one?\nAnswer: Two.\n#### 2\n\nQuestion: ")


def test_what_passes_is_tried_again_after_a_pause_that_grows(data: Path) -> None:
    statuses = {"What is 6 + 1000?": [503, 429], "What is 7 + 1000?": [-1], "What is 8 + 1000?": [500]}
    pauses: list[float] = []

    def failure(question: str, tried: int) -> int:
        return dict(enumerate(statuses.get(question, []))).get(tried, 0)

    questions = read_questions(data)
    asked = Asked("table", Api.COMPLETIONS, "", "", 16)
    with table_server(answers(wrong=0), failure) as server:
        patient = Server(server.url, pause=0.5, sleep=pauses.append)
        found = list(ask_all(patient, asked, questions[:5], questions[5:], 1))
    made = [one for one in found if isinstance(one, Answer)]
    assert all(one.right for one in made)
    assert len(made) == 40
    assert {one.index: one.tries for one in made if one.tries > 1} == {6: 3, 7: 2, 8: 2}
    assert pauses == [0.5, 1.0, 0.5, 0.5]


def test_what_does_not_pass_is_said_at_once(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with table_server(answers(wrong=0), lambda question, tried: 401) as server:
        assert main(command(server.url, data, "--concurrency", "1")) == 3
        assert sum(server.tries.values()) == 1
    assert "HTTP 401" in capsys.readouterr().err


def test_a_question_without_an_answer_is_neither_right_nor_wrong_and_is_asked_again(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = threading.Event()
    broken.set()

    def failure(question: str, tried: int) -> int:
        return 500 if broken.is_set() and question == "What is 9 + 1000?" else 0

    with table_server(answers(wrong=1), failure) as server:
        assert main(command(server.url, data, "--retries", "0")) == 3
        first = capsys.readouterr().out
        broken.clear()
        assert main(command(server.url, data, "--retries", "0")) == 0
    assert "38 of 39 right" in first
    assert "1 question got no answer" in first
    assert "39 of 40 right" in capsys.readouterr().out
    assert server.tries["What is 9 + 1000?"] == 2
    assert sum(server.tries.values()) == 41


def test_a_run_that_was_killed_goes_on_where_it_was(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = data.parent / "answers.jsonl"
    with table_server(answers(wrong=4)) as server:
        main(command(server.url, data))
        lines = out.read_bytes().splitlines(keepends=True)
        out.write_bytes(b"".join(lines[:11]) + lines[11][:20])
        server.tries.clear()
        main(command(server.url, data))
    assert sum(server.tries.values()) == 30
    assert capsys.readouterr().out.count("36 of 40 right") == 2
    assert sorted(json.loads(line)["index"] for line in out.read_text().splitlines()[1:]) == list(range(5, 45))


def test_answers_to_something_else_are_not_taken_over(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with table_server(answers(wrong=4)) as server:
        main(command(server.url, data))
        before = (data.parent / "answers.jsonl").read_bytes()
        assert main(command(server.url, data, "--max-tokens", "100")) == 2
    assert (data.parent / "answers.jsonl").read_bytes() == before
    assert "answers to something else" in capsys.readouterr().err


@pytest.mark.parametrize(("baseline", "told"), [("39/40", False), ("0.975", False), ("1319/1319", True)])
def test_a_baseline_by_counts(data: Path, capsys: pytest.CaptureFixture[str], baseline: str, told: bool) -> None:
    with table_server(answers(wrong=4)) as server:
        main(command(server.url, data, "--baseline", baseline))
    out = capsys.readouterr().out
    assert ("are told apart" in out) is told
    assert ("NOT told apart" in out) is not told
    assert "Fisher" in out


def test_a_baseline_of_the_same_questions_is_compared_one_by_one(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """2 wrong then and 8 now: as counts p = 0.09, as pairs (6 of 6 one way) 2 / 64."""
    first = data.parent / "first.jsonl"
    with table_server(answers(wrong=2)) as server:
        main([*command(server.url, data)[:-1], str(first)])
    with table_server(answers(wrong=8)) as server:
        main(command(server.url, data, "--baseline", str(first)))
    out = capsys.readouterr().out
    assert "0 right only now, 6 only then" in out
    assert "0.800 and 0.950 are told apart (p = 0.031" in out


def test_so_many_at_once_and_no_more(data: Path) -> None:
    def slow(question: str, tried: int) -> int:
        time.sleep(0.02)
        return 0

    with table_server(answers(wrong=0), slow) as server:
        main(command(server.url, data, "--concurrency", "5"))
    assert 2 <= server.most_together <= 5


def test_a_server_that_is_gone_ends_the_run(data: Path, tmp_path: Path) -> None:
    questions = read_questions(data)
    with table_server({}) as server:
        url = server.url
    asked = Asked("table", Api.COMPLETIONS, "", "", 16)
    found: list[Answer | LostQuestion] = []
    with pytest.raises(CannotRunError, match="16 questions in a row"):
        found.extend(ask_all(Server(url, retries=0), asked, questions[:5], questions[5:], 4))


def test_a_server_that_never_was_is_said_before_anything_is_written(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with table_server({}) as server:
        url = server.url
    assert main(command(url, data, "--retries", "0")) == 3
    assert "is the server up?" in capsys.readouterr().err
    assert not (data.parent / "answers.jsonl").exists()


def test_a_request_that_hangs_is_given_up(data: Path) -> None:
    def hang(question: str, tried: int) -> int:
        time.sleep(1.0)
        return 0

    questions = read_questions(data)
    asked = Asked("table", Api.COMPLETIONS, "", "", 16)
    with table_server(answers(wrong=0), hang) as server:
        (found,) = ask_all(Server(server.url, timeout=0.1, retries=0), asked, questions[:5], questions[5:6], 1)
    assert isinstance(found, LostQuestion)
    assert "timed out" in found.reason


def test_the_key_is_sent(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVER_KEY", "open sesame")
    with table_server(answers(wrong=0)) as server:
        assert main(command(server.url, data, "--questions", "1", "--api-key-env", "SERVER_KEY")) == 0
    assert server.headers[0]["Authorization"] == "Bearer open sesame"


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("so 3 + 4 = 7", "7"),
        ("$1,234.50 in all.", "1234.50"),
        ("it is -3.", "-3"),
        ("18.00 dollars", "18"),
        ("5 apples and 1,000 pears", "1000"),
        ("none", None),
    ],
)
def test_the_last_number(text: str, number: str | None) -> None:
    assert last_number(text) == (None if number is None else Decimal(number))


@pytest.mark.parametrize(
    ("mend", "complaint"),
    [
        (lambda text: text.replace("#### 1,007", "1,007"), "line 8"),
        (lambda text: text.replace('"question": "What is 3 ', '"ask": "What is 3 '), "line 4"),
        (lambda text: text[:-10], "line 45"),
        (lambda text: "", "no question"),
    ],
)
def test_a_file_that_is_not_gsm8k_is_named_by_line(data: Path, mend: Callable[[str], str], complaint: str) -> None:
    data.write_text(mend(data.read_text()))
    with pytest.raises(UsageError, match=complaint):
        read_questions(data)


@pytest.mark.parametrize(
    "more",
    [["--questions", "41"], ["--questions", "0"], ["--threshold", "93"], ["--baseline", "3/2"], ["--api", "grpc"]],
)
def test_wrong_usage(data: Path, more: list[str]) -> None:
    with table_server(answers(wrong=0)) as server:
        assert main(command(server.url, data, *more)) == 2


def test_an_url_that_is_none() -> None:
    with pytest.raises(UsageError, match="--url"):
        Server("localhost:8000")
