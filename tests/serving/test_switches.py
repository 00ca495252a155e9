"""Which environment variables a backend file reads, by its text: whatever form the reading has, and what each can be set to."""

from __future__ import annotations

from pathlib import Path

import pytest

from backend.real.frameworks.fetch import open_source
from backend.real.frameworks.switches import switches_of

FILE = """
import os
from sglang.srt.environ import envs
from sglang.srt.layers.attention.few_heads import few
from sglang.srt.utils import get_bool_env_var

PERSIST = get_bool_env_var("SGLANG_PERSIST", "True")
PADS = get_bool_env_var("SGLANG_PADS")
CHECKS = os.environ.get("SGLANG_CHECKS", "0") == "1"
PLAIN = os.getenv("HOME", "/")


class AiterAttnBackend:
    def __init__(self):
        self.kind = envs.SGLANG_KIND.get().lower()
        if self.kind not in ("asm", "gluon"):
            raise ValueError(self.kind)
        self.order = os.environ["SGLANG_ORDER"]
        self.is_late = self.order == "late" or self.order == "early"
        self.plans = envs.SGLANG_PLANS.get() and not envs.SGLANG_ELSEWHERE.get()
        self.room = envs.SGLANG_ROOM.get()
        self.threshold = envs.SGLANG_THRESHOLD.get()
"""

ENVIRON = """
class Envs:
    SGLANG_KIND = EnvStr("asm")
    SGLANG_PLANS = EnvBool(False)
    SGLANG_ROOM = EnvInt(4)
    SGLANG_THRESHOLD: float = 0.5


envs = Envs()
"""

BESIDE = """
from sglang.srt.environ import envs


def few():
    return envs.SGLANG_FEW.get()
"""


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    attention = tmp_path / "sglang" / "srt" / "layers" / "attention"
    attention.mkdir(parents=True)
    (attention / "aiter_backend.py").write_text(FILE)
    (attention / "few_heads.py").write_text(BESIDE)
    (attention / "others.py").write_text('import os\n\nOTHER = os.environ["SGLANG_OTHER"]\n')
    (tmp_path / "sglang" / "srt" / "environ.py").write_text(ENVIRON)
    return tmp_path


def test_a_switch_is_found_however_it_is_read_with_what_it_is_not(tree: Path) -> None:
    """Numbers are none, nor what is no variable of a framework's, nor what a module reads that the file does not import."""
    found = {each.name: each.values for each in switches_of(open_source(str(tree)))}
    assert found == {
        "SGLANG_PERSIST": ("0",),
        "SGLANG_PADS": ("0", "1"),
        "SGLANG_CHECKS": ("1",),
        "SGLANG_KIND": ("gluon",),
        "SGLANG_ORDER": ("late", "early"),
        "SGLANG_PLANS": ("1",),
        "SGLANG_ELSEWHERE": ("0", "1"),
        "SGLANG_FEW": ("0", "1"),
    }


def test_those_of_real_files_are_found() -> None:
    there = {each.name: each.values for each in switches_of(open_source("sglang==0.5.23"))}
    assert there["SGLANG_AITER_MLA_PERSIST"] == ("0",)
    assert there["SGLANG_AITER_MLA_DECODE_BACKEND"] == there["SGLANG_AITER_MLA_VERIFY_BACKEND"] == ("gluon",)
    assert there["SGLANG_AITER_MLA_AUTO_KV_SPLITS"] == there["SGLANG_USE_AITER_UNIFIED_ATTN"] == ("1",)
    assert there["SGLANG_AITER_PAGED_PREFILL_ASM"] == there["SGLANG_AITER_MLA_GLUON"] == ("0",)
    vllm = {each.name: each.values for each in switches_of(open_source("vllm==0.33.0"))}
    assert vllm == {"VLLM_ROCM_AITER_MLA_ASM_PADDING": ("gluon", "asm"), "VLLM_BATCH_INVARIANT": ("1",)}
