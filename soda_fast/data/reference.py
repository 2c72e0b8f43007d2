"""Plans carried out by torchvision on Pillow images: for machines without DALI, and the judge of everything else."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as F

from soda_fast.data.image_set import ImageSet
from soda_fast.data.operations import NAMES, in_pixels
from soda_fast.data.unreadable import map_readable
from soda_fast.data.views import ViewPlan

_NEAREST = InterpolationMode.NEAREST


class TorchvisionExecutor:
    """Decodes images and makes their views on CPU threads.

    Args:
        images: where the images come from.
        sizes: side of each view in pixels.
        device: where the views end up.
        threads: CPU threads.
    """

    def __init__(self, images: ImageSet, sizes: Sequence[int], device: torch.device, threads: int) -> None:
        self.images, self.sizes, self.device = images, tuple(sizes), device
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="soda-fast-views")

    def __call__(self, indices: NDArray[np.int64], plans: Sequence[ViewPlan]) -> list[Tensor]:
        """As ViewExecutor. Raises UnreadableImages naming all that cannot be decoded."""
        views = [np.empty((indices.shape[-1], size, size, 3), np.uint8) for size in self.sizes]

        def make(row: int) -> None:
            numbers = np.atleast_2d(indices)[:, row].tolist()
            images = [Image.fromarray(self.images.decode(number)) for number in numbers]
            if indices.ndim == 1:
                images *= len(plans)
            for view, image, size, plan in zip(views, images, self.sizes, plans, strict=True):
                view[row] = np.asarray(execute(image, plan, row, size))

        map_readable(self._pool, make, range(indices.shape[-1]))
        return [torch.from_numpy(view).to(self.device, non_blocking=True) for view in views]

    def close(self) -> None:
        """Let the threads go."""
        self._pool.shutdown(cancel_futures=True)


def execute(image: Image.Image, plan: ViewPlan, row: int, size: int) -> Image.Image:
    """The view of one RGB image that row `row` of a plan describes, size x size pixels."""
    top, left, height, width = (int(v[row]) for v in (plan.top, plan.left, plan.height, plan.width))
    view = F.resized_crop(image, top, left, height, width, [size, size], InterpolationMode.BILINEAR, antialias=True)
    if plan.flip[row]:
        view = F.hflip(view)
    for index, strength in zip(plan.operations[row], plan.strengths[row], strict=True):
        name = NAMES[index]
        if name == "Blur":
            view = F.gaussian_blur(view, [plan.blur_kernel, plan.blur_kernel], float(strength))
        else:
            view = _APPLY[name](view, float(strength))
    return view


def _affine(view: Image.Image, shift: tuple[int, int], shear: tuple[float, float], corner: bool) -> Image.Image:
    # A shear's magnitude is a ratio, which torchvision wants as an angle; it keeps the corner, not the centre.
    degrees = [float(np.degrees(np.arctan(ratio))) for ratio in shear]
    return F.affine(view, 0.0, list(shift), 1.0, degrees, _NEAREST, fill=None, center=[0, 0] if corner else None)


def _pixels(translation: float, view: Image.Image) -> int:
    return int(in_pixels(translation, view.width))


_APPLY: dict[str, Callable[[Image.Image, float], Image.Image]] = {
    "Identity": lambda view, _: view,
    "ShearX": lambda view, m: _affine(view, (0, 0), (m, 0.0), corner=True),
    "ShearY": lambda view, m: _affine(view, (0, 0), (0.0, m), corner=True),
    "TranslateX": lambda view, m: _affine(view, (_pixels(m, view), 0), (0.0, 0.0), corner=False),
    "TranslateY": lambda view, m: _affine(view, (0, _pixels(m, view)), (0.0, 0.0), corner=False),
    "Rotate": lambda view, m: F.rotate(view, m, _NEAREST, fill=None),
    "Brightness": lambda view, m: F.adjust_brightness(view, 1.0 + m),
    "Color": lambda view, m: F.adjust_saturation(view, 1.0 + m),
    "Contrast": lambda view, m: F.adjust_contrast(view, 1.0 + m),
    "Sharpness": lambda view, m: F.adjust_sharpness(view, 1.0 + m),
    "Posterize": lambda view, m: F.posterize(view, int(m)),
    "Solarize": lambda view, m: F.solarize(view, m),
    "AutoContrast": lambda view, _: F.autocontrast(view),
    "Equalize": lambda view, _: F.equalize(view),
    "Hue": lambda view, m: F.adjust_hue(view, m),
    "Grayscale": lambda view, _: F.rgb_to_grayscale(view, num_output_channels=3),
}
