"""The operations of augmented views (RandAugment's, and jitter's) on a whole batch in one launch."""

from soda_kernels.view_operations.launch import LARGEST, change_views
from soda_kernels.view_operations.steps import FIELDS, Step

__all__ = ["FIELDS", "LARGEST", "Step", "change_views"]
