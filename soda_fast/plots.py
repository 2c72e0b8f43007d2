"""Pictures of an evaluation: accuracy over training, a map of the features, confusions, neighbours, the projector."""

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from soda_fast.data import Dataset
from soda_fast.data.image_set import ImageSet
from soda_fast.data.unreadable import Readable
from soda_fast.evaluation.knn import knn_predictions, nearest
from soda_fast.evaluation.numerics import full_precision, l2_normalize
from soda_fast.evaluation.provider import CachedFeatures
from soda_fast.synthesis.grid import image_grid, save_png

_MAPPED = 2000  # test images in the map and the projector: t-SNE takes seconds for so many
_NEIGHBOURS, _QUERIES, _SIDE = 8, 10, 64
_ROUNDING = 1e-6  # by which entries of equal rows of length one may differ


def check_plots() -> None:
    """ValueError if there is nothing to draw with."""
    if importlib.util.find_spec("matplotlib") is None:
        raise ValueError("--plot draws with matplotlib, which is not installed: pip install 'soda-fast[plot]'")


def draw_plots(run: Path, folder: Path, provider: CachedFeatures, dataset: Dataset, images_seen: int) -> list[Path]:
    """Draw everything; returns what was written. Features are those of the first encoder, its first kind.

    Args:
        run: the run directory: metrics.jsonl is read, TensorBoard's files get the embeddings.
        folder: to write PNG files into.
        provider: clean features.
        dataset: images and names.
        images_seen: where the checkpoint stands.
    """
    assert dataset.test is not None, "the caller evaluates on a test split"
    folder.mkdir(parents=True, exist_ok=True)
    kind = next(iter(provider.clean("test")))
    train, test = (l2_normalize(provider.clean(split)[kind]) for split in ("train", "test"))
    labels = provider.labels("test").cpu().numpy()
    some = np.random.Generator(np.random.Philox(0)).permutation(len(labels))[:_MAPPED]
    written: list[Path] = []
    curves = read_accuracies(run / "metrics.jsonl")
    if curves:
        written.append(_figure(folder / "accuracy.png", lambda figure: _draw_curves(figure, curves)))
    maps = map_features(test[torch.from_numpy(some)].cpu().numpy())
    if maps:
        written.append(_figure(folder / "map.png", lambda figure: _draw_maps(figure, maps, labels[some], dataset)))
    else:
        (folder / "map.png").unlink(missing_ok=True)  # of other features
        print("no map of the features: it needs two test images, and features of two columns that differ among them")
    counts = confusion(provider, kind, len(dataset.class_names))
    written.append(_figure(folder / "confusion.png", lambda figure: _draw_confusion(figure, counts, dataset), (7, 6)))
    save_png(folder / "neighbours.png", picture_of_neighbours(train, test, dataset.train, dataset.test))
    written.append(folder / "neighbours.png")
    _project(run / "tensorboard", test[torch.from_numpy(some)].cpu(), labels[some], some, dataset, images_seen)
    return [*written, run / "tensorboard"]


def read_accuracies(path: Path) -> dict[str, list[tuple[int, float]]]:
    """{probe: [(images seen, accuracy), ...]} of a metrics.jsonl; empty where there is none.

    Lines that are not whole are left out, as when training resumes: the last one may still be in the making.
    """
    curves: dict[str, list[tuple[int, float]]] = {}
    for line in path.read_text(errors="replace").splitlines() if path.is_file() else []:
        try:
            values = json.loads(line)
        except ValueError:
            continue
        for name, value in values.items():
            if name.startswith(("knn-", "linear-")):
                curves.setdefault(name, []).append((values["images_seen"], value))
    return curves


def map_features(features: NDArray[np.float32]) -> dict[str, NDArray[np.float64]]:
    """{"PCA": (N, 2), "t-SNE": (N, 2)} of (N, D) features of length one; t-SNE from the PCA's plane, seed 0.

    Empty where no plane shows them: fewer than two images or columns, or rows that are all equal.
    """
    # Of equal rows t-SNE starts at NaN, which ends the process.
    if min(features.shape) < 2 or np.ptp(features, axis=0).max() <= _ROUNDING:
        return {}
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    perplexity = min(30.0, (len(features) - 1) / 3)
    embedding = TSNE(init="pca", perplexity=perplexity, random_state=0).fit_transform(features)
    return {"PCA": PCA(2, random_state=0).fit_transform(features), "t-SNE": embedding}


