"""Where protocols get features from: clean or augmented, by split, each pass encoded once.

Two splits: "train", which probes are fitted to, and "test", which they are judged on. During training both are slices
of the training set.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

from torch import Tensor

Split = Literal["train", "test"]

CROP_FLIP_PROBABILITY = 0.65
CROP_FLIP = (
    "random resized crop (area 0.08..1, ratio 3/4..4/3) and flip (0.5), "
    f"together with probability {CROP_FLIP_PROBABILITY}"
)
"""The reference implementation's augmentation for probes, in words."""


class FeatureProvider(Protocol):
    """Features of both splits by name, each (N, D) floating point, and labels, (N,) integers."""

    def clean(self, split: Split) -> Mapping[str, Tensor]:
        """Features of the images as they are."""

    def augmented(self, epoch: int) -> Mapping[str, Tensor]:
        """Features of the training split through `CROP_FLIP`, drawn anew for each epoch."""

    def labels(self, split: Split) -> Tensor:
        """Classes of the images, in the order of the features."""


@dataclass
class CachedFeatures:
    """A provider that encodes every pass once: clean splits are kept, of augmented passes the latest.

    encode_clean: from a split to its features. encode_augmented: from an epoch to the training split's features.
    """

    encode_clean: Callable[[Split], Mapping[str, Tensor]]
    encode_augmented: Callable[[int], Mapping[str, Tensor]]
    split_labels: Mapping[Split, Tensor]
    _clean: dict[Split, Mapping[str, Tensor]] = field(default_factory=dict)
    _latest: tuple[int, Mapping[str, Tensor]] | None = None

    def clean(self, split: Split) -> Mapping[str, Tensor]:
        """See FeatureProvider."""
        if split not in self._clean:
            self._clean[split] = self.encode_clean(split)
        return self._clean[split]

    def augmented(self, epoch: int) -> Mapping[str, Tensor]:
        """See FeatureProvider. k-NN's augmented bank is epoch 0, which the linear probe then starts with."""
        if self._latest is None or self._latest[0] != epoch:
            self._latest = None  # frees the pass before
            self._latest = (epoch, self.encode_augmented(epoch))
        return self._latest[1]

    def labels(self, split: Split) -> Tensor:
        """See FeatureProvider."""
        return self.split_labels[split]
