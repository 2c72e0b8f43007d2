"""The measures of `soda-fast evaluate`: of made images, and of features of rendered shapes."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from soda_fast.config import Config
from soda_fast.data import Dataset
from soda_fast.data.shapes import FACTORS, draw_factors, render_shapes
from soda_fast.data.statistics import Statistics
from soda_fast.encoding import Encode
from soda_fast.evaluation.dci import DCI, dci
from soda_fast.evaluation.frechet import frechet_distance
from soda_fast.evaluation.measurement import Measurement
from soda_fast.evaluation.psnr import psnr
from soda_fast.evaluation.result import Setting
from soda_fast.evaluation.ssim import SSIM_SIDE, ssim
from soda_fast.parallel import Processes
from soda_fast.synthesis.making import make_together
from soda_fast.synthesis.studio import Studio

_FITTED_SHAPES, _REPORTED_SHAPES = 1000, 500
_LARGEST_SHAPES = 64  # pixels of a rendered image; encoders of larger images get them enlarged
_SQUARE = "central square of test images"


class MadeImages:
    """Test images and what a run's model makes, each made once, with 256 levels as a file would hold them.

    All (N, 3, T, T) float32 in [0, 1] on the processes' device, N = evaluation.made_images or all there are. Every
    attribute is a collective; those that are made raise ValueError where there is NaN or infinity. checkpoint: the
    model's, by name.
    """

    def __init__(self, studio: Studio, checkpoint: str) -> None:
        self.studio, self._checkpoint = studio, checkpoint
        self._indices = studio.choose(studio.config.evaluation.made_images)

    def __len__(self) -> int:
        return len(self._indices)

    def setting(self, camera: str) -> Setting:
        """How they are made. camera: "known" or "withheld", said under model.pose rays."""
        sampling, seed = self.studio.config.sampling, self.studio.config.run.seed
        return {
            "made_by": self._checkpoint,
            "images": len(self),
            "solver": sampling.solver,
            "steps": sampling.steps,
            "guidance": sampling.guidance,
            "eta": sampling.eta,
            "seed": seed,
            **({} if self.studio.config.model.pose == "none" else {"camera": camera}),
        }

    @cached_property
    def real(self) -> Tensor:
        """The central squares."""
        return self.studio.targets_of_many(self.studio.images, self._indices, "test images")

    @cached_property
    def reconstructed(self) -> Tensor:
        """Made from the z of their central squares; both networks are told the cameras, where model.pose is rays."""
        z = self.studio.encode_many(self.studio.images, self._indices, "z of test images")
        made = self.studio.make(z, torch.arange(len(z)), "reconstructions", self.studio.cameras(self._indices))
        return _with_levels(_finite(made, "images made from z", self._checkpoint))

    @cached_property
    def unconditional(self) -> Tensor:
        """Made without z."""
        made = self.studio.make_without_z(torch.arange(len(self)), "frechet-unconditional")
        return _with_levels(_finite(made, "images made without z", self._checkpoint))


class FeatureMaker:
    """Features of any images in [0, 1], brought to the encoder's size and statistics, all processes together."""

    def __init__(self, encode: Encode, config: Config, dataset: Dataset, processes: Processes) -> None:
        self._encode, self._size, self._batch = encode, config.data.source_size, config.evaluation.batch_images
        self._processes = processes
        self._statistics = Statistics(dataset.mean, dataset.std, processes.device)

    @torch.no_grad()
    def __call__(self, images: Tensor, title: str) -> dict[str, Tensor]:
        """{name: (N, D) float32} of images (N, 3, T, T), in [0, 1] or uint8. A collective.

        Raises:
            ValueError: NaN or infinity among them.
        """
        widths = {name: rows.shape[1] for name, rows in self._encode(self._prepared(images[:1])).items()}

        def work(batches: Sequence[Tensor]) -> Iterator[Tensor]:
            for rows in batches:
                yield torch.cat(list(self._encode(self._prepared(images[rows.to(images.device)])).values()), dim=1)

        joined = make_together(work, len(images), (sum(widths.values()),), self._batch, self._processes, title)
        _finite(joined, title, "the encoder")
        return dict(zip(widths, joined.split(list(widths.values()), dim=1), strict=True))

    def _prepared(self, images: Tensor) -> Tensor:
        images = images.to(self._processes.device)
        unit = images / 255 if images.dtype == torch.uint8 else images
        if unit.shape[-1] != self._size:
            unit = F.interpolate(unit, size=(self._size, self._size), mode="bilinear", antialias=True).clamp(0, 1)
        return self._statistics.normalise(unit)


