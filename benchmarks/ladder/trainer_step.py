"""The trainer's own step, timed by phases; on `kernel` and `no synchronisation` with a slower optimizer and average."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from benchmarks.ladder.average import LoopAverage
from benchmarks.ladder.rungs import Recipe
from benchmarks.ladder.shards import DefaultAdamW
from benchmarks.ladder.timeline import Timeline
from soda_fast.config import Config, warmup_images
from soda_fast.data import Batch, Dataset
from soda_fast.parallel import Processes
from soda_fast.training import step as step_module
from soda_fast.training.step import TrainStep


class UnfusedAdamW:
    """PyTorch's default AdamW in the place of the fused one, which alone knows how to leave out a step by itself.

    reads: whether the host looks at `found_inf` and leaves the step out; else every step is made.
    """

    def __init__(self, fused: torch.optim.AdamW, reads: bool) -> None:
        groups = [{"params": group["params"], "lr": group["lr"]} for group in fused.param_groups]
        settings = fused.defaults
        self._adamw = DefaultAdamW(groups, betas=settings["betas"], weight_decay=settings["weight_decay"])
        self._reads = reads
        self.found_inf = torch.zeros(())

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """As an optimizer's."""
        return self._adamw.param_groups

    def step(self) -> None:
        """As an optimizer's."""
        if not (self._reads and self.found_inf.item()):
            self._adamw.step()

    def zero_grad(self, set_to_none: bool = True) -> None:
        """As an optimizer's."""
        self._adamw.zero_grad(set_to_none)


class TrainerStep:
    """A `TrainStep` whose phases leave their marks on `timeline`."""

    def __init__(
        self, config: Config, dataset: Dataset, recipe: Recipe, processes: Processes, timeline: Timeline
    ) -> None:
        self.own = TrainStep(config, processes, warmup_images(config, len(dataset.train)))
        self.timeline = timeline
        if not recipe.lists:
            self.own.ema = LoopAverage(self.own.model, self.own.ema.model, config.train.ema_beta, False)  # type: ignore[assignment]
            self.own.optimizer = UnfusedAdamW(self.own.optimizer, recipe.reads == "finite")  # type: ignore[assignment]

    def step(self, parts: list[Batch]) -> None:
        """One step of training."""
        with _marked(self.own, self.timeline):
            self.own(parts)
        self.timeline.end("ema")


@contextmanager
def _marked(step: TrainStep, timeline: Timeline) -> Iterator[None]:
    """Let the step itself say where its phases end, without a line of it being another."""
    losses, clip_and_step = step.losses, step_module.clip_and_step
    parts = 0

    def marked_losses(batch: Batch) -> Tensor:
        nonlocal parts
        if parts:
            timeline.end("backward")
        parts += 1
        result = losses(batch)
        timeline.end("forward")
        return result

    def marked_clip_and_step(*arguments: Any) -> tuple[Tensor, Tensor]:
        timeline.end("backward")
        found = clip_and_step(*arguments)
        timeline.end("optimizer")
        return found

    step.losses = marked_losses  # type: ignore[method-assign]
    step_module.clip_and_step = marked_clip_and_step  # type: ignore[assignment]
    try:
        yield
    finally:
        del step.losses  # the method is seen again
        step_module.clip_and_step = clip_and_step
