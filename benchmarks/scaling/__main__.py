"""Images a second on more GPUs: python -m benchmarks.scaling --config configs/cifar10.yaml [key=value ...]

Two questions for each number of processes: the same images for each process ("weak": the batch grows), and the same
batch for all ("strong": what training does, since the batch belongs to the recipe).

Measured: the whole training step, on noise, on this machine's GPUs or, as gloo processes, on its CPU. Predicted: from
the bytes of every collective (counted in a simulated step), the computation of one process and the links, for up to 256
GPUs. benchmarks/scaling/prediction.py says how. Without a GPU the computation must be assumed:

    python -m benchmarks.scaling --config configs/imagenet64_1b5.yaml --gpu H200 --assume-mfu 0.4 --processes
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch

from benchmarks.json_file import write_json
from benchmarks.machine import describe_machine
from benchmarks.plots import draw_scaling
from benchmarks.scaling.child import Request, measure_step
from benchmarks.scaling.prediction import Computation, Links, Prediction, fit_computation, links_of, predict
from benchmarks.scaling.table import format_result
from benchmarks.scaling.traffic import Collective, step_traffic
from soda_fast.config import Config, load_config, resolve_perf
from soda_fast.cores import whole_cores
from soda_fast.flops import count_flops
from soda_fast.gpus import DATA_SHEETS, DataSheet, sheet_of

ON_PAPER = (1, 2, 4, 8, 16, 32, 64, 128, 256)
ACHIEVED = 0.75
"""Of a data sheet's link: an assumption, as are the network (one 400 Gbit/s adapter for each GPU) and the hops."""
NETWORK_GBYTES_S = 50.0
HOPS_S = (2e-6, 10e-6, 15e-6)  # machine_hop_s, network_hop_s, launch_s of `Links`


