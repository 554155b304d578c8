"""The firewall's agent: from an intent and one bridge to the bundle that makes the bridge what the intent says."""
