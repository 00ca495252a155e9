"""One JSON codec: round trips, and refusals that name the place."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.case import RELEASES, Arch, Case, DType, MetadataMode, PageOrder
from backend.codec import dumps, from_plain, read_file, to_plain
from backend.errors import UsageError
from backend.file_text import text_of

CASES = st.builds(
    Case,
    num_head=st.integers(1, 1024),
    kv_lens=st.lists(st.integers(0, 1 << 22), min_size=1, max_size=5).map(tuple),
    max_seqlen_q=st.integers(1, 64),
    page_size=st.sampled_from([1, 16, 64]),
    q_dtype=st.sampled_from(DType),
    kv_dtype=st.sampled_from(DType),
    arch=st.sampled_from(Arch),
    release=st.sampled_from(RELEASES),
    mode=st.none() | st.sampled_from(MetadataMode),
    graph_batch=st.none() | st.integers(5, 100),
    first_page=st.integers(0, 2**31 - 1),
    page_order=st.sampled_from(PageOrder),
)


@given(CASES)
def test_case_round_trips(case: Case) -> None:
    assert from_plain(Case, json.loads(dumps(case))) == case


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"heads": 64}, "unknown field: given 'heads'"),
        ({"num_head": "64"}, "case.num_head: given '64'; allowed: int"),
        ({"num_head": True}, "case.num_head: given True"),
        ({"num_head": 0}, "case field num_head: given 0; allowed: 1..1024"),
        ({"arch": "gfx90a"}, "case.arch: given 'gfx90a'; allowed: gfx942, gfx950"),
        ({"release": "2024-01"}, "case field release: given '2024-01'"),
        ({"kv_lens": []}, "at least one request"),
        ({"kv_lens": [1, -1]}, "case field kv_lens"),
        ({"kv_lens": [1, 2.5]}, r"case.kv_lens\[1\]: given 2.5"),
        ({"graph_batch": 1, "kv_lens": [1, 2]}, "case field graph_batch: given 1; allowed: >= batch 2"),
        ({"query_lens": [2]}, "case field query_lens"),
        ({"page_size": 3}, "case field page_size"),
    ],
)
def test_bad_fields_are_named(change: dict[str, object], told: str) -> None:
    plain = to_plain(Case(num_head=64, kv_lens=(1,))) | change
    with pytest.raises(UsageError, match=told):
        from_plain(Case, plain)


def test_missing_field_is_named() -> None:
    with pytest.raises(UsageError, match="field 'kv_lens' is missing; needed: num_head, kv_lens"):
        from_plain(Case, {"num_head": 64})


def test_broken_file_is_named(tmp_path: Path) -> None:
    file = tmp_path / "case.json"
    file.write_text('{"num_head": 64,')
    with pytest.raises(UsageError, match=r"not JSON: .* line 1"):
        read_file(Case, file)
    with pytest.raises(UsageError, match="cannot be read"):
        read_file(Case, tmp_path / "absent.json")
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match="cannot be read"):
        read_file(Case, file)


@pytest.mark.parametrize("name", ["sparse", "/dev/zero"])
def test_what_has_no_end_is_not_read(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    if name == "sparse":
        with path.open("wb") as file:
            file.truncate(1 << 40)
    with pytest.raises(UsageError, match="longer than 256 MiB"):
        text_of(path, "a case")


def test_an_array_s_type_may_have_a_name_of_its_own() -> None:
    """NumPy's NDArray is a name made by a `type` statement from 2.5 on: an array's field is read under it as before."""
    extensions = pytest.importorskip("typing_extensions", reason="`type` statements need Python 3.12 or typing_extensions")
    item = TypeVar("item", bound=np.generic)
    named = extensions.TypeAliasType("named", np.ndarray[Any, np.dtype[item]], type_params=(item,))
    holder = dataclasses.make_dataclass("holder", [("words", named[np.int32])], frozen=True)
    read = from_plain(holder, {"words": [1, -2]})
    assert read.words.dtype == np.int32
    assert read.words.tolist() == [1, -2]


@dataclasses.dataclass(frozen=True, eq=False)
class Words:
    """Two arrays, one by a name."""

    words: np.ndarray[Any, np.dtype[np.int32]]
    named: dict[str, np.ndarray[Any, np.dtype[np.int32]]]


@given(st.lists(st.integers(-(2**31), 2**31 - 1), max_size=40))
def test_packed_arrays_are_a_text_that_reads_as_the_list_does(words: list[int]) -> None:
    every = np.asarray(words, np.int32)
    for given_array in (every, every[::2]):
        plain = json.loads(json.dumps(to_plain(Words(given_array, {"a": given_array}), packed=True)))
        assert type(plain["words"]) is type(plain["named"]["a"]) is str
        for form in (plain, to_plain(Words(given_array, {"a": given_array}))):
            read = from_plain(Words, form)
            assert read.words.dtype == np.int32
            assert read.words.flags.writeable
            assert read.words.tolist() == read.named["a"].tolist() == given_array.tolist()


def test_other_arrays_are_lists_however_they_are_asked_for() -> None:
    """Bytes of int32 are what a text of an array means: of no other type, and of no shape."""
    assert to_plain(np.asarray([1 << 40]), packed=True) == [1 << 40]
    assert to_plain(np.zeros((1, 2), np.int32), packed=True) == [[0, 0]]


@pytest.mark.parametrize("text", ["AAAA", "A", "AAAAAA==\n", "....", "é"])
def test_a_text_that_is_no_array_is_refused_by_its_place(text: str) -> None:
    with pytest.raises(UsageError, match=r"words\.words: is no text of whole int32 words"):
        from_plain(Words, {"words": text, "named": {}})
