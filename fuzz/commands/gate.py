"""`aiterfuzz gate`: a backend change judged by its own source file, without a GPU and without the framework installed."""

from __future__ import annotations

import argparse
import dataclasses
import shlex
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from backend.errors import UsageError
from fuzz.commands.arguments import expected, number, numbers, seconds, some_of
from fuzz.commands.printing import add_amounts, print_report

if TYPE_CHECKING:
    from collections.abc import Callable

    from fuzz.gate.comparison import Comparison, Fault
    from fuzz.gate.gate import Examined, GatePlan, Stack
    from fuzz.gate.judge import Sighting
    from fuzz.gate.sweep import Tensors
    from fuzz.report.report import Report
    from fuzz.space import CaseSpace


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declares the command and its flags."""
    command = commands.add_parser(
        "gate",
        help="judge a backend change by its own source file",
        description="Runs the real attention backend of a source tree, wheel or release (sglang==X, vllm==X, PATH, "
        "PATH@REVISION; with :NAME.py another of its backend files) on a GPU that isn't there: every decision of its "
        "constructor, eager steps, graphs, speculation, then random lives until time is up. A rule of your own "
        "(rule.py[:name], module:name or rule.toml) is gated the same way. Exits 1 for a memory fault that the base does not "
        "have.",
    )
    command.add_argument("source", metavar="SOURCE", help="the change")
    command.add_argument("--base", metavar="SOURCE", help="what it is compared with; only what the base lacks is blamed")
    command.add_argument(
        "--expect", type=expected, default=(), metavar="ID[,ID]", help="entries or signatures that nobody is blamed for"
    )
    command.add_argument(
        "--aiter",
        metavar="PATH[@REV]",
        help="checkout of ROCm/aiter whose code runs, on both sides; without REV the one that SOURCE is built with, where that "
        "is known; without a checkout the newest built-in release",
    )
    add_flags(command)
    command.add_argument(
        "--table",
        action="store_true",
        help="print what the file decides for each head count and KV dtype, the planner and kernel that AITER takes, whether "
        "plain decode is right; with a base, the rows that differ; run no more",
    )
    command.add_argument(
        "--only",
        metavar="SCENARIO",
        help="run this one, named as a report names it (or gate.json:N, its Nth fault), and explain its first wrong step",
    )
    command.set_defaults(command=run)


def add_flags(command: argparse.ArgumentParser, default_seconds: float = 60.0) -> None:
    """What every examination of a source can be asked for."""
    from backend.case import Arch, DType

    command.add_argument(
        "--device", default="model", metavar="D", help="runs the calls: model (default), cdna, both, rocm, cuda"
    )
    command.add_argument(
        "--arch", type=some_of("--arch", Arch), metavar="A[,A]", help="gfx950 (default; of a rule: each it serves), gfx942"
    )
    command.add_argument("--kv-dtype", type=some_of("--kv-dtype", DType), metavar="T[,T]", help="fp8,bf16 (default)")
    command.add_argument("--heads", type=numbers("--heads"), metavar="N[,N]", help="heads a rank (4 to 128)")
    command.add_argument(
        "--seconds",
        type=seconds,
        default=default_seconds,
        metavar="S",
        help=f"for everything ({default_seconds:g}); what the sweep had no time for is said, and left open where nothing else "
        "ran it",
    )
    command.add_argument(
        "--lives", type=number("--lives", 0), metavar="N", help="random lives at most (as many as time allows)"
    )
    command.add_argument("--seed", type=number("--seed", 0), default=0, metavar="N", help="of the random lives (0)")
    command.add_argument(
        "--out", type=Path, metavar="DIR", help="folder for gate.json, .xml, .sarif, .html, summary.md, comment.md, life.py"
    )
    add_amounts(command)
    command.add_argument("--annotate", action="store_true", help="print GitHub annotations (default under GITHUB_ACTIONS)")


def run(arguments: argparse.Namespace) -> int:
    """Gates a source; 1 where something is blamed on it."""
    from fuzz.fence_line import say_what_the_fence_lacks
    from reprod.folder import one_writer

    started = time.monotonic()
    check(arguments)
    say_what_the_fence_lacks()
    if arguments.table:
        return _table(arguments)
    with one_writer(arguments.out):
        return _gate(arguments, started)


def _gate(arguments: argparse.Namespace, started: float) -> int:
    from fuzz.compiling import announced as compiling
    from fuzz.own_process import Interruption

    source = _placed(arguments)
    with compiling(), Interruption(STOPPING):
        return _policy(arguments) if _is_policy(source) else _source(arguments, started, source)


def _placed(arguments: argparse.Namespace) -> str:
    """The source, or, of a file that lies in no package, the file in the base's tree."""
    from backend.real.frameworks.fetch import LENT, lies_alone

    if arguments.base is None or not lies_alone(arguments.source):
        return str(arguments.source)
    say(f"{arguments.source} lies in no package: all around it is the base's")
    return f"{arguments.source}{LENT}{arguments.base}"


