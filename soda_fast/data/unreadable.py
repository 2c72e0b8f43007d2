"""Images that cannot be decoded: which, why, and what stands in for them.

The stand-in of an image is the next readable image of its class, in the data set's order, the first following the last.
Of a pair it is the next one that is not the pair's other image. That depends on the files alone: not on the process,
the batch, or the order in which bad images are met.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from soda_fast.data.image_set import ImageSet, UnreadableImage
from soda_fast.data.views import ViewPlan

T = TypeVar("T")
Policy = Literal["error", "replace"]


class UnreadableImages(ValueError):
    """Images of one batch that cannot be decoded. found: each with its index and cause."""

    def __init__(self, found: Sequence[UnreadableImage]) -> None:
        more = f" ({len(found) - 1} more in the same batch)" if len(found) > 1 else ""
        super().__init__(f"{found[0]}{more}")
        self.found = found


@dataclass(frozen=True)
class Replaced:
    """An image that another one stands in for. index, by: places in the training set."""

    index: int
    cause: str
    by: int


def describe_replaced(replaced: Replaced, images: ImageSet) -> str:
    """In a line."""
    return f"{replaced.cause}: {images.describe(replaced.by)} stands in for it"


def tell_replaced(split: str, count: int) -> str:
    """What to say of `count` images of a split that others stood in for."""
    return (
        f"{count:,} {split} images cannot be read, and others of their classes stand in for them (soda-fast prepare "
        "--check names all)"
    )


def map_readable(pool: Executor, function: Callable[[int], T], arguments: Sequence[int]) -> list[T]:
    """function of all arguments in the pool's threads. Raises UnreadableImages naming all that are."""

    def attempt(argument: int) -> T | UnreadableImage:
        try:
            return function(argument)
        except UnreadableImage as error:
            return error

    results = list(pool.map(attempt, arguments))
    found = [result for result in results if isinstance(result, UnreadableImage)]
    if found:
        raise UnreadableImages(found)
    return [result for result in results if not isinstance(result, UnreadableImage)]


class Readable:
    """An image set in which every image can be asked for.

    Args:
        images: any set.
        policy: data.on_unreadable.
    """

    def __init__(self, images: ImageSet, policy: Policy) -> None:
        self._images, self._policy = images, policy
        self._causes: dict[int, str] = {}
        self._members: dict[int, NDArray[np.int64]] = {}

    @property
    def replaced(self) -> list[Replaced]:
        """Images asked for so far that others stand in for, by index."""
        return [Replaced(index, cause, self._stand_in(index)) for index, cause in sorted(self._causes.copy().items())]

    def views(
        self,
        execute: Callable[[NDArray[np.int64], Sequence[ViewPlan]], list[Tensor]],
        indices: NDArray[np.int64],
        plan: Callable[[NDArray[np.int64], NDArray[np.int64]], Sequence[ViewPlan]],
    ) -> tuple[list[Tensor], NDArray[np.int64], Sequence[ViewPlan]]:
        """What `execute` makes of the images at `indices`, or of their stand-ins; all others are as ever.

        Args:
            execute: a backend.
            indices: (N,) int64; of pairs (V, N), a row for each view.
            plan: from (heights, widths) of these images, of the same shape, to the plans of their views.

        Returns:
            The views, the images that they show, of the shape of `indices`, and their plans.

        Raises:
            ValueError: an image is unreadable and the policy is error, or its class has no readable image.
        """
        while True:
            shown = self.shown(indices)
            plans = plan(self._images.heights[shown], self._images.widths[shown])
            try:
                return execute(shown, plans), shown, plans
            except UnreadableImages as error:
                if self._policy == "error":
                    raise
                self._causes |= {found.index: str(found) for found in error.found}

    def decode(self, index: int) -> NDArray[np.uint8]:
        """(H, W, 3) RGB pixels of an image or of its stand-in. Raises ValueError as `views` does."""
        while True:
            shown = int(self.shown(np.array([index]))[0])
            try:
                return self._images.decode(shown)
            except UnreadableImage as error:
                if self._policy == "error":
                    raise
                self._causes[error.index] = str(error)

    def shown(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """The images themselves, or their stand-ins as far as is known: of the shape of `indices`."""
        for index in indices[self._images.heights[indices] == 0].tolist():
            if index not in self._causes:
                self._causes[index] = str(self._images.why_unreadable(index))
        if not self._causes:
            return indices
        if self._policy == "error":
            raise ValueError(next(iter(self._causes.values())))
        shown, bad = indices.copy(), np.isin(indices, list(self._causes))
        if indices.ndim == 1:
            for place in np.flatnonzero(bad).tolist():
                shown[place] = self._stand_in(int(indices[place]))
            return shown
        for place in np.flatnonzero(bad.any(axis=0)).tolist():
            source, target = indices[:, place].tolist()
            if bad[0, place]:
                source = self._stand_in(source, target)
            if bad[1, place]:
                target = self._stand_in(target, source)
            shown[:, place] = source, target
        return shown

    def settled(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """`shown` (N,) once everything is known: where others may stand in, each image (N,) is decoded first.

        Raises:
            ValueError: as `views` does.
        """
        if self._policy == "replace":
            for index in np.unique(indices).tolist():
                self.decode(index)
        return self.shown(indices)

    def _stand_in(self, index: int, other: int | None = None) -> int:
        """other: the pair's other image, passed over."""
        label = int(self._images.labels[index])
        if label not in self._members:
            usable = (self._images.labels == label) & (self._images.heights > 0)
            self._members[label] = np.flatnonzero(usable)
        members = self._members[label]
        start = int(np.searchsorted(members, index))
        for place in range(start, start + len(members)):
            found = int(members[place % len(members)])
            if found not in self._causes and found != other:
                return found
        more = "" if other is None else " other than the pair's other one"
        raise ValueError(f"{self._causes[index]}; class {label} has no readable image{more} to replace it by")


def known_unreadable(images: ImageSet) -> NDArray[np.int64]:
    """Indices of the images that were found unreadable when the set was opened or prepared."""
    return np.flatnonzero(images.heights == 0)


def check_policy(images: ImageSet, split: str, policy: Policy, limit: float) -> None:
    """Refuse a set with images known to be unreadable, or with too many of them.

    Args:
        images: the set.
        split: what to call it.
        policy: data.on_unreadable.
        limit: data.unreadable_limit.

    Raises:
        ValueError: policy error, and there is one; or their share is above the limit.
    """
    found = known_unreadable(images)
    if not len(found):
        return
    if policy == "error":
        more = f" ({len(found) - 1:,} more; soda-fast prepare --check names all)" if len(found) > 1 else ""
        raise ValueError(f"{images.why_unreadable(int(found[0]))}{more}")
    check_share(len(found), len(images), split, limit)


def check_share(count: int, of: int, split: str, limit: float) -> None:
    """Raises ValueError if more than data.unreadable_limit of a split's images are unreadable."""
    if count > limit * of:
        raise ValueError(
            f"data.unreadable_limit is {limit:g}, but {count:,} of {of:,} {split} images cannot be read "
            f"({count / of:.2%}); repair them (soda-fast prepare --check names all), or raise the limit"
        )
