"""What every probe needs of numbers: unit vectors, full-precision products, checked inputs."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor


def l2_normalize(features: Tensor) -> Tensor:
    """(N, D) float32 rows of length one; zero rows stay zero.

    Each row is divided by its largest entry first, so that squares neither overflow nor vanish.
    """
    features = features.float()
    tiny = torch.finfo(torch.float32).tiny
    features = features / torch.linalg.vector_norm(features, math.inf, dim=1, keepdim=True).clamp_min(tiny)
    return features.div_(torch.linalg.vector_norm(features, dim=1, keepdim=True).clamp_min(tiny))


@contextmanager
def full_precision() -> Iterator[None]:
    """float32 products in float32: no TF32, no bf16, no autocast, whatever training has chosen; restored at the end."""
    # Through Any: the type stubs of torch.backends.mkldnn do not know these settings.
    backends: tuple[Any, ...] = (torch.backends.cuda.matmul, cast(Any, torch.backends.mkldnn).matmul)
    chosen = [backend.fp32_precision for backend in backends]
    try:
        for backend in backends:
            backend.fp32_precision = "ieee"
        with torch.autocast("cuda", enabled=False), torch.autocast("cpu", enabled=False):
            yield
    finally:
        for backend, precision in zip(backends, chosen, strict=True):
            backend.fp32_precision = precision


def check_features(name: str, features: Tensor) -> Tensor:
    """The features, if they are a non-empty, finite (N, D) matrix of floating-point numbers that float32 can hold.

    Raises:
        ValueError: they are not.
    """
    if features.ndim != 2 or 0 in features.shape:
        raise ValueError(f"{name} has the shape {tuple(features.shape)}: give one row of features per image, (N, D)")
    if not features.dtype.is_floating_point:
        raise ValueError(f"{name} is {features.dtype}: give floating-point features")
    # A row's largest entry shows NaN and infinity, without a second matrix in memory.
    bad = int((~torch.isfinite(torch.linalg.vector_norm(features, math.inf, dim=1).float())).sum())
    if bad:
        raise ValueError(f"{name} has {bad} rows with NaN or infinity: the encoder that made them has diverged")
    return features


def check_labels(name: str, labels: Tensor, features: Tensor) -> Tensor:
    """(N,) int64 labels on the features' device, if they are integers, one for each row of features.

    Raises:
        ValueError: they are not.
    """
    if labels.shape != (len(features),):
        raise ValueError(
            f"{name} has the shape {tuple(labels.shape)} for {len(features)} rows of features: give one label for each"
        )
    if labels.dtype.is_floating_point or labels.dtype.is_complex or labels.dtype == torch.bool:
        raise ValueError(f"{name} is {labels.dtype}: give integer class numbers")
    return labels.to(features.device, torch.int64)
