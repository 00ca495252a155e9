"""Which AITER a log is of: a revision of the checkout that was given, else the built-in releases, the likeliest first."""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass

from backend.aiter.codefiles import CodeSource, RevisionSource, open_source
from backend.aiter.kernels import KernelTable, built_in_table, source_table
from backend.aiter.release import nearest_release, release
from backend.case import RELEASES, Arch
from backend.errors import AiterfuzzError
from backend.host import BuiltIn, Host
from backend.revision.revision import PLANNER_FILES, SAME_PLANNERS, host_of, spelled_alike
from reprod.diagnose.evidence import LogEvidence
from reprod.diagnose.kernel_name import named_kernel

FIRST_VERSION = {"2025-11": (0, 1, 0), "2026-06": (0, 1, 11), "2026-08": (0, 1, 18)}
"""First version of amd-aiter that a built-in release is the nearest to, by the dates of ROCm/aiter's tags."""


@dataclass(frozen=True, slots=True)
class LoggedRevision:
    """The AITER to try. source: of a checkout, None for the built-in rules. releases: to try, the likeliest first.

    label: in words. exact: whether these are the files that the log names. reason: how it was chosen.
    """

    source: CodeSource | None
    releases: tuple[str, ...]
    label: str
    exact: bool
    reason: str

    def tables(self, arch: Arch) -> tuple[KernelTable, ...]:
        """Kernel tables to look names up in, the likeliest first."""
        own = source_table(self.source, arch) if self.source is not None else None
        built_in = tuple(built_in_table(release(name), arch) for name in self.releases)
        return built_in if own is None else (own, *built_in)


def revision_of(evidence: LogEvidence, checkout: str | None) -> LoggedRevision:
    """The AITER of a log. checkout: PATH[@REV]; a REV that the person gives is not overruled by the log.

    Raises UsageError where it is no checkout.
    """
    named = evidence.aiter_revision
    if checkout is not None:
        given = open_source(checkout)
        pinned = "@" in checkout
        for wanted in _names(named) if named and not pinned else ():
            try:
                source = open_source(f"{checkout}@{wanted}")
            except AiterfuzzError:
                continue
            return LoggedRevision(
                source, (nearest_release(source).name,), f"ROCm/aiter {_short(source)}", True, f"the log says {named}"
            )
        if not named and not pinned:
            found = _having_kernel(evidence, checkout)
            if found is not None:
                return found
        why = "as given" if pinned or not named else f"{named}, which the log names, is not in the checkout"
        return LoggedRevision(given, (nearest_release(given).name,), f"ROCm/aiter {_short(given)}", pinned and not named, why)
    if named:
        return _built_in(named)
    likely = _by_kernel(evidence) or _by_framework(evidence)
    rest = [name for name in reversed(RELEASES) if name not in likely and name != RELEASES[0]]
    order = (*likely, *rest)
    return LoggedRevision(None, order, f"built-in rules of {order[0]}", False, "the log names no revision of AITER")


def _having_kernel(evidence: LogEvidence, checkout: str) -> LoggedRevision | None:
    """Of a log that names no revision: the built-in release that has its kernel, with that release's code objects."""
    for name in _by_kernel(evidence):
        with contextlib.suppress(AiterfuzzError):
            source = open_source(f"{checkout}@{release(name).commit}")
            reason = "the log names no revision; this one has its kernel"
            return LoggedRevision(source, (name,), f"ROCm/aiter {_short(source)}", False, reason)
    return None


def host_for(revision: LoggedRevision) -> tuple[Host, str]:
    """The host to search on, and what to say of it, "" for nothing.

    A revision whose planners are a built-in release's is its own. Another's would be compiled first, which takes minutes: the
    nearest release's rules stand in then, with its own kernel table and code objects.
    """
    source = revision.source
    if source is None:
        return BuiltIn(), ""
    texts = [source.read(path) for path in PLANNER_FILES.values()]
    if all(text is not None and spelled_alike(text.decode("utf-8", "replace")) in SAME_PLANNERS for text in texts):
        return host_of(source), ""
    return BuiltIn(
        source
    ), f"planner, sizing and launcher as in {revision.releases[0]}; kernel table and code objects are its own"


def _built_in(named: str) -> LoggedRevision:
    for name in RELEASES:
        commit = release(name).commit
        if len(named) >= 7 and commit.startswith(named):
            return LoggedRevision(None, (name,), f"built-in rules of {name} ({commit[:12]})", True, f"the log says {named}")
    version = re.match(r"v?(\d+)\.(\d+)\.(\d+)", named)
    if version is None:
        newest = tuple(reversed(RELEASES))[:2]
        reason = f"the log says {named}, and there is no checkout to read it from"
        return LoggedRevision(None, newest, f"built-in rules of {newest[0]}", False, reason)
    figures = tuple(int(part) for part in version.groups())
    nearest = max(name for name, first in FIRST_VERSION.items() if figures >= first) if figures >= (0, 1, 0) else RELEASES[0]
    return LoggedRevision(
        None, (nearest,), f"built-in rules of {nearest}", False, f"the nearest to {named}, which the log names"
    )


def _by_kernel(evidence: LogEvidence) -> tuple[str, ...]:
    """Releases since 2026 whose tables have the kernel that the log names first, by the framework's age then."""
    if not evidence.suspects:
        return ()
    archs = [evidence.arch] if evidence.arch is not None else list(Arch)
    having = [
        name
        for name in _by_framework(evidence) + tuple(reversed(RELEASES))
        if any(named_kernel(evidence.suspects[0].name, [built_in_table(release(name), arch)]).label for arch in archs)
    ]
    return tuple(dict.fromkeys(having))


FIRST_OF_SUMMER = {"sglang": (0, 5, 16), "vllm": (0, 26, 0)}
"""First releases of the frameworks that came with AITER of 2026-07 or later."""


def _by_framework(evidence: LogEvidence) -> tuple[str, ...]:
    figures = tuple(int(part) for part in re.findall(r"\d+", evidence.framework_version)[:3])
    first = FIRST_OF_SUMMER.get(evidence.framework)
    if not figures or first is None:
        return ()
    return ("2026-08",) if figures >= first else ("2026-06",)


def _names(named: str) -> tuple[str, ...]:
    bare = named.removeprefix("v")
    return (named,) if re.fullmatch(r"[0-9a-f]{7,40}", named) else (f"v{bare}", bare)


def _short(source: CodeSource) -> str:
    return source.commit[:12] if isinstance(source, RevisionSource) else source.label
