"""The condition registry: the one source of what CLI, JSON, logs and documents say about health.

A code is stable and stands under the same name everywhere. `hide_seconds` is how long a condition may last before
it is worth a person's attention: shorter ones are the protocol at work.
"""

from __future__ import annotations

from typing import Literal

import msgspec

Severity = Literal["info", "warning", "error"]


class Condition(msgspec.Struct, frozen=True):
    """What a code means and what to do about it."""

    code: str
    title: str
    text: str
    severity: Severity
    hide_seconds: float = 0.0


_ALL = (
    Condition(
        "peer-not-ready",
        "the peer has not said that it can receive",
        "Its agent has not acknowledged the newest records yet. If it lasts: is the agent running, does it reach the "
        "store? Until then nothing is sent to it with the new identity; what was in use stays in use.",
        "warning",
        5.0,
    ),
    Condition(
        "key-missing",
        "the peer does not hold the newest key",
        "The peer's key file does not have this key (yet). Both directions of this pair keep the newest key that both "
        "hold, and nobody deletes it. Deliver the key file to the peer.",
        "warning",
        30.0,
    ),
    Condition(
        "peer-install-failed",
        "the peer could not install its receive state for us",
        "See the peer's log for `install-failed`. It tries again by itself; this pair stays on what it uses.",
        "error",
    ),
    Condition(
        "install-failed",
        "the kernel refused a security association",
        "See this node's log for `kernel-refused` with the kernel's own words. It is tried again with growing "
        "pauses; other pairs are not held up.",
        "error",
    ),
    Condition(
        "policy-refused",
        "the kernel, or somebody else's policy, is in the way of the switch",
        "A policy that hitless does not own has the same selector, or the kernel refused the update. See `ip xfrm "
        "policy` and this node's log for `kernel-refused`. The pair stays on what it uses.",
        "error",
    ),
    Condition(
        "superseded",
        "a newer common key exists",
        "Both ends hold a newer key: the older one is not used for anything new.",
        "info",
        5.0,
    ),
    Condition("switching", "the switch is under way", "The policy update has not been acknowledged yet.", "info", 5.0),
    Condition(
        "spi-in-use",
        "another SA has the SPI this node wants",
        "The node draws its next incarnation, which changes the SPI; nothing is overwritten.",
        "info",
    ),
    Condition(
        "sa-vanished",
        "an SA of ours was deleted by someone else",
        "It cannot be put back as it was (its counters are lost): the node begins a new incarnation, with fresh keys.",
        "warning",
    ),
    Condition(
        "sa-altered",
        "an SA of ours is not what was written",
        "Someone else replaced it, or another key is behind it. The node begins a new incarnation with fresh keys.",
        "warning",
    ),
    Condition(
        "cannot-decrypt",
        "what this peer sends cannot be decrypted",
        "Packets arrive under its SA, fail their integrity check or are taken for replays, and nothing gets through: "
        "its counters went back, or it uses another key. The peer begins a new incarnation; no rotation is needed.",
        "error",
    ),
    Condition(
        "peer-cannot-decrypt",
        "a peer cannot decrypt what this node sends",
        "The peer said so in its progress record. This node begins a new incarnation, with fresh keys for all peers.",
        "warning",
    ),
    Condition(
        "sequence-limit",
        "a sequence number is near its end",
        "It must not cycle (RFC 4303): the node begins a new incarnation long before.",
        "info",
    ),
    Condition("byte-limit", "ipsec.soft_bytes is reached", "The node begins a new incarnation: fresh keys.", "info"),
    Condition("age-limit", "ipsec.soft_seconds is reached", "The node begins a new incarnation: fresh keys.", "info"),
    Condition(
        "node-removed",
        "this node was removed from the cluster",
        "It sends nothing and its peers have deleted it. To take it back: `hitless node restore NAME`.",
        "error",
    ),
    Condition("restored", "the node was taken back", "A new incarnation: peers had deleted the old one.", "info"),
    Condition(
        "name-taken",
        "another machine runs under this node's name",
        "Give one of the two another name. The one that came second does nothing until then.",
        "error",
    ),
    Condition("first-start", "the node's first start", "A new incarnation: nothing was there before.", "info"),
    Condition("rebooted", "the kernel is a new one", "The boot id changed, so the kernel's states are gone.", "info"),
    Condition(
        "address-changed", "the underlay addresses changed", "A new incarnation: SAs are bound to addresses.", "info"
    ),
    Condition(
        "key-id-reused",
        "a known key id with other key material",
        "The whole file is refused and the last good keys stay in force. Give the new key the next id.",
        "error",
    ),
    Condition(
        "key-material-reused",
        "a known key under another id",
        "The whole file is refused: the same key twice would be no rotation. Make a fresh one: `hitless key new`.",
        "error",
    ),
    Condition(
        "key-superseded",
        "the key file went back to an older key",
        "The whole file is refused: this node already uses a newer key. Put that one back or add a fresh one.",
        "error",
    ),
    Condition(
        "key-refused",
        "a key file is refused",
        "Bad files are refused whole, with file, line, field and code; the last good keys stay in force.",
        "error",
    ),
    Condition(
        "store-unavailable",
        "the store cannot be reached",
        "Forwarding goes on and nothing is deleted; rotations wait. It is tried again by itself.",
        "warning",
        10.0,
    ),
    Condition(
        "kernel-refused",
        "the kernel refused an operation",
        "The log line names the operation, the code and the kernel's words. It is tried again.",
        "error",
    ),
)

REGISTRY = {condition.code: condition for condition in _ALL}


def title(code: str) -> str:
    """What a code means in a few words; the code itself where it is not registered."""
    return REGISTRY[code].title if code in REGISTRY else code
