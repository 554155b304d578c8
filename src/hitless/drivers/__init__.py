"""Implementations of the Dataplane port. A driver does not log and does not decide."""
