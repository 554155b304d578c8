"""A process of its own that uses a store file: what the tests of several processes start. Prints one line an event.

usage: client.py count PATH TIMES | write PATH | watch PATH AFTER UPTO
"""

from __future__ import annotations

import asyncio
import sys

from hitless.ports import Compare, Put
from hitless.stores.sqlite import SqliteStore


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


async def count(store: SqliteStore, times: int) -> None:
    """Add 1 to the key `n` so many times, by compare-and-swap."""
    done = 0
    while done < times:
        entry = await store.get("n")
        value, guard = (int(entry.value), entry.mod_revision) if entry else (0, 0)
        done += await store.commit((Compare("n", guard),), (Put("n", b"%d" % (value + 1)),)) is not None


async def write(store: SqliteStore) -> None:
    """Commit the same growing number under two keys until killed, and say each revision once it is committed."""
    entry = await store.get("left")
    n = int(entry.value) if entry else 0
    while True:
        n += 1
        revision = await store.commit((), (Put("left", b"%d" % n), Put("right", b"%d" % n)))
        say(f"{revision} {n}")


async def watch(store: SqliteStore, after: int, upto: int) -> None:
    """Say revision and value of every event until a revision is reached."""
    await store.epoch()
    say("ready")
    async for batch in store.watch("", after):
        for event in batch.events:
            say(f"{event.revision} {event.entry.value.decode() if event.entry else '-'}")
        if batch.revision >= upto:
            return


async def main(verb: str, path: str, *numbers: str) -> None:
    store = SqliteStore(path)
    verbs = {"count": count, "write": write, "watch": watch}
    await verbs[verb](store, *map(int, numbers))  # type: ignore[operator]
    await store.close()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
