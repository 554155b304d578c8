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
    Condition(
        "intent-refused",
        "the firewall's intent is refused",
        "Bad documents are refused whole, with file, line, field and code; the last good intent stays in force. See "
        "`hitless firewall check`.",
        "error",
    ),
    Condition(
        "intent-incomplete",
        "the store does not hold a whole intent",
        "There is no manifest, or its digest is not that of the documents: a push is under way or was cut off, or a "
        "document was changed by hand. The last good intent stays in force. Repeat `hitless firewall push`.",
        "warning",
        10.0,
    ),
    Condition(
        "switch-unavailable",
        "Open vSwitch does not answer",
        "ovs-vswitchd or ovsdb-server is down or restarting. What the datapath still forwards follows the old tables. "
        "It is tried again by itself, every 5 seconds at the latest.",
        "error",
        2.0,
    ),
    Condition(
        "switch-restarting",
        "Open vSwitch has lost its tables, or is held back while they are restored",
        "All flows are written again while `other_config:flow-restore-wait` holds the switch back; the wait is ended "
        "after `restore_seconds` at the latest. If it lasts: another program has set the wait and not ended it.",
        "warning",
        5.0,
    ),
    Condition(
        "switch-failed",
        "Open vSwitch cannot do what is asked",
        "The message says what: a bridge that is not there, a tool that is not installed, a protocol that is not "
        "allowed. The tables stay as they are; it is tried again by itself.",
        "error",
    ),
    Condition(
        "bundle-refused",
        "Open vSwitch refused a change of the tables",
        "The message names the flow and the switch's reason. Nothing of the change is in force, the old tables stay; "
        "it is tried again with growing pauses, up to a minute.",
        "error",
    ),
    Condition(
        "flow-key-taken",
        "another program's flow stands where one of ours has to go",
        "Table, priority and match are the same, and an add would overwrite it. Nothing is written until it is gone: "
        "remove it, or keep that program off this bridge.",
        "error",
    ),
    Condition(
        "fail-mode-standalone",
        "the bridge's fail_mode is not secure, and it has other programs' flows",
        "Without `secure` an ovs-vswitchd that restarts lets everything pass until the tables are back; but setting "
        "it empties the tables, theirs too, so it is left to you: `ovs-vsctl set-fail-mode BRIDGE secure` when it "
        "suits them. Nothing is written until then.",
        "error",
    ),
    Condition(
        "tag-taken",
        "two networks want one VLAN tag on this node",
        "A tag is never renumbered while its network lives: connections are tracked under it. Give the other network "
        "another tag. Nothing is written until then.",
        "error",
    ),
    Condition(
        "no-tag-left",
        "all VLAN tags of this node are in use",
        "4,094 networks have, or had, a port here. Remove what is not needed from `external_ids:hitless-tags` of the "
        "bridge. Nothing is written until then.",
        "error",
    ),
    Condition(
        "tag-conflict",
        "a port has another VLAN tag than its network",
        "Somebody else has set it, and it is not overwritten. The port's rules hold, but its broadcast domain is "
        "another than the intent says. Remove the port's tag: the agent then sets the right one.",
        "warning",
    ),
    Condition(
        "uplink-missing",
        "an uplink of the configuration is not on the bridge",
        "What is to leave goes out by the other uplinks; without any, as the bridge's own learning decides.",
        "warning",
    ),
    Condition(
        "orphan-conjunction",
        "another program's conjunction has no accept flow",
        "It completes and then finds nothing, which shadows every other conjunction of its table at the same or a "
        "lower priority: packets that should pass are dropped. It is not ours to delete; remove the flow.",
        "error",
    ),
    Condition(
        "conj-id-zero",
        "another program's flow matches conj_id=0",
        "0 is the field's default value: the flow matches every packet of its table. It is not ours to delete; remove "
        "the flow.",
        "error",
    ),
    Condition(
        "plan-refuted",
        "a change of the tables was found unsafe before it was written",
        "The message says which packet would be treated wrongly. Nothing is written; the old tables stay. This is a "
        "defect: please report it with the intent.",
        "error",
    ),
    Condition(
        "plan-unknown",
        "a change of the tables could not be proved safe",
        "The check hit a limit, or a flow of somebody else that it does not understand: the message says which. "
        "Nothing is written, the old tables stay. Look with `hitless plan`; `hitless apply --accept-unknown` takes the "
        "risk.",
        "error",
    ),
    Condition(
        "confirmation-pending",
        "a change waits for a person's confirmation",
        "`hitless apply --confirm-within` has made it. The agent leaves the bridge alone until it is confirmed or "
        "taken back; the message says until when, and with which commands you keep it or take it back.",
        "warning",
    ),
    Condition(
        "change-taken-back",
        "the documents ask for a change that nobody confirmed",
        "It was taken back, and is not done again because the documents still say it: the intent of before is in "
        "force. Change the documents, or stop the agent and apply a new plan (`hitless plan`, `hitless apply`).",
        "error",
    ),
    Condition(
        "state-dir-unusable",
        "the state directory cannot be written",
        "The agent goes on, but its successor will not know the last good intent, and the status is old. Make the "
        "directory writable, or set state_dir.",
        "error",
    ),
)

REGISTRY = {condition.code: condition for condition in _ALL}


def title(code: str) -> str:
    """What a code means in a few words; the code itself where it is not registered."""
    return REGISTRY[code].title if code in REGISTRY else code
