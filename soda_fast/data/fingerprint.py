"""Which images a number was made with."""

import hashlib

import numpy as np
from numpy.typing import NDArray

from soda_fast.data.image_set import ImageSet, UnreadableImage

_READ = 1000  # images whose bytes are read, spread over the set


def fingerprint(images: ImageSet) -> str:
    """SHA-256, as hexadecimal, of a split's labels and sizes in order, and of the bytes of up to 1,000 of its images.

    The images are spread evenly over the split, so that a set of any size takes about a second. Bytes are those of the
    files, or the pixels where no file stands for an image: another packing of the same pixels has another fingerprint.
    """
    digest = hashlib.sha256(listing_fingerprint(images).encode())
    for index in np.unique(np.linspace(0, len(images) - 1, min(_READ, len(images))).astype(np.int64)):
        digest.update(_bytes(images, int(index)))
    return digest.hexdigest()


def listing_fingerprint(images: ImageSet, poses: NDArray[np.float64] | None = None) -> str:
    """SHA-256, as hexadecimal, of a split's labels and sizes in order, and of its poses; no image is read.

    poses: (N, 10), as poses.csv has them. Not the cameras: what is computed of the poses can differ in its last digits
    between types of processors, and a run would not go on elsewhere. Which sample comes at a position of a run follows
    from the number of images, and what it is from their order.
    """
    digest = hashlib.sha256()
    for numbers in (images.labels, images.heights, images.widths):
        digest.update(np.ascontiguousarray(numbers, np.int64).tobytes())
    if poses is not None:
        digest.update(np.ascontiguousarray(poses, np.float64).tobytes())
    return digest.hexdigest()


def _bytes(images: ImageSet, index: int) -> bytes:
    try:
        return images.read(index).tobytes()
    except UnreadableImage:  # another stood in for it (data.on_unreadable)
        return b"unreadable"
