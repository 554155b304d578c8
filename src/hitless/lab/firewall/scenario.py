"""What a firewall scenario is, as values: a switch with ports, a policy, traffic, and what happens to them.

Line numbers, conditions and the three ways to look at one (wait, hold, expect) are those of the other scenarios. What
is different is the world: ports `p1` to `pN`, of which `pI` is in one of the groups `g1` to `gM` in turn; connections
that the policy allows, and forbidden streams that it does not.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from hitless.lab.firewall.streams import Expected
from hitless.lab.firewall.streams import Stream as PlayedStream
from hitless.lab.scenario import Relation

Datapath = Literal["netdev", "system"]
Source = Literal["files", "store"]
Write = Literal["bundle", "piecewise"]
Ids = Literal["hash", "fresh", "reused"]
Whose = Literal["ours", "foreign"]

STEPS = ("observed", "compiled", "intended", "applied", "barrier", "repaired", "committed")
"""The steps of a round after which the agent can be told to kill itself, in the order in which they happen."""

NUMBERS = ("flow_mods", "flows", "orphans", "marks", "ports", "cut")
"""What can be asked at any time, of the switch, of the agent's status, or (`cut`) of its log."""

COUNTED = ("sent", "lost", "leaked", "broken", "healed", "dead_pairs", "wrongly_open")
"""What the traffic and the sampled tables say once the probes have stopped."""

STREAMED = frozenset({"sent", "lost", "leaked", "broken", "healed"})
"""Those of them that can be asked of one stream, or of all connections or all forbidden streams."""


# --- conditions -----------------------------------------------------------------------------------------


class Settled(msgspec.Struct, frozen=True, tag="settled"):
    """The agent that runs says that the newest documents are in force."""


class Exited(msgspec.Struct, frozen=True, tag="exited"):
    """The agent is not running any more, by whatever cause."""


class Logged(msgspec.Struct, frozen=True, tag="event"):
    """The agent has said this event since it was last started; `code` "" matches any."""

    event: str
    code: str = ""


class Standing(msgspec.Struct, frozen=True, tag="condition"):
    """The agent's status names this condition; "" means that it names none."""

    code: str


class Flowing(msgspec.Struct, frozen=True, tag="flowing"):
    """These streams (a stream, `connections`) have delivered and answered since the last look."""

    names: str


class AsNoted(msgspec.Struct, frozen=True, tag="as-noted"):
    """Flows, ours or others', are what they were when they were noted (or placed): keys, actions, cookies."""

    whose: Whose


class Compared(msgspec.Struct, frozen=True, tag="compared"):
    """A number beside a value; `of` is a stream, `connections`, `forbidden`, or "" for all."""

    metric: str
    of: str
    relation: Relation
    value: float

    def holds(self, observed: float) -> bool:
        return {
            "==": observed == self.value, "!=": observed != self.value, "<": observed < self.value,
            "<=": observed <= self.value, ">": observed > self.value, ">=": observed >= self.value,
        }[self.relation]  # fmt: skip


Condition = Settled | Exited | Logged | Standing | Flowing | AsNoted | Compared


# --- actions --------------------------------------------------------------------------------------------


class Start(msgspec.Struct, frozen=True, tag="start"):
    """Start the agent; what is armed takes effect."""


class Stop(msgspec.Struct, frozen=True, tag="stop"):
    """Ask the agent to end (SIGTERM), or end it without asking (SIGKILL) where `abruptly`."""

    abruptly: bool = False


class Crash(msgspec.Struct, frozen=True, tag="crash"):
    """From its next start on the agent kills itself right after this step, once."""

    at: str


class Order(msgspec.Struct, frozen=True, tag="order"):
    """From its next start on the agent writes ports in this order (0: by name). Only historic writing has one."""

    seed: int


class Rule(msgspec.Struct, frozen=True, tag="rule"):
    """A rule of a group comes or (`rule` None) goes. `rule` is the document's mapping."""

    group: str
    name: str
    rule: tuple[tuple[str, object], ...] | None


class Groups(msgspec.Struct, frozen=True, tag="groups"):
    """A port is in these groups from now on; none: its document is gone."""

    port: str
    groups: tuple[str, ...]


class Prefix(msgspec.Struct, frozen=True, tag="prefix"):
    """A prefix comes into the address group, or leaves it."""

    deed: Literal["add", "remove"]
    prefix: str


class Shuffle(msgspec.Struct, frozen=True, tag="shuffle"):
    """The same documents in another order, their lists too, and spread over several files."""

    seed: int


