"""Loads what is compiled of the planners and the model, once for all processes that are forked from one that imports this."""

from __future__ import annotations

from backend.case import Case
from backend.path import Path

Path().run(Case(num_head=16, kv_lens=(700, 500), backend="direct"))
