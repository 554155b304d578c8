"""The historic way of writing, for the lab alone: everything anew at every start, in pieces, and no repair.

It loses connections. It is here so that the lab's meters are seen to count when there is something to count.
"""

from __future__ import annotations

import random
import time

from hitless.agent.firewall import facts
from hitless.agent.firewall.rounds import Firewall, Plan
from hitless.core.firewall.replay import bundles
from hitless.core.model.security import Intent
from hitless.core.plan.flows import AddFlow


class PiecewiseFirewall(Firewall):
    """Writes at a start, and whenever the intent or the bridge's ports have changed; never what it finds altered."""

    _written: tuple[str, object] | None = None

    def _write(self, intent: Intent, plan: Plan) -> int:
        wanted = (plan.generation, plan.facts.local)
        if self._written == wanted:
            return 0
        picture, lab, began = self.picture, self._config.lab, time.monotonic()
        picture.remember({facts.TAGS: facts.tags_text(plan.facts.tags), facts.INTENT: plan.generation})
        self._crash_point("intended")
        picture.tag(plan.facts.untagged)
        order = sorted(plan.facts.local.ofports)
        if lab.order_seed:
            random.Random(lab.order_seed).shuffle(order)  # noqa: S311 - a lab's run that can be repeated
        ids = plan.compiled.ids if lab.ids == "hash" else lab.ids
        adds = deletes = 0
        for each in bundles(intent, plan.facts.local, picture.ids(), picture.ours, order, ids):
            self._apply(each)
            adds += sum(isinstance(op, AddFlow) for op in each)
            deletes += sum(not isinstance(op, AddFlow) for op in each)
        seconds = round(time.monotonic() - began, 6)
        self._log.info("firewall-applied", adds=adds, deletes=deletes, seconds=seconds)
        self._crash_point("applied")
        if picture.remember({facts.COMMITTED: plan.generation}):
            self._crash_point("committed")
        self._written = wanted
        return 0
