"""Time the fused normalisation on a GPU against eager and compiled PyTorch: python -m benchmarks.kernels

For each normalisation in the decoders of the given configurations, at each batch: microseconds of forward and backward
(median and quartiles), and the share of the copy bandwidth, measured in the same run, at which the fewest possible
bytes (`NormShape.passes`) were moved. The summary weights shapes by their uses in a step, and says of how many of the
step's bytes it speaks: a run may be cut off, and so begins with what tells most (`contests`).
"""

import argparse
import itertools
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.gpu_timing import Microseconds, capture_stream, copy_bandwidth, rotations, time_calls
from benchmarks.json_file import write_json
from benchmarks.kernel_shapes import DTYPES, NormShape, apply, decoder_norms, make_inputs
from benchmarks.machine import describe_machine
from benchmarks.packages import is_installed
from soda_fast.config import load_config


def plain(
    x: Tensor,
    scale: Tensor,
    shift: Tensor,
    num_groups: int,
    activation: str,
    dropout_p: float = 0.0,
    bias: Tensor | None = None,
    skip: Tensor | None = None,
    **_: Any,
) -> tuple[Tensor, ...]:
    """The same operation as one writes it with PyTorch's own modules, in x's dtype; dropout draws from PyTorch."""
    x = x if skip is None else torch.cat((x, skip), dim=1)
    h = x if bias is None else x + bias.to(x.dtype)[:, None, None]
    scale, shift = scale.to(x.dtype), shift.to(x.dtype)
    if scale.ndim == 1:
        h = F.group_norm(h, num_groups, scale, shift)
    else:
        h = F.group_norm(h, num_groups) * scale[:, :, None, None] + shift[:, :, None, None]
    if activation == "silu":
        h = F.silu(h)
    h = F.dropout(h, dropout_p) if dropout_p else h
    return (h,) if skip is None else (h, x)


PROVIDERS: dict[str, Callable[[], Callable[..., tuple[Tensor, ...]]]] = {
    "triton": lambda: partial(apply, "triton"),
    "eager": lambda: plain,
    "compiled": lambda: torch.compile(plain, fullgraph=True, dynamic=False),
}
"""The contestants, on the inputs of `make_inputs`: ours, then the rivals, first the one that needs no compilation."""


@dataclass(frozen=True)
class Case:
    """One shape of a configuration's decoder, at which batch and in which layout. count: uses in a training step."""

    config: str
    shape: NormShape
    count: int
    batch: int
    layout: str


def contests(
    configs: Mapping[str, Mapping[NormShape, int]],
    layouts: Sequence[str],
    batches: Sequence[int],
    shapes: int | None = None,
) -> Iterator[tuple[Case, str]]:
    """What to measure, of which provider, in order of value: layouts, batches and configurations as they were given,
    and for each all shapes by our kernel, then all by each rival; those first that move the most bytes in a step.

    configs: by name the shapes of a decoder, and how often a step uses each. shapes: only so many of each.
    """
    for layout, batch, (config, uses) in itertools.product(layouts, batches, configs.items()):
        chosen = sorted(uses.items(), key=most_bytes)[:shapes]
        for provider, (shape, count) in itertools.product(PROVIDERS, chosen):
            yield Case(config, shape, count, batch, layout), provider


@dataclass(frozen=True)
class Row:
    """One contestant at one shape. count: uses in a training step; bytes: the fewest possible; share: of the copy's."""

    config: str
    shape: str
    count: int
    batch: int
    layout: str
    provider: str
    direction: str
    time: Microseconds
    bytes: int
    share: float


def measure(
    function: Callable[..., tuple[Tensor, ...]],
    shape: NormShape,
    batch: int,
    dtype: torch.dtype,
    channels_last: bool,
    device: torch.device,
) -> tuple[Microseconds, Microseconds]:
    """Forward and backward."""
    count = rotations(3 * batch * shape.channels * shape.size**2 * dtype.itemsize, device)
    sets = [make_inputs(shape, batch, dtype, channels_last, device, seed) for seed in range(count)]
    gradients = [inputs.pop("gradients") for inputs in sets]
    with torch.no_grad():
        forward = time_calls([partial(function, **inputs) for inputs in sets], device)
    backward = []
    with torch.cuda.stream(capture_stream()) if device.type == "cuda" else nullcontext():
        for inputs, given in zip(sets, gradients, strict=True):
            wanted = [value for value in inputs.values() if isinstance(value, Tensor) and value.is_floating_point()]
            for value in wanted:
                value.requires_grad_()
            outputs = function(**inputs)
            backward.append(partial(torch.autograd.grad, outputs, wanted, given, retain_graph=True))
    return forward, time_calls(backward, device)


