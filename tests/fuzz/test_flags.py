"""Flags are made of a specification's fields: no list of flags besides, no field without one."""

from __future__ import annotations

import argparse
import dataclasses
import functools

import pytest

from backend.case import Arch, Case, DType, MetadataMode
from backend.errors import UsageError
from fuzz.campaign.config import CampaignConfig
from fuzz.cli import parser
from fuzz.commands.flags import add_flags, given, given_case_fields
from fuzz.space import space
from fuzz.spec import Spec, explained
from fuzz.strategies import chunk_cases
from reprod.case_line import case_flags
from tests.tiers import one_of_each

FORMERLY = {
    "--release": ("2025-11", "releases", ("2025-11",)),
    "--arch": ("gfx942,gfx950", "archs", (Arch.GFX942, Arch.GFX950)),
    "--mode": ("fake", "modes", (MetadataMode.FAKE,)),
    "--qlen": ("1,4", "query_rows", (1, 4)),
    "--page-size": ("16", "page_sizes", (16,)),
    "--max-kv": ("99", "max_kv_len", 99),
}


PARSER = functools.cache(parser)


def parsed(command: str, *flags: str) -> argparse.Namespace:
    return PARSER().parse_args([command, *flags])


@pytest.mark.parametrize("command", ["run", "campaign", "nightly", "agree"])
@pytest.mark.parametrize("old", sorted(FORMERLY))
def test_every_command_takes_field_and_former_flag_alike(command: str, old: str) -> None:
    text, field, value = FORMERLY[old]
    for flag in (old, "--" + field.replace("_", "-")):
        assert given(parsed(command, flag, text), Spec) == {field: value}


@pytest.mark.parametrize("command", ["run", "campaign", "nightly"])
def test_no_field_of_a_specification_is_without_a_flag(command: str) -> None:
    namespace = vars(parsed(command))
    assert {field.name for field in dataclasses.fields(Spec)} <= set(namespace)
    assert given(parsed(command), Spec) == {}, "what is not given stays open"


def test_a_gpu_may_be_named_as_it_is_sold() -> None:
    assert given(parsed("run", "--archs", "MI355X,mi300x"), Spec) == {"archs": (Arch.GFX950, Arch.GFX942)}
    assert parsed("gate", "x", "--arch", "mi325x").arch == (Arch.GFX942,)
    with pytest.raises(UsageError, match="mi355x"):
        parsed("run", "--archs", "h200")


@dataclasses.dataclass(frozen=True, slots=True)
class Wider(CampaignConfig):
    """A configuration with fields of each type, as one line each adds them."""

    dtypes: tuple[DType, ...] | None = explained(None, "kinds of 100 % use")
    ratio: float = explained(0.5, "a number")
    careful: bool = explained(True, "go carefully; false: go fast")
    least_three: int = explained(7, "a count", least=3)


def test_a_field_is_one_line() -> None:
    command = argparse.ArgumentParser(prog="x")
    add_flags(command, Wider)
    set_ = command.parse_args(["--dtypes", "fp8,bf16", "--no-careful", "--ratio", "0.25", "--least-three", "3"])
    found = given(set_, Wider)
    assert found == {"dtypes": (DType.FP8, DType.BF16), "ratio": 0.25, "careful": False, "least_three": 3}
    help_text = " ".join(command.format_help().split())
    assert "kinds of 100 % use" in help_text
    assert "careful = false: go fast" in help_text
    assert "a count (7)" in help_text
    with pytest.raises(UsageError, match="--least-three: given '2'; allowed: a whole number of at least 3"):
        command.parse_args(["--least-three", "2"])
    with pytest.raises(UsageError, match="least_three: given 2; allowed: at least 3"):
        Wider(least_three=2)


def test_a_help_that_gives_the_commands_own_default() -> None:
    command = argparse.ArgumentParser(prog="x")
    add_flags(command, Spec, without=("backend",), defaults={"max_batch": 16})
    assert "requests of a case at most (16)" in " ".join(command.format_help().split())
    assert "--backend" not in command.format_help()


@pytest.mark.parametrize("backend", one_of_each(["direct", "sglang-27188", "vllm"]))
def test_explain_is_told_a_case_by_flags(backend: str) -> None:
    cases = chunk_cases(space(Spec(backend=backend, max_batch=8, max_kv_len=500)), 0, 0, 300)
    for case in cases:
        told = parsed("explain", *case_flags(case))
        assert Case(**given_case_fields(told)) == case
