"""SAs and policies for the driver tests, and strategies that generate any of them."""

from __future__ import annotations

import ipaddress
from typing import Any

from hypothesis import strategies as st

from hitless.core.model.sa import Action, Aead, AuthEnc, Direction, Mode, Policy, Sa, Selector, Template
from hitless.core.model.secret import Secret

BASE = 0x68000000
DIRECTION_NUMBER: dict[str, int] = {"in": 0, "out": 1, "fwd": 2}


def gcm(seed: int = 1) -> Aead:
    return Aead("rfc4106(gcm(aes))", Secret(bytes([seed % 256]) * 36), 128)


def cbc(seed: int = 1) -> AuthEnc:
    return AuthEnc("hmac(sha256)", Secret(bytes([seed % 256]) * 32), 128, "cbc(aes)", Secret(bytes([seed % 256]) * 16))


def sa(number: int = 1, **changes: Any) -> Sa:
    values: dict[str, Any] = {
        "src": f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}", "dst": "192.0.2.1",
        "spi": 0x01000000 + number, "reqid": BASE + number, "mode": "tunnel", "crypto": gcm(number),
    }  # fmt: skip
    return Sa(**{**values, **changes})


def policy(number: int = 1, direction: Direction = "out", **changes: Any) -> Policy:
    low = DIRECTION_NUMBER[direction]
    values: dict[str, Any] = {
        "direction": direction, "selector": Selector("10.1.0.0/16", f"10.2.{number}.0/24"), "action": "allow",
        "priority": 1000, "index": BASE + number * 8 + low,
        "template": Template("192.0.2.9", "192.0.2.1", BASE + number, "tunnel", 0x01000000 + number),
    }  # fmt: skip
    return Policy(**{**values, **changes})


def _addresses(v: int) -> st.SearchStrategy[str]:
    bits = 32 if v == 4 else 128
    return st.integers(0, 2**bits - 1).map(
        lambda n: str(ipaddress.IPv4Address(n) if v == 4 else ipaddress.IPv6Address(n))
    )


def _prefixes(v: int) -> st.SearchStrategy[str]:
    return st.tuples(_addresses(v), st.integers(0, 32 if v == 4 else 128)).map(
        lambda pair: str(ipaddress.ip_network(f"{pair[0]}/{pair[1]}", strict=False))
    )


_u32 = st.integers(0, 2**32 - 1)
_modes: st.SearchStrategy[Mode] = st.sampled_from(["tunnel", "transport"])
_names = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=63)
_keys = st.binary(max_size=80).map(Secret)
_cryptos = st.builds(Aead, _names, _keys, _u32) | st.builds(AuthEnc, _names, _keys, _u32, _names, _keys)


@st.composite
def sas(draw: st.DrawFn) -> Sa:
    v = draw(st.sampled_from([4, 6]))
    return Sa(draw(_addresses(v)), draw(_addresses(v)), draw(_u32), draw(_u32), draw(_modes), draw(_cryptos),
              draw(st.booleans()), draw(st.integers(0, 4096)))  # fmt: skip


@st.composite
def policies(draw: st.DrawFn) -> Policy:
    v, outer = draw(st.sampled_from([4, 6])), draw(st.sampled_from([4, 6]))
    directions: list[Direction] = ["in", "out", "fwd"]
    actions: list[Action] = ["allow", "block"]
    direction = draw(st.sampled_from(directions))
    port = st.integers(0, 65535)
    selector = Selector(draw(_prefixes(v)), draw(_prefixes(v)), draw(st.integers(0, 255)), draw(port), draw(port))
    template = st.builds(Template, _addresses(outer), _addresses(outer), _u32, _modes, _u32)
    index = draw(st.integers(0, 2**29 - 1)) * 8 + DIRECTION_NUMBER[direction]
    return Policy(direction, selector, draw(st.sampled_from(actions)), draw(_u32), index,
                  draw(st.none() | template))  # fmt: skip
