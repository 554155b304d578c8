"""The transition check: whether a plan of flow changes has an in-between that neither end wants."""
