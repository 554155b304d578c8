"""Who this node is: its id, its incarnation and its record, remembered on disk and registered in the store."""

from __future__ import annotations

from pathlib import Path

import structlog

from hitless.agent.config import Config
from hitless.agent.registry import Registry
from hitless.agent.statefile import Remembered, StateFile, boot_id, next_incarnation
from hitless.core.ipsec.state import Incarnated, State
from hitless.core.model.node import Incarnation, NodeRecord
from hitless.ports import Entropy, StoreError


class Node:
    """This node. `record` is what peers are told."""

    def __init__(self, config: Config, registry: Registry, entropy: Entropy) -> None:
        self._config, self._registry, self._entropy = config, registry, entropy
        self._file = StateFile(Path(config.state_dir))
        self._log = structlog.get_logger()
        self._remembered = self._file.read()
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
        elif remembered.boot_id != boot_id():
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
            # The state directory was lost, not the node: go on counting where the store knows us.
            known = await self._registry.node_record()
            counter = known.incarnation.counter if known else 0
        self._become(node_id, counter, why)
        return self.record

    async def rebirth(self, state: State, reason: str) -> Incarnated:
        """A new incarnation in mid-life."""
        self._become(state.me.node_id, state.me.incarnation.counter, reason)
        await self.register()
        return Incarnated(self.record)

    async def register(self) -> None:
        """Make sure that the store holds this node's record. Tried again at the next listing where it cannot."""
        try:
            if await self._registry.write_node(self.record):
                self._log.info("registered", incarnation=self.record.incarnation.counter)
        except StoreError as error:
            self._log.warning("register-failed", code=error.code, why=str(error))

    def _become(self, node_id: int, counter: int, why: str) -> None:
        incarnation = next_incarnation(counter, self._entropy)
        # On disk before anyone hears of it: an incarnation that was announced and forgotten could be drawn again.
        self._file.write(
            Remembered(self._config.node, node_id, incarnation, boot_id(), self._config.addresses)
        )
        self.record = self._make(node_id, incarnation)
        self._log.info("incarnated", reason=why, incarnation=incarnation.counter, node_id=node_id)

    def _make(self, node_id: int, incarnation: Incarnation) -> NodeRecord:
        config = self._config
        return NodeRecord(config.node, node_id, incarnation, config.addresses, config.prefixes)
