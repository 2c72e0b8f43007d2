"""The tables of a report, one function each: a record in, lines of Markdown out; none where nothing was measured."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from benchmarks.ladder.rungs import RUNGS
from benchmarks.ladder.targets import GPU, not_judged, verdict_text
from benchmarks.ladder.timeline import PHASES
from benchmarks.measurements import measurements
from benchmarks.record import Record

KERNEL_TARGETS = {
    "triton_forward_share": ("forward, share of the copy bandwidth", 0.85),
    "triton_backward_share": ("backward, share of the copy bandwidth", 0.75),
    "times_compiled": ("forward and backward, times compiled PyTorch", 1.3),
    "times_eager": ("forward and backward, times eager PyTorch", 4.0),
}


def title(record: Record) -> str:
    """The machine, for a heading."""
    return f"{record.environment.get('device')}" + (" (CPU)" if record.device == "cpu" else "")


def targets(record: Record) -> list[str]:
    """That nothing here is judged, on another GPU than the targets'."""
    why = not_judged(title(record)) if record.device == "cuda" else ""
    return [why, ""] if why else []


def ceilings(record: Record) -> list[str]:
    """What nothing on this machine can beat."""
    found = record.result("environment").get("ceilings")
    if not found:
        return []
    matrix = found["matrix"]
    sheet = f", data sheet {matrix['data_sheet_tflops']:,.0f}" if matrix["data_sheet"] else ""
    return [
        "### Ceilings",
        "",
        f"Copy in memory, bytes read and written: {found['copy_bytes_per_second'] / 1e9:,.1f} GB/s. "
        f"Matrix product in {matrix['dtype']}: {matrix['measured_tflops']:,.3f} TFLOP/s{sheet}.",
        "",
    ]


def tests(record: Record) -> list[str]:
    """The tests that need a GPU."""
    found = record.result("tests")
    if not found:
        return []
    lines = [f"{found['passed']} passed, {found['failed']} failed, {found['skipped']} skipped.", ""]
    lines += [f"- failed: {name}: {' '.join(why)}" for name, why in found["failures"].items()]
    lines += [f"- cut off: {name}: {why}" for name, why in found.get("cut_off", {}).items()]
    return ["### Tests that need a GPU", "", *lines, ""]


def ladders(record: Record) -> list[str]:
    """From the reference's recipe to ours."""
    lines: list[str] = []
    for name, size in (("ladder_32", "32x32"), ("ladder_64", "64x64")):
        result = record.result(name)
        if result.get("rungs"):
            lines += [f"### The ladder, {size}", "", *_ladder(result), ""]
    return lines


def _ladder(result: dict[str, Any]) -> list[str]:
    head = (
        "rung",
        "images/s",
        "quartiles",
        "step, ms",
        "host, ms",
        *(f"{phase}, ms" for phase in PHASES),
        "GiB",
        "MFU",
        "MFU, data sheet",
        "x published",
        "x repaired",
    )
    rows = []
    for row in result["rungs"]:
        if row["status"] != "measured":
            rows.append((row["name"], row["status"], row.get("error", ""), *[""] * (len(head) - 3)))
            continue
        rate = row["images_per_second"]
        rows.append(
            (
                row["name"],
                f"{rate['median']:,.1f}",
                f"{rate['lower_quartile']:,.1f} .. {rate['upper_quartile']:,.1f}",
                f"{1e3 * row['step_s']:.1f}",
                f"{1e3 * row['host_s']:.1f}",
                *(f"{1e3 * row['phase_s'][phase]:.2f}" for phase in PHASES),
                f"{row['peak_memory_gib']:.2f}",
                _percent(row["mfu_measured"]),
                _percent(row["mfu_data_sheet"]),
                _times(row["times_published"]),
                _times(row["times_repaired"]),
            )
        )
    lines = table(head, rows)
    lines += [
        "",
        "Host: until it has handed a step to the idle device. Phases are means over steps; data is waiting for images. "
        f"MFU is of the measured matrix rate, or of the data sheet's, and counts {result['mfu_counts']}.",
    ]
    for verdict in result.get("targets", ()):
        lines.append(f"- {verdict_text(verdict['target'], verdict['reached'], verdict['at_least'])}")
    return lines


