"""What of a file ran, and whether a change's own lines did: on small files, and in what the gate says of it."""

from __future__ import annotations

import dataclasses
import json
import textwrap

import pytest

from backend.real.frameworks.worker import ExecutedLines
from backend.real.python.outline import outline
from backend.real.python.trees import ModuleSource
from fuzz.gate.comparison import compared
from fuzz.gate.executed import Executed, change_run
from fuzz.gate.source_report import report
from fuzz.report.render import json_text, lines, markdown
from fuzz.verdict import Conclusion
from tests.fuzz.gate.test_gate_comparison import examined

BASE = textwrap.dedent("""\
    from aiter import mla_decode_fwd as decode, plan
    import aiter.ops as ops

    def run(flag):
        if flag:
            decode(
                1)
        else:
            ops.attention.other()
        return [each for each in (1, 2)]

    class Backend:
        def idle(self):
            plan()
            return 1
    """)


def source(text: str, filename: str = "tree/pack/backend.py") -> ModuleSource:
    return ModuleSource("pack.backend", text, filename, False)


def ran(text: str, *called: str) -> Executed:
    """The file after these expressions, measured; AITER stands for itself."""
    target = source(text)
    stub = "class Stub:\n    def __getattr__(self, name): return self\n    def __call__(self, *given): return self\n"
    names: dict[str, object] = {"__name__": "pack.backend"}
    exec(stub, names)
    whole = text.replace("from aiter import mla_decode_fwd as decode, plan", "decode = plan = Stub()")
    whole = whole.replace("import aiter.ops as ops", "ops = Stub()")

    def everything() -> None:
        exec(compile(whole, target.filename, "exec"), names)
        for each in called:
            exec(each, names)

    _, executed = ExecutedLines(target).during(everything)
    return Executed(target.filename, text, outline(target, "aiter"), frozenset(executed))


def test_calls_by_an_attribute_count_where_it_holds_a_name_of_the_package_or_is_called_like_one() -> None:
    text = textwrap.dedent("""\
        class Backend:
            def __init__(self):
                from aiter import prefill, reduce as merge

                self._run, self.other = prefill, open
                self._prefill = prefill

            def forward(self):
                self._prefill(1)
                operators.reduce(2)
                self.other(3)
                self.merge(4)
        """)
    found = outline(source(text), "aiter")
    assert [(each.name, each.line) for each in found.calls] == [("prefill", 9), ("reduce", 10)]


def test_calls_of_a_module_in_front_of_the_package_count_but_not_its_questions() -> None:
    text = textwrap.dedent("""\
        from vllm._aiter_ops import rocm_aiter_ops as operators
        from vllm._custom_ops import others

        if operators.is_enabled() and operators.mla_decode_supports_qlen(2):
            operators.mla_decode_fwd_lse(1)
            others.quantise(2)
        """)
    assert [(each.name, each.line) for each in outline(source(text), "aiter").calls] == [("mla_decode_fwd_lse", 5)]


def test_operators_of_the_package_in_torch_count() -> None:
    text = "import torch\ntorch.ops.aiter.paged_attention_v1(1)\ntorch.ops.other.decode(1)\n"
    assert [(each.name, each.line) for each in outline(source(text), "aiter").calls] == [("paged_attention_v1", 2)]


def test_lines_functions_and_calls_of_a_file_that_ran_in_part() -> None:
    found = ran(BASE, "run(True)")
    assert [(each.name, each.line) for each in found.outline.calls] == [("mla_decode_fwd", 6), ("other", 9), ("plan", 14)]
    assert [each.name for each in found.calls_not_run] == ["other", "plan"]
    assert [name for name, ran, _ in found.least_run if not ran] == ["Backend.idle"]
    assert {9, 14, 15}.isdisjoint(found.lines)
    assert {4, 5, 6, 10, 12, 13} <= found.lines
    assert found.says().endswith("1 of 2 functions, 1 of 3 calls into AITER")
    assert ran(BASE, "run(True)", "run(False)", "Backend().idle()").percent == 100


def test_each_action_is_measured_alone() -> None:
    target = source("def f():\n    return 1\n\ndef g():\n    return 2\n")
    names: dict[str, object] = {}
    exec(compile(target.text, target.filename, "exec"), names)
    watch = ExecutedLines(target)
    assert [watch.during(names[each])[1] for each in ("f", "g", "f")] == [(2,), (5,), (2,)]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("old", "new", "called", "idle"),
    [
        ("            return 1", "            return 2", "run(True)", ("15 (idle)",)),
        ("            return 1", "            return 2", "Backend().idle()", ()),
        ("ops.attention.other()", "ops.attention.another()", "run(True)", ("9 (run)",)),
        ("ops.attention.other()", "ops.attention.another()", "run(False)", ()),
        ("            return 1", "            return 1  # one", "run(False)", ()),
        ("class Backend:", "# of the day\nclass Backend:", "run(True)", ()),
        ("        plan()\n", "", "run(True)", ("14 (idle)",)),
        ("        plan()\n", "", "Backend().idle()", ()),
    ],
)
def test_a_changed_function_of_which_no_changed_line_ran_is_named(
    old: str, new: str, called: str, idle: tuple[str, ...]
) -> None:
    old, new = old.removeprefix("    "), new.removeprefix("    ")
    assert old in BASE
    assert change_run(ran(BASE.replace(old, new), called), ran(BASE, called)).idle == idle


def test_what_did_not_run_is_not_called_clean() -> None:
    """The whole question of a change that no scenario reaches: not clean, by name, in every form of the report."""
    changed = ran(BASE.replace("return 1", "return 2"), "run(True)")
    base = dataclasses.replace(examined(), executed=ran(BASE, "run(True)"))
    found = compared(dataclasses.replace(examined(), executed=changed), base, lambda _: None, lambda _: False)
    assert found.verdict.conclusion is Conclusion.OPEN
    assert found.verdict.missing == ("changed lines that no scenario reached: 15 (idle)",)


def test_a_clean_headline_is_limited_to_what_ran() -> None:
    change = dataclasses.replace(examined(), executed=ran(BASE, "run(True)"))
    made = report(compared(change, change, lambda _: None, lambda _: False), change, change)
    percent = change.executed.percent if change.executed is not None else -1
    assert made.headline.startswith(f"clean in the {percent} % of the file that ran: no memory fault that the change brings")
    assert "not run: idle (2 of 2 lines)" in made.headline
    printed = "\n".join(lines(made))
    assert "1 of 3 calls into AITER" in printed
    assert "Backend.idle" in printed
    assert "`plan`" in markdown(made)
    data = json.loads(json_text(made))["executed"]
    assert {each["name"]: each["ran"] for each in data["functions"]} == {"run": 4, "Backend.idle": 0}
