"""What scripts of a decode call begin with, and how they are run."""

from __future__ import annotations

import json
import multiprocessing
import os
import runpy
import sys
import tempfile
from pathlib import Path

from backend.case import Arch
from backend.codec import to_plain
from backend.real.script import simulated
from backend.real.script.messages import Options
from reprod.verify import Verification, records_of

_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["backend.real.script.run", "triton.testing", "tests.reprod.warmed", __name__])

PREAMBLE = """
import sys
import torch, aiter
from aiter import dtypes
from aiter.mla import mla_decode_fwd

ONE = torch.ones(1, device="cuda")
NAMES = ["work_meta_data", "work_indptr", "work_info_set", "reduce_indptr", "reduce_final_map", "reduce_partial_map"]

def indptr(*lengths):
    return torch.tensor([0, *lengths], device="cuda").cumsum(0).to(torch.int32)

def planned(qo, kv, rows=1, buffers=None, uniform=None):
    sizes = aiter.get_mla_metadata_info_v1(len(qo) - 1, rows, 16, dtypes.fp8, dtypes.fp8, is_sparse=False, fast_mode=True)
    buffers = buffers or [torch.empty(size, dtype=kind, device="cuda") for size, kind in sizes]
    last = torch.ones(len(qo) - 1, dtype=torch.int32, device="cuda")
    aiter.get_mla_metadata_v1(qo, kv, last, 16, 1, True, buffers[0], buffers[2], buffers[1], *buffers[3:], kv_granularity=16,
                              max_seqlen_qo=rows, uni_seqlen_qo=uniform or rows, fast_mode=True, dtype_q=dtypes.fp8,
                              dtype_kv=dtypes.fp8)
    return buffers

def decode(qo, kv, buffers, o_type=torch.bfloat16, last=None, indices=None, **given):
    slots = 4096
    q = torch.zeros(int(qo[-1]), 16, 576, device="cuda").to(dtypes.fp8)
    pool = torch.zeros(slots, 1, 1, 576, device="cuda").to(dtypes.fp8)
    o = torch.empty(int(qo[-1]), 16, 512, device="cuda", dtype=o_type)
    indices = torch.arange(slots, dtype=torch.int32, device="cuda") if indices is None else indices
    last = torch.ones(len(qo) - 1, dtype=torch.int32, device="cuda") if last is None else last
    scales = dict(q_scale=ONE, kv_scale=ONE) | given
    mla_decode_fwd(q, pool, o, qo, kv, indices, last, 1, sm_scale=0.04, **dict(zip(NAMES, buffers)), **scales)

def refused(call):
    try:
        call()
    except RuntimeError as error:
        print("refused:", error)

two, kv = indptr(1, 1), indptr(700, 500)
"""


def run(tmp_path: Path, text: str, release: str = "2026-06") -> Verification:
    """`verify`, as `forked` does it, of a script that begins with PREAMBLE."""
    file = tmp_path / "script.py"
    file.write_text(PREAMBLE + text, encoding="utf-8")
    return forked(file, options=Options(Arch.GFX950, release=release))


def forked(script: Path, *arguments: str, options: Options) -> Verification:
    """`verify` of a script in a fork of a process that has imported all that a simulation needs.

    That is two seconds of each script. How a script's process is started, fenced and watched is what test_verify.py and
    test_verify_processes.py ask.
    """
    with tempfile.TemporaryDirectory() as folder:
        reports, printed = Path(folder, "reports"), Path(folder, "printed.txt")
        reports.mkdir()
        given = json.dumps(to_plain(options) | {"reports": str(reports)})
        process = _FORKS.Process(target=_run, args=(script, arguments, given, printed))
        process.start()
        process.join(300)
        stopped = None if process.exitcode is not None else "stopped at its limit of 300 s"
        process.kill()
        process.join()
        records = records_of(reports)
        return Verification(
            arguments=arguments,
            exit_code=process.exitcode or 0,
            reports=tuple(record.report for record in records if record.report is not None),
            output=printed.read_text(encoding="utf-8", errors="replace"),
            stopped=stopped,
            seconds=0.0,
            processes=len(records),
            lost=tuple(record.lost for record in records if record.lost is not None),
        )


def _run(file: Path, arguments: tuple[str, ...], options: str, printed: Path) -> None:
    """What `python FILE ARGUMENTS` does in a process of a script."""
    output = os.open(printed, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(output, 1)
    os.dup2(output, 2)
    sys.argv = [str(file), *arguments]
    os.environ[simulated.VARIABLE] = options
    simulated.begin()
    _begin_simulation()
    try:
        runpy.run_path(str(file), run_name="__main__")
    except Exception as error:
        sys.excepthook(type(error), error, error.__traceback__)
        os._exit(1)
    os._exit(0)


def _begin_simulation() -> None:
    """What the first import of torch does, which this process has imported already."""
    starter = sys.meta_path[0]
    spec = starter.find_spec("torch", None)
    assert spec is not None
    assert spec.loader is not None
    spec.loader.exec_module(sys.modules["torch"])
