"""Nodes, their clients and the links between them, as network namespaces of one kernel.

    client c1 --- node n1 ---+            +--- node n2 --- client c2
       10.1.1.2   10.1.1.1   |  bridge sw |   10.1.2.1   10.1.2.2
                  192.0.2.1 -+            +- 192.0.2.2

Every node routes to every other client prefix through the peer's underlay address. So *without* IPsec all traffic
flows in plaintext: a hole in the protection is not a silent loss, the capture on the bridge's ports sees it.
Addresses of neighbours are static, for address resolution must never be mistaken for a loss.
`down` is idempotent and also removes what an earlier, crashed run left behind.
"""

from __future__ import annotations

import errno
import ipaddress
import re
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import IO, Any, Literal, Self

import msgspec
from pyroute2.netlink.exceptions import NetlinkError

from hitless.core.model.sa import Mode
from hitless.lab.kernel import LabError
from hitless.lab.probe import namespace
from hitless.lab.probe.namespace import write_sysctl

Family = Literal["4", "6"]

MAX_MEMBERS = 3  # of a store: addresses beyond those of the nodes
MAX_NODES = 250  # the node's number is the last octet of its underlay address
CLIENT_MTU = 1400  # leaves room for ESP, an outer IPv6 header and UDP inside 1500
_NO_DAD = 0x02  # IFA_F_NODAD: an address that is usable at once
_CARRIER_LIMIT_SECONDS = 10.0  # the kernel takes at most one; a starved guest somewhat longer
_NETEM_QUEUE = 100_000  # packets; netem's own default of 1,000 would drop at 300 ms and a few thousand packets/s

NODE_PORT, CLIENT_PORT, UPLINK = "eth0", "cl0", "eth0"
MANAGEMENT_PORT = "mg0"


class TopologyConfig(msgspec.Struct, frozen=True):
    """What to build. `udp_port` is the port that transport mode protects (4789: VXLAN, RFC 7348).

    `store` adds a namespace for the store's servers, and a management link to it from every node.
    """

    nodes: int = 2
    families: tuple[Family, ...] = ("4",)
    mode: Mode = "tunnel"
    prefix: str = "hl"
    udp_port: int = 4789
    store: bool = False


class Endpoint(msgspec.Struct, frozen=True, order=True):
    """Where probe traffic begins or ends: an address inside a namespace. `name` is `c1` or, in transport mode, `n1`."""

    name: str
    namespace: str
    address: str

    @property
    def family(self) -> Family:
        return "6" if ":" in self.address else "4"


class Pair(msgspec.Struct, frozen=True, order=True):
    """One direction between two endpoints."""

    src: Endpoint
    dst: Endpoint

    @property
    def name(self) -> str:
        return f"{self.src.name}>{self.dst.name}/{self.src.family}"


def underlay_address(i: int, family: Family) -> str:
    return f"192.0.2.{i}" if family == "4" else str(ipaddress.ip_address(f"2001:db8::{i:x}"))


def second_address(i: int, family: Family) -> str:
    """An underlay address that a node can get beside its first one; free in labs of up to 99 nodes."""
    return f"192.0.2.{100 + i}" if family == "4" else str(ipaddress.ip_address(f"2001:db8::1:{i:x}"))


def management_address(i: int) -> str:
    """Node i on the way to the store, which no IPsec policy is about."""
    return f"198.51.100.{i}"


def member_address(member: int) -> str:
    """The store's servers are numbered from 1."""
    return f"198.51.100.{250 + member}"


def client_prefix(i: int, family: Family) -> str:
    return f"10.1.{i}.0/24" if family == "4" else str(ipaddress.ip_network(f"fd00:0:0:{i:x}::/64"))


def gateway_address(i: int, family: Family) -> str:
    """The node's own address on the link to its client."""
    return f"10.1.{i}.1" if family == "4" else f"fd00:0:0:{i:x}::1"


def client_address(i: int, family: Family) -> str:
    return f"10.1.{i}.2" if family == "4" else f"fd00:0:0:{i:x}::2"


def underlay_mac(i: int) -> str:
    return f"02:00:00:00:{i:02x}:01"


def _gateway_mac(i: int) -> str:
    return f"02:00:00:00:{i:02x}:02"


def _client_mac(i: int) -> str:
    return f"02:00:00:00:{i:02x}:03"


def _inet(family: Family) -> int:
    return 2 if family == "4" else 10  # AF_INET, AF_INET6


