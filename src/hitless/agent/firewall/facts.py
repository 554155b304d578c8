"""What a bridge says about itself, set against an intent: which ports are here, which tags hold, what is odd.

Pure functions. What the agent remembers in `external_ids` of the bridge is read and made here too:

    hitless-tags       NETWORK:TAG, separated by commas; a network that has left keeps its tag
    hitless-intent     the generation that was about to be written
    hitless-committed  the generation that is in force with its connections repaired
    hitless-restoring  while flow-restore-wait is ours: until when, in seconds since 1970
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Final

import msgspec

from hitless.core.firewall import pipeline
from hitless.core.firewall.compile import Local
from hitless.core.firewall.identity import assign_tags
from hitless.core.model.flow import BridgeState, Conjunction, Flow, Interface
from hitless.core.model.security import Intent, Place

TAGS, INTENT, COMMITTED, RESTORING = "hitless-tags", "hitless-intent", "hitless-committed", "hitless-restoring"
_NOWHERE: Final = Place()
_SHOWN = 5  # of a kind in one sentence
_LOCAL = 0xFFFE  # OFPP_LOCAL: the bridge's own interface


class Facts(msgspec.Struct, frozen=True):
    """What the compiler is told, and what it costs to make it true.

    `tags` is what `external_ids` has to remember; `untagged` the access ports that still need theirs; `oddities` are
    conditions, code and sentence.
    """

    local: Local
    tags: Mapping[str, int]
    untagged: Mapping[str, int]
    oddities: Mapping[str, str]
    unlisted: tuple[str, ...] = ()


def generation(intent: Intent) -> str:
    """16 hexadecimal digits of what the intent says; where it was said, and in which order, is no part of it."""
    replace = msgspec.structs.replace
    plain = Intent(
        groups={
            name: replace(
                each,
                place=_NOWHERE,
                rules=tuple(sorted((replace(rule, place=_NOWHERE) for rule in each.rules), key=msgspec.json.encode)),
            )
            for name, each in intent.groups.items()
        },
        address_groups={name: replace(each, place=_NOWHERE) for name, each in intent.address_groups.items()},
        ports={name: replace(each, place=_NOWHERE) for name, each in intent.ports.items()},
        networks={name: replace(each, place=_NOWHERE) for name, each in intent.networks.items()},
    )
    return hashlib.sha256(msgspec.json.encode(plain, order="deterministic")).hexdigest()[:16]


def read_facts(intent: Intent, bridge: BridgeState, uplinks: Collection[str]) -> Facts:
    """What this bridge has of the intent. Raises TagError.

    A port whose VLAN tag somebody else set is compiled all the same, under its network's tag as conntrack zone. Left
    out, NORMAL would forward for it with no rule asked; so its rules hold, and the condition says that its broadcast
    domain is not the one that the intent names.
    """
    there = {each.name: each for each in bridge.interfaces if each.ofport > 0}
    here = [there[name] for name in sorted(there.keys() & intent.ports.keys())]
    tags = _tags(intent, bridge, here)
    wanted = {each.name: tags[intent.ports[each.name].network] for each in here}
    conflicts = [f"{each.name} has {each.tag}, not {wanted[each.name]}" for each in here
                 if each.tag not in (0, wanted[each.name])]  # fmt: skip
    gone = [name for name in uplinks if name not in there]
    oddities = {"tag-conflict": conflicts, "uplink-missing": gone}
    used = {intent.ports[each.name].network for each in here}
    known = {*intent.ports, *uplinks}
    return Facts(
        local=Local(
            ofports={each.name: each.ofport for each in here},
            tags={name: tags[name] for name in used},
            uplinks=tuple(there[name].ofport for name in uplinks if name in there),
        ),
        tags=tags,
        untagged={each.name: wanted[each.name] for each in here if not each.tag},
        oddities={code: _some(each) for code, each in oddities.items() if each},
        unlisted=tuple(name for name, each in sorted(there.items()) if name not in known and each.ofport != _LOCAL),
    )


def _tags(intent: Intent, bridge: BridgeState, here: Iterable[Interface]) -> dict[str, int]:
    """Tags of the networks that have a port here, and of those that once had one."""
    kept = _remembered(bridge)
    for name, found in _worn(intent, here).items():
        # What access ports wear already, from before us or from a life that OVSDB forgot, is taken over.
        if len(found) == 1 and name not in kept and not found & {*kept.values()} and not intent.networks[name].tag:
            kept[name] = min(found)
    used = {intent.ports[each.name].network for each in here}
    foreign = {each.tag for each in bridge.interfaces if each.tag and each.name not in intent.ports}
    spoken_for = {each.tag for each in intent.networks.values() if each.tag}
    return {**kept, **assign_tags([intent.networks[name] for name in used], kept, foreign | spoken_for)}


def _worn(intent: Intent, here: Iterable[Interface]) -> dict[str, set[int]]:
    found: dict[str, set[int]] = {}
    for each in here:
        if each.tag:
            found.setdefault(intent.ports[each.name].network, set()).add(each.tag)
    return found


def _remembered(bridge: BridgeState) -> dict[str, int]:
    text = dict(bridge.external_ids).get(TAGS, "")
    pairs = (each.rpartition(":") for each in text.split(",") if each)
    return {name: int(tag) for name, _, tag in pairs if tag.isdecimal()}


def tags_text(tags: Mapping[str, int]) -> str:
    """The value of `hitless-tags`."""
    return ",".join(f"{name}:{tag}" for name, tag in sorted(tags.items()))


def is_canary(flow: Flow) -> bool:
    """The flow whose absence means that ovs-vswitchd has begun anew."""
    return flow.table == pipeline.CANARY


def strangers(others: Iterable[Flow], ours: Iterable[Flow]) -> Mapping[str, str]:
    """Conditions that flows of others give reason to: conjunctions in our tables that can shadow ours.

    A second lookup goes over all flows of a table, so an accept flow counts whoever made it (ovs-fields(7),
    "Conjunctive Match Fields").
    """
    suspects = [flow for flow in others if flow.table in pipeline.TABLES]
    wanted = [(flow, each.id) for flow in suspects for each in flow.actions if isinstance(each, Conjunction)]
    zero = [_shown(flow) for flow in suspects if any(term[:2] == ("conj_id", 0) for term in flow.match)]
    orphans: list[str] = []
    if wanted:
        accepts = {(flow.table, number) for flow in (*suspects, *ours) for number in _accepted(flow)}
        orphans = [f"{_shown(flow)} id {number}" for flow, number in wanted if (flow.table, number) not in accepts]
    return {code: _some(each) for code, each in (("orphan-conjunction", orphans), ("conj-id-zero", zero)) if each}


def _accepted(flow: Flow) -> Iterator[int]:
    return (value for field, value, _ in flow.match if field == "conj_id" and value)


def _shown(flow: Flow) -> str:
    return f"table {flow.table}, priority {flow.priority}, cookie {flow.cookie:#x}"


def _some(found: list[str]) -> str:
    more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    return "; ".join(found[:_SHOWN]) + more
