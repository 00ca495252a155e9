"""`aiterfuzz accuracy`: how far kernels are from float64 attention, and a served model from GSM8K's answers."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backend.errors import UsageError
from fuzz.commands.arguments import add_aiter, number, one_of, seconds
from fuzz.commands.flags import add_case_flags, given_case_fields
from fuzz.commands.printing import add_amounts, print_report

if TYPE_CHECKING:
    from backend.aiter.codefiles import CodeSource
    from backend.case import Case
    from fuzz.accuracy.gsm8k import Question
    from fuzz.accuracy.measure import Measured, ServingChoice
    from fuzz.accuracy.server import Server

MACHINE_CUS = 8
"""Compute units planned for on the simulated machine: requests are split as on a GPU, and a run takes seconds."""


UNITS_TEXT = f"{MACHINE_CUS} on cdna, else all"

DEFAULT_SHAPE: dict[str, Any] = {"num_head": 16, "kv_lens": (200, 70)}
"""The shape that is measured where none is given."""

SHAPE = ("num_head", "kv_lens", "max_seqlen_q", "page_size", "arch", "num_cu", "release")
"""Fields of a Case that make a shape; the mode and the types are what is compared."""


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declares the command and its flags."""
    command = commands.add_parser(
        "accuracy",
        help="errors of kernels against float64, or of a server on GSM8K",
        description="How far results are from right: `kernels` compares each kernel that a shape can be served with to "
        "float64 attention; `gsm8k` asks a running OpenAI-compatible server.",
    )
    parts = command.add_subparsers(title="what", metavar="WHAT", required=True)
    _add_kernels(parts)
    _add_gsm8k(parts)


