"""The ladder for a person."""

from typing import Any

from benchmarks.ladder.targets import verdict_text
from benchmarks.ladder.timeline import PHASES

HEADER = (
    f"{'rung':<19}{'images/s':>10}  {'quartiles':<19}{'n':>4}{'step ms':>9}{'host ms':>9}  "
    + "".join(f"{phase:>10}" for phase in PHASES)
    + f"{'GiB':>7}{'MFU':>7}{'sheet':>7}{'/publ.':>8}{'/rep.':>7}"
)
LEGEND = (
    "images/s: median and quartiles over n spans of equal steps. host: until it has handed a step to the idle device. "
    "Phases: mean\nms of a step, on the device's clock; data: waiting for images. MFU: of the measured matrix rate; "
    "sheet: of the data sheet's. /publ., /rep.: times the published and the repaired recipe."
)


def format_row(row: dict[str, Any], said: set[str]) -> str:
    """One line, and one for each note that is not among those `said` above; these are added there."""
    if row["status"] != "measured":
        return f"{row['name']:<19}  {row['status']}: {row['error']}"
    rate = row["images_per_second"]
    quartiles = f"{rate['lower_quartile']:,.1f} .. {rate['upper_quartile']:,.1f}"
    line = (
        f"{row['name']:<19}{rate['median']:>10,.1f}  {quartiles:<19}{rate['windows']:>4}{1e3 * row['step_s']:>9.1f}"
        + f"{1e3 * row['host_s']:>9.1f}  "
        + "".join(f"{1e3 * row['phase_s'][phase]:>10.2f}" for phase in PHASES)
        + f"{row['peak_memory_gib']:>7.2f}{_percent(row['mfu_measured'])}{_percent(row['mfu_data_sheet'])}"
        + f"{_times(row['times_published'], 8)}{_times(row['times_repaired'], 7)}"
    )
    new = [note for note in row["notes"] if note not in said]
    said.update(new)
    return "\n".join([line, *(f"    from here on: {note}" for note in new)])


def format_head(result: dict[str, Any]) -> str:
    """What it was measured on."""
    machine, ceiling = result.get("machine"), result.get("ceiling")
    if machine is None or ceiling is None:
        return f"the machine's matrix rate could not be measured: {result.get('error')}"
    sheet = f", data sheet {ceiling['data_sheet_tflops']:,.0f}" if ceiling["data_sheet"] else ""
    return (
        f"{machine['device']}, {machine['threads']} CPU threads, torch {machine['torch']}, commit {machine['commit']}\n"
        f"matrix products {ceiling['dtype']}: {ceiling['measured_tflops']:,.3f} TFLOP/s measured{sheet}; "
        f"{result['gflop_per_image']:.2f} GFLOP per image ({result['mfu_counts']})"
    )


def format_targets(result: dict[str, Any]) -> str:
    """Met or missed, where the targets apply."""
    lines = [verdict_text(one["target"], one["reached"], one["at_least"]) for one in result["targets"]]
    return "\n".join(lines) or "targets: they speak of configs/cifar10.yaml with its loader on an H200, not of this"


def _percent(share: float | None) -> str:
    return f"{'-':>7}" if share is None else f"{100 * share:>6.1f}%"


def _times(ratio: float | None, width: int) -> str:
    return f"{'-':>{width}}" if ratio is None else f"{ratio:>{width}.2f}"
