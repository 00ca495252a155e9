"""The driver of a small framework that no one has, which decodes with graphs and without and no more; and its file."""

from __future__ import annotations

from typing import Any

import torch

from backend.case import QK_HEAD_DIM, DType
from backend.errors import NoSuchStepError
from backend.real.frameworks.framework_run import ForwardPass, FrameworkState
from backend.real.frameworks.process import Process
from backend.real.frameworks.scenarios import Scenario, Step, StepKind
from backend.real.frameworks.table_run import TableDriver, TableRun

FILE = '''
import torch
from aiter import get_mla_metadata_info_v1, get_mla_metadata_v1
from aiter.mla import mla_decode_fwd

ROLES = ("work_meta_data", "work_indptr", "work_info_set", "reduce_indptr", "reduce_final_map", "reduce_partial_map")
ORDER = ("work_meta_data", "work_info_set", "work_indptr", *ROLES[3:])


class SmallBackend:
    def __init__(self, heads, dtype, most):
        if heads % 16:
            raise ValueError(f"no {heads} heads")
        self.heads, self.dtype = heads, dtype
        sizes = get_mla_metadata_info_v1(most, 1, heads, dtype, dtype, is_sparse=False, fast_mode=True)
        self.work = {role: torch.empty(size, dtype=of, device="cuda") for role, (size, of) in zip(ROLES, sizes)}
        self.ones = torch.ones(most, dtype=torch.int32, device="cuda")
        self.rows = torch.arange(most + 1, dtype=torch.int32, device="cuda")
        self.indptr = torch.zeros(most + 1, dtype=torch.int32, device="cuda")
        self.scale = torch.ones(1, dtype=torch.float32, device="cuda")

    def plan(self, kv_lens, batch):
        """What pads a graph attends to one token of the first row behind the requests'."""
        lens = torch.tensor([*kv_lens, *[1] * (batch - len(kv_lens))], dtype=torch.int32)
        self.indptr[1 : batch + 1].copy_(lens.cumsum(0))
        get_mla_metadata_v1(
            self.rows[: batch + 1], self.indptr[: batch + 1], self.ones[:batch], self.heads, 1, True,
            *(self.work[role] for role in ORDER), kv_granularity=16, max_seqlen_qo=1, uni_seqlen_qo=1, fast_mode=True,
            max_split_per_batch=-1, dtype_q=self.dtype, dtype_kv=self.dtype,
        )

    def decode(self, q, cache):
        batch = q.shape[0]
        o = torch.empty((batch, self.heads, 512), dtype=torch.bfloat16, device="cuda")
        mla_decode_fwd(
            q, cache, o, self.rows[: batch + 1], self.indptr[: batch + 1], self.slots, self.ones[:batch], 1, sm_scale=0.1,
            q_scale=self.scale, kv_scale=self.scale, **self.work,
        )
'''


class SmallState(FrameworkState):
    """The file asks its framework for nothing. context: KV tokens of a request at most."""

    def __init__(self, scenario: Scenario) -> None:
        super().__init__(scenario)
        self.context = scenario.model_context

    def fakes(self) -> dict[str, Any]:
        """None."""
        return {}


class SmallDriver(TableDriver):
    """Runs scenarios against one source."""

    name = "small"
    kinds = (StepKind.DECODE,)
    prefixes = ("SMALL_",)

    def state(self, scenario: Scenario) -> SmallState:
        """What stands for the rest of the framework."""
        if scenario.flags or any(config.context_parallel > 1 for config in scenario.backends):
            raise NoSuchStepError("it has no flags and no ranks that share the KV cache; leave both out")
        return SmallState(scenario)

    def life(self, running: Process, scenario: Scenario, state: SmallState) -> SmallRun:
        """A scenario in the process that was started for it."""
        return SmallRun(running, scenario, state)


class SmallRun(TableRun):
    """One scenario in one process."""

    def _build(self, at: int) -> Any:
        config, table = self.scenario.backends[at], self.tables[at]
        dtype = torch.bfloat16 if config.kv_dtype is DType.BF16 else torch.float8_e4m3fn
        built = self.running.module.SmallBackend(config.num_head, dtype, len(table.rows))
        built.cache = torch.empty((table.rows.max() + 1, 1, 1, QK_HEAD_DIM), dtype=dtype, device="cuda")
        built.slots = torch.zeros(table.rows.size, dtype=torch.int32, device="cuda")
        return built

    def _captured(self, which: int, kind: StepKind, batch: int) -> None:
        self.backends[which].plan((), batch)

    def _planned(self, made: ForwardPass) -> None:
        built, slots = self.backends[made.which], self.tables[made.which].slots(made.kv_lens)
        built.slots.zero_()
        built.slots[: slots.size] = torch.from_numpy(slots)
        built.plan(made.kv_lens, len(made.kv_lens) + made.padded)

    def _forward(self, which: int, metadata: None, rows: int) -> None:
        built = self.backends[which]
        built.decode(torch.empty((rows, built.heads, QK_HEAD_DIM), dtype=built.dtype, device="cuda"), built.cache)

    def _prefill(self, at: int, step: Step) -> None:
        raise NotImplementedError("no step of the kind")
