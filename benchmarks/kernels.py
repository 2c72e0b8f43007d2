"""Time the fused normalisation on a GPU against eager and compiled PyTorch: python -m benchmarks.kernels

For each normalisation in the decoders of the given configurations, at each batch: microseconds of forward and backward
(median and quartiles), and the share of the copy bandwidth, measured in the same run, at which the fewest possible
bytes (`NormShape.passes`) were moved. The summary weights shapes by their uses in a step.
"""

import argparse
import itertools
import sys
from collections.abc import Callable, Iterator
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
from benchmarks.kernel_shapes import NormShape, apply, decoder_norms, make_inputs
from benchmarks.machine import describe_machine
from soda_fast.config import load_config

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


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


def providers() -> dict[str, Callable[..., tuple[Tensor, ...]]]:
    """The contestants, on the inputs of `make_inputs`."""
    compiled = torch.compile(plain, fullgraph=True, dynamic=False)
    return {"triton": partial(apply, "triton"), "compiled": compiled, "eager": plain}


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
    size = batch * shape.channels * shape.size**2 * dtype.itemsize
    sets = [make_inputs(shape, batch, dtype, channels_last, device, seed) for seed in range(rotations(3 * size))]
    gradients = [inputs.pop("gradients") for inputs in sets]
    with torch.no_grad():
        forward = time_calls([partial(function, **inputs) for inputs in sets])
    backward = []
    with torch.cuda.stream(capture_stream()) if device.type == "cuda" else nullcontext():
        for inputs, given in zip(sets, gradients, strict=True):
            wanted = [value for value in inputs.values() if isinstance(value, Tensor) and value.is_floating_point()]
            for value in wanted:
                value.requires_grad_()
            outputs = function(**inputs)
            backward.append(partial(torch.autograd.grad, outputs, wanted, given, retain_graph=True))
    return forward, time_calls(backward)


def compare(
    name: str,
    shape: NormShape,
    count: int,
    batch: int,
    dtype: torch.dtype,
    channels_last: bool,
    bandwidth: float,
    device: torch.device,
) -> Iterator[Row]:
    """All contestants at one shape. One that fails, for want of memory for instance, is named and left out."""
    tensor = batch * shape.channels * shape.size**2 * dtype.itemsize
    layout = "channels_last" if channels_last else "contiguous"
    for provider, function in providers().items():
        try:
            times = measure(function, shape, batch, dtype, channels_last, device)
        except RuntimeError as error:
            print(f"{shape} batch {batch} {layout} {provider} failed: {str(error).splitlines()[0]}", file=sys.stderr)
            continue
        finally:
            torch._dynamo.reset()
            torch.cuda.empty_cache()
        for (direction, passes), time in zip(shape.passes.items(), times, strict=True):
            share = passes * tensor / (time.median * 1e-6) / bandwidth
            yield Row(name, str(shape), count, batch, layout, provider, direction, time, passes * tensor, share)


def most_bytes(use: tuple[NormShape, int]) -> float:
    """To sort shapes and their counts by: those that move the most bytes in a step come first."""
    shape, count = use
    return -count * shape.channels * shape.size**2


def summarise(rows: list[Row], uses: dict[str, int]) -> list[dict[str, Any]]:
    """Over a decoder, by configuration, batch and layout: shares of the copy bandwidth, and how many times faster the
    fused kernel's forward and backward together are than each rival's.

    uses: how often a step of each configuration runs the operation; the summary has the share of them that was
    measured, which is less than 1 where time ran out.
    """
    found = []
    for config, batch, layout in dict.fromkeys((row.config, row.batch, row.layout) for row in rows):
        here = [row for row in rows if (row.config, row.batch, row.layout) == (config, batch, layout)]

        def total(provider: str, direction: str | None = None, of: list[Row] = here) -> float:
            """Microseconds in a step."""
            chosen = [row for row in of if row.provider == provider and direction in (None, row.direction)]
            return sum(row.count * row.time.median for row in chosen)

        summary: dict[str, Any] = {"config": config, "batch": batch, "layout": layout}
        summary["measured_uses"] = sum({row.shape: row.count for row in here}.values()) / uses[config]
        for provider in dict.fromkeys(row.provider for row in here):
            for direction in ("forward", "backward"):
                chosen = [row for row in here if (row.provider, row.direction) == (provider, direction)]
                # bytes / bandwidth is share * time: the mean of shares weighted with the time they took.
                ideal = sum(row.count * row.share * row.time.median for row in chosen)
                if chosen:
                    summary[f"{provider}_{direction}_share"] = ideal / total(provider, direction)
        for rival in [provider for provider in dict.fromkeys(row.provider for row in here) if provider != "triton"]:
            both = {row.shape for row in here if row.provider == rival} & {
                row.shape for row in here if row.provider == "triton"
            }
            shared = [row for row in here if row.shape in both]
            if shared:
                summary[f"times_{rival}"] = total(rival, of=shared) / total("triton", of=shared)
        found.append(summary)
    return found


def format_row(row: Row) -> str:
    """A line for a person."""
    time = row.time
    return (
        f"{row.shape:28} batch {row.batch:4} {row.layout:13} {row.direction:8} {row.provider:8} {time.median:9.1f} us "
        f"({time.lower_quartile:.1f} .. {time.upper_quartile:.1f}) {100 * row.share:5.1f} % of copy"
    )


def format_summary(summary: dict[str, Any]) -> str:
    """A few lines for a person."""
    lines = [
        f"{summary['config']}, batch {summary['batch']}, {summary['layout']}, bytes-weighted over "
        f"{100 * summary['measured_uses']:.0f} % of the decoder's uses:"
    ]
    for name, value in summary.items():
        if name.endswith("_share"):
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
    rows: list[Row] = []
    uses = {name: sum(shapes.values()) for name, shapes in configs.items()}
    # What training runs first, should time run out: layouts and batches as they were given, of a decoder the shapes
    # that move the most.
    for layout, batch, (name, shapes) in itertools.product(options.layout, options.batch, configs.items()):
        for shape, count in sorted(shapes.items(), key=most_bytes)[: options.shapes]:
            arguments = (name, shape, count, batch, DTYPES[options.dtype], layout == "channels_last", bandwidth, device)
            for row in compare(*arguments):
                rows.append(row)
                print(format_row(row), flush=True)
            if options.json:  # after each shape: a run cut short keeps what it has
                result = {"machine": machine, "dtype": options.dtype, "copy_bytes_per_second": bandwidth}
                result |= {"summary": summarise(rows, uses), "rows": [asdict(row) for row in rows]}
                write_json(options.json, result)
    print("\n".join(format_summary(summary) for summary in summarise(rows, uses)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
