"""Where a step's first NaN or infinite value comes from: the step again, with an eye on every module."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from soda_fast.data import Batch

_LOSS = 1_000_000
"""After every module's output."""


@dataclass(frozen=True)
class StepFinding:
    """What one process saw in one accumulation part of the step.

    part: the accumulation part, from 0.
    place: what was first not finite, as "the output of decoder.conv_in (12 of 640 values)"; None: nothing was.
    order: how early in the part that was; BatchNorm carries it on to the other processes.
    positions, indices, timesteps, losses: of the part's targets: their samples' places in the run and in the data set,
    t, loss.
    """

    rank: int
    part: int
    place: str | None
    order: int
    positions: list[int]
    indices: list[int]
    timesteps: list[int]
    losses: list[float]


def watch_step(
    model: nn.Module,
    parts: Sequence[Batch],
    losses: Callable[[Batch], Tensor],
    timesteps: Callable[[Batch], Tensor],
    rank: int,
) -> list[StepFinding]:
    """Repeat a step's forward and backward passes on this process's share. A collective; the gradients stay.

    Blocks run as plain PyTorch, compiled or not: compiled code cannot be watched.

    Args:
        model: with the weights from before the step, in training mode.
        parts: this process's share of the global batch.
        losses: of a part's targets, by a forward pass.
        timesteps: of a part's targets.
    """
    findings = []
    weights = _first_bad_weight(model)
    for part, batch in enumerate(parts):
        model.set_requires_gradient_sync(part == len(parts) - 1)  # type: ignore[operator]
        with torch.compiler.set_stance("force_eager"), _watched(model) as seen:
            loss = losses(batch)
            loss.mean().backward()
        if not torch.isfinite(loss).all():
            seen.append((_LOSS, "the loss"))
        before = [(order, what) for order, what in ((-2, weights), (-1, _first_bad_input(batch))) if what]
        order, place = min(before + seen, default=(0, None))
        samples = [v.repeat_interleave(batch.targets_per_source) for v in (batch.position, batch.index)]
        values = [v.tolist() for v in (*samples, timesteps(batch), loss.detach())]
        findings.append(StepFinding(rank, part, place, order, *values))
    return findings


def _first_bad_weight(model: nn.Module) -> str | None:
    for name, value in model.state_dict().items():
        local = value.to_local() if isinstance(value, DTensor) else value
        if _count_bad(local):
            return f"the stored {name} ({_share(local)})"
    return None


def _first_bad_input(batch: Batch) -> str | None:
    for name in ("source", "target"):
        if _count_bad(getattr(batch, name)):
            return f"the {name} view ({_share(getattr(batch, name))})"
    return None


@contextmanager
def _watched(model: nn.Module) -> Iterator[list[tuple[int, str]]]:
    """Fills the list with (order, place) of values that are not finite; gradients come after the loss."""
    seen: list[tuple[int, str]] = []
    count = itertools.count()

    def look_at(name: str, tensor: Any, what: str, offset: int = 0) -> None:
        order = next(count) + offset
        if isinstance(tensor, Tensor) and tensor.is_floating_point() and _count_bad(tensor):
            seen.append((order, f"{what} of {name} ({_share(tensor)})"))

    def hook(name: str) -> Callable[..., None]:
        def after(module: nn.Module, inputs: Any, output: Any) -> None:
            look_at(name, output, "the output")
            if isinstance(output, Tensor) and output.requires_grad:
                output.register_hook(lambda gradient: look_at(name, gradient, "the gradient at the output", _LOSS))

        return after

    # The root's output is that of its last module.
    handles = [module.register_forward_hook(hook(name)) for name, module in model.named_modules() if name]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _count_bad(tensor: Tensor) -> int:
    return int((~torch.isfinite(tensor)).sum())


def _share(tensor: Tensor) -> str:
    return f"{_count_bad(tensor):,} of {tensor.numel():,} values"


def summarise(findings: Sequence[StepFinding], world_size: int) -> str:
    """A sentence: which process, which module, which samples."""
    bad = sorted((f for f in findings if f.place), key=lambda f: (f.part, f.order, f.rank))
    if not bad:
        return (
            "repeated module by module, every value of the step is finite: the sum of squares of the gradient "
            "overflows, or compiled code or the hardware computes something else"
        )
    first = bad[0]
    others = sorted({finding.rank for finding in bad} - {first.rank})
    also = f" (and then {', '.join(map(str, others))})" if others else ""
    samples = [i for i, loss in enumerate(first.losses) if loss != loss or loss in (float("inf"), float("-inf"))]
    chosen = samples or range(len(first.losses))
    shown = ", ".join(f"{first.timesteps[i]} (image {first.indices[i]})" for i in list(chosen)[:4])
    more = f" and {len(chosen) - 4} more" if len(chosen) > 4 else ""
    return f"process {first.rank} of {world_size}{also}: first {first.place}; timesteps {shown}{more}"
