"""What a rank of a context-parallel group returns for a request of which it holds no token.

Such a partial result must weigh nothing where the ranks' results are merged by their log-sum-exp: o 0 and lse -inf (AITER's
op_tests/test_mla_persistent_round_robin.py calls it the contract of kernel and merge; a kernel leaves that of a row from which
all of the rank's tokens are hidden). A request without tokens gets no work item, so that neither stage writes its rows.
"""

from __future__ import annotations

import numpy as np

from backend.aiter.launch import Refusal
from backend.call import Call
from backend.findings import Finding, FindingKind, Party


def check_rank_without_tokens(call: Call) -> list[Finding]:
    """One finding for all rows of such requests, where the log-sum-exp is asked for."""
    decision, decode = call.decision, call.decode
    if isinstance(call.launch, Refusal) or decode.g_kv_indptr is None or not decode.return_lse or call.plan is None:
        return []
    held, of_all = np.asarray(decision.kv_lens), np.diff(decode.g_kv_indptr)
    empty = np.flatnonzero((held == 0) & (of_all > 0))
    if not len(empty) or call.plan.rejected:
        return []
    rows = int(np.asarray(decision.query_lens)[empty].sum())
    first = int(empty[0])
    message = (
        f"rank {decode.cp_rank} of {decode.cp_world_size} holds none of the {int(of_all[first])} tokens of request {first}: "
        f"{rows} rows of o and final_lse, which it returns to be merged, are written by nobody, where they should be 0 and -inf"
    )
    kind = FindingKind.ROW_NOT_WRITTEN
    figures: dict[str, int | str] = {"rows": rows, "request": first, "requests": len(empty)}
    subject = "rank without tokens"
    return [Finding(kind, kind.severity, Party.LAUNCHER, "mla_decode_fwd", "final_lse", message, figures, subject)]
