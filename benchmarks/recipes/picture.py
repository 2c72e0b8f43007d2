"""A study's picture: accuracy against compute."""

from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev

from benchmarks.recipes.cell import Outcome
from benchmarks.recipes.results import curve, probes


def draw(outcomes: Sequence[Outcome], arms: Sequence[str], flops_per_image: dict[str, float], path: Path) -> bool:
    """A panel for each probe, a line for each arm: the mean over seeds, and a band of a standard deviation either way.

    Returns whether there was something to draw, and matplotlib to draw it.
    """
    names = probes(outcomes)
    try:
        import matplotlib as mpl
    except ImportError:
        return False
    if not names:
        return False
    mpl.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(
        1, len(names), figsize=(5.5 * len(names), 4.5), squeeze=False, sharey=False, layout="constrained"
    )
    for axes, name in zip(panels[0], names, strict=True):
        for number, arm in enumerate(arms):
            runs = [curve(outcome, name) for outcome in outcomes if outcome.arm == arm and not outcome.problem]
            runs = [points for points in runs if points]
            if not runs:
                continue
            at = sorted(set.intersection(*({point.images for point in points} for points in runs)))
            by_images = [{point.images: 100 * point.accuracy for point in points} for points in runs]
            heights = [mean(found[images] for found in by_images) for images in at]
            compute = [images * flops_per_image[arm] / 1e12 for images in at]
            style = "-" if number < 10 else "--"
            (line,) = axes.plot(compute, heights, style, marker=".", label=arm)
            if len(runs) > 1:
                bands = [stdev(found[images] for found in by_images) for images in at]
                low, high = ([h + sign * b for h, b in zip(heights, bands, strict=True)] for sign in (-1, 1))
                axes.fill_between(compute, low, high, color=line.get_color(), alpha=0.15, linewidth=0)
        axes.set_title(name)
        axes.set_xlabel("training compute, TFLOP")
        axes.grid(alpha=0.3)
    panels[0][0].set_ylabel("top-1 accuracy, percent (training images held out)")
    if panels[0][-1].lines:
        panels[0][-1].legend(fontsize="small", loc="center left", bbox_to_anchor=(1.0, 0.5))
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
    return True
