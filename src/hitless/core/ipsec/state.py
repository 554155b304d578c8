"""The handover's vocabulary: its state, the events that reach it and the effects it asks for.

A *ref* names what the kernel holds: a direction, a peer and an SPI. It stands for one SA per path of an
identity. Refs of identities that nobody can name any more (an earlier incarnation, a forgotten key) are refs too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import msgspec

from hitless.core.model.node import NodeRecord, Progress
from hitless.core.model.view import StoreEvent, View

Way = Literal["in", "out"]
BLOCK = 0
"""The SPI of a policy that lets nothing pass."""


class Rules(msgspec.Struct, frozen=True):
    """The protocol's numbers, and the historic mistakes that replays and the explorer switch on.

    `order` "advertise-first" publishes before it installs; `cleanup` "timer" deletes after `cleanup_seconds`
    without asking anyone; `absent` "delete" takes a missing record for a removal, and installs the same identities
    again when it is back; `select` "min-spi" sends with the smallest SPI that is installed, whatever the peer has said;
    `rebirth` "same-key" keeps the incarnation, hence all keys, of a node whose kernel state is gone. All of them lose
    packets: they exist to be refuted.

    A new incarnation is begun when an OUT state reaches `sequence_limit`, `soft_bytes` or `soft_seconds` (0: never),
    at most every `rebirth_pause_seconds`, and because of a peer's complaint every `complaint_pause_seconds`.
    """

    drain_seconds: float = 10.0
    publish_interval_seconds: float = 0.2
    retry_seconds: float = 0.5
    retry_limit_seconds: float = 30.0
    rebirth_pause_seconds: float = 2.0
    complaint_pause_seconds: float = 10.0
    sequence_limit: int = 3 << 62
    soft_bytes: int = 0
    soft_seconds: float = 0.0
    order: Literal["acked", "advertise-first"] = "acked"
    cleanup: Literal["acked", "timer"] = "acked"
    cleanup_seconds: float = 300.0
    absent: Literal["keep", "delete"] = "keep"
    select: Literal["acked", "min-spi"] = "acked"
    rebirth: Literal["new-key", "same-key"] = "new-key"

    @property
    def historic(self) -> bool:
        """Whether any of the mistakes is switched on."""
        chosen = (self.order, self.cleanup, self.absent, self.select, self.rebirth)
        return chosen != ("acked", "acked", "keep", "acked", "new-key")


class SaRef(msgspec.Struct, frozen=True, order=True):
    """What the kernel holds for one peer, one way, under one SPI."""

    way: Way
    peer: str
    spi: int


class Failure(msgspec.Struct, frozen=True):
    """An install that the kernel refused; tried again at `retry_at` (monotonic seconds)."""

    reason: str
    attempts: int
    retry_at: float


class Drain(msgspec.Struct, frozen=True):
    """A superseded ref on its way out: `packets` unchanged since `since`, last read at `counted_at`."""

    since: float
    packets: int = -1
    counted_at: float = -1.0


class Used(msgspec.Struct, frozen=True, order=True):
    """An identity that was installed once, with the peer's incarnation it was for. It is never installed again."""

    ref: SaRef
    nonce: str


class Sample(msgspec.Struct, frozen=True):
    """One look at a ref's counters: highest sequence number received and sent, packets that failed to decrypt or
    were taken for replays, bytes, and the seconds since it was installed. `strikes` are looks in a row that saw
    failures and nothing received."""

    seq: int = 0
    oseq: int = 0
    errors: int = 0
    bytes: int = 0
    age_seconds: float = 0.0
    strikes: int = 0


