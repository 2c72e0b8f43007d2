"""Memory of a training step, predicted."""

from soda_fast.memory.plan import MemoryPlan, predict_memory

__all__ = ["MemoryPlan", "predict_memory"]
