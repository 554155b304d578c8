"""`Switch` on a real Open vSwitch: the parts of this package behind one object."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from typing import Final

from hitless.core.model.flow import BridgeState, Connection, Flow
from hitless.core.plan.flows import Bundle
from hitless.drivers.ovs import apply, conntrack, observe
from hitless.drivers.ovs.ovsdb import Database, News, changes
from hitless.drivers.ovs.own import owns
from hitless.drivers.ovs.tools import ToolFailedError, UnixCtl, unavailable
from hitless.ports import SwitchError

_DATABASE: Final = "unix:/var/run/openvswitch/db.sock"
_RUN_DIR: Final = "/var/run/openvswitch"


class OvsSwitch:
    """One bridge. `tables` are the pipeline's; a flow outside of them is never ours."""

    def __init__(
        self,
        bridge: str,
        *,
        tables: frozenset[int],
        database: str = _DATABASE,
        run_dir: str = _RUN_DIR,
        timeout_seconds: float = 10,
    ) -> None:
        """`run_dir` holds `BRIDGE.mgmt` and `ovs-vswitchd.pid`; the timeout is for each call of a tool."""
        if not bridge or bridge.startswith("-") or "/" in bridge:
            raise SwitchError("bridge-unknown", f"{bridge!r} is no name of a bridge; correct the configuration")
        self.bridge = bridge
        self._tables = tables
        self._database = Database(bridge, database, timeout_seconds)
        self._run_dir = run_dir
        self._target = f"unix:{run_dir}/{bridge}.mgmt"
        self._timeout_seconds = timeout_seconds

    def observe(self) -> BridgeState:
        facts = self._database.read()
        flows = observe.flows(self._target, self._timeout_seconds)
        return BridgeState(flows, facts.interfaces, facts.external_ids, facts.fail_mode, facts.restore_wait)

    def apply(self, bundle: Bundle) -> None:
        apply.send(self._target, bundle, self._timeout_seconds)

    def owns(self, flow: Flow) -> bool:
        return owns(flow, self._tables)

    def canary(self) -> bool:
        return any(map(self.owns, observe.canaries(self._target, self._timeout_seconds)))

    def barrier(self) -> None:
        with self._daemon() as daemon:
            try:
                # The userspace datapath finds a cached flow to be modified by its key instead of its id, so of two that
                # overlap the wrong one may be modified, and the other keeps its old verdict for good
                # (lib/dpif-netdev.c, flow_put_on_pmd; docs/adr/0022). What is made anew has no such past.
                if any(not name.startswith("system@") for name in daemon.call("dpctl/dump-dps").split()):
                    daemon.call("revalidator/purge")
                # The first may end with a dump that began before the change; the second began after the first.
                daemon.call("revalidator/wait")
                daemon.call("revalidator/wait")
            except ToolFailedError as error:
                raise unavailable("ovs-vswitchd", str(error)) from error

    def remember(self, values: Mapping[str, str]) -> None:
        self._database.remember(values)

    def set_tags(self, tags: Mapping[str, int]) -> None:
        self._database.set_tags(tags)

    def set_fail_secure(self) -> None:
        self._database.set_fail_secure()

    def set_restore_wait(self, wait: bool) -> None:
        self._database.set_restore_wait(wait)

    def connections(self, zones: Collection[int]) -> tuple[Connection, ...]:
        with self._daemon() as daemon:
            return conntrack.connections(daemon, zones)

    def cut(self, connections: Sequence[Connection]) -> None:
        if connections:
            with self._daemon() as daemon:
                conntrack.cut(daemon, connections)

    def changes(self) -> AsyncIterator[News]:
        """News from the database and of the daemon, as hints to look; see `ovsdb.changes`."""
        return changes(self._database.database, self._run_dir)

    def _daemon(self) -> UnixCtl:
        return UnixCtl(self._run_dir, self._timeout_seconds)