class Topology:
    """The running network. Build with `up()` or `with Topology(config) as topology`; every failure path runs `down()`.

    Nodes are numbered from 1. Needs root (LabError `not-root`).
    """

    def __init__(self, config: TopologyConfig) -> None:
        if not 1 <= config.nodes <= MAX_NODES:
            raise LabError("bad-node-count", f"a lab has 1 to {MAX_NODES} nodes, not {config.nodes}; choose fewer")
        if not config.families or not re.fullmatch(r"[a-z][a-z0-9]{0,9}", config.prefix):
            raise LabError("bad-topology", "a lab needs a family (4, 6) and a prefix of 1 to 10 letters and digits")
        self.config = config
        self._nodes: list[int] = []

    # --- names ------------------------------------------------------------------------------------------

    @property
    def nodes(self) -> tuple[int, ...]:
        """Numbers of the nodes that exist now."""
        return tuple(self._nodes)

    @property
    def switch(self) -> str:
        return f"{self.config.prefix}-sw"

    @property
    def store(self) -> str:
        """Name of the namespace of the store's servers."""
        return f"{self.config.prefix}-s"

    def node(self, i: int) -> str:
        """Name of node i's namespace."""
        return f"{self.config.prefix}-n{i}"

    def client(self, i: int) -> str:
        """Name of the namespace of node i's client."""
        return f"{self.config.prefix}-c{i}"

    def port(self, i: int) -> str:
        """Name of the bridge port, in the switch's namespace, that node i's link ends in."""
        return f"p{i}"

    def endpoint(self, i: int, family: Family) -> Endpoint:
        """Where node i's probe traffic begins and ends: its client, in transport mode the node itself."""
        if self.config.mode == "transport":
            return Endpoint(f"n{i}", self.node(i), underlay_address(i, family))
        return Endpoint(f"c{i}", self.client(i), client_address(i, family))

    def pairs(self, *only: int) -> tuple[Pair, ...]:
        """Every ordered pair of endpoints in every family; with `only`, those that involve one of these nodes."""
        return tuple(
            Pair(self.endpoint(i, family), self.endpoint(j, family))
            for family in self.config.families
            for i in self._nodes
            for j in self._nodes
            if i != j and (not only or i in only or j in only)
        )

    def protected(self) -> tuple[str, ...]:
        """Prefixes that must never be seen outside ESP: the clients' (tunnel) or the underlay's (transport)."""
        if self.config.mode == "transport":
            return tuple("192.0.2.0/24" if f == "4" else "2001:db8::/64" for f in self.config.families)
        return tuple("10.1.0.0/16" if f == "4" else "fd00::/48" for f in self.config.families)

    # --- life -------------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        self.up()
        return self

    def __exit__(self, *_: object) -> None:
        self.down()

    def up(self) -> None:
        """Build everything, after removing leftovers of the same prefix. LabError `no-link-type`: a kernel without."""
        self.down()
        try:
            self._make_switch()
            for i in range(1, self.config.nodes + 1):
                self.add_node(i)
        except BaseException:
            self.down()
            raise

    def down(self) -> None:
        """Remove every namespace of this prefix, and end the processes living in them. Safe to call at any time."""
        for name in namespace.names(self.config.prefix):
            namespace.evict(name)
        for name in namespace.names(self.config.prefix):
            namespace.remove(name)
        self._nodes.clear()

    def _make_switch(self) -> None:
        namespace.create(self.switch)
        with namespace.netlink(self.switch) as link:
            _quiet_ipv6()
            _try_link(link, "bridge", ifname="br0")
            link.link("set", index=_index(link, "br0"), state="up")
            if self.config.store:
                _try_link(link, "bridge", ifname="br1")
                link.link("set", index=_index(link, "br1"), state="up")
        if self.config.store:
            namespace.create(self.store)
            members = [member_address(member) for member in range(1, MAX_MEMBERS + 1)]
            self._link_to_store(self.store, "ms", members)

    def _link_to_store(self, name: str, port: str, addresses: Sequence[str]) -> None:
        with namespace.netlink(self.switch) as link:
            _try_link(link, "veth", ifname=port, peer={"ifname": MANAGEMENT_PORT, "net_ns_fd": name})
            link.link("set", index=_index(link, port), master=_index(link, "br1"), state="up")
        with namespace.netlink(name) as link:
            link.link("set", index=_index(link, "lo"), state="up")
            there = _index(link, MANAGEMENT_PORT)
            link.link("set", index=there, state="up")
            for address in addresses:
                _address(link, there, address, 24)

    def add_node(self, i: int) -> None:
        """Node i, its client and its link; routes to and from every node that exists. LabError `node-exists`."""
        if i in self._nodes or not 1 <= i <= MAX_NODES:
            raise LabError("node-exists", f"node {i} exists or is not between 1 and {MAX_NODES}; choose another number")
        namespace.create(self.node(i))
        namespace.create(self.client(i))
        self._link_to_switch(i)
        self._link_to_client(i)
        if self.config.store:
            self._link_to_store(self.node(i), f"m{i}", [management_address(i)])
        ends = ((self.node(i), NODE_PORT), (self.switch, self.port(i)))
        self._wait_carrier(i, (*ends, (self.node(i), CLIENT_PORT), (self.client(i), UPLINK)))
        for j in self._nodes:
            self._introduce(j, (i,))
        self._introduce(i, self._nodes)
        self._nodes.append(i)

    def _link_to_switch(self, i: int) -> None:
        with namespace.netlink(self.switch) as link:
            far = {"ifname": NODE_PORT, "address": underlay_mac(i), "net_ns_fd": self.node(i)}
            _try_link(link, "veth", ifname=self.port(i), peer=far)
            link.link("set", index=_index(link, self.port(i)), master=_index(link, "br0"), state="up")
        with namespace.netlink(self.node(i)) as link:
            _quiet_ipv6()
            _forward()
            link.link("set", index=_index(link, "lo"), state="up")
            eth = _index(link, NODE_PORT)
            link.link("set", index=eth, state="up")
            for family in self.config.families:
                _address(link, eth, underlay_address(i, family), 24 if family == "4" else 64)

    def _link_to_client(self, i: int) -> None:
        with namespace.netlink(self.node(i)) as link:
            far = {"ifname": UPLINK, "address": _client_mac(i), "mtu": CLIENT_MTU, "net_ns_fd": self.client(i)}
            _try_link(link, "veth", ifname=CLIENT_PORT, address=_gateway_mac(i), mtu=CLIENT_MTU, peer=far)
            port = _index(link, CLIENT_PORT)
            link.link("set", index=port, state="up")
            for family in self.config.families:
                _address(link, port, gateway_address(i, family), 24 if family == "4" else 64)
                _neighbour(link, port, client_address(i, family), _client_mac(i))
        with namespace.netlink(self.client(i)) as link:
            _quiet_ipv6()
            link.link("set", index=_index(link, "lo"), state="up")
            port = _index(link, UPLINK)
            link.link("set", index=port, state="up")
            for family in self.config.families:
                gateway = gateway_address(i, family)
                _address(link, port, client_address(i, family), 24 if family == "4" else 64)
                _neighbour(link, port, gateway, _gateway_mac(i))
                link.route("add", family=_inet(family), dst="default", gateway=gateway, oif=port)

    def _introduce(self, i: int, others: Sequence[int]) -> None:
        """Node i learns where other nodes and their clients are."""
        with namespace.netlink(self.node(i)) as link:
            eth = _index(link, NODE_PORT)
            for j in others:
                for family in self.config.families:
                    gateway = underlay_address(j, family)
                    _neighbour(link, eth, gateway, underlay_mac(j))
                    link.route("add", family=_inet(family), dst=client_prefix(j, family), gateway=gateway, oif=eth)

    # --- changes ----------------------------------------------------------------------------------------

    def add_address(self, i: int) -> None:
        """Node i gets its second underlay address, and every other node can reach it."""
        with namespace.netlink(self.node(i)) as link:
            # As init systems set it: the second address of a subnet stays when the first is removed (ip-sysctl.rst).
            write_sysctl(f"net/ipv4/conf/{NODE_PORT}/promote_secondaries", "1")
            for family in self.config.families:
                _address(link, _index(link, NODE_PORT), second_address(i, family), 24 if family == "4" else 64)
        for j in self._nodes:
            if j != i:
                with namespace.netlink(self.node(j)) as link:
                    for family in self.config.families:
                        _neighbour(link, _index(link, NODE_PORT), second_address(i, family), underlay_mac(i))

    def drop_address(self, i: int) -> None:
        """Node i loses its first underlay address."""
        with namespace.netlink(self.node(i)) as link:
            for family in self.config.families:
                length = 24 if family == "4" else 64
                address = underlay_address(i, family)
                link.addr("del", index=_index(link, NODE_PORT), address=address, prefixlen=length)

    # --- faults -----------------------------------------------------------------------------------------

    def link_delay(
        self,
        i: int,
        delay_milliseconds: float,
        jitter_milliseconds: float = 0.0,
        loss_percent: float = 0.0,
        duplicate_percent: float = 0.0,
    ) -> None:
        """Impair node i's underlay link, each direction by itself (tc-netem(8)); all zero removes the impairment.

        LabError `no-netem` where the kernel has no netem.
        """
        settings = {
            "delay": int(delay_milliseconds * 1000),
            "jitter": int(jitter_milliseconds * 1000),
            "loss": loss_percent,
            "duplicate": duplicate_percent,
        }
        wanted = {name: value for name, value in settings.items() if value}
        for where, port in ((self.node(i), NODE_PORT), (self.switch, self.port(i))):
            with namespace.netlink(where) as link:
                _impair(link, _index(link, port), wanted)

    def link_down(self, i: int) -> None:
        """Cut node i's underlay link, at the switch's end so that the node keeps its addresses and routes."""
        self._set_link(i, "down")

    def store_link(self, i: int, state: Literal["up", "down"]) -> None:
        """Cut or mend node i's way to the store. LabError `no-store-network` where the store is a file."""
        if not self.config.store:
            raise LabError("no-store-network", "the store is one file; write `store etcd` in a scenario's header")
        with namespace.netlink(self.switch) as link:
            link.link("set", index=_index(link, f"m{i}"), state=state)

    def link_up(self, i: int) -> None:
        """Mend node i's underlay link; on return the node sees its carrier again."""
        self._set_link(i, "up")
        self._wait_carrier(i, ((self.node(i), NODE_PORT), (self.switch, self.port(i))))

    def _wait_carrier(self, i: int, ends: Sequence[tuple[str, str]]) -> None:
        """The kernel reports a carrier from a work queue (net/core/link_watch.c) and drops every packet until then."""
        deadline = time.monotonic() + _CARRIER_LIMIT_SECONDS
        for where, port in ends:
            with namespace.netlink(where) as link:
                while link.get_links(_index(link, port))[0].get_attr("IFLA_OPERSTATE") != "UP":
                    if time.monotonic() > deadline:
                        raise LabError("link-stays-down", f"node {i}'s link {port} does not come up; run down and up")
                    time.sleep(0.002)

    def _set_link(self, i: int, state: Literal["up", "down"]) -> None:
        with namespace.netlink(self.switch) as link:
            link.link("set", index=_index(link, self.port(i)), state=state)

    # --- inside -----------------------------------------------------------------------------------------

    def enter(self, name: str) -> AbstractContextManager[None]:
        """Move the calling thread into the namespace `name` for the length of the block."""
        return namespace.enter(name)

    def spawn(
        self,
        name: str,
        argv: Sequence[str],
        stdout: int | IO[Any] | None = None,
        stderr: int | IO[Any] | None = None,
        env: Mapping[str, str] | None = None,
    ) -> subprocess.Popen[bytes]:
        """Start a program inside the namespace `name`; the caller waits for it."""
        return namespace.spawn(name, argv, stdout, stderr, env)


