"""What a scenario is, as values: a laboratory, and a flat list of steps that happen to it.

A scenario is a text file that a network engineer can review without reading code. `grammar.py` reads the text;
everything here is what it becomes. Loops are unrolled when the text is read, so that the runner, the report and the
timeline all speak of the same numbered steps. A `Condition` is something that is true or not at a moment; the same
conditions are waited for (with a deadline), held (for a time) and expected (now).
"""

from __future__ import annotations

from typing import Literal

import msgspec

from hitless.core.model.sa import Mode

Relation = Literal["==", "!=", "<", "<=", ">", ">="]
Family = Literal["ipv4", "ipv6", "dual-stack"]
Order = Literal["acked", "advertise-first"]
Cleanup = Literal["acked", "timer"]
Absent = Literal["keep", "delete"]

CRASH_POINTS = (
    "key-loaded",
    "in-installed",
    "out-installed",
    "published-receives",
    "peer-switched",
    "published-sends",
    "drained",
    "retired",
)
"""The steps of a rotation after which an agent can be told to kill itself, in the order in which they happen."""

TRAFFIC = ("sent", "lost", "duplicated", "reordered", "leaked", "plaintext", "xfrm_errors", "stalled_seconds",
           "healed")  # fmt: skip
"""What the probes and the kernels' error counters say once the probes have stopped. Also any `Xfrm...` counter."""

LIVE = ("received", "silence")
"""What the probes say of a pair while they run: packets that arrived so far, and seconds since the last one."""


class ScenarioError(Exception):
    """A scenario that cannot be read. The message starts with file and line, `code` is stable."""

    def __init__(self, code: str, source: str, line: int, message: str) -> None:
        super().__init__(f"{source}:{line}: {message}")
        self.code = code
        self.source = source
        self.line = line


# --- conditions -----------------------------------------------------------------------------------------


class Settled(msgspec.Struct, frozen=True, tag="settled"):
    """These nodes (none named: all that run) say steady, on the newest key they were given, nobody behind."""

    nodes: tuple[str, ...] = ()


class Lagging(msgspec.Struct, frozen=True, tag="laggard"):
    """Some node's status names `peer` as behind, for this reason (a condition code)."""

    peer: str
    reason: str


class Logged(msgspec.Struct, frozen=True, tag="event"):
    """The node's agent has said this event since it was last started; `code` "" matches any code or reason."""

    node: str
    event: str
    code: str = ""


class Exited(msgspec.Struct, frozen=True, tag="exited"):
    """The node's agent is not running any more, by whatever cause."""

    node: str


class Compared(msgspec.Struct, frozen=True, tag="compared"):
    """A number, of a node or of a pair where `nodes` names one or two, beside a value."""

    metric: str
    nodes: tuple[str, ...]
    relation: Relation
    value: float

    @property
    def about_traffic(self) -> bool:
        """Whether the number is final only after the probes have stopped."""
        return self.metric in TRAFFIC or self.metric.startswith("Xfrm")

    def holds(self, observed: float) -> bool:
        match self.relation:
            case "==":
                return observed == self.value
            case "!=":
                return observed != self.value
            case "<":
                return observed < self.value
            case "<=":
                return observed <= self.value
            case ">":
                return observed > self.value
            case ">=":
                return observed >= self.value


class Untouched(msgspec.Struct, frozen=True, tag="untouched"):
    """What was placed in the name of other programs is on every node as it was placed, bit by bit."""


Condition = Settled | Lagging | Logged | Exited | Compared | Untouched

# --- actions --------------------------------------------------------------------------------------------


class Start(msgspec.Struct, frozen=True, tag="start"):
    """Start these nodes' agents; a fault armed before takes effect now."""

    nodes: tuple[str, ...]


class Stop(msgspec.Struct, frozen=True, tag="stop"):
    """Ask these nodes' agents to end (SIGTERM), or end them without asking (SIGKILL) where `abruptly`."""

    nodes: tuple[str, ...]
    abruptly: bool = False


class Join(msgspec.Struct, frozen=True, tag="join"):
    """A node that was not there before comes up, with the current key, and its agent starts.

    Its agent is called `called` where that is not "".
    """

    node: str
    called: str = ""


class Rename(msgspec.Struct, frozen=True, tag="rename"):
    """From its next start on the node's agent has this name."""

    node: str
    called: str


class Reboot(msgspec.Struct, frozen=True, tag="reboot"):
    """The node's agent is killed, its kernel holds nothing of IPsec any more and has another boot id, and its agent
    starts."""

    node: str


class Address(msgspec.Struct, frozen=True, tag="address"):
    """A second underlay address comes up; the agent's configuration names it alone (from its next start on); the
    first one goes."""

    node: str
    deed: Literal["add", "use", "drop"]


class Membership(msgspec.Struct, frozen=True, tag="membership"):
    """A person says `hitless node remove` or `restore` on another node."""

    node: str
    deed: Literal["remove", "restore"]


class Crash(msgspec.Struct, frozen=True, tag="crash"):
    """From its next start on the node's agent kills itself right after this step, once."""

    node: str
    at: str


class SlowInstall(msgspec.Struct, frozen=True, tag="slow-install"):
    """From its next start on every kernel write of the node's agent takes this much longer (seconds)."""

    node: str
    delay_seconds: float


class FailInstall(msgspec.Struct, frozen=True, tag="fail-install"):
    """From its next start on the node's agent cannot install the IN state from `peer`, so many times."""

    node: str
    peer: str
    times: int


