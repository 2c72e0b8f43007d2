"""Averages of any length, made after training from a run's snapshots (arXiv 2312.02696, section 3.2)."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor

from soda_fast.checkpoint_reader import read_tensors
from soda_fast.config import Config
from soda_fast.config.types import LONGEST_EMA
from soda_fast.model import SODA
from soda_fast.run_directory import RunDirectory
from soda_fast.training.average_files import read_snapshot, snapshots
from soda_fast.training.checkpoint_files import read_manifest
from soda_fast.training.power_average import checkpoint_prefix
from soda_fast.training.power_profile import Floats, combine, exponent_of

TOLERANCE = 0.05
"""How far the profile of an average that is made may be from the one that is asked for, relative, in L2."""
_GRID = 0.005  # of the lengths that a message names
_ONE_LENGTH = "; two lengths in train.ema_lengths, as [0.05, 0.1], span more"
_NOTHING = 1e-10
"""A coefficient below this is rounding; float32 weights would not show it."""


@dataclass(frozen=True)
class _Source:
    """An average that was kept. file: its snapshot; None: it is in the checkpoint."""

    length: float
    steps: int
    file: Path | None


def with_average(model: SODA, run: RunDirectory, config: Config, checkpoint: Path, length: float) -> SODA:
    """A copy of a checkpoint's model with the average of another length. Arguments and errors: as `make_average`."""
    averaged = copy.deepcopy(model)
    make_average(run, config, checkpoint, length, averaged.state_dict())
    return averaged


@torch.no_grad()
def make_average(run: RunDirectory, config: Config, checkpoint: Path, length: float, state: dict[str, Tensor]) -> None:
    """Fill a model's state with the average of a relative length at a checkpoint.

    It is made of the averages in the checkpoint and of the snapshots before it. Summed in float64.

    Args:
        config: the run's.
        checkpoint: a whole checkpoint of it.
        length: sigma_rel, in (0, 0.28].
        state: filled in place, in float32, apart from integer buffers, which are not averaged.

    Raises:
        ValueError: the run keeps no such averages, a file is damaged or another model's, or the length cannot be made
            of them: the profile would be further than `TOLERANCE` from the one that is asked for.
    """
    if not 0 < length <= LONGEST_EMA:
        raise ValueError(f"an EMA length of {length:g} is out of range; give one above 0, up to {LONGEST_EMA}")
    if not config.train.ema_lengths:
        raise ValueError(
            f"an EMA length of {length:g} cannot be made: {run.path} has kept no averages to make it of, because its "
            "train.ema_lengths is empty; train with train.ema_lengths=[0.05, 0.1]"
        )
    sources = _sources(run, config, checkpoint)
    averaged = {name: value for name, value in state.items() if value.is_floating_point()}
    sums = {name: torch.zeros_like(value, dtype=torch.float64) for name, value in averaged.items()}
    for source, coefficient in zip(sources, _coefficients(run, sources, length), strict=True):
        if abs(coefficient) > _NOTHING:
            for name, value in _read(source, checkpoint, averaged).items():
                sums[name].add_(value, alpha=coefficient)
    for name, value in averaged.items():
        value.copy_(sums[name])


def _sources(run: RunDirectory, config: Config, checkpoint: Path) -> list[_Source]:
    now = read_manifest(checkpoint)["steps"]
    kept = [_Source(one.length, one.steps, path) for path, one in snapshots(run.averages).items() if one.steps < now]
    return [*kept, *(_Source(length, now, None) for length in config.train.ema_lengths)]


def _coefficients(run: RunDirectory, sources: Sequence[_Source], length: float) -> list[float]:
    coefficients, (error,) = _combine(sources, [length])
    if error > TOLERANCE:
        kept, moments = sorted({one.length for one in sources}), len({one.steps for one in sources})
        raise ValueError(
            f"an EMA length of {length:g} cannot be made of what {run.path} has kept, averages of length "
            f"{', '.join(f'{one:g}' for one in kept)} from {moments} moment{'s' if moments > 1 else ''}: its profile "
            f"would be {100 * error:.0f} % off, {100 * TOLERANCE:.0f} % being allowed; ask for {_possible(sources)}"
            f"{'' if len(kept) > 1 else _ONE_LENGTH}"
        )
    return [float(one) for one in coefficients[:, 0]]


def _possible(sources: Sequence[_Source]) -> str:
    """The lengths that can be made, in words."""
    steps = range(1, round(LONGEST_EMA / _GRID) + 1)
    grid = sorted({*(round(_GRID * i, 3) for i in steps), *(source.length for source in sources)})
    _, errors = _combine(sources, grid)
    return _spans(grid, [bool(error <= TOLERANCE) for error in errors])


def _combine(sources: Sequence[_Source], lengths: Sequence[float]) -> tuple[Floats, Floats]:
    times, exponents = [s.steps for s in sources], [exponent_of(s.length) for s in sources]
    return combine(times, exponents, max(times), [exponent_of(length) for length in lengths])


def _spans(grid: Sequence[float], possible: Sequence[bool]) -> str:
    """The intervals of a rising grid in which all is possible, in words: "0.05", "0.035 to 0.2 or 0.25"."""
    edges = [i for i, (a, b) in enumerate(pairwise([False, *possible, False])) if a != b]
    spans = zip(edges[::2], edges[1::2], strict=True)
    return " or ".join(
        f"{grid[first]:g}" if last - first == 1 else f"{grid[first]:g} to {grid[last - 1]:g}" for first, last in spans
    )


def _read(source: _Source, checkpoint: Path, like: dict[str, Tensor]) -> dict[str, Tensor]:
    if source.file is None:
        found = {name: torch.empty_like(value) for name, value in like.items()}
        read_tensors(checkpoint, checkpoint_prefix(source.length), found)
        return found
    found = read_snapshot(source.file)
    if {name: value.shape for name, value in found.items()} != {name: value.shape for name, value in like.items()}:
        raise ValueError(f"{source.file} is of another model than {checkpoint}; move it away")
    return found