def confusion(provider: CachedFeatures, kind: str, num_classes: int) -> NDArray[np.int64]:
    """(K, K) counts of test images, rows the true class, columns that of 20-NN with DINO's weights."""
    k = min(20, len(provider.labels("train")))
    train, test = provider.clean("train")[kind], provider.clean("test")[kind]
    predicted = knn_predictions(train, provider.labels("train"), test, (k,))[k].cpu().numpy()
    counts = np.zeros((num_classes, num_classes), np.int64)
    np.add.at(counts, (provider.labels("test").cpu().numpy(), predicted), 1)
    return counts


def picture_of_neighbours(train: Tensor, test: Tensor, bank: ImageSet, queries: ImageSet) -> NDArray[np.uint8]:
    """(H, W, 3): each column a test image, spread over the split, and below it its nearest training images."""
    chosen = np.unique(np.linspace(0, len(queries) - 1, min(_QUERIES, len(queries))).astype(np.int64))
    with full_precision():
        rows = nearest(test[torch.from_numpy(chosen)], train, min(_NEIGHBOURS, len(bank)))[1].cpu()
    shown_bank, shown_queries = Readable(bank, "replace"), Readable(queries, "replace")
    columns = [
        [_tile(shown_queries, int(q)), *(_tile(shown_bank, int(i)) for i in near)] for q, near in zip(chosen, rows)
    ]
    return image_grid([torch.stack(row) for row in zip(*columns)])


def _tile(images: Readable, index: int) -> Tensor:
    """(3, S, S) in [0, 1]; of an unreadable image the one whose features stood in for its own."""
    picture = Image.fromarray(images.decode(index)).resize((_SIDE, _SIDE), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1) / 255


def _figure(path: Path, draw: Callable[[Any], None], size: tuple[float, float] = (10, 5)) -> Path:
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    draw(figure)
    figure.savefig(path, dpi=120)
    return path


def _draw_curves(figure: Any, curves: dict[str, list[tuple[int, float]]]) -> None:
    axes = figure.subplots()
    for name, points in curves.items():
        axes.plot(*zip(*points), marker="o", label=name)
    axes.set(xlabel="images seen", ylabel="top-1 on the held-out slice of train")
    axes.legend()


def _draw_maps(figure: Any, maps: dict[str, NDArray[np.float64]], labels: NDArray[np.int64], data: Dataset) -> None:
    colours = "tab10" if len(data.class_names) <= 10 else "hsv"
    for axes, (name, points) in zip(figure.subplots(1, len(maps)), maps.items()):
        dots = axes.scatter(points[:, 0], points[:, 1], c=labels, cmap=colours, s=6)
        axes.set(title=f"{name} of {len(labels):,} test images", xticks=[], yticks=[])
    if len(data.class_names) <= 20:
        handles = dots.legend_elements(num=list(np.unique(labels)))[0]
        names = [data.class_names[label] for label in np.unique(labels)]
        figure.legend(handles, names, loc="outside right center")


def _draw_confusion(figure: Any, counts: NDArray[np.int64], data: Dataset) -> None:
    axes = figure.subplots()
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    figure.colorbar(axes.imshow(shares, cmap="Blues", vmin=0, vmax=1), label="share of the true class")
    axes.set(xlabel="20-NN says", ylabel="true class", title=f"{int(counts.sum()):,} test images")
    if len(counts) <= 20:
        places = range(len(counts))
        axes.set_xticks(places, data.class_names, rotation=90)
        axes.set_yticks(places, data.class_names)
        for row in places:
            for column in places:
                ink = "white" if shares[row, column] > 0.5 else "black"
                axes.text(column, row, str(counts[row, column]), ha="center", va="center", fontsize=6, color=ink)


def _project(
    folder: Path, features: Tensor, labels: NDArray[np.int64], indices: NDArray[np.int64], data: Dataset, step: int
) -> None:
    """Embeddings for TensorBoard's projector, with class names and small pictures."""
    from torch.utils.tensorboard import SummaryWriter

    assert data.test is not None, "the caller evaluates on a test split"
    names = [data.class_names[label] for label in labels]
    test = Readable(data.test, "replace")
    pictures = torch.nn.functional.interpolate(
        torch.stack([_tile(test, int(index)) for index in indices]), size=32, mode="area"
    )
    with SummaryWriter(str(folder)) as writer:
        writer.add_embedding(features, metadata=names, label_img=pictures, global_step=step, tag="test")
