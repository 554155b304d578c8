"""Implementations of the Store port, and one conformance suite for all."""
