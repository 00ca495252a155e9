"""Which AITER a source is run on: the one that a person names, else the one that it is built with, else the newest built in.

Knows sources, pins and names of revisions; runs nothing.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from backend.aiter.codefiles import open_source as open_aiter
from backend.case import RELEASES
from backend.errors import UsageError
from backend.git import path_and_revision
from backend.real.frameworks.fetch import BackendSource, open_source
from backend.serving.frameworks import Pin, pin_of

NEWEST = RELEASES[-1]


@dataclass(frozen=True, slots=True)
class WhichAiter:
    """aiter: PATH[@REVISION] of a checkout, None: the built-in release `release`. why: one line for people."""

    aiter: str | None
    release: str | None
    why: str


def which_aiter(source: str, aiter: str | None) -> WhichAiter:
    """The AITER for a source. aiter: as given: PATH@REVISION means that revision, PATH the one that the source is built with.

    A PATH whose source pins nothing that is known means its work tree, or HEAD of a bare repository. Raises UsageError where
    the pinned revision is not in the checkout, and for what is no checkout.
    """
    opened = open_source(source)
    known = pinned(opened)
    if aiter is None:
        advice = f"; {known}: give --aiter CHECKOUT for that one" if known is not None else ""
        return WhichAiter(None, NEWEST, f"AITER: built-in release {NEWEST}, the newest{advice}")
    if path_and_revision(aiter)[1]:
        pin = f"; {known}" if known is not None else ""
        return WhichAiter(aiter, None, f"AITER: {aiter}, as asked{pin}")
    if known is None:
        return WhichAiter(aiter, None, f"AITER: {aiter} as it lies there; no pin of {source} is known")
    try:
        open_aiter(f"{aiter}@{known.aiter}")
    except UsageError as error:
        raise UsageError(f"{known}, which is not in {aiter}: fetch it, or give {aiter}@REVISION ({error})") from error
    return WhichAiter(f"{aiter}@{known.aiter}", None, f"AITER: {aiter}@{known.short}; {known}")


def pinned(source: BackendSource) -> Pin | None:
    """What a source is built with: a release by the table of pins, a tree by its image for ROCm; None where neither says."""
    release = source.release
    if release is not None:
        return pin_of(source.framework.name, release)
    text = source.beside(source.framework.image)
    found = None if text is None else re.search(_WRITTEN, text, re.MULTILINE)
    return None if found is None else Pin(source.framework.name, source.given, "", found[1], source.framework.image, "")


_WRITTEN = r'^(?:ENV|ARG) AITER_(?:COMMIT_DEFAULT|COMMIT|BRANCH)="?([\w.+/-]+)'
"""The line of an image that says which revision of AITER it is built with."""
