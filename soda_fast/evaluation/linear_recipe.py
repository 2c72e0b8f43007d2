"""How a linear classifier is trained on frozen features, by the name of who published it.

Learning rates "per 256" follow the linear rule: the optimizer's rate is the number times batch / 256. All classifiers
of a recipe differ in the learning rate alone and are trained together.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

View = Literal["reference", "standard"]
Schedule = Callable[[int, int, int], float]
"""From (step, steps of a pass, steps in all) to the factor of the learning rate in that step."""


def cosine_by_pass(step: int, steps_per_pass: int, total: int) -> float:
    """Cosine to 0 that moves once a pass."""
    return _cosine(step // steps_per_pass, total // steps_per_pass)


def cosine_by_step(step: int, steps_per_pass: int, total: int) -> float:
    """Cosine to 0 that moves each step."""
    return _cosine(step, total)


def warm_cosine(step: int, steps_per_pass: int, total: int) -> float:
    """Linear from 0 over 10 passes, then a cosine to 0, moving each step."""
    progress, end, warm = step / steps_per_pass, total / steps_per_pass, 10
    return progress / warm if progress < warm else _cosine(progress - warm, end - warm)


def steps_at_60_and_80(step: int, steps_per_pass: int, total: int) -> float:
    """A tenth from pass 60 on, a hundredth from pass 80 on."""
    return float(10.0 ** -sum(step // steps_per_pass >= milestone for milestone in (60, 80)))


def _cosine(done: float, end: float) -> float:
    return (1 + math.cos(math.pi * done / end)) / 2


@dataclass(frozen=True)
class Recipe:
    """Exact settings of one protocol's training.

    Attributes:
        source: where the settings come from.
        view: of the training images, drawn anew for each pass. "reference": evaluation.view; "standard": random resized
            crop (area 0.08..1) and flip, always.
        normalize: L2-normalise features first.
        batch_norm: BatchNorm1d(affine=False, eps=1e-6) before the linear layer.
        initial: of the linear layer. "default": PyTorch's; "normal", "truncated": deviation 0.01 (cut off at +-2),
            biases zero.
        optimizer: "adam" (0.9, 0.999, eps 1e-8); "sgd" and "lars" with momentum 0.9, "lars" with trust coefficient
            0.001 and plain momentum for biases. No weight decay.
        learning_rates: the candidates; more than one: chosen on a slice of the training images.
        per_256: whether learning rates are for 256 images a batch.
        batch: images of a step; all of them where the set has fewer.
        drop_last: leave out a pass's last, shorter batch.
        passes: over the training images; None: as many as `steps` needs.
        steps: of the optimizer; None: as many as `passes` has.
    """

    source: str
    view: View
    normalize: bool
    batch_norm: bool
    initial: Literal["default", "normal", "truncated"]
    optimizer: Literal["adam", "sgd", "lars"]
    learning_rates: tuple[float, ...]
    per_256: bool
    batch: int
    drop_last: bool
    schedule: Schedule
    passes: int | None = None
    steps: int | None = None

    def batch_of(self, num_samples: int) -> int:
        """Images of a step."""
        return min(self.batch, num_samples)

    def steps_per_pass(self, num_samples: int) -> int:
        """Steps of one pass. A last batch of one joins the one before: its variance is unknown to BatchNorm."""
        batch = self.batch_of(num_samples)
        whole, left = divmod(num_samples, batch)
        return whole if self.drop_last or left == 0 or (left == 1 and whole > 0) else whole + 1

    def total_steps(self, num_samples: int) -> int:
        """Steps of the whole training."""
        if self.steps is not None:
            return self.steps
        assert self.passes is not None, "a recipe names passes or steps"
        return self.passes * self.steps_per_pass(num_samples)

    def rates(self, num_samples: int) -> list[float]:
        """The optimizer's learning rates at the schedule's factor 1."""
        scale = self.batch_of(num_samples) / 256 if self.per_256 else 1.0
        return [rate * scale for rate in self.learning_rates]


REFERENCE = Recipe(
    source="FutureXiang/soda, metric.py: BatchNorm + Linear on L2-normalised features, Adam 1e-3, cosine by epoch, "
    "15 epochs, batch 128, random view anew each epoch, the last classifier counts",
    view="reference",
    normalize=True,
    batch_norm=True,
    initial="default",
    optimizer="adam",
    learning_rates=(1e-3,),
    per_256=False,
    batch=128,
    drop_last=False,
    schedule=cosine_by_pass,
    passes=15,
)

MAE = Recipe(
    source="MAE (arXiv 2111.06377), main_linprobe.py and FINETUNE.md: BatchNorm(affine=False, eps=1e-6) + "
    "Linear(truncated normal 0.01), LARS, learning rate 0.1 per 256, batch 16384, 10 epochs warm-up, cosine, 90 "
    "epochs, no weight decay, random resized crop and flip anew each epoch, the last classifier counts; departs from "
    "it in normalising over the whole batch, not over each GPU's 512 of it",
    view="standard",
    normalize=False,
    batch_norm=True,
    initial="truncated",
    optimizer="lars",
    learning_rates=(0.1,),
    per_256=True,
    batch=16384,
    drop_last=True,
    schedule=warm_cosine,
    passes=90,
)

DINOV2 = Recipe(
    source="DINOv2 (arXiv 2304.07193), eval/linear.py on the pooled output: Linear(normal 0.01), SGD with momentum "
    "0.9, 13 learning rates per 256 trained together, batch 128, 12,500 steps, cosine by step, no weight decay, random "
    "resized crop and flip; departs from it in choosing the learning rate on a slice of train, not on the test split",
    view="standard",
    normalize=False,
    batch_norm=False,
    initial="normal",
    optimizer="sgd",
    learning_rates=(1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 0.1),
    per_256=True,
    batch=128,
    drop_last=True,
    schedule=cosine_by_step,
    steps=12_500,
)

SOLO = Recipe(
    source="solo-learn, scripts/linear: Linear, SGD with momentum 0.9, a tenth at epochs 60 and 80 of 100, batch 256, "
    "no weight decay, random resized crop and flip anew each epoch, the last classifier counts; its scripts set "
    "learning rates by hand for each method (0.1 to 30 per 256), here a slice of train chooses among 0.1, 0.3 and 1",
    view="standard",
    normalize=False,
    batch_norm=False,
    initial="default",
    optimizer="sgd",
    learning_rates=(0.1, 0.3, 1.0),
    per_256=True,
    batch=256,
    drop_last=True,
    schedule=steps_at_60_and_80,
    passes=100,
)