def _add_kernels(parts: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    part = parts.add_parser(
        "kernels",
        help="each kernel choice for a shape against float64",
        description="Runs one shape with every metadata mode and type of q and KV, natively and in groups of 16 heads, and "
        "prints each one's error against float64 attention. Exits 1 where one leaves its error budget, 3 where one that AITER "
        "takes gave no numbers.",
    )
    add_case_flags(part, SHAPE, {name: _flag_text(value) for name, value in DEFAULT_SHAPE.items()} | {"num_cu": UNITS_TEXT})
    part.add_argument(
        "--device",
        default="cdna",
        metavar="D",
        help="runs the kernels: cdna (default: machine code on the CPU), rocm, cuda",
    )
    add_aiter(part)
    part.add_argument("--seed", type=number("--seed", 0), default=0, metavar="N", help="of the numbers in q and KV (0)")
    part.add_argument("--out", type=Path, metavar="FILE", help="every choice with its figures, as JSON lines")
    add_amounts(part)
    part.set_defaults(command=kernels)


def kernels(arguments: argparse.Namespace) -> int:
    """Measures every choice of a shape; prints the table."""
    from backend.aiter.codefiles import open_source
    from backend.codec import dumps
    from backend.devices.kinds import device_kind
    from fuzz.accuracy.measure import TYPES, choices, measured, rounding_alone
    from fuzz.compiling import announced
    from fuzz.report.accuracy import figures_of, report
    from reprod.folder import prepare_file

    prepare_file("--out", arguments.out)
    source = open_source(arguments.aiter) if arguments.aiter is not None else None
    shape = _shape(arguments, source)
    with announced():
        one = _one(arguments, shape, source)
        found = list(measured(list(choices(shape, source)), one))
    on_machine = device_kind(arguments.device).runs_code_objects
    rounding = {types: rounding_alone(shape, *types, arguments.seed) for types in TYPES} if on_machine else {}
    if arguments.out is not None:
        arguments.out.write_text("".join(dumps(figures_of(each)) + "\n" for each in found), encoding="utf-8")
    made = report(found, rounding, arguments.device)
    print_report(arguments, made)
    return made.verdict.exit_code


def _one(arguments: argparse.Namespace, shape: Case, source: CodeSource | None) -> Callable[[ServingChoice], Measured]:
    from functools import partial

    from backend.devices.kinds import DEVICES, NumbersKind, device_kind, open_device
    from fuzz.accuracy.measure import on_gpu, on_machine

    kind = device_kind(arguments.device)
    if kind.numbers is NumbersKind.NEVER:
        having = ", ".join(each.name for each in DEVICES.values() if each.numbers is not NumbersKind.NEVER)
        raise UsageError.not_allowed("--device", arguments.device, having, "no other device computes numbers")
    if kind.runs_code_objects:
        return partial(on_machine, shape=shape, source=source, seed=arguments.seed)
    return partial(on_gpu, device=open_device(arguments.device))


def _shape(arguments: argparse.Namespace, source: CodeSource | None) -> Case:
    from backend.aiter.release import nearest_release
    from backend.case import Case
    from backend.devices.kinds import device_kind
    from fuzz.spec import DEFAULT_RELEASE

    given = given_case_fields(arguments)
    on_machine = device_kind(arguments.device).runs_code_objects
    of_source = nearest_release(source).name if source is not None else "2025-11" if on_machine else DEFAULT_RELEASE
    chosen = {"release": of_source, "num_cu": MACHINE_CUS if on_machine else 0}
    return Case(**DEFAULT_SHAPE | chosen | given | {"backend": "direct"})


def _flag_text(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _add_gsm8k(parts: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    part = parts.add_parser(
        "gsm8k",
        help="GSM8K against a running server",
        description="Asks an OpenAI-compatible server GSM8K's questions with 5 worked examples at temperature 0; the last "
        "number of an answer counts. Prints the exact binomial interval, and whether a baseline is told apart. Exits 1 "
        "below the threshold, 3 where questions got no answer. --out is written as answers come: the same command goes on.",
    )
    part.add_argument("--url", required=True, metavar="URL", help="http://HOST:PORT of the server")
    part.add_argument("--data", type=Path, required=True, metavar="FILE", help="GSM8K's test.jsonl")
    part.add_argument(
        "--train", type=Path, metavar="FILE", help="worked examples from here; else the first 5 of --data, not asked"
    )
    part.add_argument(
        "--questions", default="200", metavar="N", help="how many are asked, from the first on: 200 (default), all"
    )
    part.add_argument("--threshold", type=_rate, default=0.93, metavar="P", help="0.93")
    part.add_argument("--baseline", metavar="B", help="RIGHT/ASKED, a rate, or the --out of an earlier run")
    part.add_argument("--model", metavar="M", help="name (the first that the server lists)")
    part.add_argument("--api", type=str, default="completions", metavar="A", help="completions (default), chat")
    part.add_argument("--max-tokens", type=number("--max-tokens", 1), default=512, metavar="N", help="of an answer (512)")
    part.add_argument("--concurrency", type=number("--concurrency", 1), default=64, metavar="N", help="at once (64)")
    part.add_argument("--timeout", type=seconds, default=600.0, metavar="S", help="of one request (600)")
    part.add_argument("--retries", type=number("--retries", 0), default=4, metavar="N", help="after the first try (4)")
    part.add_argument("--api-key-env", metavar="NAME", help="environment variable that holds the server's key")
    part.add_argument("--out", type=Path, default=Path("gsm8k.jsonl"), metavar="FILE", help="answers (gsm8k.jsonl)")
    add_amounts(part)
    part.set_defaults(command=gsm8k)


def gsm8k(arguments: argparse.Namespace) -> int:
    """Asks the questions; prints what the answers say."""
    from fuzz.accuracy.gsm8k import SHOTS, Answer, AnswerFile, Asked, ask_all, fingerprint, read_questions
    from fuzz.accuracy.verdict import read_baseline
    from fuzz.report.gsm8k import report

    server = _server(arguments)
    every = read_questions(arguments.data)
    shots = (read_questions(arguments.train) if arguments.train is not None else every)[:SHOTS]
    questions = _chosen(every if arguments.train is not None else every[SHOTS:], arguments.questions)
    model = arguments.model or server.model()
    asked = Asked(model, server.api, fingerprint(questions), fingerprint(shots), arguments.max_tokens)
    baseline = None if arguments.baseline is None else read_baseline(arguments.baseline, asked, len(questions))
    with AnswerFile(arguments.out, asked) as file:
        missing = [question for question in questions if question.index not in file.answers]
        if len(missing) < len(questions):
            print(f"{len(questions) - len(missing)} answers of an earlier run in {arguments.out}", file=sys.stderr)
        for count, each in enumerate(ask_all(server, asked, shots, missing, arguments.concurrency), 1):
            if isinstance(each, Answer):
                file.add(each)
            if count % 50 == 0:
                print(f"{count} of {len(missing)}", file=sys.stderr)
        answers = list(file.answers.values())
    about = f"GSM8K, {model} at {arguments.url} ({server.api}), {len(shots)} shots, temperature 0; answers: {arguments.out}"
    made = report(answers, len(questions) - len(answers), arguments.threshold, baseline, about)
    print_report(arguments, made)
    return made.verdict.exit_code


def _server(arguments: argparse.Namespace) -> Server:
    import os

    from fuzz.accuracy.server import Api, Server

    key = None
    if arguments.api_key_env is not None:
        key = os.environ.get(arguments.api_key_env)
        if key is None:
            raise UsageError.not_allowed("--api-key-env", arguments.api_key_env, "the name of a variable that is set")
    api = one_of("--api", Api)(arguments.api)
    return Server(arguments.url, api, arguments.timeout, arguments.retries, key)


def _chosen(questions: Sequence[Question], given: str) -> Sequence[Question]:
    if given == "all" and questions:
        return questions
    count = int(given) if given.isdecimal() else 0
    if not 1 <= count <= len(questions):
        raise UsageError.not_allowed(
            "--questions", given, f"1..{len(questions)} (what the file has beside the examples), or all"
        )
    return questions[:count]


def _rate(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise UsageError.not_allowed("--threshold", text, "a rate in 0..1")
    return value
