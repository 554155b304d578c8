"""Operations, the difference between desired and actual, and its order."""
