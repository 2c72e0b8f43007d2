"""Studies: a grid of configurations over seeds within a budget, and what came of it."""
