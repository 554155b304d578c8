"""hitless: change the security state of live Linux nodes without losing or leaking a packet."""

__version__ = "0.1.0"
