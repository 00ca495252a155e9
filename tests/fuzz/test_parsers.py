"""Whatever a file holds, reading it gives a value or one line: cases, corpus entries, configurations, rules in TOML.

Deterministic and bounded: each parser gets the same inputs everywhere. The store's are in campaign/test_campaign_damaged.py.
"""

from __future__ import annotations

import copy
import itertools
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from complaints import one_complaint
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backend.case import Case
from backend.codec import read_file, to_plain
from backend.errors import AiterfuzzError, UsageError
from backend.serving.registry import named_policy, read_head_table
from fuzz.campaign.config import CampaignConfig, config_lines, read_config
from fuzz.cli import main
from reprod.corpus import load_entry
from reprod.entry import given_case
from tests.tiers import one_of_each

ROOT = Path(__file__).parents[2]

BOUNDED = settings(
    max_examples=150 if os.environ.get("AITERFUZZ_SLOW") else 50,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)

DEEP = "[" * 100_000
LONG = "9" * 5_000

ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from([0, -1, 2**31, 2**63, 10**400, -(10**400), 1.5, 1e308]),
    st.sampled_from(["", "x", ":x", ".:x", "json:loads", "\0", "../x.py", "\ud800", "9" * 5000, "a\nb"]),
    st.sampled_from([[], {}, [[]], [None], {"x": {}}, [2**63], [-1, "x"], [1.5]]),
)


def accepts(read: Callable[[Path], object], path: Path) -> bool:
    """Whether a file is read; what else than one line is raised fails the test."""
    said = ""
    try:
        read(path)
        return True
    except AiterfuzzError as error:
        said = str(error)
        assert isinstance(error, UsageError)  # noqa: PT017  (any other must fail)
    assert said
    assert len(said) < 4_000
    assert "\n" not in said
    return False


def places(plain: Any) -> list[tuple[Any, Any]]:
    """(container, key) of every value below a JSON value."""
    found: list[tuple[Any, Any]] = []
    items = plain.items() if isinstance(plain, dict) else enumerate(plain) if isinstance(plain, list) else ()
    for key, value in list(items):
        found += [(plain, key), *places(value)]
    return found


CASE = to_plain(Case(num_head=64, kv_lens=(5, 3), max_seqlen_q=2, query_lens=(2, 1), graph_batch=8))
ENTRIES = [ROOT / "corpus" / name for name in sorted(path.name for path in (ROOT / "corpus").glob("*.json"))]


def entry(name: str) -> dict[str, Any]:
    return dict(json.loads(next(path for path in ENTRIES if path.name.startswith(f"{name}-")).read_text()))


JSON: dict[str, tuple[Callable[[Path], object], Callable[[], Any], str]] = {
    "case": (lambda path: read_file(Case, path), lambda: CASE, "case.json"),
    "finding": (given_case, lambda: CASE, "case.json"),
    "entry": (load_entry, lambda: entry("F1"), "F1-x.json"),
    "entry with a sweep": (load_entry, lambda: entry("C2"), "C2-x.json"),
}