class State(msgspec.Struct, frozen=True):
    """Everything the protocol knows at one node. `kernel` and `pinned` are acknowledged facts, never hopes.

    `filed` are the generations in the key file now; `held` also those still needed whose file is gone.
    `wall_offset_seconds` turns monotonic time into wall time, for people only.
    """

    me: NodeRecord
    rules: Rules = Rules()
    view: View = View()
    filed: frozenset[int] = frozenset()
    held: frozenset[int] = frozenset()
    observed: bool = False
    kernel: frozenset[SaRef] = frozenset()
    pinned: Mapping[str, int] = {}
    failures: Mapping[tuple[Way, str, int], Failure] = {}
    drains: Mapping[SaRef, Drain] = {}
    published: Progress | None = None
    published_at: float = -1e9
    used: frozenset[Used] = frozenset()
    samples: Mapping[SaRef, Sample] = {}
    reincarnate: str = ""
    reborn_at: float = -1e9
    wall_offset_seconds: float = 0.0


# --- events ---------------------------------------------------------------------------------------------


class KeysFiled(msgspec.Struct, frozen=True):
    """The key file was read and every key in it is registered: these generations."""

    generations: frozenset[int]


class Observed(msgspec.Struct, frozen=True):
    """A full look at the kernel: our refs, what each peer's OUT policy pins (BLOCK where it blocks), and refs
    that hold something else than this node would have written."""

    kernel: frozenset[SaRef]
    pinned: Mapping[str, int]
    altered: frozenset[SaRef] = frozenset()


class Installed(msgspec.Struct, frozen=True):
    """The kernel acknowledged these."""

    refs: tuple[SaRef, ...]


class InstallFailed(msgspec.Struct, frozen=True):
    """The kernel refused an install; `reason` is the outcome's code."""

    way: Way
    peer: str
    generation: int
    reason: str


class Switched(msgspec.Struct, frozen=True):
    """The peer's OUT policy now pins this SPI."""

    peer: str
    spi: int


class Removed(msgspec.Struct, frozen=True):
    """The kernel holds these no more."""

    refs: tuple[SaRef, ...]


class Counted(msgspec.Struct, frozen=True):
    """Packets that each ref has carried so far, read now."""

    packets: Mapping[SaRef, int]


class Measured(msgspec.Struct, frozen=True):
    """The counters of every ref, read now."""

    samples: Mapping[SaRef, Sample]


class Recalled(msgspec.Struct, frozen=True):
    """What the journal in the state directory says was installed by this incarnation, before this agent started."""

    used: frozenset[Used]


class Published(msgspec.Struct, frozen=True):
    """The store took this progress record."""

    progress: Progress


class Incarnated(msgspec.Struct, frozen=True):
    """This node has begun a new incarnation, with this record."""

    me: NodeRecord


class Doubted(msgspec.Struct, frozen=True):
    """The shell knows a reason why this incarnation must end (a condition code)."""

    reason: str


class Tick(msgspec.Struct, frozen=True):
    """Time has passed."""


KernelEvent = Observed | Installed | InstallFailed | Switched | Removed | Counted | Measured
Event = StoreEvent | KernelEvent | KeysFiled | Recalled | Published | Incarnated | Doubted | Tick

# --- effects --------------------------------------------------------------------------------------------


class Install(msgspec.Struct, frozen=True):
    """Create the SAs of this identity."""

    ref: SaRef
    generation: int


class Switch(msgspec.Struct, frozen=True):
    """Pin the peer's OUT policy to this SPI; BLOCK lets nothing pass."""

    peer: str
    spi: int
    generation: int


class Remove(msgspec.Struct, frozen=True):
    """Delete the SAs of this ref: drained, and provably unused."""

    ref: SaRef


class Publish(msgspec.Struct, frozen=True):
    """Write the progress record."""

    progress: Progress


class Count(msgspec.Struct, frozen=True):
    """Read the packet counters of draining refs."""


class Forget(msgspec.Struct, frozen=True):
    """No SA of this generation is left and its key is in no file: drop the key."""

    generation: int


class Reincarnate(msgspec.Struct, frozen=True):
    """The node cannot vouch for its kernel state: begin a new incarnation."""

    reason: str


class WakeAt(msgspec.Struct, frozen=True):
    """Call again at this monotonic time at the latest."""

    at: float


Effect = Install | Switch | Remove | Publish | Count | Forget | Reincarnate | WakeAt