def measured_rows(
    options: argparse.Namespace, config: Config, device: str, keep: Callable[[list[dict[str, Any]]], None]
) -> None:
    """Weak and strong scaling over the numbers of processes asked for; for one process also a small batch.

    `keep` gets all that is known after each measurement. The largest batch of each number comes first: it is the
    recipe's, and what it has compiled is often there already.
    """
    batch, counts = config.train.global_batch_images, options.processes
    wanted = {(n, batch) for n in counts} | {(n, batch // n) for n in counts if batch % n == 0}
    if counts:
        wanted.add((1, max(1, batch // 8)))
    threads = max(1, whole_cores() // max(counts, default=1)) if device == "cpu" else None
    rows: list[dict[str, Any]] = []
    for processes, images in sorted(wanted, key=lambda one: (one[0], -one[1])):
        request = Request(options.config, options.overrides, device, images, options.steps, options.warmup)
        try:
            rows.append(measure_step(request, processes, threads, options.limit))
        except ValueError as error:
            rows.append({"processes": processes, "process_images": images, "error": str(error)})
        keep(rows)


def computation_of(
    rows: Sequence[dict[str, Any]], config: Config, sheet: DataSheet | None, mfu: float | None
) -> tuple[Computation, str] | None:
    """The computation of one process, and where it comes from in words; None if nobody knows.

    A share of the data sheet's rate takes a step's time to grow with its images: small shares of a batch take longer.
    """
    if mfu is not None and sheet is not None:
        image_s = count_flops(config).forward_backward / (mfu * sheet.bf16_tflops * 1e12)
        return Computation(0.0, image_s), f"ASSUMED: {100 * mfu:g} % of the {sheet.name}'s data sheet"
    single = [(row["process_images"], row["step_s"]["median"]) for row in rows if row["processes"] == 1 and _ok(row)]
    return (fit_computation(single), "measured on one process here") if single else None


def beside_measured(
    rows: Sequence[dict[str, Any]], computation: Computation, traffic: Sequence[Collective], device: str
) -> None:
    """Put the prediction, with the links measured in the same run, into each row of several processes."""
    for row in rows:
        if row["processes"] > 1 and _ok(row):
            links = links_of(row, overlapped=device == "cuda")
            found = predict(computation, traffic, links, row["processes"], row["process_images"], row["processes"])
            row["predicted_step_s"] = found.step_s


def on_paper(
    computation: Computation, traffic: Sequence[Collective], links: Links, batch: int
) -> dict[str, list[dict[str, Any]]]:
    """Both kinds of scaling from 1 to 256 GPUs, machines of eight."""
    weak = [predict(computation, traffic, links, n, batch) for n in ON_PAPER]
    strong = [predict(computation, traffic, links, n, batch / n) for n in ON_PAPER if batch % n == 0]
    return {"weak": [_row(one, weak[0]) for one in weak], "strong": [_row(one, strong[0]) for one in strong]}


def _row(one: Prediction, first: Prediction) -> dict[str, Any]:
    linear = one.processes * first.images_per_second
    return {
        **asdict(one),
        "images_per_second": one.images_per_second,
        "share_of_linear": one.images_per_second / linear,
    }


def _ok(row: dict[str, Any]) -> bool:
    return "error" not in row


def _links(options: argparse.Namespace, sheet: DataSheet) -> Links:
    return Links(
        1e9 * (options.link_gbytes_s or ACHIEVED * sheet.link_gbytes_s),
        1e9 * (options.network_gbytes_s or ACHIEVED * NETWORK_GBYTES_S),
        *HOPS_S,
    )


def scaling(options: argparse.Namespace) -> dict[str, Any]:
    """All of it, as JSON holds it; written to --json after every measurement."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    config = load_config(options.config, options.overrides)
    sheet = next((one for one in DATA_SHEETS if one.name == options.gpu), None) or sheet_of(torch.device(device))
    result: dict[str, Any] = {
        "machine": describe_machine(torch.device(device)),
        "config": options.config,
        "overrides": options.overrides,
        "strategy": config.parallel.strategy,
        "batch_images": config.train.global_batch_images,
        "measured": [],
    }

    @cache
    def traffic() -> list[Collective]:
        """Of the weights as they are on the GPU that is here or on paper, or else on this CPU."""
        perf = resolve_perf(config.perf, device == "cuda" or sheet is not None)
        return step_traffic(replace(config, perf=replace(config.perf, precision=perf.precision)))

    def keep(rows: list[dict[str, Any]]) -> None:
        """What is on paper too, from what there is: the next measurement may be cut off."""
        result["measured"] = rows
        known = computation_of(rows, config, sheet, options.assume_mfu)
        if known is not None:
            computation, result["computation"] = known
            beside_measured(rows, computation, traffic(), device)
            if sheet is not None:
                links = _links(options, sheet)
                result["gpu"], result["links"] = sheet.name, asdict(links)
                result["predicted"] = on_paper(computation, traffic(), links, config.train.global_batch_images)
        if options.json:
            write_json(options.json, result)

    keep([])
    measured_rows(options, config, device, keep)
    return result


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.scaling", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", required=True, help="YAML file")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="keys that replace the file's")
    gpus = torch.cuda.device_count()
    default = [n for n in ON_PAPER if n <= (gpus or 2)]
    parser.add_argument(
        "--processes", nargs="*", type=int, default=default, help=f"to measure; default here: {default}; none: nothing"
    )
    parser.add_argument("--steps", type=int, default=20, help="timed steps")
    parser.add_argument("--warmup", type=int, default=5, help="steps before the clock runs")
    parser.add_argument("--limit", type=float, default=300.0, help="seconds after which a measurement is given up")
    paper = parser.add_argument_group("on paper")
    paper.add_argument("--gpu", choices=[sheet.name for sheet in DATA_SHEETS], help="default: the one that is here")
    paper.add_argument(
        "--assume-mfu", type=float, metavar="SHARE", help="of the data sheet's rate, instead of measured"
    )
    paper.add_argument(
        "--link-gbytes-s", type=float, help=f"inside a machine; default: {ACHIEVED:g} of the data sheet's"
    )
    paper.add_argument(
        "--network-gbytes-s", type=float, help=f"of each GPU; default: {ACHIEVED:g} of {NETWORK_GBYTES_S:g}"
    )
    parser.add_argument("--json", type=Path, help="write the figures here as well")
    parser.add_argument("--plot", type=Path, metavar="PNG", help="draw what is on paper")
    return parser


def main() -> int:
    """The command line."""
    parser = _parser()
    options = parser.parse_intermixed_args()
    if options.assume_mfu is not None and not (0 < options.assume_mfu <= 1 and options.gpu):
        parser.error("--assume-mfu is a share of 1, and needs --gpu")
    if any(n < 1 for n in options.processes) or options.steps < 2 or options.warmup < 0:
        parser.error("--processes must be at least 1, --steps at least 2, --warmup at least 0")
    try:
        result = scaling(options)
    except ValueError as error:
        print(f"benchmarks.scaling: {error}", file=sys.stderr)
        return 2
    print(format_result(result))
    if options.plot and "predicted" in result:
        draw_scaling(result, options.plot)
    return 0 if all(_ok(row) for row in result["measured"]) else 1


if __name__ == "__main__":
    sys.exit(main())
