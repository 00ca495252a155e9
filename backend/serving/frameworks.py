"""Serving frameworks whose own backend file can be run: one row each. Knows neither their code nor how it is driven."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Framework:
    """One framework. name: of its package, and of its distribution on PyPI.

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


FRAMEWORKS = {
    each.name: each
    for each in (
        Framework(
            name="sglang",
            module="sglang.srt.layers.attention.aiter_backend",
            backend_class="AiterAttnBackend",
            is_large_wheel=False,
            image="docker/rocm.Dockerfile",
            driver="backend.real.frameworks.sglang:SglangDriver",
        ),
        Framework(
            name="vllm",
            module="vllm.v1.attention.backends.mla.rocm_aiter_mla",
            backend_class="AiterMLAImpl",
            is_large_wheel=True,
            image="docker/Dockerfile.rocm_base",
            driver="backend.real.frameworks.vllm:VllmDriver",
        ),
    )
}
"""By name."""
