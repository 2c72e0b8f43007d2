"""What each task of `soda-fast sample` shows. A task is a function from a studio to a picture, named in TASKS.

Numbers of starting noise: images that are to differ in z alone share one. `sampling.images` counts the made images of
a row; in tasks that start from one or two images, these stand at its ends as they are. Under model.pose rays the
cameras are told: the encoder its image's, the decoder that of the image which a row starts from.
"""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from soda_fast.config import section_count
from soda_fast.synthesis.latents import fine_sections, mix_sections, principal_directions, slerp
from soda_fast.synthesis.novel_view import novel_view
from soda_fast.synthesis.picture import Picture, Row
from soda_fast.synthesis.studio import Studio

_ROWS = 4  # of made images, where a task could show any number
_MEASURED_IMAGES = 2048  # training images whose z give the principal directions
_DEVIATIONS = 3.0  # how far `traverse` goes either way


def reconstruct(studio: Studio) -> Picture:
    """Source, target (as in training, but test images and no noise on the source), and two images from the source's z.

    Under data.pairs the target is another image of the object; under model.pose rays the decoder is told its camera.
    The two start from different noise: what they share, z has said.
    """
    indices, data = studio.choose(studio.config.sampling.images), studio.config.data
    partners = studio.partners(indices)
    source, target = studio.sources(indices, data.source), studio.targets(partners, data.target)
    z = studio.encode(source, studio.cameras(indices, view=data.source, stream="source"))
    camera = studio.cameras(partners, view=data.target, stream="target")
    count, numbers = len(indices), torch.arange(2 * len(indices))
    made = studio.make(z.repeat(2, 1), numbers, "reconstruct", None if camera is None else camera.repeat(2, 1, 1))
    told = "" if camera is None else "\nand the\ntarget's camera"
    return Picture(
        [
            Row("source", studio.visible(source)),
            Row("target", target),
            Row(f"made from\nthe source's z{told}", made[:count]),
            Row("the same,\nother noise", made[count:]),
        ]
    )


def interpolate(studio: Studio) -> Picture:
    """Rows from one image to another: z on the great circle between theirs, and the same noise all along."""
    steps = studio.config.sampling.images
    if steps < 2:
        raise ValueError("interpolate: --images must be at least 2, the two ends of a way")
    indices = studio.choose(2 * _ROWS)
    pairs = len(indices) // 2
    if not pairs:
        raise ValueError("interpolate: the data set has a single image; it takes two")
    z, camera = _encode(studio, indices)
    ends = studio.targets(indices)
    share = torch.linspace(0, 1, steps, device=z.device)[:, None]
    ways = torch.cat([slerp(z[2 * i : 2 * i + 1], z[2 * i + 1 : 2 * i + 2], share) for i in range(pairs)])
    seen_from = None if camera is None else camera[: 2 * pairs : 2].repeat_interleave(steps, dim=0)
    made = studio.make(ways, torch.arange(pairs).repeat_interleave(steps), "interpolate", seen_from).split(steps)
    rows = [torch.cat((ends[2 * i : 2 * i + 1], made[i], ends[2 * i + 1 : 2 * i + 2])) for i in range(pairs)]
    return Picture(
        [Row("", row) for row in rows], ["image", *(f"{part:.2g}" for part in share[:, 0].tolist()), "image"]
    )


def mix(studio: Studio) -> Picture:
    """A table: coarse sections of z from the image on the left, fine ones from the image above."""
    count, columns = section_count(studio.config), studio.config.sampling.images
    if count < 2:
        raise ValueError(
            "mix: model.modulation is shared, so z has no coarse and fine sections; train a run with "
            "model.modulation=layerwise"
        )
    indices = studio.choose(_ROWS + columns)
    if len(indices) < 2:
        raise ValueError("mix: the data set has a single image; it takes two")
    rows = min(_ROWS, len(indices) - 1)
    z, camera = _encode(studio, indices)
    images = studio.targets(indices)
    coarse, fine = z[:rows], z[rows:]
    mixed = mix_sections(coarse.repeat_interleave(len(fine), dim=0), fine.repeat(rows, 1), count)
    seen_from = None if camera is None else camera[:rows].repeat_interleave(len(fine), dim=0)
    made = studio.make(mixed, torch.zeros(len(mixed), dtype=torch.int64), "mix", seen_from).split(len(fine))
    corner = torch.ones_like(images[:1])
    return Picture(
        [
            Row(f"fine: {_sections(1, fine_sections(count))}", torch.cat((corner, images[rows:]))),
            *(
                Row(f"coarse: {_sections(fine_sections(count) + 1, count)}", torch.cat((image[None], some)))
                for image, some in zip(images[:rows], made)
            ),
        ]
    )


def unconditional(studio: Studio) -> Picture:
    """Images of a decoder that is told nothing of any image."""
    columns = studio.config.sampling.images
    made = studio.make_without_z(torch.arange(_ROWS * columns), "unconditional")
    return Picture([Row("", row) for row in made.split(columns)])


def traverse(studio: Studio) -> Picture:
    """From one image's z along the principal directions of the z of training images, up to 3 deviations either way."""
    steps, train = studio.config.sampling.images, studio.dataset.train
    if steps < 2:
        raise ValueError("traverse: --images must be at least 2, the two ends of a way")
    if len(train) < 2:
        raise ValueError("traverse: the data set has a single training image; directions take two")
    known = studio.encode_many(train, studio.choose(_MEASURED_IMAGES, train), "z of training images")
    directions = principal_directions(known, _ROWS)
    index = studio.choose(1)
    z, camera = _encode(studio, index)
    image = studio.targets(index)
    moves = torch.linspace(-_DEVIATIONS, _DEVIATIONS, steps, device=z.device)
    along = directions.vectors * directions.deviations[:, None]
    moved = (z + moves[None, :, None] * along[:, None, :]).flatten(0, 1)
    seen_from = None if camera is None else camera.expand(len(moved), -1, -1)
    made = studio.make(moved, torch.zeros(len(moved), dtype=torch.int64), "traverse", seen_from).split(steps)
    rows = [
        Row(f"direction {number}\n{100 * share:.0f} % of variance", torch.cat((image, some)))
        for number, (share, some) in enumerate(zip(directions.shares.tolist(), made), start=1)
    ]
    return Picture(rows, ["image", *(f"{move:+.2g} sd" for move in moves.tolist())])


def _encode(studio: Studio, indices: NDArray[np.int64]) -> tuple[Tensor, Tensor | None]:
    """z (N, D) of central squares, and their cameras (N, 3, 4), which are told if they are known."""
    camera = studio.cameras(indices)
    return studio.encode(studio.sources(indices), camera), camera


def _sections(first: int, last: int) -> str:
    return f"section {first}\nof z" if first == last else f"sections {first}-{last}\nof z"


Task = Callable[[Studio], Picture]

TASKS: dict[str, Task] = {
    "reconstruct": reconstruct,
    "interpolate": interpolate,
    "mix": mix,
    "unconditional": unconditional,
    "traverse": traverse,
    "novel-view": novel_view,
}
"""By the names of `names.py`."""
