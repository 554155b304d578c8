"""Exploring the handover: every interleaving, with faults."""
