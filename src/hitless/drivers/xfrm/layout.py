"""Numbers and fixed layouts of the XFRM netlink family, precompiled.

Everything here is `include/uapi/linux/xfrm.h`, `linux/netlink.h` and `linux/rtnetlink.h`. The structures are
laid out as the C compiler does on every 64-bit Linux: pads are written out, integers are in the machine's
order, and only addresses, SPIs and ports travel in network order. Python's own `struct` does the packing:
a general netlink library builds a tree of attribute objects per message, and 20,000 messages are too many
for that.
"""

from __future__ import annotations

import struct

NETLINK_XFRM = 6

# nlmsghdr: length, type, flags, sequence number, port id.
HEADER = struct.Struct("=IHHII")
HEADER_BYTES = HEADER.size
# nlattr: length including this header, type.
ATTRIBUTE = struct.Struct("=HH")
ATTRIBUTE_BYTES = ATTRIBUTE.size

NLM_F_REQUEST = 0x1
NLM_F_ACK = 0x4
NLM_F_DUMP_INTR = 0x10
NLM_F_DUMP = 0x300
NLM_F_CAPPED = 0x100
NLM_F_ACK_TLVS = 0x200
NLMSG_ERROR = 2
NLMSG_DONE = 3
NLMSGERR_ATTR_MSG = 1
SOL_NETLINK = 270
NETLINK_CAP_ACK = 10
NETLINK_EXT_ACK = 11
# The high bits of an attribute's type are flags (`NLA_F_NESTED`, `NLA_F_NET_BYTEORDER`).
ATTRIBUTE_TYPE_MASK = 0x3FFF

MSG_NEWSA = 0x10
MSG_DELSA = 0x11
MSG_GETSA = 0x12
MSG_NEWPOLICY = 0x13
MSG_DELPOLICY = 0x14
MSG_GETPOLICY = 0x15
MSG_EXPIRE = 0x18
MSG_UPDPOLICY = 0x19
MSG_UPDSA = 0x1A
MSG_POLEXPIRE = 0x1B
MSG_FLUSHSA = 0x1C
MSG_FLUSHPOLICY = 0x1D

# Multicast groups as the bits of `sockaddr_nl.nl_groups`.
GROUP_EXPIRE = 1 << 1
GROUP_SA = 1 << 2
GROUP_POLICY = 1 << 3

XFRMA_ALG_AUTH = 1
XFRMA_ALG_CRYPT = 2
XFRMA_ALG_COMP = 3
XFRMA_ENCAP = 4
XFRMA_TMPL = 5
XFRMA_SA = 6
XFRMA_POLICY = 7
XFRMA_SEC_CTX = 8
XFRMA_REPLAY_VAL = 10
XFRMA_COADDR = 14
XFRMA_LASTUSED = 15
XFRMA_POLICY_TYPE = 16
XFRMA_ALG_AEAD = 18
XFRMA_ALG_AUTH_TRUNC = 20
XFRMA_MARK = 21
XFRMA_TFCPAD = 22
XFRMA_REPLAY_ESN_VAL = 23
XFRMA_SA_EXTRA_FLAGS = 24
XFRMA_PAD = 27
XFRMA_OFFLOAD_DEV = 28
XFRMA_SET_MARK = 29
XFRMA_SET_MARK_MASK = 30
XFRMA_IF_ID = 31
XFRMA_MTIMER_THRESH = 32
XFRMA_SA_DIR = 33

PROTO_ESP = 50
MODE_TRANSPORT = 0
MODE_TUNNEL = 1
STATE_AF_UNSPEC = 32
STATE_ESN = 128

# struct xfrm_selector, 56 bytes: daddr, saddr, dport, its mask, sport, its mask, family, prefixlen_d,
# prefixlen_s, proto, ifindex, user. Ports are in network order.
SELECTOR = struct.Struct("=16s16sHHHHHBBB3xiI")
SELECTOR_BYTES = SELECTOR.size
# struct xfrm_usersa_info, 224 bytes: selector, (daddr, spi, proto), saddr, lifetime limits, (bytes, packets,
# add time, use time), (replay window, replay, integrity failed), seq, reqid, family, mode, window, flags.
SA = struct.Struct("=56s16sIB3x16s64sQQQQIIIIIHBBB7x")
SA_BYTES = SA.size
# struct xfrm_usersa_id, 24 bytes: daddr, spi, family, proto.
SA_ID = struct.Struct("=16sIHBx")
SA_ID_BYTES = SA_ID.size
# struct xfrm_userpolicy_info, 168 bytes: selector, lifetime limits, current lifetime, priority, index, dir,
# action, flags, share.
POLICY = struct.Struct("=56s64s32sIIBBBB4x")
POLICY_BYTES = POLICY.size
# struct xfrm_userpolicy_id, 64 bytes: selector, index, dir.
POLICY_ID = struct.Struct("=56sIB3x")
POLICY_ID_BYTES = POLICY_ID.size
# struct xfrm_user_tmpl, 64 bytes: (daddr, spi, proto), family, saddr, reqid, mode, share, optional, and one
# bit mask each of allowed authentication, encryption and compression algorithms.
TEMPLATE = struct.Struct("=16sIB3xH2x16sIBBBxIII")
TEMPLATE_BYTES = TEMPLATE.size
# struct xfrm_algo (name, key bits) and xfrm_algo_auth / xfrm_algo_aead (with truncation or ICV bits).
ALGORITHM = struct.Struct("=64sI")
ALGORITHM_ICV = struct.Struct("=64sII")
# struct xfrm_replay_state_esn: bitmap words, oseq, seq, oseq_hi, seq_hi, window; the bitmap follows.
REPLAY_ESN = struct.Struct("=6I")
# struct xfrm_replay_state: oseq, seq, bitmap.
REPLAY = struct.Struct("=III")

# No limit in bytes or packets (XFRM_INF), none in seconds (0): an SA or policy that lives until it is deleted.
UNLIMITED = struct.pack("=8Q", *([2**64 - 1] * 4 + [0] * 4))
NOTHING_YET = bytes(32)
ALL_ALGORITHMS = 0xFFFFFFFF