def contest(case: Case, provider: str, dtype: torch.dtype, bandwidth: float, device: torch.device) -> list[Row]:
    """Both directions of one contestant at one shape.

    Raises:
        One of `failures()`: it does not compile, or memory does not suffice.
    """
    tensor = case.batch * case.shape.channels * case.shape.size**2 * dtype.itemsize
    function = PROVIDERS[provider]()
    try:
        times = measure(function, case.shape, case.batch, dtype, case.layout == "channels_last", device)
    finally:
        torch._dynamo.reset()
        torch.cuda.empty_cache()
    rows = []
    for (direction, passes), time in zip(case.shape.passes.items(), times, strict=True):
        share = passes * tensor / (time.median * 1e-6) / bandwidth
        names = (case.config, str(case.shape), case.count, case.batch, case.layout, provider, direction)
        rows.append(Row(*names, time, passes * tensor, share))
    return rows


def failures() -> tuple[type[Exception], ...]:
    """What a contestant raises that cannot do a shape: Triton's errors are no RuntimeErrors, PyTorch's are."""
    if not is_installed("triton"):
        return (RuntimeError,)
    from triton.errors import TritonError

    return (RuntimeError, TritonError)


def measure_all(
    wanted: Iterable[tuple[Case, str]],
    dtype: torch.dtype,
    bandwidth: float,
    device: torch.device,
    keep: Callable[[list[Row], list[dict[str, Any]]], object],
) -> None:
    """One contest after the other; `keep` gets all rows, and all failures as JSON holds them, after each. A contestant
    that fails at a shape is named, and left out there."""
    rows: list[Row] = []
    failed: list[dict[str, Any]] = []
    for case, provider in wanted:
        try:
            rows += (new := contest(case, provider, dtype, bandwidth, device))
            print("\n".join(map(format_row, new)), flush=True)
        except failures() as error:
            failed.append(failure(case, provider, error))
            print(format_failure(failed[-1]), file=sys.stderr, flush=True)
        keep(rows, failed)


def most_bytes(use: tuple[NormShape, int]) -> int:
    """To sort shapes and their counts by: those that move the most bytes in a step come first."""
    shape, count = use
    return -count * shape.moved_values


def step_bytes(shapes: Mapping[NormShape, int], dtype: torch.dtype) -> int:
    """The fewest that all uses in a step must move, for each image."""
    return sum(count * shape.moved_values for shape, count in shapes.items()) * dtype.itemsize


def summarise(rows: Sequence[Row], wholes: Mapping[str, int]) -> list[dict[str, Any]]:
    """Over a decoder, by configuration, batch and layout: shares of the copy bandwidth, and how many times faster the
    fused kernel's forward and backward together are than each rival's, on the shapes that both were measured at.

    wholes: the `step_bytes` of each configuration. `PROVIDER_coverage` is the share of them that was measured, less
    than 1 where time ran out or a shape failed.
    """
    found = []
    for config, batch, layout in dict.fromkeys((row.config, row.batch, row.layout) for row in rows):
        here = [row for row in rows if (row.config, row.batch, row.layout) == (config, batch, layout)]
        summary: dict[str, Any] = {"config": config, "batch": batch, "layout": layout}
        names = list(dict.fromkeys(row.provider for row in here))
        for provider in names:
            own = [row for row in here if row.provider == provider]
            summary[f"{provider}_coverage"] = sum(row.count * row.bytes for row in own) / batch / wholes[config]
            for direction in ("forward", "backward"):
                chosen = [row for row in own if row.direction == direction]
                if chosen:
                    summary[f"{provider}_{direction}_share"] = _mean_share(chosen)
        for rival in names:
            shared = _shapes(here, rival) & _shapes(here, "triton")
            if rival != "triton" and shared:
                both = [row for row in here if row.shape in shared]
                summary[f"times_{rival}"] = _step_us(both, rival) / _step_us(both, "triton")
        found.append(summary)
    return found


def _shapes(rows: Sequence[Row], provider: str) -> set[str]:
    return {row.shape for row in rows if row.provider == provider}


