"""Serving frameworks' own backend files that can be run, one row each, and which AITER each release of them is built with.

The latter stands in pins.csv, a row a release, each with its source. Knows neither checkouts nor the frameworks' code nor how
it is driven; a revision here is a name that a history of ROCm/aiter may or may not have.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources

from backend.git import shortened


@dataclass(frozen=True, slots=True)
class Framework:
    """One file of a framework. name: of its package, and of its distribution on PyPI where it is in FRAMEWORKS.

    module: the file under test. backend_class: what that file must define. is_large_wheel: hundreds of megabytes of binaries
    around a few of Python: read by ranges where pip can. image: where its repository says what its image for ROCm is made of,
    the revision of AITER among it. driver: the class that runs scenarios against its source, as module:name; it is loaded in
    the child process that does so.
    """

    name: str
    module: str
    backend_class: str
    is_large_wheel: bool
    image: str
    driver: str

    @property
    def file(self) -> str:
        """The file under test, from where the package is."""
        return self.module.replace(".", "/") + ".py"

    def is_called(self, name: str) -> bool:
        """Whether a person means this file: by its name, or by more of its path."""
        return f"/{self.file}".endswith(f"/{name}")


SGLANG = Framework(
    name="sglang",
    module="sglang.srt.layers.attention.aiter_backend",
    backend_class="AiterAttnBackend",
    is_large_wheel=False,
    image="docker/rocm.Dockerfile",
    driver="backend.real.frameworks.sglang:SglangDriver",
)

SGLANG_DSA = replace(
    SGLANG,
    module="sglang.srt.layers.attention.dsa_backend",
    backend_class="DeepseekSparseAttnBackend",
    driver="backend.real.frameworks.sglang_dsa:SglangDsaDriver",
)

VLLM = Framework(
    name="vllm",
    module="vllm.v1.attention.backends.mla.rocm_aiter_mla",
    backend_class="AiterMLAImpl",
    is_large_wheel=True,
    image="docker/Dockerfile.rocm_base",
    driver="backend.real.frameworks.vllm:VllmDriver",
)

VLLM_SPARSE = replace(
    VLLM,
    module="vllm.v1.attention.backends.mla.rocm_aiter_mla_sparse",
    backend_class="ROCMAiterMLASparseImpl",
    driver="backend.real.frameworks.vllm_sparse:VllmSparseDriver",
)

VLLM_FA = replace(
    VLLM,
    module="vllm.v1.attention.backends.rocm_aiter_fa",
    backend_class="AiterFlashAttentionImpl",
    driver="backend.real.frameworks.vllm_fa:VllmFaDriver",
)

ATOM = Framework(
    name="atom",
    module="atom.model_ops.attentions.aiter_mla",
    backend_class="AiterMLAMetadataBuilder",
    is_large_wheel=False,
    image="docker/Dockerfile",
    driver="backend.real.frameworks.atom:AtomDriver",
)

ATOM_LAYER = replace(ATOM, module="atom.model_ops.attention_mla", backend_class="MLAAttention")

TARGETS = (SGLANG, SGLANG_DSA, VLLM, VLLM_SPARSE, VLLM_FA, ATOM, ATOM_LAYER)
"""Every file that can be run, of each framework the usual one first."""

FRAMEWORKS = {each.name: each for each in (SGLANG, VLLM)}
"""The usual file of each that is released on PyPI under its name, by that name."""

USUAL = (*FRAMEWORKS.values(), ATOM)
"""The usual file of each framework: what a tree that names no file means."""


@dataclass(frozen=True, slots=True)
class Pin:
    """One release. framework: its package. release: as on PyPI, or a series of releases (0.15).

    date: when it was published, "" where nobody noted it. aiter: a commit (40 hexadecimal digits) or tag of ROCm/aiter.
    source: the change that set it. doubt: what else it may be built with, "" for nothing.
    """

    framework: str
    release: str
    date: str
    aiter: str
    source: str
    doubt: str

    def __str__(self) -> str:
        doubt = f", or perhaps {self.doubt}" if self.doubt else ""
        return f"{self.framework} {self.release} pins {self.short} by {self.source}{doubt}"

    @property
    def short(self) -> str:
        """The revision as people write it: a tag, or the first digits of a commit."""
        return shortened(self.aiter, 9)


@cache
def pins() -> tuple[Pin, ...]:
    """All of them: sglang's, then vLLM's, oldest first."""
    text = resources.files("backend.serving").joinpath("pins.csv").read_text(encoding="utf-8")
    rows = csv.DictReader(line for line in text.splitlines() if not line.startswith("#"))
    found = tuple(Pin(**row) for row in rows)
    assert {pin.framework for pin in found} <= set(FRAMEWORKS)
    return found


def newest_release(framework: str) -> str:
    """The newest release that has a row, as a gate takes it: `sglang==0.5.20`."""
    *_, newest = (pin for pin in pins() if pin.framework == framework)
    return f"{framework}=={newest.release}"


def pin_of(framework: str, release: str) -> Pin | None:
    """The pin of a release, else that of its series; None where none is known.

    0.15.1 is of series 0.15, and 0.5.15.post1 of 0.5.15; 0.5.13 is not of 0.5.1.
    """
    fitting = [pin for pin in pins() if pin.framework == framework and f"{release}.".startswith(f"{pin.release}.")]
    return max(fitting, key=lambda pin: len(pin.release), default=None)