def kernels(record: Record) -> list[str]:
    """The fused normalisation against its rivals."""
    summaries = record.result("kernels").get("summary")
    if not summaries:
        return []
    lines = ["### The fused normalisation, bytes-weighted over the decoder", ""]
    names = list(dict.fromkeys(name for summary in summaries for name in summary if name not in _SUMMARY_KEYS))
    rows = [
        (*(str(summary[key]) for key in _SUMMARY_KEYS), *(_cell(name, summary.get(name)) for name in names))
        for summary in summaries
    ]
    lines += table((*_SUMMARY_KEYS, *(name.replace("_", " ") for name in names)), rows)
    lines += ["", "Coverage: the share of a step's bytes that was measured; the other figures speak of that share."]
    lines += [
        "- failed: {config}, {shape} batch {batch} {layout}, {provider}: {error}".format_map(one)
        for one in record.result("kernels").get("failed", ())
    ]
    if GPU in str(record.environment.get("device")):
        best = [summary for summary in summaries if summary["layout"] == "channels_last"]
        lines.append("")
        for summary in best:
            case = f"{summary['config']}, batch {summary['batch']}"
            lines += [
                f"- {verdict_text(f'{case}: {words}', summary.get(key), target)}"
                for key, (words, target) in KERNEL_TARGETS.items()
            ]
    return [*lines, ""]


def _cell(name: str, value: float | None) -> str:
    if value is None:
        return ""
    return _percent(value) if name.endswith("_coverage") else f"{value:.2f}"


_SUMMARY_KEYS = ("config", "batch", "layout")

_SCALED = ("processes", "images each", "step, ms", "quartiles", "predicted, ms")
_PREDICTED = ("scaling", "GPUs", "images each", "step, ms", "exposed, ms", "images/s", "of linear")


def scaling(record: Record) -> list[str]:
    """More GPUs, measured and on paper."""
    found = record.result("scaling")
    lines: list[str] = []
    if found.get("measured"):
        lines += [*table(_SCALED, [_scaled(row) for row in found["measured"]]), ""]
    if found.get("predicted"):
        lines += [f"On paper: {found['gpu']}, computation {found['computation']}, {found['strategy']}.", ""]
        lines += table(_PREDICTED, (_on_paper(kind, row) for kind, rows in found["predicted"].items() for row in rows))
    return ["### Scaling", "", *lines, ""] if lines else []


def _scaled(row: dict[str, Any]) -> tuple[str, ...]:
    head = (str(row["processes"]), str(row["process_images"]))
    if "error" in row:
        return (*head, row["error"], "", "")
    step = {name: 1e3 * value for name, value in row["step_s"].items()}
    predicted = f"{1e3 * row['predicted_step_s']:,.1f}" if "predicted_step_s" in row else ""
    return (
        *head,
        f"{step['median']:,.1f}",
        f"{step['lower_quartile']:,.1f} .. {step['upper_quartile']:,.1f}",
        predicted,
    )


def _on_paper(kind: str, row: dict[str, Any]) -> tuple[str, ...]:
    step_s = row["computation_s"] + row["exposed_s"]
    times = (f"{1e3 * step_s:,.2f}", f"{1e3 * row['exposed_s']:,.2f}", f"{row['images_per_second']:,.0f}")
    head = (kind, str(row["processes"]), f"{row['process_images']:,.6g}")
    return (*head, *times, _percent(row["share_of_linear"]))


def memory(record: Record) -> list[str]:
    """Predicted and measured."""
    found = record.result("memory")
    if "measured_gib" not in found:
        return []
    off = found["predicted_gib"] / found["measured_gib"] - 1
    return [
        "### Memory of a training step",
        "",
        f"Predicted {found['predicted_gib']:.3f} GiB, measured {found['measured_gib']:.3f} GiB: {100 * off:+.1f} %.",
        "",
    ]


_RATES = (
    ("input_pipeline", "Loaders"),
    ("evaluation", "Evaluation, on features that are there"),
    ("probe_costs", "Evaluation, encoding included"),
)


