"""The firewall's lab: a private Open vSwitch with stations on it, and judges of what a change does to them.

`ground` builds the switch and the stations, `traffic` drives streams through it and counts what is lost, leaked or
broken for ever, `sampler` and `checker` watch the tables themselves, `marks` finds and plants poisoned connections.
"""
