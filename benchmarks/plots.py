"""The pictures of a report."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.record import Record


def draw(record: Record, folder: Path) -> list[Path]:
    """PNG files of what was measured: ladders, kernels, scaling.

    Raises:
        ImportError: matplotlib is not installed.
    """
    drawn = []
    for name, size in (("ladder_32", "32x32"), ("ladder_64", "64x64")):
        rungs = [row for row in record.result(name).get("rungs", ()) if row["status"] == "measured"]
        if rungs:
            drawn.append(_draw_ladder(rungs, f"Training, {size}{_small(record)}", _place(folder, name)))
    summaries = record.result("kernels").get("summary")
    if summaries:
        drawn.append(_draw_kernels(summaries, f"Fused normalisation{_small(record)}", _place(folder, "kernels")))
    predicted = record.result("scaling").get("predicted")
    if predicted:
        drawn.append(draw_scaling(record.result("scaling"), _place(folder, "scaling")))
    return drawn


def _small(record: Record) -> str:
    return " (small sizes)" if record.small else ""


def _place(folder: Path, name: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{name}.png"


@contextmanager
def _figure(path: Path, width: float, height: float) -> Iterator[Any]:
    """The axes of a picture, which is written at the end."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    yield figure.subplots()
    figure.savefig(path, dpi=120)


def _draw_ladder(rungs: list[dict[str, Any]], title: str, path: Path) -> Path:
    rates = [row["images_per_second"] for row in rungs]
    medians = [rate["median"] for rate in rates]
    spread = [
        [rate["median"] - rate["lower_quartile"] for rate in rates],
        [rate["upper_quartile"] - rate["median"] for rate in rates],
    ]
    names = [row["name"] for row in rungs]
    with _figure(path, 8, 0.45 * len(rungs) + 1.2) as axes:
        axes.barh(names, medians, xerr=spread, color="#4878a8", ecolor="#222222", capsize=2)
        axes.invert_yaxis()
        axes.set(xlabel="images/s, median and quartiles", title=title)
    return path


def _draw_kernels(summaries: list[dict[str, Any]], title: str, path: Path) -> Path:
    names = [f"{one['config']}, {one['batch']}, {one['layout']}" for one in summaries]
    shares = [name for name in summaries[0] if name.endswith("_share")]
    height = 0.8 / len(shares)
    with _figure(path, 8, 0.8 * len(summaries) + 1.4) as axes:
        for number, share in enumerate(shares):
            places = [row + number * height for row in range(len(summaries))]
            widths = [one.get(share, 0.0) for one in summaries]
            axes.barh(places, widths, height=height, label=share.removesuffix("_share").replace("_", " "))
        axes.set_yticks([row + 0.4 - height / 2 for row in range(len(summaries))], names)
        axes.axvline(1.0, color="#222222", linewidth=1)
        axes.set(xlabel="share of the copy bandwidth", title=title)
        axes.legend(fontsize="small")
        axes.invert_yaxis()
    return path


def draw_scaling(result: dict[str, Any], path: Path) -> Path:
    """Predicted share of linear scaling over the number of GPUs. Needs matplotlib."""
    counts = [row["processes"] for row in result["predicted"]["weak"]]
    with _figure(path, 7, 4) as axes:
        for kind, rows in result["predicted"].items():
            shares = [100 * row["share_of_linear"] for row in rows]
            axes.plot([row["processes"] for row in rows], shares, marker="o", label=kind)
        axes.axhline(95, color="#222222", linewidth=1, linestyle=":")
        axes.set_xscale("log", base=2)
        axes.set_xticks(counts, [str(n) for n in counts])
        axes.set(ylim=(0, 105), ylabel="percent of linear scaling")
        axes.set_xlabel(f"{result['gpu']} GPUs, predicted (computation {result['computation']})")
        title = f"{Path(result['config']).stem}, {result['strategy']}, batch {result['batch_images']}"
        axes.set_title(title, fontsize="medium")
        axes.grid(alpha=0.3)
        axes.legend()
    return path
