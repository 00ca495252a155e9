"""Where the numbered requests of a process are: rows of its request table, and pages of its KV cache.

What was freed last is taken first, as in a server whose pool is full: what one request leaves is the next one's. Knows no
framework.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass(slots=True, eq=False)
class Seats:
    """free_rows, free_pages: taken from the end. page_size: tokens of a page. rows, pages: by number of the request."""

    page_size: int
    free_rows: list[int]
    free_pages: list[int]
    rows: dict[int, int] = field(default_factory=dict)
    pages: dict[int, list[int]] = field(default_factory=dict)

    def release(self, alive: Collection[int]) -> None:
        """Free what requests that are no more have."""
        for request in [each for each in self.rows if each not in alive]:
            self.free_rows.append(self.rows.pop(request))
            self.free_pages += self.pages.pop(request)

    def trim(self, requests: Iterable[int], tokens: Iterable[int]) -> None:
        """Free the pages behind the tokens that each request keeps, as of drafts that were rejected."""
        for request, kept in zip(requests, tokens, strict=True):
            held = self.pages.get(request, [])
            behind = -(-kept // self.page_size)
            self.free_pages += held[behind:]
            del held[behind:]

    def take(self, requests: Iterable[int], tokens: Iterable[int]) -> None:
        """Give each request a row, if it has none, and pages for so many tokens."""
        for request, wanted in zip(requests, tokens, strict=True):
            if request not in self.rows:
                self.rows[request] = self.free_rows.pop()
            held = self.pages.setdefault(request, [])
            while len(held) * self.page_size < wanted:
                held.append(self.free_pages.pop())

    def slots(self, request: int) -> np.ndarray[Any, np.dtype[np.int64]]:
        """KV rows of a request's tokens, as far as its pages reach."""
        pages = np.array(self.pages[request], np.int64)[:, None]
        return (pages * self.page_size + np.arange(self.page_size)).reshape(-1)
