"""From views in grey levels to the tensors that the model gets."""

import torch
from torch import Tensor

from soda_fast import counter_rng
from soda_fast.data.dataset import RGB
from soda_fast.data.row_threads import RowThreads
from soda_fast.data.statistics import Statistics
from soda_fast.pixels import look_up

_CACHED_VALUES = 1 << 16  # of a view, worked on at once on a CPU: what fits into a core's cache


class Finish:
    """Scales views, normalises the source and adds noise to it.

    On a CPU it works through a few images at a time: whole batches would go through memory once for each operation.

    Args:
        mean, std: of the source's channels, of values in [0, 1].
        noise: deviation of the noise.
        seed: of the run.
        device: where the views lie.
        threads: CPU threads; unused on other devices.
    """

    def __init__(self, mean: RGB, std: RGB, noise: float, seed: int, device: torch.device, threads: int) -> None:
        self._statistics, self._noise, self._seed = Statistics(mean, std, device), noise, seed
        self._threads = RowThreads(threads, "soda-fast-finish") if device.type == "cpu" else None
        if self._threads is not None:
            # What becomes of each level, (3, 256), by the arithmetic that a GPU does for each pixel.
            levels = torch.arange(256, dtype=torch.uint8, device=device).view(1, 16, 16, 1).expand(-1, -1, -1, 3)
            units = to_unit(levels)
            self._units, self._normalised = (v.view(3, 256) for v in (units, self._statistics.normalise(units)))

    def __call__(self, source: Tensor, target: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Source (N, S, S, 3) and targets (M, T, T, 3) uint8 -> (N, 3, S, S), (M, 3, T, T) float32.

        M: N times the targets of a source, which are next to each other. positions: (N,) of the sources.
        """
        if self._threads is None:
            return self._add_noise(self._statistics.normalise(to_unit(source)), positions), to_unit(target)
        sources, targets = (
            torch.empty(len(v), 3, *v.shape[1:3], dtype=torch.float32, device=v.device) for v in (source, target)
        )
        each = len(target) // len(source)

        def work(rows: slice) -> None:
            look_up(sources[rows], source[rows], self._normalised)
            self._add_noise(sources[rows], positions[rows])
            mine = slice(each * rows.start, each * rows.stop)
            look_up(targets[mine], target[mine], self._units)

        most = _CACHED_VALUES // max(source[0].numel(), each * target[0].numel())
        self._threads.for_rows(work, len(positions), max(1, most))
        return sources, targets

    def close(self) -> None:
        """Let the threads go."""
        if self._threads is not None:
            self._threads.close()

    def _add_noise(self, clean: Tensor, positions: Tensor) -> Tensor:
        """In place."""
        if not self._noise:
            return clean
        noise = counter_rng.normal(self._seed, "source/noise", positions, tuple(clean.shape[1:]))
        return clean.add_(noise.mul_(self._noise))


def to_unit(pixels: Tensor) -> Tensor:
    """(N, S, S, 3) uint8 -> (N, 3, S, S) float32 in [0, 1]; on a GPU in channels_last memory, on a CPU contiguous."""
    channels_first = pixels.permute(0, 3, 1, 2)
    layout = torch.contiguous_format if pixels.device.type == "cpu" else torch.preserve_format
    return channels_first.to(torch.float32, memory_format=layout).div_(255)
