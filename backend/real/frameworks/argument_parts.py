"""What arguments of a call are held against: index tensors that ascend and end inside, lengths, sizes of outputs.

Knows no function that is called.
"""

from __future__ import annotations

import inspect
import itertools
import math
from collections.abc import Iterator, Mapping
from importlib import resources
from typing import Any

import torch

from backend.real.frameworks.record import ArgumentFault
from backend.real.torch_shim import host
from backend.words import number_of


def signatures(file: str) -> dict[str, inspect.Signature]:
    """By name, of the functions that a text of this package declares in Python's words."""
    made: dict[str, Any] = {}
    exec(resources.files(__package__).joinpath(file).read_text(encoding="utf-8"), made)
    return {name: inspect.signature(each) for name, each in made.items() if inspect.isfunction(each)}


def words(tensor: torch.Tensor) -> list[int]:
    words: list[int] = host(tensor).view(-1).tolist()
    return words


def for_another(name: str, held: int, what: str, count: int, of: str) -> ArgumentFault:
    """A tensor that has as many entries or rows as another batch needs."""
    return ArgumentFault(name, f"{name} has {number_of(held, what)} for {number_of(count, of)}", False)


def ascending(name: str, indptr: list[int]) -> Iterator[ArgumentFault]:
    if not indptr or indptr[0] != 0 or any(a > b for a, b in itertools.pairwise(indptr)):
        yield ArgumentFault(name, f"{name} does not begin at 0 and ascend", False)


def covered(name: str, indptr: list[int], held: int, of: str) -> Iterator[ArgumentFault]:
    yield from ascending(name, indptr)
    if indptr and indptr[-1] > held:
        yield ArgumentFault(name, f"{name} ends at {indptr[-1]}, past the {number_of(held, 'row')} of {of}", False)


def addressed(given: Mapping[str, Any], indptr: list[int], name: str, pool: torch.Tensor, of: str) -> Iterator[ArgumentFault]:
    """kv_indptr covers no more indices than there are, and those that it covers name rows of the KV pool."""
    held = words(given[name])
    yield from covered("kv_indptr", indptr, len(held), name)
    yield from inside(name, held[: indptr[-1] if indptr else 0], pool.shape[0], of)


def inside(name: str, indices: list[int], rows: int, of: str) -> Iterator[ArgumentFault]:
    stray = next((each for each in indices if not 0 <= each < rows), None)
    if stray is not None:
        yield ArgumentFault(name, f"{name} names row {stray} of {of}, which has {rows}", False)


def longest(name: str, given: int, indptr: list[int]) -> Iterator[ArgumentFault]:
    longest = max((b - a for a, b in itertools.pairwise(indptr)), default=0)
    if given < longest:
        yield ArgumentFault(name, f"{name} is {given}, the longest request has {number_of(longest, 'row')}", False)


def written(name: str, tensor: torch.Tensor, indptr: list[int], row: int) -> Iterator[ArgumentFault]:
    needed = (indptr[-1] if indptr else 0) * row
    if tensor.numel() < needed:
        yield ArgumentFault(name, f"{name} has {number_of(tensor.numel(), 'element')}, the requests' rows are {needed}", True)


def paged_by(name: str, table: torch.Tensor, lens: list[int], page: int, pages: int, of: str) -> Iterator[ArgumentFault]:
    """Rows of a page table name as many pages of the pool as their lengths need."""
    for row, length in zip(table.tolist(), lens, strict=False):
        wanted = math.ceil(length / page)
        if wanted > len(row):
            yield ArgumentFault(
                name, f"{name} has {number_of(len(row), 'page')} a request, {length} tokens need {wanted}", False
            )
        yield from inside(name, row[:wanted], pages, of)
