"""The nouns, frozen: secrets, nodes, keys, security associations, policies, conditions."""