def _step_us(rows: Sequence[Row], provider: str) -> float:
    """Microseconds in a step."""
    return sum(row.count * row.time.median for row in rows if row.provider == provider)


def _mean_share(rows: Sequence[Row]) -> float:
    """bytes / bandwidth is share * time: the mean of shares weighted with the time they took."""
    ideal_us = sum(row.count * row.share * row.time.median for row in rows)
    return ideal_us / sum(row.count * row.time.median for row in rows)


def format_row(row: Row) -> str:
    """A line for a person."""
    time = row.time
    return (
        f"{row.shape:28} batch {row.batch:4} {row.layout:13} {row.direction:8} {row.provider:8} {time.median:9.1f} us "
        f"({time.lower_quartile:.1f} .. {time.upper_quartile:.1f}) {100 * row.share:5.1f} % of copy"
    )


def failure(case: Case, provider: str, error: Exception) -> dict[str, Any]:
    """A contestant that failed at a shape, as JSON holds it."""
    said = str(error).strip().splitlines()[:1]
    names = {"config": case.config, "shape": str(case.shape), "batch": case.batch, "layout": case.layout}
    return {**names, "provider": provider, "error": ": ".join([type(error).__name__, *said])}


def format_failure(failed: Mapping[str, Any]) -> str:
    """A line for a person."""
    return "{shape} batch {batch} {layout} {provider} failed: {error}".format_map(failed)


def format_summary(summary: dict[str, Any]) -> str:
    """A few lines for a person."""
    lines = [f"{summary['config']}, batch {summary['batch']}, {summary['layout']}, bytes-weighted:"]
    for name, value in summary.items():
        if name.endswith("_coverage"):
            lines.append(
                f"  {name.removesuffix('_coverage')}: {100 * value:.0f} % of the decoder's bytes were measured"
            )
        elif name.endswith("_share"):
            lines.append(
                f"  {name.removesuffix('_share').replace('_', ' '):18} {100 * value:5.1f} % of the copy bandwidth"
            )
        elif name.startswith("times_"):
            lines.append(f"  forward + backward {value:5.2f} times {name.removeprefix('times_')} PyTorch")
    return "\n".join(lines)


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kernels", description=__doc__)
    parser.add_argument("--config", nargs="+", default=["configs/cifar10.yaml", "configs/tiny_imagenet.yaml"])
    parser.add_argument("--batch", nargs="+", type=int, default=[64, 512], help="images")
    parser.add_argument("--dtype", choices=sorted(DTYPES), default="bf16")
    parser.add_argument(
        "--layout", nargs="+", choices=("channels_last", "contiguous"), default=["channels_last", "contiguous"]
    )
    parser.add_argument("--shapes", type=int, help="only so many of each decoder's shapes")
    parser.add_argument(
        "--device", choices=("cuda", "cpu"), default="cuda", help="cpu: to see that this works, with TRITON_INTERPRET=1"
    )
    parser.add_argument("--json", type=Path, help="write the figures here as well")
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        print("benchmarks.kernels: it times a GPU, and PyTorch sees none here", file=sys.stderr)
        return 2
    try:
        configs = {Path(path).stem: decoder_norms(load_config(path)) for path in options.config}
    except ValueError as error:
        print(f"benchmarks.kernels: {error}", file=sys.stderr)
        return 2
    device = torch.device(options.device)
    bandwidth = copy_bandwidth(device)
    machine = describe_machine(device)
    print(f"{machine['device']}, torch {machine['torch']}, copy {bandwidth / 1e12:.2f} TB/s")
    # Gradients are asked for many times over, so the compiled contestant may not overwrite what it saved for them.
    torch._functorch.config.donated_buffer = False
    dtype = DTYPES[options.dtype]
    wholes = {name: step_bytes(shapes, dtype) for name, shapes in configs.items()}
    result: dict[str, Any] = {"machine": machine, "dtype": options.dtype, "copy_bytes_per_second": bandwidth}

    def keep(rows: list[Row], failed: list[dict[str, Any]]) -> None:
        """After each contest: a run cut short keeps what it has."""
        result.update(summary=summarise(rows, wholes), rows=[asdict(row) for row in rows], failed=failed)
        if options.json:
            write_json(options.json, result)

    measure_all(contests(configs, options.layout, options.batch, options.shapes), dtype, bandwidth, device, keep)
    print("\n".join(map(format_summary, result["summary"])))
    return 0


if __name__ == "__main__":
    sys.exit(main())