def _quiet_ipv6() -> None:
    """No router solicitation, no duplicate detection, no link-local chatter: the lab's links carry only its packets."""
    for scope in ("all", "default"):
        for key, value in (("accept_dad", "0"), ("accept_ra", "0"), ("router_solicitations", "0")):
            write_sysctl(f"net/ipv6/conf/{scope}/{key}", value)


def _forward() -> None:
    write_sysctl("net/ipv4/ip_forward", "1")
    write_sysctl("net/ipv6/conf/all/forwarding", "1")
    for scope in ("all", "default", NODE_PORT):
        write_sysctl(f"net/ipv4/conf/{scope}/rp_filter", "0")
        write_sysctl(f"net/ipv4/conf/{scope}/send_redirects", "0")


def _try_link(link: Any, kind: str, **settings: Any) -> None:
    try:
        link.link("add", kind=kind, **settings)
    except NetlinkError as error:
        if error.code != errno.EOPNOTSUPP:
            raise
        raise LabError(
            "no-link-type",
            f"this kernel cannot make a {kind} link; load its module, or run the lab in its guest kernel",
        ) from error


def _index(link: Any, name: str) -> int:
    found = link.link_lookup(ifname=name)
    if not found:
        raise LabError("no-such-link", f"the link {name} is gone: something else changed the lab; run down and up")
    return int(found[0])


def _address(link: Any, index: int, address: str, length: int) -> None:
    if ":" in address:
        link.addr("add", index=index, address=address, prefixlen=length, flags=_NO_DAD)
    else:
        link.addr("add", index=index, address=address, prefixlen=length)


def _neighbour(link: Any, index: int, address: str, mac: str) -> None:
    family = _inet("6" if ":" in address else "4")
    link.neigh("replace", family=family, ifindex=index, dst=address, lladdr=mac, state=0x80)  # NUD_PERMANENT


def _impair(link: Any, index: int, wanted: Mapping[str, float]) -> None:
    if not wanted and not any(q.get_attr("TCA_KIND") == "netem" for q in link.get_qdiscs(index=index)):
        return
    try:
        # Never deleted, only set to nothing: deleting a queue throws away the packets that wait in it.
        link.tc("replace", "netem", index=index, handle="1:", limit=_NETEM_QUEUE, **wanted)
    except NetlinkError as error:
        if error.code not in (errno.ENOENT, errno.EOPNOTSUPP):
            raise
        raise LabError(
            "no-netem",
            "this kernel has no netem (CONFIG_NET_SCH_NETEM); load sch_netem, or run the lab in its guest kernel",
        ) from error
