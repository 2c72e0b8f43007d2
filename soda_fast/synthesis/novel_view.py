"""Views of an object that the model has not been shown, from one that it has (SODA's novel view synthesis)."""

import numpy as np
import torch
from numpy.typing import NDArray

from soda_fast.synthesis.picture import Picture, Row
from soda_fast.synthesis.studio import Studio

_OBJECTS = 4


def novel_view(studio: Studio) -> Picture:
    """For a few objects: one view, others of the same object, and below these what is made from the first one's z.

    The decoder is told where the camera stood for the others, and sees none of their pixels. Test images (training
    images where there is no test split), spread evenly over the object's views in the order of the data set.

    Raises:
        ValueError: the model is not told of cameras, the data set has none, or no object has two images.
    """
    if studio.config.model.pose == "none":
        raise ValueError(
            "novel-view: model.pose is none, so the decoder is not told which view to make; train a run with "
            "data.pairs=true and model.pose=rays (configs/coil100_pairs.yaml)"
        )
    sources, targets = choose_views(studio, _OBJECTS, studio.config.sampling.images)
    columns = targets.shape[1]
    z = studio.encode(studio.sources(sources), studio.cameras(sources))
    flat = targets.ravel()
    # The same noise everywhere, so that z and the camera alone tell the pictures apart.
    noise = torch.zeros(len(flat), dtype=torch.int64)
    made = studio.make(z.repeat_interleave(columns, dim=0), noise, "novel-view", studio.cameras(flat))
    shown, true = studio.targets(sources), studio.targets(flat)
    blank, rows = torch.ones_like(shown[:1]), []
    for number, (originals, copies) in enumerate(zip(true.split(columns), made.split(columns), strict=True)):
        label = studio.images.labels[sources[number]]
        name, origin = studio.dataset.class_names[label], _origin(studio, label)
        rows += [
            Row(f"{name},\n{origin}", torch.cat((shown[number : number + 1], originals))),
            Row("made from the\nsource's z and\nthe camera", torch.cat((blank, copies))),
        ]
    return Picture(rows, ["source", *["view"] * columns])


def _origin(studio: Studio, label: np.int64) -> str:
    """What training has seen of the views that are shown."""
    if studio.dataset.test is None:
        return "trained on"
    return "views held out" if label in studio.dataset.train.labels else "never trained on"


def choose_views(studio: Studio, objects: int, columns: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The source (O,) and the targets (O, C) of up to `objects` objects; a target comes twice where views are few.

    Raises:
        ValueError: no object has two images.
    """
    images = studio.images
    order = studio.choose(len(images))
    sources: list[np.int64] = []
    targets: list[NDArray[np.int64]] = []
    for source in order[np.sort(np.unique(images.labels[order], return_index=True)[1])]:
        others = np.flatnonzero((images.labels == images.labels[source]) & (images.heights > 0))
        others = others[others != source]
        if len(others) and len(sources) < objects:
            sources.append(source)
            targets.append(others[np.linspace(0, len(others) - 1, columns).round().astype(np.int64)])
    if not sources:
        split = "train" if studio.dataset.test is None else "test"
        raise ValueError(f"novel-view: no object has two images in the {split} split; add views of each under {split}/")
    return np.array(sources), np.stack(targets)