STOPPING = "stopping after the step at hand; once more stops at once"


def _source(arguments: argparse.Namespace, started: float, source: str) -> int:
    """source: what was given, or the file in the base's tree."""
    from backend.real.frameworks.fetch import open_source, same_file_of
    from backend.real.frameworks.session import gate_line
    from fuzz.gate.comment import comment, life_script
    from fuzz.gate.comparison import compared
    from fuzz.gate.gate import Stack
    from fuzz.gate.known import Known
    from fuzz.gate.run import run as examine
    from fuzz.gate.source_report import report
    from fuzz.gate.which_aiter import which_aiter

    known = Known()
    known.require_expected(arguments.expect)
    chosen = which_aiter(source, arguments.aiter)
    before = None if arguments.base is None else Stack(same_file_of(arguments.base, source), chosen.aiter, chosen.release)
    stack = Stack(source, chosen.aiter, chosen.release)
    if arguments.only is not None:
        return _again(arguments, stack)

    def judged(change: Examined, base: Examined | None) -> Comparison:
        return compared(change, base, known.reference, known.is_open, arguments.expect)

    def blamed(change: Examined, base: Examined | None) -> list[Sighting]:
        return [fault.smallest for fault in judged(change, base).blamed]

    change, base = examine(stack, before, plan(arguments), say, blamed)
    found = judged(change, base)
    made = report(found, change, base, gate_line(open_source(source)), again=_commands(arguments, found))
    made = dataclasses.replace(made, about=(chosen.why, *made.about))
    if arguments.out is not None:
        _write(arguments.out, "comment.md", comment(made, found, source, arguments.aiter, arguments.out))
        for fault in found.blamed[:1]:
            _write(arguments.out, "life.py", life_script(fault, source, arguments.aiter, arguments.out))
    code_of_exit = tell(made, arguments)
    say(f"{time.monotonic() - started:.0f} s")
    return code_of_exit


def _table(arguments: argparse.Namespace) -> int:
    """The decision table alone."""
    from fuzz.commands.decide import table

    arguments.source = _placed(arguments)
    if _is_policy(arguments.source):
        raise UsageError(f"--table: given {arguments.source}, which is a rule; a table is made of a backend's own file")
    made = table(arguments)
    print_report(arguments, made)
    return made.verdict.exit_code


def _again(arguments: argparse.Namespace, stack: Stack) -> int:
    """One scenario once more, and its first wrong step explained."""
    from fuzz.gate.again import run_again, scenario_named

    asked = plan(arguments)
    lines, verdict = run_again(stack, asked, scenario_named(arguments.only, asked))
    print("\n".join((*lines, *(f"open: {question}" for question in verdict.open_questions))))
    return verdict.exit_code


def _commands(arguments: argparse.Namespace, found: Comparison) -> Callable[[Fault], str]:
    """What shows a fault's smallest case again: by its scenario's name, or by the gate.json that has it."""
    from fuzz.gate.again import swept

    named = swept(plan(arguments))
    flags = (("--base", "base"), ("--heads", "heads"), ("--kv-dtype", "kv_dtype"), ("--arch", "arch"), ("--aiter", "aiter"))
    given = [(flag, getattr(arguments, name)) for flag, name in flags if getattr(arguments, name)]
    typed = [part for flag, value in given for part in (flag, ",".join(map(str, value)) if isinstance(value, tuple) else value)]

    def again(fault: Fault) -> str:
        scenario = fault.smallest.scenario
        if named.get(scenario.name) == scenario:
            only = scenario.name
        elif arguments.out is not None:
            only = f"{arguments.out / 'gate.json'}:{found.faults.index(fault) + 1}"
        else:
            return ""
        return shlex.join(["aiterfuzz", "gate", arguments.source, *typed, "--only", only])

    return again


def plan(arguments: argparse.Namespace) -> GatePlan:
    """What the flags ask for."""
    from fuzz.gate.gate import GatePlan
    from fuzz.gate.sweep import HEADS

    heads = tuple(arguments.heads or HEADS)
    return GatePlan(_tensors(arguments), heads, arguments.seconds, arguments.seed, arguments.device, arguments.lives)


