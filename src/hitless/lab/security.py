"""What a node's kernel holds, as `ip xfrm` tells it: which key generations exist, and which one is sent with.

Read with another tool than the agent's own driver on purpose: what the agent claims is what this is to judge. Keys
are never asked for (`nokeys`, ip-xfrm(8)).
"""

from __future__ import annotations

import re
import subprocess
from typing import Final

import msgspec

_LOWEST_SPI: Final = 1 << 24  # the generation stands above it; RFC 4303 §2.1 reserves 1-255
_IP_SECONDS: Final = 30.0  # a dump takes some 30 ms in the slowest guest; more means a stuck kernel
_ENDS: Final = re.compile(r"src (\S+) dst (\S+)")
_SPI: Final = re.compile(r"\bproto esp (?:spi (0x[0-9a-f]+))?")


class Association(msgspec.Struct, frozen=True):
    """An SA in the kernel, or (`pinned`) what an OUT policy sends with."""

    src: str
    dst: str
    spi: int

    @property
    def generation(self) -> int:
        """The key generation, modulo 255: the SPI's first byte less one."""
        return (self.spi >> 24) - 1


class Security(msgspec.Struct, frozen=True):
    """One node's SAs, and the templates of its OUT policies."""

    held: tuple[Association, ...] = ()
    pinned: tuple[Association, ...] = ()

    def generations(self, mine: frozenset[str], theirs: frozenset[str] | None) -> frozenset[int]:
        """Generations of the SAs between these addresses, or with anybody where `theirs` is None."""
        return frozenset(
            each.generation
            for each in self.held
            if theirs is None or {each.src, each.dst} <= mine | theirs
        )

    def sending(self, theirs: frozenset[str]) -> frozenset[int]:
        """Generations that OUT policies towards these addresses pin."""
        return frozenset(each.generation for each in self.pinned if each.dst in theirs)


def read(namespace: str) -> Security:
    """Everything of a named network namespace. Raises OSError or CalledProcessError where `ip` cannot."""
    return Security(parse_states(_ip(namespace, "state", "list", "nokeys")), parse_policies(_ip(namespace, "policy")))


def _ip(namespace: str, *words: str) -> str:
    command = ["ip", "-n", namespace, "xfrm", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=_IP_SECONDS, check=True).stdout


def parse_states(text: str) -> tuple[Association, ...]:
    """ESP SAs of `ip xfrm state`. What a larval state or another program left (small SPIs) is not counted."""
    found = []
    for block in _blocks(text):
        ends, spi = _ENDS.match(block), _SPI.search(block)
        if ends and spi and spi[1] and int(spi[1], 16) >= _LOWEST_SPI:
            found.append(Association(ends[1], ends[2], int(spi[1], 16)))
    return tuple(found)


def parse_policies(text: str) -> tuple[Association, ...]:
    """Templates that name an SPI, of the OUT policies in `ip xfrm policy`."""
    found = []
    for block in _blocks(text):
        if not re.search(r"^\s+dir out\b", block, re.MULTILINE):
            continue
        for template in block.split("tmpl ")[1:]:
            ends, spi = _ENDS.match(template), _SPI.search(template)
            if ends and spi and spi[1]:
                found.append(Association(ends[1], ends[2], int(spi[1], 16)))
    return tuple(found)


def _blocks(text: str) -> tuple[str, ...]:
    """Objects are told apart by lines that do not begin with white space."""
    return tuple(block for block in re.split(r"^(?=\S)", text, flags=re.MULTILINE) if block)


def one(generations: frozenset[int]) -> float:
    """The generation where there is exactly one; else NaN, which compares with nothing."""
    return float(next(iter(generations))) if len(generations) == 1 else float("nan")

