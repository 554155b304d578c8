"""Which flows are ours, judged from the flow alone: our cookie prefix, in one of our tables.

The cookie's top 16 bits are "ht". A flow with it in a table outside of the pipeline is not
touched.
"""

from __future__ import annotations

from hitless.core.firewall.pipeline import COOKIE_PREFIX
from hitless.core.model.flow import Flow

_SHIFT = 48  # the prefix is the top 16 of 64 bits


def owns(flow: Flow, tables: frozenset[int]) -> bool:
    """Whether this program made the flow."""
    return flow.cookie >> _SHIFT == COOKIE_PREFIX and flow.table in tables