def _policy(arguments: argparse.Namespace) -> int:
    """A rule instead of a source file: the search of `run`, and what the base's rule does with the same cases."""
    if arguments.only is not None:
        raise UsageError("--only: a rule has no scenarios; leave it out, and see one case with `aiterfuzz explain`")
    if arguments.lives is not None:
        raise UsageError("--lives: a rule has no lives, and the cases that it is tried on end with --seconds; leave it out")
    from backend.aiter.codefiles import open_source
    from backend.aiter.release import nearest_release
    from backend.devices.kinds import open_device
    from backend.path import Path as CasePath
    from backend.revision.revision import host_of
    from backend.serving.frameworks import FRAMEWORKS, newest_release
    from fuzz.gate.known import Known
    from fuzz.gate.policy import gate_policy, report
    from reprod.case_line import case_flags

    if arguments.source in FRAMEWORKS:
        say(f"{arguments.source} is a rule, judged without its framework's file; that is {newest_release(arguments.source)}")
    Known().require_expected(arguments.expect)
    source = open_source(arguments.aiter) if arguments.aiter is not None else None
    path = CasePath(host_of(source), open_device(arguments.device, source))
    asked = _space(arguments, nearest_release(source).name if source is not None else None)
    gated = gate_policy(asked, arguments.base, path, arguments.seconds, arguments.seed, arguments.expect)
    on = ["--device", arguments.device, *(["--aiter", arguments.aiter] if arguments.aiter is not None else [])]
    return tell(report(gated, lambda case: shlex.join(["aiterfuzz", "explain", *case_flags(case), *on])), arguments)


def _space(arguments: argparse.Namespace, release: str | None) -> CaseSpace:
    """What `run` draws for the rule, narrowed by the flags. release: of AITER; None: the default one."""
    from backend.serving.registry import bounds_of
    from fuzz.gate.sweep import HEADS
    from fuzz.space import space
    from fuzz.spec import Spec

    heads = tuple(arguments.heads or (each for each in HEADS if each in bounds_of(arguments.source).heads))
    releases = None if release is None else (release,)
    asked = space(Spec(backend=arguments.source, heads=heads, archs=arguments.arch, releases=releases))
    if arguments.kv_dtype is None:
        return asked
    wanted = arguments.kv_dtype
    return dataclasses.replace(asked, tensor_types=tuple(types for types in asked.tensor_types if types[2] in wanted))


def tell(made: Report, arguments: argparse.Namespace) -> int:
    """Prints and writes what a gate came to; its exit code."""
    from fuzz.report import render
    from fuzz.report.page.html import report_page

    print_report(arguments, made, annotate=arguments.annotate)
    if arguments.out is not None:
        _write(arguments.out, "gate.json", render.json_text(made))
        _write(arguments.out, "gate.xml", render.junit(made))
        _write(arguments.out, "gate.sarif", render.sarif(made))
        _write(arguments.out, "gate.html", report_page(made))
        _write(arguments.out, "summary.md", render.markdown(made))
    return made.verdict.exit_code


def _is_policy(source: str) -> bool:
    """Whether the source is a rule: a registered backend, module:name, a .toml table, or a .py file that is no backend's."""
    from backend.real.frameworks.fetch import lies_alone, named_file
    from backend.serving.backends import BACKENDS
    from backend.serving.frameworks import TARGETS

    if named_file(source)[1] or lies_alone(source):
        return False
    path = source.partition(":")[0]
    if source in BACKENDS or path.endswith(".toml"):
        return True
    if path.endswith(".py"):
        return Path(path).name not in {Path(target.file).name for target in TARGETS}
    return ":" in source and not Path(source).exists()


def _tensors(arguments: argparse.Namespace) -> tuple[Tensors, ...]:
    from backend.case import Arch
    from fuzz.gate.sweep import GFX942, GFX950

    archs = arguments.arch or (Arch.GFX950,)
    wanted = arguments.kv_dtype
    return tuple(one for one in (*GFX950, *GFX942) if one.arch in archs and (wanted is None or one.kv_dtype in wanted))


def check(arguments: argparse.Namespace) -> None:
    """UsageError for flags that nothing can be done with; makes the folder of --out."""
    if arguments.heads is not None and not all(1 <= head <= 1024 for head in arguments.heads):
        raise UsageError.not_allowed("--heads", arguments.heads, "1..1024")
    if arguments.out is not None:
        from reprod.folder import prepare_folder

        prepare_folder(arguments.out)


def _write(folder: Path, name: str, text: str) -> None:
    (folder / name).write_text(text, encoding="utf-8")


def say(text: str) -> None:
    """A line beside the report."""
    print(text, file=sys.stderr, flush=True)