class Link(msgspec.Struct, frozen=True, tag="link"):
    """The node's underlay link is cut or mended, or (`to_store`) its way to the store."""

    node: str
    state: Literal["down", "up"]
    to_store: bool = False


class LinkDelay(msgspec.Struct, frozen=True, tag="link-delay"):
    """Every packet that leaves the node towards its peers takes this much longer (seconds)."""

    node: str
    delay_seconds: float


class Flush(msgspec.Struct, frozen=True, tag="flush"):
    """Somebody empties the node's kernel of all SAs or of all policies."""

    node: str
    what: Literal["states", "policies"]


class TouchSa(msgspec.Struct, frozen=True, tag="touch-sa"):
    """Somebody deletes the newest SA from `node` to `peer` at `node` (or, where `inward`, the one from `peer`), or
    creates it anew with its counters at 0."""

    node: str
    peer: str
    deed: Literal["delete", "recreate"]
    inward: bool = False


class Plant(msgspec.Struct, frozen=True, tag="plant"):
    """The counter of the SA that the node sends to `peer` with is moved."""

    node: str
    peer: str
    oseq: int


class Foreign(msgspec.Struct, frozen=True, tag="foreign"):
    """SAs and policies of other programs are put on every node."""


class StoreDeed(msgspec.Struct, frozen=True, tag="store"):
    """The store is destroyed and a new one begins; it forgets its history; the member that leads dies; the dead
    come back; all members end and begin again; or all records of a node are deleted from it."""

    deed: Literal["wipe", "compact", "kill-leader", "revive", "restart", "forget"]
    node: str = ""


class CountWrites(msgspec.Struct, frozen=True, tag="count-writes"):
    """`writes` counts from here on, for every node."""


class Send(msgspec.Struct, frozen=True, tag="send"):
    """Exactly so many packets of the probes from one node to another, beside the load."""

    node: str
    peer: str
    count: int


class Hog(msgspec.Struct, frozen=True, tag="hog"):
    """Keep the CPU busy with this many endless loops; 0 ends them."""

    count: int


KeyDeed = Literal["new", "copy", "same-id", "wrong-length", "half-written"]


class Key(msgspec.Struct, frozen=True, tag="key"):
    """What an operator (or a mishap) does to key files. `key_id` 0 means the next one, 15 being followed by 1."""

    deed: KeyDeed
    nodes: tuple[str, ...] = ()
    key_id: int = 0


class Probe(msgspec.Struct, frozen=True, tag="probe"):
    """Start to judge the traffic between the nodes that run (`watch`: sending nothing but what `send` asks for), add
    a node that joined, or stop and count."""

    deed: Literal["start", "watch", "add", "stop"]
    nodes: tuple[str, ...] = ()


class After(msgspec.Struct, frozen=True, tag="after"):
    """Time passes (seconds) because the passage of time is the scenario, never to be on the safe side."""

    seconds: float


class Wait(msgspec.Struct, frozen=True, tag="wait"):
    """Go on as soon as the condition holds; where it does not within `within_seconds`, the scenario ends there."""

    condition: Condition
    within_seconds: float


class Hold(msgspec.Struct, frozen=True, tag="hold"):
    """The condition holds all the time for so long; the scenario goes on where it does not, and is not ok."""

    condition: Condition
    for_seconds: float


class Expect(msgspec.Struct, frozen=True, tag="expect"):
    """The condition holds now; the scenario goes on where it does not, and is not ok."""

    condition: Condition


AgentAction = Start | Stop | Join | Rename | Reboot | Crash | SlowInstall | FailInstall
KernelAction = Flush | TouchSa | Plant | Foreign | CountWrites
NetworkAction = LinkDelay | Link | Address
TrafficAction = Probe | Send
StoreAction = StoreDeed | Membership
Look = After | Wait | Hold | Expect
Action = AgentAction | KernelAction | NetworkAction | TrafficAction | StoreAction | Hog | Key | Look


class Step(msgspec.Struct, frozen=True):
    """One line of the file, as often as loops repeat it. `turn` counts the repetitions of a line, from 1."""

    line: int
    text: str
    action: Action
    turn: int = 1


class Stream(msgspec.Struct, frozen=True):
    """One long TCP stream beside the probes, between nodes that are there from the beginning."""

    source: str
    target: str
    line: int = 0


class Scenario(msgspec.Struct, frozen=True):
    """A laboratory and what happens to it. `load_pps` is packets a second over all ordered pairs together.

    `etcd_members` 0 means that the store is one file for all.
    """

    name: str
    title: str
    nodes: int = 3
    mode: Mode = "tunnel"
    family: Family = "ipv4"
    udp_port: int = 0
    drain_seconds: float = 1.0
    load_pps: float = 1000.0
    streams: tuple[Stream, ...] = ()
    first_key: int = 1
    order: Order = "acked"
    cleanup: Cleanup = "acked"
    cleanup_seconds: float = 0.0
    absent: Absent = "keep"
    esn: bool = True
    resync_seconds: float = 5.0
    etcd_members: int = 0
    replay: bool = False
    steps: tuple[Step, ...] = ()

    @property
    def node_names(self) -> tuple[str, ...]:
        """The nodes that are there from the beginning; `joining` come later."""
        return tuple(f"n{number}" for number in range(1, self.nodes + 1))

    @property
    def joining(self) -> tuple[str, ...]:
        return tuple(step.action.node for step in self.steps if isinstance(step.action, Join))

    @property
    def probes(self) -> bool:
        """Whether any traffic is judged."""
        return any(isinstance(step.action, Probe) for step in self.steps)