def rates(record: Record) -> list[str]:
    """Loaders and evaluation."""
    lines: list[str] = []
    figures = measurements(record).values()
    for part, heading in _RATES:
        rows = [
            (one.name.removeprefix(f"{part}/"), f"{one.median:,.4g}", f"{one.lower:,.4g} .. {one.upper:,.4g}", one.unit)
            for one in figures
            if one.name.startswith(f"{part}/")
        ]
        if rows:
            lines += [f"### {heading}", "", *table(("what", "median", "spread", "unit"), rows), ""]
    return lines


def profile(record: Record) -> list[str]:
    """Where a step's time goes."""
    text = record.result("profile").get("summary_text")
    return ["### A training step's time", "", "```", *str(text).splitlines(), "```", ""] if text else []


def training(record: Record) -> list[str]:
    """Time to accuracy."""
    found = record.result("training")
    if not found.get("metrics"):
        return []
    last = found["metrics"][-1]
    lines = [
        "### Time to accuracy: a short training",
        "",
        f"{found['config']} with {' '.join(found['overrides'])}: {last['images_seen']:,} images in "
        f"{found['training_seconds']:.0f} s with start-up. {_cost(found['metrics'])}",
        "",
    ]
    probes = [line for line in found["metrics"] if any("/" in name for name in line)]
    if probes:
        names = [name for name in probes[0] if "/" in name]
        head = ("images", "seconds from the command on", *(f"{name}, %" for name in names))
        rows = [
            (f"{line['images_seen']:,}", f"{line['seconds']:.0f}", *(f"{100 * line[name]:.1f}" for name in names))
            for line in probes
        ]
        lines += [*table(head, rows), "", "On training images held out of the probe.", ""]
    if found.get("evaluation"):
        rows = [
            (row["protocol"], str(row["setting"].get("k", "")), row["features"], f"{100 * row['accuracy']:.1f}")
            for row in found["evaluation"]["results"]
        ]
        lines += [*table(("protocol", "k", "features", "top-1, %"), rows), ""]
    return lines


def _cost(metrics: Sequence[dict[str, float]]) -> str:
    """GPU hours and energy as the training counted them, or that nobody did."""
    last = {name: value for line in metrics for name, value in line.items()}
    if "gpu_hours" not in last:
        return "Cost: no GPU hours on a CPU."
    energy = f"{last['energy_kwh']:.3f} kWh (NVML)" if "energy_kwh" in last else "energy not counted (nvidia-ml-py)"
    return f"Cost: {last['gpu_hours']:.4f} GPU hours, {energy}."


SECTIONS: tuple[Callable[[Record], list[str]], ...] = (
    targets,
    ceilings,
    tests,
    ladders,
    kernels,
    scaling,
    memory,
    rates,
    profile,
    training,
)


def missing(record: Record) -> list[str]:
    """What the record does not hold, and why."""
    lines = [
        f"{part.title}: {part.status}{', ' + part.reason if part.reason else ''}"
        for part in record.parts
        if part.status != "measured"
    ]
    lines += [line for name in ("ladder_32", "ladder_64") for line in _missing_rungs(name, record.result(name))]
    counts = [row["processes"] for row in record.result("scaling").get("measured", ()) if "error" not in row]
    if counts and max(counts) == 1:
        lines.append("scaling: measured on one GPU alone")
    lines += [f"{use}: {name} is not installed" for name, use in record.environment.get("left_out", {}).items()]
    return lines or ["nothing that the suite measures"]


def _missing_rungs(name: str, result: dict[str, Any]) -> list[str]:
    """Those of a ladder that was climbed, but not to its end."""
    if not result:
        return []
    ended = {row["name"]: row["status"] for row in result["rungs"]}
    return [
        f"{name}, rung {rung.name}: {ended.get(rung.name, 'not reached')}"
        for rung in RUNGS
        if ended.get(rung.name) != "measured"
    ]


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """A table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return [f"| {' | '.join(str(cell).replace('|', '/') for cell in line)} |" for line in lines]


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.1f} %"


def _times(ratio: float | None) -> str:
    return "" if ratio is None else f"{ratio:.2f}"
