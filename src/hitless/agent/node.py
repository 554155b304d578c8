"""Who this node is: its id, its incarnation and its record, remembered on disk and registered in the store."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import structlog

from hitless.agent.config import Config
from hitless.agent.registry import Registry, RegistryError
from hitless.agent.statefile import Journal, Remembered, StateFile, boot_id, next_incarnation
from hitless.core.ipsec.state import Incarnated, State, Used
from hitless.core.model.node import Incarnation, KeyRecord, NodeRecord
from hitless.ports import Entropy, StoreError


class Node:
    """This node. `record` is what peers are told."""

    def __init__(
        self, config: Config, registry: Registry, entropy: Entropy, doubt: Callable[[str], None]
    ) -> None:
        """`doubt` is called with a condition code where the present incarnation must end."""
        self._config, self._registry, self._entropy = config, registry, entropy
        self._file = StateFile(Path(config.state_dir))
        self._log = structlog.get_logger()
        self._remembered = self._file.read()
        self._keys = self._file.read_keys()
        self._boot_id = config.lab.boot_id or boot_id()
        self._trouble = ""
        self._doubt = doubt
        self.record = self._make(0, Incarnation(0, ""))

    @property
    def remembered(self) -> Remembered | None:
        """What was remembered, if it is about this node."""
        found = self._remembered
        return found if found is not None and found.name == self._config.node else None

    async def begin(self) -> NodeRecord:
        """Take up the remembered identity, or begin a new one. Raises StateFileError, RegistryError, StoreError.

        Where everything is remembered, no store is needed: the node goes on under its own name.
        """
        remembered, why = self.remembered, ""
        if remembered is None:
            why = "first-start"
        elif remembered.boot_id != self._boot_id:
            why = "rebooted"
        elif remembered.addresses != self._config.addresses:
            why = "address-changed"
        node_id = remembered.node_id if remembered else await self._registry.claim_node_id(None)
        if remembered is not None and not why:
            self.record = self._make(node_id, remembered.incarnation)
            self._log.info("adopted", node_id=node_id, incarnation=remembered.incarnation.counter)
            return self.record
        counter = remembered.incarnation.counter if remembered else 0
        if remembered is None:
            # The state directory was lost, or this is another machine of the same name: then it must not begin.
            await self._registry.check_not_alive()
            known = await self._registry.node_record()
            counter = known.incarnation.counter if known else 0
        self._become(node_id, counter, why)
        return self.record

    async def rebirth(self, state: State, reason: str) -> Incarnated:
        """A new incarnation in mid-life."""
        self._become(state.me.node_id, state.me.incarnation.counter, reason)
        await self.register()
        return Incarnated(self.record)

    def key_records(self) -> Mapping[str, KeyRecord]:
        """Key records by fingerprint, as this node knew them last."""
        return self._keys

    def remember_keys(self, records: dict[str, KeyRecord]) -> None:
        """Keep the records of the keys in use. Raises StateFileError."""
        if records != self._keys:
            self._keys = records
            self._file.write_keys(records)

    def used(self) -> frozenset[Used]:
        """What this incarnation has installed before, by the journal."""
        return self._file.read_used(self.record.incarnation)

    def write_used(self, used: frozenset[Used]) -> None:
        """Write the journal. Raises StateFileError."""
        self._file.write_used(Journal(self.record.incarnation, used))

    async def register(self) -> None:
        """Make sure that the store holds this node's record. Tried again at the next look where it cannot."""
        try:
            if self._trouble == "node-removed" and not await self._registry.is_removed():
                # Peers have deleted what they had for this incarnation: it is over.
                self._trouble = ""
                self._doubt("restored")
                return
            written = await self._registry.write_node(self.record)
        except (StoreError, RegistryError) as error:
            if self._trouble != error.code:
                self._log.warning("register-failed", code=error.code, why=str(error))
            self._trouble = error.code
            return
        self._trouble = ""
        if written:
            self._log.info("registered", incarnation=self.record.incarnation.counter)

    def _become(self, node_id: int, counter: int, why: str) -> None:
        incarnation = next_incarnation(counter, self._entropy)
        # On disk before anyone hears of it: an incarnation that was announced and forgotten could be drawn again.
        self._file.write(
            Remembered(self._config.node, node_id, incarnation, self._boot_id, self._config.addresses)
        )
        self.record = self._make(node_id, incarnation)
        self._log.info("incarnated", reason=why, incarnation=incarnation.counter, node_id=node_id)

    def _make(self, node_id: int, incarnation: Incarnation) -> NodeRecord:
        config = self._config
        return NodeRecord(config.node, node_id, incarnation, config.addresses, config.prefixes)
