"""Key file, identity, key derivation, the handover protocol, desired SAs and policies."""
