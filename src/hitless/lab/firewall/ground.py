"""The firewall's ground: one private Open vSwitch, and a station (a network namespace) on each of its ports.

    station a ──veth── a ┐                 ┌ b ──veth── station b
       10.0.0.1          ├ bridge br-fw ───┤             10.0.0.2
    station c ──veth── c ┘  (own vswitchd) └ …

The switch lives in a namespace too, so no name of its ports can collide with anything, and one prefix names all there
is to remove. Everything is on-link to everybody and neighbours are static (unless real resolution is wanted), so that
a packet that does not arrive was dropped by the tables and by nothing else.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import re
import shutil
import socket
import struct
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from ipaddress import ip_interface
from pathlib import Path
from typing import Any, Literal, Self

import msgspec
from pyroute2.netlink.exceptions import NetlinkError

from hitless.lab.kernel import LabError
from hitless.lab.ovs import PrivateSwitch
from hitless.lab.probe import namespace
from hitless.lab.probe.namespace import write_sysctl

UPLINK = "eth0"  # a station's only link
_TOOLS = ("ovsdb-tool", "ovsdb-server", "ovs-vswitchd", "ovs-vsctl", "ovs-ofctl")
_CARRIER_LIMIT_SECONDS = 10.0
_NO_DAD = 0x02  # IFA_F_NODAD
_PERMANENT = 0x80  # NUD_PERMANENT
_RTM_NEWNEIGH, _NDA_DST, _NDA_LLADDR = 28, 1, 2
_ACK, _CREATE = 0x04, 0x401  # NLM_F_ACK; NLM_F_CREATE | NLM_F_REQUEST
_SIOCETHTOOL = 0x8946
_ETHTOOL_STXCSUM = 0x17  # linux/ethtool.h; without checksums the kernel drops TSO and GSO by itself


class GroundPort(msgspec.Struct, frozen=True):
    """A port of the bridge and the station behind it.

    `name` is the interface's name and its `iface-id` (at most 15 characters: IFNAMSIZ). `addresses` are IPv4 and IPv6
    addresses; a prefix length is ignored, for everybody is on-link. `namespace` is the station's name below the
    ground's prefix, the port's name if empty; no two ports share one.
    """

    name: str
    mac: str
    addresses: tuple[str, ...] = ()
    namespace: str = ""

    def address(self, *, ipv6: bool = False) -> str:
        """Its first address of a family. LabError `no-such-address`."""
        for each in self.addresses:
            found = ip_interface(each).ip
            if (found.version == 6) == ipv6:
                return str(found)
        family = "IPv6" if ipv6 else "IPv4"
        raise LabError("no-such-address", f"port {self.name} has no {family} address; give it one")


class FirewallGround:
    """Build with `up()` or `with FirewallGround(...) as ground`; every failure path runs `down()`. Needs root.

    `work` is a directory of the caller's for the switch's database, sockets and logs. Two grounds at a time need two
    prefixes. LabError `no-open-vswitch` where it is not installed.
    """

    def __init__(
        self,
        work: Path,
        ports: Sequence[GroundPort],
        *,
        datapath: Literal["netdev", "system"] = "netdev",
        bridge: str = "br-fw",
        prefix: str = "hlfw",
        neighbours: bool = True,
    ) -> None:
        self.ports: Mapping[str, GroundPort] = {port.name: port for port in ports}
        if len(self.ports) != len(ports) or not re.fullmatch(r"[a-z][a-z0-9]{0,9}", prefix):
            raise LabError("bad-ground", "ports need different names, the prefix 1 to 10 letters and digits")
        for name in self.ports:
            if not re.fullmatch(r"[A-Za-z0-9_.-]{1,15}", name) or name == bridge:
                raise LabError("bad-ground", f"{name!r} cannot name an interface; take up to 15 letters and digits")
        self.bridge, self.prefix = bridge, prefix
        self._neighbours = neighbours
        self.switch = PrivateSwitch(work.resolve(), datapath=datapath)
        self._running = ExitStack()
        self._starts = 0

    @property
    def switch_namespace(self) -> str:
        """Where the switch and the bridge's ends of all links live."""
        return f"{self.prefix}-switch"

    def station(self, port: str) -> str:
        """Name of the namespace behind a port. LabError `no-such-port`."""
        if port not in self.ports:
            raise LabError("no-such-port", f"the ground has no port {port}; it has {', '.join(self.ports)}")
        return f"{self.prefix}-s-{self.ports[port].namespace or port}"

    # --- life -------------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        self.up()
        return self

    def __exit__(self, *_: object) -> None:
        self.down()

    def up(self) -> None:
        """Build everything, after removing leftovers of the same prefix. The bridge has no flow yet: all is dropped."""
        self.down()
        try:
            namespace.create(self.switch_namespace)
            with namespace.netlink(self.switch_namespace) as link:
                _quiet_ipv6()
                _loopback(link)
            for port in self.ports.values():
                self._make_station(port)
            self._raise_ends()
            self._make_switch()
            self._wait_carriers()
        except BaseException:
            self.down()
            raise

    def down(self) -> None:
        """Remove every namespace of this prefix and the switch with all that lives there. Safe to call at any time."""
        self._running.close()
        found = namespace.names(self.prefix)
        for name in found:
            namespace.evict(name)
        for name in found:
            namespace.remove(name)

    def kill_switch(self) -> None:
        """`kill -9` ovs-vswitchd: the userspace datapath forwards nothing from now on and forgets its connections."""
        self.switch.kill_vswitchd()

    def start_switch(self) -> None:
        """Start ovs-vswitchd again on the same database; on return all ports are there, and no flow is."""
        with namespace.enter(self.switch_namespace):
            self.switch.start_vswitchd()
        # Any change makes ovs-vsctl wait until ovs-vswitchd has carried out the whole configuration (cur_cfg).
        self._starts += 1
        self.switch.vsctl("set", "Open_vSwitch", ".", f"external_ids:lab-starts={self._starts}")

    def _make_switch(self) -> None:
        missing = [tool for tool in _TOOLS if shutil.which(tool) is None]
        if missing:
            raise LabError("no-open-vswitch", f"{', '.join(missing)} is missing; install Open vSwitch's package")
        for leftover in ("conf.db", "db.sock"):
            (self.switch.directory / leftover).unlink(missing_ok=True)
        with namespace.enter(self.switch_namespace):
            self._running.enter_context(self.switch)
        kind = self.switch.datapath
        command = ["add-br", self.bridge, "--", "set", "Bridge", self.bridge, f"datapath_type={kind}",
                   "fail_mode=secure", "protocols=OpenFlow10,OpenFlow13,OpenFlow14"]  # fmt: skip
        for number, name in enumerate(self.ports, 1):
            command += ["--", *self._plugging(name, number)]
        self.switch.vsctl(*command)

    def _plugging(self, name: str, ofport: int) -> list[str]:
        return ["add-port", self.bridge, name, "--", "set", "Interface", name,
                f"ofport_request={ofport}", f'external_ids:iface-id="{name}"']  # fmt: skip

    # --- the switch -------------------------------------------------------------------------------------

    def ofctl(self, command: str, *arguments: str, stdin: str = "") -> str:
        """`ovs-ofctl COMMAND BRIDGE ARGUMENTS`; its output. Raises OvsLabError."""
        return self.switch.ofctl(command, self.bridge, *arguments, stdin=stdin)

    def ofports(self) -> Mapping[str, int]:
        """OpenFlow port numbers by the ports' names: 1, 2, … in the order in which the ports were given."""
        rows = json.loads(self.switch.vsctl("--format=json", "--columns=name,ofport", "list", "Interface"))["data"]
        return {name: number for name, number in rows if name in self.ports}

    def unplug(self, port: str) -> None:
        """Take a port off the bridge; the station and its link stay. Raises OvsLabError."""
        self.switch.vsctl("del-port", self.bridge, port)

    def plug(self, port: str, ofport: int) -> None:
        """Put an unplugged port on the bridge again, as this OpenFlow port if it is free. Raises OvsLabError."""
        self.switch.vsctl(*self._plugging(port, ofport))

    def owner(self, address: str) -> GroundPort:
        """The port that has an address. LabError `no-such-address`."""
        for port in self.ports.values():
            if any(str(ip_interface(each).ip) == address for each in port.addresses):
                return port
        raise LabError("no-such-address", f"no port of the ground has {address}; look at their addresses")

    # --- stations ---------------------------------------------------------------------------------------

    def _make_station(self, port: GroundPort) -> None:
        station = self.station(port.name)
        namespace.create(station)
        with namespace.netlink(self.switch_namespace) as link:
            far = {"ifname": UPLINK, "address": port.mac, "net_ns_fd": station}
            try:
                link.link("add", kind="veth", ifname=port.name, peer=far)
            except NetlinkError as error:
                raise LabError(
                    "no-link-type", f"cannot make the link of port {port.name} ({error}); check its MAC {port.mac}"
                ) from error
        with namespace.netlink(station) as link:
            _quiet_ipv6()
            _loopback(link)
            _no_transmit_checksum(UPLINK)
            index = link.link_lookup(ifname=UPLINK)[0]
            link.link("set", index=index, state="up")
            self._address(link, index, port)

    def _address(self, link: Any, index: int, port: GroundPort) -> None:
        own = [ip_interface(each).ip for each in port.addresses]
        for address in own:
            more = {"flags": _NO_DAD} if address.version == 6 else {}
            link.addr("add", index=index, address=str(address), prefixlen=address.max_prefixlen, **more)
        for version, family in ((4, socket.AF_INET), (6, socket.AF_INET6)):
            if any(address.version == version for address in own):
                link.route("add", family=family, dst="default", oif=index, scope=253 if version == 4 else 0)
        if self._neighbours:
            others = (other for other in self.ports.values() if other is not port)
            _introduce(index, [(str(ip_interface(at).ip), other.mac) for other in others for at in other.addresses])

    def _raise_ends(self) -> None:
        with namespace.netlink(self.switch_namespace) as link:
            for message in link.get_links():
                if message.get_attr("IFLA_IFNAME") in self.ports:
                    link.link("set", index=message["index"], state="up")

    def _wait_carriers(self) -> None:
        """The kernel reports carriers from a work queue (net/core/link_watch.c) and drops packets until then."""
        deadline = time.monotonic() + _CARRIER_LIMIT_SECONDS
        for place in (self.switch_namespace, *map(self.station, self.ports)):
            with namespace.netlink(place) as link:
                while down := _without_carrier(link, {UPLINK, *self.ports}):
                    if time.monotonic() > deadline:
                        raise LabError("link-stays-down", f"{', '.join(down)} in {place} stays down; run up() again")
                    time.sleep(0.002)


