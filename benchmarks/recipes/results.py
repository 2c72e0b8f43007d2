"""From the outcomes of a study to its table: accuracies with spread, and differences to the first arm."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean, stdev

from benchmarks.recipes.cell import Outcome


@dataclass(frozen=True)
class Point:
    """An accuracy (in [0, 1]) of a run when it had seen so many images."""

    images: int
    accuracy: float


def probes(outcomes: Sequence[Outcome]) -> list[str]:
    """Names of the accuracies, as "knn-dino/z", in the order in which they appear."""
    names = (name for outcome in outcomes for line in outcome.metrics for name in line if "/" in name)
    return list(dict.fromkeys(names))


def curve(outcome: Outcome, probe: str) -> list[Point]:
    """A run's accuracies over its training. After a resumption the later line of two counts."""
    found = {int(line["images_seen"]): line[probe] for line in outcome.metrics if probe in line}
    return [Point(images, accuracy) for images, accuracy in sorted(found.items())]


def final(outcome: Outcome, probe: str) -> float | None:
    """The accuracy at the end."""
    points = curve(outcome, probe)
    return points[-1].accuracy if points else None


def training_seconds(outcome: Outcome) -> float:
    """Time of the steps alone: without probes, pictures, saves."""
    seconds, before = 0.0, 0
    for line in outcome.metrics:
        if "images_per_second" in line:
            seconds += (line["images_seen"] - before) / line["images_per_second"]
            before = int(line["images_seen"])
    return seconds


def spread(values: Sequence[float]) -> str:
    """Percent: mean and standard deviation; without the latter for one value."""
    if not values:
        return "-"
    deviation = f" ± {100 * stdev(values):.1f}" if len(values) > 1 else ""
    return f"{100 * mean(values):.1f}{deviation}"


def table(outcomes: Sequence[Outcome], arms: Sequence[str], flops_per_image: dict[str, float]) -> str:
    """A Markdown table, an arm a row."""
    names = probes(outcomes)
    head = ["arm", "seeds", "images", "TFLOP", "minutes", *names, *(f"Δ {name}" for name in names)]
    lines = ["| " + " | ".join(head) + " |", "| " + " | ".join(["---"] * len(head)) + " |"]
    first = {outcome.seed: outcome for outcome in outcomes if outcome.arm == arms[0]}
    for arm in arms:
        mine = [outcome for outcome in outcomes if outcome.arm == arm]
        whole = [outcome for outcome in mine if not outcome.problem]
        if not whole:
            problem = mine[0].problem if mine else "not run yet"
            lines.append(f"| {arm} | 0 | {problem} |" + " |" * (len(head) - 3))
            continue
        images = max(int(line["images_seen"]) for line in whole[0].metrics)
        minutes = mean(training_seconds(outcome) for outcome in whole) / 60
        row = [arm, str(len(whole)), f"{images:,}", f"{images * flops_per_image[arm] / 1e12:,.1f}", f"{minutes:.1f}"]
        row += [spread([value for outcome in whole if (value := final(outcome, name)) is not None]) for name in names]
        row += [_difference(whole, first, name) if arm != arms[0] else "" for name in names]
        lines.append("| " + " | ".join(row) + " |")
    return "\n".join(lines) + "\n"


def _difference(mine: Sequence[Outcome], first: dict[int, Outcome], probe: str) -> str:
    """Percentage points to the first arm, seed by seed: equal seeds share order, views and noise."""
    pairs = [(final(outcome, probe), final(first[outcome.seed], probe)) for outcome in mine if outcome.seed in first]
    differences = [ours - theirs for ours, theirs in pairs if ours is not None and theirs is not None]
    text = spread(differences)
    return text if text.startswith("-") else f"+{text}"
