"""Numbers that are no accuracies: what is measured, how, and the table that people read."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from soda_fast.evaluation.result import Setting

MEASURES: dict[str, str] = {
    "reconstruction": "PSNR and SSIM (Wang et al., IEEE TIP 13(4), 2004: 11x11 Gaussian of deviation 1.5) of test "
    "images and what the model makes from their z; means over images",
    "frechet": "Heusel et al. (arXiv 1706.08500), in the features of the evaluated encoder, between test images and "
    "what the model makes from their z",
    "frechet-unconditional": "the same, between test images and as many that the model makes without z",
    "dci": "Eastwood and Williams (ICLR 2018), random forests of 50 trees from features to the factors of rendered "
    "shapes (soda_fast/data/shapes.py), 1,000 to fit and 500 to report on; not of the baseline `pixels`",
}
"""Where each measure is from, by its name in evaluation.protocols."""


@dataclass(frozen=True)
class Measurement:
    """A number and how it was made.

    protocol: of MEASURES. measure: what it is ("PSNR"). unit: "" where there is none. better: which way.
    features: of the encoder, "" where none are looked at. transform: of the images, in words.
    """

    protocol: str
    measure: str
    value: float
    unit: str
    better: Literal["higher", "lower"]
    features: str
    setting: Setting
    transform: str


def format_measurements(measured: Mapping[str, Iterable[Measurement]]) -> str:
    """An aligned text table of {encoder: measurements}, a line for each."""
    lines = [["encoder", "features", "protocol", "measure", "value", ""]]
    for encoder, some in measured.items():
        for one in some:
            value = f"{one.value:.4g} {one.unit}".rstrip()
            lines.append([encoder, one.features or "-", one.protocol, one.measure, value, f"{one.better} is better"])
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip() for line in lines)