class Plug(msgspec.Struct, frozen=True, tag="plug"):
    """A port comes onto the bridge, or leaves it. Its station and its link stay."""

    port: str
    deed: Literal["in", "out"]


class StoreReach(msgspec.Struct, frozen=True, tag="store"):
    """From its next start on the agent's store is out of reach, or within it."""

    within: bool


class Switch(msgspec.Struct, frozen=True, tag="switch"):
    """ovs-vswitchd is killed (SIGKILL), or started."""

    deed: Literal["kill", "start"]


class Foreign(msgspec.Struct, frozen=True, tag="foreign"):
    """Another controller's flows are put on the bridge: in other tables, and with its own cookies in ours."""


class Tamper(msgspec.Struct, frozen=True, tag="tamper"):
    """Somebody's hand in our tables: an accept flow on conj_id=0, a complete conjunction without its accept flow, or
    the deletion of accept flows of ours. `port` is who meets the first two."""

    deed: Literal["id-zero", "orphan", "delete-accept"]
    whose: Whose = "ours"
    port: str = ""


class Clean(msgspec.Struct, frozen=True, tag="clean"):
    """What somebody's hand put in by a foreign cookie is taken out by the same hand."""


class Poison(msgspec.Struct, frozen=True, tag="poison"):
    """The live connections of these streams are marked as a historic restart would have."""

    names: str


class Judge(msgspec.Struct, frozen=True, tag="judge"):
    """What is sent on these streams from now on must pass, must drop, or is not judged."""

    names: str
    expected: Expected


class Probe(msgspec.Struct, frozen=True, tag="probe"):
    """Start traffic and sampling once the policy lets all connections pass; or stop, and count."""

    deed: Literal["start", "stop"]


class Note(msgspec.Struct, frozen=True, tag="note"):
    """`flows`: note our tables as they are. `flow-mods`: count from here on."""

    what: Literal["flows", "flow-mods"]


class After(msgspec.Struct, frozen=True, tag="after"):
    """Time passes (seconds) because the passage of time is the scenario."""

    seconds: float


class Wait(msgspec.Struct, frozen=True, tag="wait"):
    """Go on as soon as the condition holds; where it does not in time, the scenario ends there."""

    condition: Condition
    within_seconds: float


class Hold(msgspec.Struct, frozen=True, tag="hold"):
    """The condition holds all the time for so long."""

    condition: Condition
    for_seconds: float


class Expect(msgspec.Struct, frozen=True, tag="expect"):
    """The condition holds now."""

    condition: Condition


AgentAction = Start | Stop | Crash | Order | StoreReach
PolicyAction = Rule | Groups | Prefix | Shuffle
SwitchAction = Plug | Switch | Foreign | Tamper | Clean | Note
TrafficAction = Poison | Judge | Probe
Look = After | Wait | Hold | Expect
Action = AgentAction | PolicyAction | SwitchAction | TrafficAction | Look


class Step(msgspec.Struct, frozen=True):
    """One line of the file, as often as loops repeat it. `turn` counts the repetitions of a line, from 1."""

    line: int
    text: str
    action: Action
    turn: int = 1


class Stream(msgspec.Struct, frozen=True):
    """A stream that the header names."""

    stream: PlayedStream
    line: int = 0


class Scenario(msgspec.Struct, frozen=True):
    """A world and what happens to it.

    `rules` are further rules in each group, for tables of a realistic size. `connections` are allowed streams between
    ports of one group, `forbidden` those between ports of two; the last `spare` ports have none of either.
    """

    name: str
    title: str
    ports: int = 10
    groups: int = 2
    rules: int = 2
    connections: int = 8
    forbidden: int = 6
    spare: int = 0
    streams: tuple[Stream, ...] = ()
    datapath: Datapath = "netdev"
    source: Source = "files"
    write: Write = "bundle"
    ids: Ids = "hash"
    order: int = 0
    resync_seconds: float = 5.0
    replay: bool = False
    steps: tuple[Step, ...] = ()

    @property
    def port_names(self) -> tuple[str, ...]:
        return tuple(f"p{number}" for number in range(1, self.ports + 1))

    @property
    def group_names(self) -> tuple[str, ...]:
        return tuple(f"g{number}" for number in range(1, self.groups + 1))

    @property
    def probes(self) -> bool:
        """Whether any traffic is judged."""
        return any(isinstance(step.action, Probe) for step in self.steps)
