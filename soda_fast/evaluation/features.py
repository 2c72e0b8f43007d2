"""Features of a whole data set, extracted once by all processes together; every image proven present exactly once."""

from collections.abc import Callable, Iterable, Mapping

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor

from soda_fast.evaluation.numerics import l2_normalize

Encode = Callable[[Tensor], Mapping[str, Tensor]]
_NAMED = 10  # indices named in an error


def padded_share(num_samples: int, rank: int, world: int, batch: int) -> list[NDArray[np.int64]]:
    """Batches of indices for one process: as many as every other process has, of the same lengths.

    Process `rank` takes the samples rank, rank + world, rank + 2 * world, ... An encoder whose weights are spread over
    the processes must be called equally often by all, so a process that runs out before the others goes on with
    repeats. Its first `own_count(num_samples, rank, world)` samples are its own; what follows is padding, which
    `extract_features` encodes and drops.

    Returns:
        int64 arrays of `batch` indices, the last one perhaps shorter.

    Raises:
        ValueError: an argument out of range.
    """
    if num_samples < 1 or batch < 1 or not 0 <= rank < world:
        raise ValueError(
            f"num_samples {num_samples}, batch {batch}, rank {rank} of {world}: num_samples and batch must be positive "
            "and rank in 0..world-1"
        )
    positions = np.arange(rank, -(-num_samples // world) * world, world, dtype=np.int64)
    indices = positions % num_samples
    return [indices[start : start + batch] for start in range(0, len(indices), batch)]


def own_count(num_samples: int, rank: int, world: int) -> int:
    """How many samples of a process's share are its own; those after them are padding."""
    return len(range(rank, num_samples, world))


def extract_features(
    encode: Encode,
    batches: Iterable[tuple[Tensor, Tensor | NDArray[np.int64]]],
    num_samples: int,
    group: "dist.ProcessGroup | None" = None,
    *,
    dtype: torch.dtype = torch.float32,
    normalize: bool = False,
) -> dict[str, Tensor]:
    """Encode this process's share and combine the shares of all processes. A collective.

    Args:
        encode: from a batch of images to features by name, each (B, D_name). Names and widths never change.
        batches: (images, indices) of this process, as `padded_share` orders them: at least one batch, the first
            `own_count` samples its own, the rest padding.
        num_samples: samples of the data set, over all processes.
        group: the processes; None: all of them, or just this one where no process group is initialised.
        dtype: in which features are kept.
        normalize: L2-normalise each row, in float32.

    Returns:
        {name: (num_samples, D_name)} in `dtype`, row i of sample i, on the device of the encoder's output, equal on all
        processes.

    Raises:
        ValueError: encode's features or the indices do not fit the batch.
        RuntimeError: a sample is missing or came twice; on all processes.
    """
    rank, world = _place(group)
    matrices, counts = _own_rows(
        _finished(encode, dtype, normalize), batches, num_samples, own_count(num_samples, rank, world)
    )
    if dist.is_available() and dist.is_initialized():
        # Rows of other processes are zero here, so a sum puts the shares together.
        for name in sorted(matrices):
            dist.all_reduce(matrices[name], group=group)
        dist.all_reduce(counts, group=group)
    _check_complete(counts)
    return matrices


@torch.no_grad()
def _own_rows(
    encode: Encode, batches: Iterable[tuple[Tensor, Tensor | NDArray[np.int64]]], num_samples: int, own: int
) -> tuple[dict[str, Tensor], Tensor]:
    """Matrices with this process's rows filled in, and (num_samples,) int32: how often each sample came."""
    matrices: dict[str, Tensor] = {}
    counts = torch.zeros(num_samples, dtype=torch.int32)
    seen = 0
    for images, some_indices in batches:
        features = encode(images)
        indices = _checked_indices(torch.as_tensor(some_indices), len(images), num_samples)
        _check_batch(features, len(images), matrices)
        if not matrices:
            matrices = {name: _empty_matrix(rows, num_samples) for name, rows in features.items()}
            counts = counts.to(next(iter(matrices.values())).device)
        kept = max(0, min(len(indices), own - seen))
        seen += len(indices)
        # Counting a sample that came twice in one batch twice needs index_add; indexing would count it once.
        rows = indices[:kept].to(counts.device)
        counts.index_add_(0, rows, torch.ones_like(rows, dtype=counts.dtype))
        for name, matrix in matrices.items():
            matrix[rows] = features[name][:kept]
    if not matrices:
        raise RuntimeError("a process got no batch to encode: give every process at least one, of padding if need be")
    return matrices, counts


def _finished(encode: Encode, dtype: torch.dtype, normalize: bool) -> Encode:
    """The encoder's features as they are kept. Other shapes than (B, D) pass, to be refused by name."""

    def finished(images: Tensor) -> dict[str, Tensor]:
        features = encode(images)
        return {
            name: (l2_normalize(rows) if normalize and rows.ndim == 2 else rows).to(dtype)
            for name, rows in features.items()
        }

    return finished


def _place(group: "dist.ProcessGroup | None") -> tuple[int, int]:
    """This process's rank among the processes, and their number."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(group), dist.get_world_size(group)
    return 0, 1


def _empty_matrix(features: Tensor, num_samples: int) -> Tensor:
    return torch.zeros(num_samples, features.shape[1], dtype=features.dtype, device=features.device)


def _checked_indices(indices: Tensor, num_images: int, num_samples: int) -> Tensor:
    if indices.shape != (num_images,):
        raise ValueError(f"a batch of {num_images} images came with indices of the shape {tuple(indices.shape)}")
    if num_images == 0:
        raise ValueError("a batch has no images: leave empty batches out")
    low, high = int(indices.min()), int(indices.max())
    if low < 0 or high >= num_samples:
        raise ValueError(f"a batch has indices from {low} to {high}, outside 0..{num_samples - 1}")
    return indices.to(torch.int64)


def _check_batch(features: Mapping[str, Tensor], num_images: int, matrices: Mapping[str, Tensor]) -> None:
    for name, rows in features.items():
        if rows.ndim != 2 or len(rows) != num_images:
            raise ValueError(f"features {name!r} of {num_images} images have the shape {tuple(rows.shape)}, not (B, D)")
    if matrices:
        expected = {name: matrix.shape[1] for name, matrix in matrices.items()}
        widths = {name: rows.shape[1] for name, rows in features.items()}
        if widths != expected:
            raise ValueError(f"a batch has features of the widths {widths}, batches before it had {expected}")
    elif not features:
        raise ValueError("encode returned no features: return at least one, by name")


def _check_complete(counts: Tensor) -> None:
    """Every sample came exactly once, or a RuntimeError that names those which did not."""
    if bool((counts == 1).all()):
        return
    problems = []
    for what, wrong in (("missing", counts == 0), ("there more than once", counts > 1)):
        indices = wrong.nonzero().flatten().tolist()
        if indices:
            named = ", ".join(map(str, indices[:_NAMED])) + (", ..." if len(indices) > _NAMED else "")
            problems.append(f"{len(indices)} {what}: {named}")
    raise RuntimeError(f"features of {len(counts)} samples are incomplete; {'; '.join(problems)}")
