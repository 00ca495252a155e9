"""Cases for Hypothesis: property tests of one's own draw from the space that `run` draws from."""

from __future__ import annotations

from hypothesis import strategies as st

from backend.case import Case
from fuzz.space import CaseSpace
from fuzz.strategies import Tables, chosen_case


@st.composite
def cases(draw: st.DrawFn, space: CaseSpace) -> Case:
    """A valid case of a space; Hypothesis shrinks it to plain decode of one short request, whose choices are 0 throughout."""
    return chosen_case(lambda count: draw(st.integers(0, count - 1)), Tables.of(space))
