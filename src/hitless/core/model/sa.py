"""Security associations and policies as the kernel knows them (`linux/xfrm.h`, RFC 4301, RFC 4303).

These are the values that the pure core wants and that the driver reads back. Addresses and prefixes are
canonical text (`ipaddress` form), lengths of keys are bytes, ICV lengths are bits, as in `ip xfrm`.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from hitless.core.model.secret import Secret

Mode = Literal["tunnel", "transport"]
Direction = Literal["in", "out", "fwd"]
Action = Literal["allow", "block"]


class Aead(msgspec.Struct, frozen=True, tag=True):
    """Combined-mode cipher, e.g. `rfc4106(gcm(aes))`; the key includes the 4-byte salt (RFC 4106 §8.1)."""

    name: str
    key: Secret
    icv_bits: int


class AuthEnc(msgspec.Struct, frozen=True, tag=True):
    """Separate integrity and encryption, e.g. `hmac(sha256)` truncated to 128 bits with `cbc(aes)`."""

    auth_name: str
    auth_key: Secret
    trunc_bits: int
    enc_name: str
    enc_key: Secret


Crypto = Aead | AuthEnc


class SaKey(msgspec.Struct, frozen=True, order=True):
    """What the kernel identifies an ESP SA by: destination and SPI. The source does not count."""

    dst: str
    spi: int


class Sa(msgspec.Struct, frozen=True):
    """One ESP security association. `src`/`dst` are outer addresses; `spi` is host order."""

    src: str
    dst: str
    spi: int
    reqid: int
    mode: Mode
    crypto: Crypto
    esn: bool = True
    replay_window: int = 1024

    @property
    def key(self) -> SaKey:
        return SaKey(self.dst, self.spi)


class SaCounters(msgspec.Struct, frozen=True):
    """What one SA has seen. `seq`/`oseq` are 64 bit; times are seconds since 1970 of the kernel's clock."""

    packets: int = 0
    bytes: int = 0
    seq: int = 0
    oseq: int = 0
    add_time: int = 0
    use_time: int = 0
    replay: int = 0
    replay_window: int = 0
    integrity_failed: int = 0


class ObservedSa(msgspec.Struct, frozen=True):
    """An SA read from the kernel. `foreign_traits` names what an SA of ours never has (a mark, an if_id …)."""

    sa: Sa
    counters: SaCounters = SaCounters()
    foreign_traits: tuple[str, ...] = ()


class Selector(msgspec.Struct, frozen=True, order=True):
    """Which packets a policy is for. Prefixes with length; `proto` 0, `sport` 0 and `dport` 0 mean any.

    For ICMP and ICMPv6 the kernel keeps the type in `sport` and the code in `dport` (`xfrm_flowi_sport`).
    """

    src: str
    dst: str
    proto: int = 0
    sport: int = 0
    dport: int = 0


class PolicyKey(msgspec.Struct, frozen=True, order=True):
    """What the kernel identifies a policy by. The priority does not count: same selector means same policy."""

    direction: Direction
    selector: Selector


class Template(msgspec.Struct, frozen=True):
    """The transform a policy requires. `spi` 0 accepts any SA with that `reqid` (IN, FWD); OUT pins one."""

    src: str
    dst: str
    reqid: int
    mode: Mode
    spi: int = 0


class Policy(msgspec.Struct, frozen=True):
    """One policy; without a template it allows or blocks as `action` says. A lower `priority` number wins.

    `index` is the owner tag: the kernel lets its creator choose it and keeps it over updates. Its low three
    bits are the direction (in 0, out 1, fwd 2).
    """

    direction: Direction
    selector: Selector
    action: Action
    priority: int
    index: int
    template: Template | None = None

    @property
    def key(self) -> PolicyKey:
        return PolicyKey(self.direction, self.selector)


class ObservedPolicy(msgspec.Struct, frozen=True):
    """A policy read from the kernel. `foreign_traits` names what a policy of ours never has."""

    policy: Policy
    foreign_traits: tuple[str, ...] = ()


class XfrmState(msgspec.Struct, frozen=True):
    """Everything of one network namespace, ours and others', from one dump each."""

    sas: tuple[ObservedSa, ...] = ()
    policies: tuple[ObservedPolicy, ...] = ()