@pytest.mark.parametrize("name", sorted(JSON))
@BOUNDED
@given(data=st.data())
def test_any_value_in_any_place_of_json(name: str, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    read, make, file = JSON[name]
    path = tmp_path_factory.getbasetemp() / file
    plain = json.loads(json.dumps(make()))
    for _ in range(data.draw(st.integers(1, 3))):
        container, key = data.draw(st.sampled_from(places(plain)))
        if data.draw(st.integers(0, 9)) == 0 and isinstance(container, dict):
            container.pop(key)
        else:
            container[key] = copy.deepcopy(data.draw(ODD))
        if not places(plain):
            break
    path.write_text(json.dumps(plain))
    accepts(read, path)


TOML = "\n".join(
    config_lines(CampaignConfig(shapes=("tp2",), heads=(48,), seconds=2.5, expect=("F1",), releases=("2026-06",), cases=7))
)
TABLE = '[fp8]\ndefault = "fake"\n64 = "greedy"\n[bf16]\ndefault = "fast"\n'

TEXTS = {
    "case": (lambda path: read_file(Case, path), json.dumps(CASE), "case.json"),
    "entry": (load_entry, ENTRIES[0].read_text(), ENTRIES[0].name),
    "configuration": (read_config, TOML, "c.toml"),
    "rule": (read_head_table, TABLE, "rule.toml"),
}


@pytest.mark.parametrize("name", sorted(TEXTS))
@BOUNDED
@given(at=st.floats(0, 1, exclude_max=True), junk=st.binary(max_size=9), gone=st.integers(0, 40))
def test_any_bytes_in_any_place_of_a_text(
    name: str, at: float, junk: bytes, gone: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    read, text, file = TEXTS[name]
    content = text.encode()
    place = int(at * len(content))
    path = tmp_path_factory.getbasetemp() / file
    path.write_bytes(content[:place] + junk + content[place + gone :])
    accepts(read, path)


@pytest.mark.parametrize("name", sorted(TEXTS))
@pytest.mark.parametrize(
    "content",
    [
        b"", b"\0", b"\xff\xfe{\0}\0", "{}".encode("utf-16"), b"\xef\xbb\xbf{}", DEEP.encode(), b"{" * 5_000, LONG.encode(),
        b'{"num_head": ' + LONG.encode() + b"}", b"x = " + DEEP.encode(), b"seed = " + LONG.encode(),
        b"seed = 0x" + b"f" * 5_000, b"[fp8]\ndefault = 0x" + b"f" * 5_000,
        b"[fp8]\ndefault = 'fake'\n" + LONG.encode() + b" = 'fake'",
        "[fp8]\ndefault = 'fake'\n'\u0663' = 'fake'".encode(), b"[fp8.default]\nx = 1", b"null", b"[]", b'"x"', b"NaN",
    ],
)  # fmt: skip
def test_what_is_no_such_file_is_one_line(name: str, content: bytes, tmp_path: Path) -> None:
    read, _, file = TEXTS[name]
    (tmp_path / file).write_bytes(content)
    assert accepts(read, tmp_path / file) is (name == "configuration" and content == b"")


@pytest.mark.parametrize("name", sorted(JSON))
def test_a_key_twice_is_one_line(name: str, tmp_path: Path) -> None:
    """Of two readers one takes the first and one the last: a case that is judged could be another one than is shown."""
    read, make, file = JSON[name]
    first, *_ = make()
    text = json.dumps(make())
    (tmp_path / file).write_text(text)
    assert accepts(read, tmp_path / file)
    (tmp_path / file).write_text(f"{{{json.dumps(first)}: 1, {text[1:]}")
    with pytest.raises(UsageError, match="twice"):
        read(tmp_path / file)


@pytest.mark.parametrize(
    "name",
    one_of_each(
        [":x", ".:x", "..:x", "json:", ":", "no/such.py", "\0.py", "\0.toml", "a\0b:c", "json:nothing", ".py"],
        lambda name: ("\0" in name, ":" in name, name.partition(":")[0].strip(".")),
    ),
)
def test_a_name_of_no_rule_is_one_line(name: str) -> None:
    with pytest.raises(UsageError) as raised:
        named_policy(name)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("name", "command"),
    one_of_each(
        itertools.product(
            (":x", ".:x", "\0.py", "json:nothing", "no/such.py"),
            (["run", "--cases", "3"], ["explain", "--heads", "16", "--kv-lens", "1"]),
        ),
        lambda row: row[1][0],
    ),
)
def test_so_it_is_for_a_command(command: list[str], name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = ["--out", str(tmp_path / "out")] if command[0] == "run" else []
    assert main([*command, "--backend", name, *out]) == 2
    assert one_complaint(capsys.readouterr().err).startswith("aiterfuzz: ")
    assert not (tmp_path / "out").exists()
