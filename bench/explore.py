"""How fast the handover is explored, and how much of it: states, edges and depth of every scope, and each refutation.

`--wide` adds the scopes that take minutes and gigabytes. Prints a table, or `-o json`. Target: 100,000 states/s in
the large scopes, where most of the time goes to worlds and not to the protocol itself.
"""

from __future__ import annotations

import argparse
import gc
import json
import time

from hitless.core.verify.explore import Proved
from hitless.core.verify.scopes import MUTANTS, RULES, SHIPPED, WIDE, Counterexample, explore_scopes

LIMIT = 12_000_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--wide", action="store_true")
    parser.add_argument("--only", default="", help="scopes and mutants whose name contains this")
    parser.add_argument("-o", "--output", choices=("table", "json"), default="table")
    options = parser.parse_args()
    gc.disable()  # nothing here is cyclic, and looking for it costs a third of the time
    rows = []
    cases = [(name, RULES, {name: scope}) for name, scope in ({**SHIPPED, **WIDE} if options.wide else SHIPPED).items()]
    cases += [(f"mutant: {name}", rules, dict(scopes)) for name, (rules, scopes) in MUTANTS.items()]
    for name, rules, scopes in cases:
        if options.only not in name:
            continue
        began = time.perf_counter()
        found = explore_scopes(rules, scopes, LIMIT)
        seconds = time.perf_counter() - began
        row = {"scope": name, "verdict": type(found).__name__, "seconds": round(seconds, 2)}
        if isinstance(found, Counterexample):
            row |= {"property": found.property, "steps": len(found.drawn.rows)}
        else:
            row |= {"states": found.states, "depth": found.depth, "states_per_second": round(found.states / seconds)}
        if isinstance(found, Proved):
            row["edges"] = found.edges
        rows.append(row)
        if options.output == "table":
            print(f"{name:36}", *(f"{key} {row[key]}" for key in row if key != "scope"), sep="  ", flush=True)
    if options.output == "json":
        print(json.dumps(rows))


if __name__ == "__main__":
    main()
