"""Probing an encoder: where the images, the model and the protocols meet."""

from dataclasses import replace

import torch
import torch.distributed as dist
from torch import Tensor

from soda_fast.config import Config
from soda_fast.config.schema import ViewConfig
from soda_fast.data import Dataset, ImageSet, iterate_views
from soda_fast.data.views import describe_view
from soda_fast.encoding import Encode
from soda_fast.evaluation.features import extract_features, padded_share
from soda_fast.evaluation.holdout import stratified_holdout
from soda_fast.evaluation.linear_recipe import View
from soda_fast.evaluation.provider import CachedFeatures, Split
from soda_fast.model import SODA
from soda_fast.parallel import Processes

# Random resized crop and flip as torchvision's defaults have them: what MAE, DINOv2 and solo-learn train their linear
# classifiers on.
STANDARD_VIEW = ViewConfig(
    crop_flip_probability=1.0,
    crop_scale=(0.08, 1.0),
    crop_ratio=(3 / 4, 4 / 3),
    flip_probability=0.5,
    randaugment_probability=0.0,
)


def hold_out(dataset: Dataset, config: Config) -> Dataset:
    """The training split in two: images of it to probe on stand where the test split stood.

    The slice is `evaluation.holdout_fraction` of each class, chosen by `run.seed`. Without poses.

    Raises:
        ValueError: no image can be held out.
    """
    fit, held_out = stratified_holdout(dataset.train.labels, config.evaluation.holdout_fraction, config.run.seed)
    train = dataset.train
    return replace(dataset, train=train.subset(fit), test=train.subset(held_out), train_poses=None, test_poses=None)


def encode_features(model: SODA) -> Encode:
    """Images (B, 3, S, S) -> z (B, D) and the encoder's pooled features (B, F), by name. The model in eval mode."""

    def encode(images: Tensor) -> dict[str, Tensor]:
        z, pooled = model.features(images)
        return {"z": z, "pooled": pooled}

    return encode


def encode_pixels(images: Tensor) -> dict[str, Tensor]:
    """The images themselves as features: (B, 3 * S * S)."""
    return {"pixels": images.flatten(1)}


class Prober:
    """Extracts features of image sets, all processes together.

    Args:
        config: resolved.
        dataset: gives mean and deviation.
        processes: this process among those that take part.

    Attributes:
        replaced: unreadable images that this process met, by split and index, and what to say of them.
    """

    def __init__(self, config: Config, dataset: Dataset, processes: Processes) -> None:
        self.config, self.dataset, self.processes = config, dataset, processes
        self.replaced: dict[Split, dict[int, str]] = {"train": {}, "test": {}}
        self._views: dict[View, ViewConfig] = {
            "reference": config.evaluation.view.as_view(),
            "standard": STANDARD_VIEW,
        }

    def provider(self, encode: Encode, train: ImageSet, test: ImageSet) -> CachedFeatures:
        """Features of a training and a test split for `run_protocol`."""
        splits: dict[Split, ImageSet] = {"train": train, "test": test}
        return CachedFeatures(
            encode_clean=lambda split: self._features(encode, split, splits[split]),
            encode_augmented=lambda view, epoch: self._features(encode, "train", train, self._views[view], epoch),
            descriptions={name: describe_view(view) for name, view in self._views.items()},
            split_labels={name: torch.from_numpy(images.labels) for name, images in splits.items()},
        )

    def _features(
        self, encode: Encode, split: Split, images: ImageSet, view: ViewConfig | None = None, epoch: int = 0
    ) -> dict[str, Tensor]:
        """{name: (len(images), D)}; through the random view of an epoch, or clean."""
        data, processes = self.config.data, self.processes
        batches = iterate_views(
            images,
            padded_share(len(images), processes.rank, processes.world_size, self.config.evaluation.batch_images),
            size=data.source_size,
            mean=self.dataset.mean,
            std=self.dataset.std,
            data=data,
            device=processes.device,
            view=view,
            seed=self.config.run.seed,
            epoch=epoch,
            replaced=self.replaced[split],
        )
        dtype = torch.bfloat16 if self.config.evaluation.feature_precision == "bf16" else torch.float32
        normalize = self.config.evaluation.l2_normalize
        return extract_features(encode, batches, len(images), dist.group.WORLD, dtype=dtype, normalize=normalize)
