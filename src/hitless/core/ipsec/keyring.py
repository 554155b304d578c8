"""Which generation a key of a key file is (handover.md §2, *Generation*), or why it is refused."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from hitless.core.model.key import MasterKey
from hitless.core.model.node import KeyRecord, Progress


class KeyRefusedError(Exception):
    """A key that the cluster must not take. `code` is stable."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{message} [{code}]")
        self.code = code


def resolve(key: MasterKey, fingerprint: str, records: Mapping[int, KeyRecord], live: Collection[int]) -> KeyRecord:
    """The registered record of a key, or a new one to register. `live` are the generations in use anywhere.

    Raises KeyRefusedError: `key-id-reused` where the id already stands for other material that is still live,
    `key-material-reused` where the material already has another id.
    """
    # The newest record of a key counts: a store that was created anew may have got it under a low number first.
    for _, record in sorted(records.items(), reverse=True):
        if record.fingerprint == fingerprint:
            if record.key_id != key.key_id:
                raise KeyRefusedError(
                    "key-material-reused",
                    f"key {key.key_id} is the same key as {record.key_id} (generation {record.generation}); "
                    "make a fresh one with `hitless key new`",
                )
            return record
    for record in records.values():
        if record.key_id == key.key_id and record.generation in live:
            raise KeyRefusedError(
                "key-id-reused",
                f"key id {key.key_id} already stands for generation {record.generation} with other key material, "
                "and that one is in use; give the new key the next id",
            )
    generation = max(records, default=0) + 1
    return KeyRecord(generation, key.key_id, fingerprint, key.spec.label)


def live(records: Mapping[int, KeyRecord], progress: Mapping[str, Progress], held: Collection[int]) -> frozenset[int]:
    """Generations that some node can still be sent to with, and the newest one."""
    used = {generation for each in progress.values() for generation in each.receives.generations}
    return frozenset(used | set(held) | {max(records, default=0)})




def check_forward(filed: Collection[int], held: Collection[int]) -> None:
    """Refuse a file that goes back behind a key this node already uses (`key-superseded`)."""
    if held and max(filed) < max(held):
        raise KeyRefusedError(
            "key-superseded",
            f"the newest key of the file is generation {max(filed)}, and this node already uses {max(held)}; "
            "put the newer key back, or add a fresh one behind it",
        )
