"""Logs and conditions, as people and machines read them."""