def _without_carrier(link: Any, wanted: set[str]) -> list[str]:
    return [
        name
        for message in link.get_links()
        if (name := message.get_attr("IFLA_IFNAME")) in wanted and message.get_attr("IFLA_OPERSTATE") != "UP"
    ]


def _introduce(index: int, neighbours: Sequence[tuple[str, str]]) -> None:
    """Permanent neighbours of the link with this index, in the calling thread's namespace.

    One message for all of them (rtnetlink(7), linux/neighbour.h): fifty stations know 4,900 addresses.
    """
    if not neighbours:
        return
    messages = []
    for number, (address, mac) in enumerate(neighbours, 1):
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        hardware = bytes.fromhex(mac.replace(":", ""))
        body = struct.pack("=BxxxiHBB", family, index, _PERMANENT, 0, 0)
        for kind, value in ((_NDA_DST, socket.inet_pton(family, address)), (_NDA_LLADDR, hardware)):
            body += struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)
        flags = _CREATE | (_ACK if number == len(neighbours) else 0)
        messages.append(struct.pack("=IHHII", 16 + len(body), _RTM_NEWNEIGH, flags, number, 0) + body)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as sock:
        sock.send(b"".join(messages))
        number = 0
        while number < len(neighbours):
            answer = sock.recv(1 << 16)
            number, _, code = struct.unpack_from("=IIi", answer, 8)
            if code:
                raise LabError("bad-ground", f"neighbour {neighbours[number - 1]} is refused: {os.strerror(-code)}")


def _loopback(link: Any) -> None:
    link.link("set", index=link.link_lookup(ifname="lo")[0], state="up")


def _quiet_ipv6() -> None:
    """No router solicitation, no duplicate detection: the links carry only what the lab sends."""
    for scope in ("all", "default"):
        for key, value in (("accept_dad", "0"), ("accept_ra", "0"), ("router_solicitations", "0")):
            write_sysctl(f"net/ipv6/conf/{scope}/{key}", value)


def _no_transmit_checksum(interface: str) -> None:
    """Let the kernel fill checksums in: the userspace datapath would track packets without one as invalid."""
    value = ctypes.create_string_buffer(struct.pack("=II", _ETHTOOL_STXCSUM, 0))
    request = struct.pack("=16sQ8x", interface.encode(), ctypes.addressof(value))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        fcntl.ioctl(sock, _SIOCETHTOOL, request)
