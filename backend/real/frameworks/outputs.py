"""Whether what a backend gives its caller is what its decode call computed for it: row by row and head by head.

Nothing is computed here, so that rows and heads are told by marks: q's stand for what attention makes of it in o, and come out
where the backend puts that. A backend that repeats heads for a kernel of more, or pads rows, has to find its own again.
"""

from __future__ import annotations

from typing import Any

import torch

from backend.real.aiter_ops import OpCall
from backend.real.torch_shim import host

MARKS = 16
"""Numbers below it are exact in every type that q has."""


def mark(q: torch.Tensor) -> None:
    """Says in each row [rows, heads, elements] of each head which it is, in its first two elements."""
    plain = host(q)
    plain[..., 0] = (torch.arange(plain.shape[0]) % MARKS)[:, None].to(plain.dtype)
    plain[..., 1] = (torch.arange(plain.shape[1]) % MARKS)[None].to(plain.dtype)


def computed(call: OpCall) -> None:
    """Of a call of mla_decode_fwd, o gets the marks of q, where the two have the same rows and heads."""
    q, o = host(call.arguments["q"]), host(call.arguments["o"])
    if q.dim() == o.dim() == 3 and q.shape[:2] == o.shape[:2]:
        o[..., :2] = q[..., :2].to(o.dtype)


def misplaced(made: Any, q: torch.Tensor) -> str:
    """What is wrong with an output, which has the rows and heads of q; "" where nothing is, or it is of another shape."""
    rows, heads = q.shape[:2]
    if not torch.is_tensor(made) or not made.numel() or made.shape[0] != rows or made.numel() % (rows * heads):
        return ""
    plain = host(made).reshape(rows, heads, -1)[..., :2].float()
    for which, place, wanted in (
        ("row", 0, (torch.arange(rows) % MARKS)[:, None].expand(rows, heads)),
        ("head", 1, (torch.arange(heads) % MARKS)[None].expand(rows, heads)),
    ):
        wrong = (plain[..., place] != wanted).nonzero().tolist()
        if wrong:
            row, head = wrong[0]
            return f"row {row}, head {head} of the output is not what the decode call computed for it: another {which}'s"
    return ""
