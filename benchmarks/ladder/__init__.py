"""The ladder: the same training step from the reference implementation's recipe to ours, one change at a time."""
