"""How many flows a second the codec reads and writes, on tables like a security-group bridge's.

    python bench/flow_text.py [--flows 100000] [--rounds 5]

A third are clauses of conjunctions on addresses, a third clauses on ports, a third accept flows and flows of single
ports. `cold` is a first dump with empty caches, as at the start of an agent; `warm` the same dump again, as in every
later look. Figures are medians over rounds in CPU time of this one thread; caches are emptied between cold rounds.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import time
from collections.abc import Callable, Iterator

from hitless.core.model.flow import (
    EST,
    IPV4,
    NEW,
    TRK,
    Conjunction,
    Flow,
    Match,
    Output,
    Resubmit,
    SetField,
    ct_state,
    exact,
)
from hitless.drivers.ovs import actions, codec, terms

_COOKIE = 0x6874 << 48
_IP, _TCP = exact("eth_type", IPV4), exact("nw_proto", 6)


def make(count: int) -> Iterator[Flow]:
    """Flows with matches that all differ; about ten to a cookie, as many action lists as groups."""
    states = (ct_state(on=EST | TRK), ct_state(on=NEW | TRK))
    for index in range(count):
        cookie, state, group = _COOKIE | index // 10 * 0x9E3779B1 % (1 << 48), states[index & 1], index // 3 % 500
        match index % 3:
            case 0:
                address = exact("nw_src", 0x0A000000 + index)
                terms_: Match = (_IP, state, exact("reg6", 1 + index % 50), address)
                todo: tuple[object, ...] = tuple(Conjunction(group * 8 + each, 1, 2) for each in range(4))
            case 1:
                ports = ("tp_dst", index % 4096 << 4, 0xFFF0)
                terms_ = (_IP, _TCP, state, exact("reg5", index // 3), ports)
                todo = (Conjunction(group, 2, 2),)
            case _:
                terms_ = (_IP, state, exact("reg5", index // 3), exact("dl_src", 0xFA163E000000 + index))
                todo = (SetField("reg7", group), Output("NXM_NX_REG5[]"), Resubmit(92))
        yield Flow(82, 60 + index % 8, tuple(sorted(terms_)), todo, cookie)  # type: ignore[arg-type]


def forget() -> None:
    """Empty every cache."""
    caches = (terms._TOKENS, terms._PIECES, codec._HEADS, actions._LISTS, actions._TEXTS)  # noqa: SLF001
    for cache in caches:
        cache.clear()
    gc.collect()


def rate(count: int, rounds: int, work: Callable[[], object], *, cold: bool) -> float:
    """Flows a second."""
    seconds = []
    for _ in range(rounds):
        if cold:
            forget()
        before = time.process_time()
        work()
        seconds.append(time.process_time() - before)
    return count / statistics.median(seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--flows", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    flows = tuple(make(args.flows))
    text = "\n".join(map(codec.format_flow, flows))
    assert codec.parse_dump(text) == flows
    figures = {}
    for name, cold in (("cold", True), ("warm", False)):
        figures[f"parse {name}"] = rate(args.flows, args.rounds, lambda: codec.parse_dump(text), cold=cold)
        figures[f"format {name}"] = rate(args.flows, args.rounds, lambda: [*map(codec.format_flow, flows)], cold=cold)
    print(json.dumps({name: round(value) for name, value in figures.items()}))


if __name__ == "__main__":
    main()
