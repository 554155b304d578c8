"""The imperative shell: one short loop around the pure core."""
