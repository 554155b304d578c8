"""Probes: the judge. They send, listen and count; what they say decides whether a run held."""
