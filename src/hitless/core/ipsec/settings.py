"""What an operator decides about IPsec, the same on every node of a cluster."""

from __future__ import annotations

import msgspec

from hitless.core.ipsec.identity import REQID_BASE
from hitless.core.model.sa import Mode

PRIORITY_EXEMPT = 0x6700
"""Neighbour discovery in transport mode: without it no peer could be resolved."""
PRIORITY_PEER = 0x6800
PRIORITY_LOCAL = 0x6810
"""Traffic that stays behind this node, inside a protected range."""
PRIORITY_GUARD = 0x68FF
INDEX_TAG = 0x68
"""Policies of ours have this in the top byte of their index; the kernel itself counts up from 8."""


class IpsecSettings(msgspec.Struct, frozen=True):
    """`protected` are ranges that must never be seen in plaintext, known peers or not. `udp_port` (transport mode)
    limits protection to one destination port, as for VXLAN 8472 or 4789; 0 means all traffic between the nodes."""

    cluster: str
    mode: Mode = "tunnel"
    protected: tuple[str, ...] = ()
    udp_port: int = 0
    esn: bool = True
    replay_window: int = 1024
    reqid_base: int = REQID_BASE
