"""The operations of augmented views (RandAugment's, and jitter's) on a whole batch in one launch."""

from soda_kernels.view_operations.launch import LARGEST, KernelFailed, change_views
from soda_kernels.view_operations.steps import FIELDS, Step

__all__ = ["FIELDS", "LARGEST", "KernelFailed", "Step", "change_views"]