def measure(
    names: Sequence[str],
    encode: Encode,
    config: Config,
    dataset: Dataset,
    processes: Processes,
    made: MadeImages | None,
) -> list[Measurement]:
    """Measure an encoder, and the images that were made. A collective.

    Args:
        names: of MEASURES.
        encode: in whose features to measure.
        made: None: measures of made images are left out, for an encoder that they do not belong to.
    """
    features = FeatureMaker(encode, config, dataset, processes)
    found: list[Measurement] = []
    for name in dict.fromkeys(names):
        if name == "dci":
            found += _dci(features, config, processes)
        elif made is not None:
            found += OF_MADE_IMAGES[name](made, features)
    return found


def _reconstruction(made: MadeImages, features: FeatureMaker) -> list[Measurement]:
    setting: Setting = {**made.setting("known"), "pixels": made.real.shape[-1]}
    transform = f"source and target: {_SQUARE}"
    pairs = made.real, made.reconstructed
    found = [Measurement("reconstruction", "PSNR", _mean(psnr, *pairs), "dB", "higher", "", setting, transform)]
    if made.real.shape[-1] >= SSIM_SIDE:
        found.append(Measurement("reconstruction", "SSIM", _mean(ssim, *pairs), "", "higher", "", setting, transform))
    return found


def _mean(score: Callable[[Tensor, Tensor], Tensor], x: Tensor, y: Tensor, batch: int = 256) -> float:
    """Of a score for each pair of images, a few at a time: they are computed in float64."""
    return float(torch.cat([score(a, b) for a, b in zip(x.split(batch), y.split(batch), strict=True)]).mean())


def _frechet(made: MadeImages, features: FeatureMaker) -> list[Measurement]:
    return _distances("frechet", made, made.reconstructed, "known", features, f"source and real images: {_SQUARE}")


def _frechet_unconditional(made: MadeImages, features: FeatureMaker) -> list[Measurement]:
    return _distances(
        "frechet-unconditional", made, made.unconditional, "withheld", features, f"real images: {_SQUARE}"
    )


def _distances(
    protocol: str, made: MadeImages, images: Tensor, camera: str, features: FeatureMaker, transform: str
) -> list[Measurement]:
    real, artificial = features(made.real, "features"), features(images, "features")
    return [
        Measurement(
            protocol,
            "Frechet distance",
            frechet_distance(real[name], artificial[name]),
            "",
            "lower",
            name,
            {**made.setting(camera), "dimensions": real[name].shape[1]},
            transform,
        )
        for name in real
    ]


OF_MADE_IMAGES: Mapping[str, Callable[[MadeImages, FeatureMaker], list[Measurement]]] = {
    "reconstruction": _reconstruction,
    "frechet": _frechet,
    "frechet-unconditional": _frechet_unconditional,
}


def _dci(features: FeatureMaker, config: Config, processes: Processes) -> list[Measurement]:
    """Of z where there is one, else of every kind of features."""
    seed, total = config.run.seed, _FITTED_SHAPES + _REPORTED_SHAPES
    factors, side = draw_factors(seed, total), min(config.data.source_size, _LARGEST_SHAPES)
    images = torch.from_numpy(render_shapes(factors, side)).permute(0, 3, 1, 2)
    kinds = features(images, "features of shapes")
    setting: Setting = {"factors": list(FACTORS), "fitted": _FITTED_SHAPES, "reported": _REPORTED_SHAPES, "seed": seed}
    found = []
    for name in ("z",) if "z" in kinds else tuple(kinds):
        (fitted, reported), (known, asked) = (
            (rows[:_FITTED_SHAPES], rows[_FITTED_SHAPES:]) for rows in (kinds[name].double().cpu().numpy(), factors)
        )
        scores = processes.on_main(partial(dci, fitted, known, reported, asked, seed))
        found += [
            Measurement("dci", what, value, "", better, name, setting, f"rendered shapes, {side} pixels")
            for what, value, better in _named(scores)
        ]
    return found


def _named(scores: DCI) -> list[tuple[str, float, Literal["higher", "lower"]]]:
    return [
        ("disentanglement", scores.disentanglement, "higher"),
        ("completeness", scores.completeness, "higher"),
        ("informativeness (error)", scores.error, "lower"),
    ]


def _finite(rows: Tensor, what: str, maker: str) -> Tensor:
    """The rows (N, ...), if all of them are finite."""
    bad = int((~torch.isfinite(rows.flatten(1)).all(dim=1)).sum())
    if bad:
        raise ValueError(
            f"{what}: {bad} of {len(rows)} have NaN or infinity: {maker} has diverged; nothing is measured"
        )
    return rows


def _with_levels(images: Tensor) -> Tensor:
    return (images.clamp(0, 1) * 255).round() / 255
