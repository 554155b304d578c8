"""How fast the handover is explored, and how much of it: states, edges and depth of every scope, and each refutation.

`--wide` adds the scopes that take minutes and gigabytes, `--whole` leaves nothing out (see `core/verify/alone.py`).
Prints a table, or `-o json`; seconds are those of the processor. Targets: all scopes of a build in 60 s and 1 GB;
100,000 states/s. What is left out costs time for each state that is kept.
"""

from __future__ import annotations

import argparse
import gc
import json
import resource
import time
from typing import Any

import msgspec

from hitless.core.verify.explore import Proved
from hitless.core.verify.scopes import MUTANTS, RULES, SHIPPED, WIDE, Counterexample, explore_scopes

LIMIT = 12_000_000
replace = msgspec.structs.replace


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--wide", action="store_true")
    parser.add_argument("--whole", action="store_true")
    parser.add_argument("--only", default="", help="scopes and mutants whose name contains this")
    parser.add_argument("-o", "--output", choices=("table", "json"), default="table")
    options = parser.parse_args()
    gc.disable()  # nothing here is cyclic, and looking for it costs a third of the time
    rows: list[dict[str, Any]] = []
    cases = [(name, RULES, {name: scope}) for name, scope in ({**SHIPPED, **WIDE} if options.wide else SHIPPED).items()]
    cases += [(f"mutant: {name}", rules, dict(scopes)) for name, (rules, scopes) in MUTANTS.items()]
    for name, rules, scopes in cases:
        if options.only not in name:
            continue
        asked = {each: replace(scope, reduce=not options.whole) for each, scope in scopes.items()}
        began = time.process_time()
        found = explore_scopes(rules, asked, LIMIT)
        seconds = time.process_time() - began
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
    proved = [row for row in rows if row["verdict"] == "Proved"]
    states, seconds = (sum(row[key] for row in proved) for key in ("states", "seconds"))
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    total = {"scope": "all that is proved", "seconds": round(seconds, 1), "states": states, "peak_mb": peak_mb}
    rows.append(total | {"states_per_second": round(states / seconds) if seconds else 0})
    if options.output == "table":
        print(f"{rows[-1]['scope']:36}", *(f"{key} {rows[-1][key]}" for key in rows[-1] if key != "scope"), sep="  ")
    if options.output == "json":
        print(json.dumps(rows))


if __name__ == "__main__":
    main()
