"""Where protocols get features from: two splits by name, clean or through a random view."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

from torch import Tensor

from soda_fast.evaluation.linear_recipe import View

Split = Literal["train", "test"]


class FeatureProvider(Protocol):
    """Features of both splits by name, each (N, D) floating point, and labels, (N,) integers.

    Probes are fitted to "train" and judged on "test". During training both are slices of the training set.
    """

    descriptions: Mapping[View, str]
    """What the random views do to images, in words."""

    def clean(self, split: Split) -> Mapping[str, Tensor]:
        """Features of the images as they are."""

    def augmented(self, view: View, epoch: int) -> Mapping[str, Tensor]:
        """Features of the training split through a random view, drawn anew for each epoch."""

    def labels(self, split: Split) -> Tensor:
        """Classes of the images, in the order of the features."""


@dataclass
class CachedFeatures:
    """A provider that encodes every pass once: clean splits are kept, of augmented passes the latest.

    encode_clean: from a split to its features. encode_augmented: from a view and an epoch to the training split's
    features. descriptions: what the views do to images, in words.
    """

    encode_clean: Callable[[Split], Mapping[str, Tensor]]
    encode_augmented: Callable[[View, int], Mapping[str, Tensor]]
    split_labels: Mapping[Split, Tensor]
    descriptions: Mapping[View, str]
    _clean: dict[Split, Mapping[str, Tensor]] = field(default_factory=dict)
    _latest: tuple[tuple[View, int], Mapping[str, Tensor]] | None = None

    def clean(self, split: Split) -> Mapping[str, Tensor]:
        """See FeatureProvider."""
        if split not in self._clean:
            self._clean[split] = self.encode_clean(split)
        return self._clean[split]

    def augmented(self, view: View, epoch: int) -> Mapping[str, Tensor]:
        """See FeatureProvider. k-NN's augmented bank is epoch 0, which the linear probe then starts with."""
        if self._latest is None or self._latest[0] != (view, epoch):
            self._latest = None  # frees the pass before
            self._latest = ((view, epoch), self.encode_augmented(view, epoch))
        return self._latest[1]

    def labels(self, split: Split) -> Tensor:
        """See FeatureProvider."""
        return self.split_labels[split]


def check_names(train: Mapping[str, Tensor], test: Mapping[str, Tensor]) -> None:
    """ValueError if the splits have different kinds of features."""
    if train.keys() != test.keys():
        raise ValueError(f"features {sorted(train)} of the training split but {sorted(test)} of the test split")
