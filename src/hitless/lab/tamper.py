"""Hands on a node's kernel: what a person with `ip xfrm`, or another program, does to SAs behind an agent's back.

All of it goes through a netlink socket of its own inside the node's namespace, so that the agent sees it as anybody's
change. Deleting and re-creating an SA travel in one datagram, which the kernel works through without a pause: what is
lost then is lost because of the counters, not because the SA was missing for a moment.

Counters can only be moved by message: `ip xfrm` has no word for XFRM_MSG_NEWAE (net/xfrm/xfrm_user.c, xfrm_new_ae).
"""

from __future__ import annotations

import errno
import os
import struct
import subprocess
from collections.abc import Collection
from socket import htonl
from typing import Final, Literal

from hitless.core.model.sa import ObservedSa
from hitless.drivers.xfrm import layout as wire
from hitless.drivers.xfrm.addresses import pack_address
from hitless.drivers.xfrm.codec import encode_sa, encode_sa_key
from hitless.drivers.xfrm.decode import decode_sa
from hitless.drivers.xfrm.own import Owner
from hitless.drivers.xfrm.socket import Request, XfrmSocket, open_socket
from hitless.lab.kernel.face import LabError
from hitless.lab.probe import namespace

Deed = Literal["delete", "recreate"]

_IP_SECONDS: Final = 30.0
_MSG_NEWAE: Final = 0x1E  # XFRM_MSG_NEWAE, linux/xfrm.h
_NLM_F_REPLACE: Final = 0x100  # NEWAE without it is EOPNOTSUPP
_AE_RVAL: Final = 0x2  # XFRM_AE_RVAL: the replay state is what the message is about
_AE_ID: Final = struct.Struct("=24s16sII")  # xfrm_aevent_id: usersa_id, saddr, flags, reqid
_WORD_BITS: Final = 32


def flush(name: str, what: Literal["states", "policies"]) -> None:
    """`ip xfrm state flush` or `ip xfrm policy flush` in a namespace: everything goes, whoever made it."""
    words = ["state"] if what == "states" else ["policy"]
    subprocess.run(["ip", "-n", name, "xfrm", *words, "flush"], timeout=_IP_SECONDS, check=True, capture_output=True)


def touch(name: str, src: Collection[str], dst: Collection[str], deed: Deed) -> None:
    """Delete the newest SA of ours from `src` to `dst`, or put it there anew: the same key, counters at 0."""
    with namespace.enter(name):
        socket = XfrmSocket()
    try:
        sa = _newest(socket, src, dst).sa
        requests: list[Request] = [(wire.MSG_DELSA, encode_sa_key(sa.key))]
        if deed == "recreate":
            requests.append((wire.MSG_NEWSA, encode_sa(sa)))
        for answer in socket.write(requests):
            _check(answer.errno, f"to {deed} an SA in {name}")
    finally:
        socket.close()


def plant(name: str, src: Collection[str], dst: Collection[str], oseq: int) -> None:
    """Make the next packet of the newest SA from `src` to `dst` carry the number `oseq` + 1 (64 bits, with ESN)."""
    with namespace.enter(name):
        socket, raw = XfrmSocket(), open_socket(0, 1 << 16)
    try:
        sa = _newest(socket, src, dst).sa
        family, source = pack_address(sa.src)
        sa_id = wire.SA_ID.pack(pack_address(sa.dst)[1], htonl(sa.spi), family, wire.PROTO_ESP)
        words = (sa.replay_window + _WORD_BITS - 1) // _WORD_BITS
        # An OUT SA receives nothing: its bitmap is empty, and must only be as long as the one that is there.
        state = wire.REPLAY_ESN.pack(words, oseq & 0xFFFFFFFF, 0, oseq >> 32, 0, sa.replay_window) + bytes(words * 4)
        attribute = wire.ATTRIBUTE.pack(wire.ATTRIBUTE_BYTES + len(state), wire.XFRMA_REPLAY_ESN_VAL) + state
        body = _AE_ID.pack(sa_id, source, _AE_RVAL, sa.reqid) + attribute
        flags = wire.NLM_F_REQUEST | wire.NLM_F_ACK | _NLM_F_REPLACE
        raw.settimeout(5.0)
        raw.send(wire.HEADER.pack(wire.HEADER_BYTES + len(body), _MSG_NEWAE, flags, 1, 0) + body)
        answer = raw.recv(1 << 16)
        _check(-struct.unpack_from("=i", answer, wire.HEADER_BYTES)[0], f"to set a counter in {name}")
    finally:
        raw.close()
        socket.close()


def _newest(socket: XfrmSocket, src: Collection[str], dst: Collection[str]) -> ObservedSa:
    owner = Owner()
    found = [
        each
        for each in socket.dump(wire.MSG_GETSA, decode_sa)
        if owner.owns_sa(each) and each.sa.src in src and each.sa.dst in dst
    ]
    if not found:
        ends = f"{'/'.join(src)} to {'/'.join(dst)}"
        raise LabError("no-such-sa", f"there is no SA from {ends}; wait for `settled` first")
    # By time of creation, and within one second by generation.
    return max(found, key=lambda each: (each.counters.add_time, each.sa.spi))


def _check(number: int, what: str) -> None:
    if number:
        name = errno.errorcode.get(number, str(number))
        raise LabError("tampering-refused", f"the kernel refused {what}: {os.strerror(number)} ({name})")
