"""Security groups to flows: pure functions from an intent and a bridge's facts to the whole desired table set."""
