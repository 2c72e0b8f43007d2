"""Try other tilings of the fused kernel than the rule's on a GPU: python -m benchmarks.kernel_sweep

For each normalisation of the decoder, every way to cut it that a program of 1 to 16 warps could hold; printed are the
rule's choice and the fastest. What wins here by more than the spread is a reason to change kernels/soda_kernels/
group_norm_modulate/tiling.py.
"""

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu_timing import Microseconds, copy_bandwidth, rotations, time_calls
from benchmarks.json_file import write_json
from benchmarks.kernel_shapes import NormShape, decoder_norms, make_inputs
from benchmarks.kernels import most_bytes
from benchmarks.machine import describe_machine
from soda_fast.config import load_config
from soda_kernels.group_norm_modulate import launch
from soda_kernels.group_norm_modulate.arguments import Options
from soda_kernels.group_norm_modulate.tiling import BUDGETS, Tiling, choose_tiling, next_power_of_two

DEVICE = torch.device("cuda")
BYTES_PER_THREAD = (32, 64, 128)
REGISTERS = {"forward": (80, 128), "backward": (128, 255)}


def candidates(direction: str, shape: NormShape, itemsize: int) -> Iterator[Tiling]:
    """Whole and looped tilings in channels_last, rows of 16 to 128 bytes."""
    group_channels, positions = shape.channels // shape.num_groups, shape.size**2
    block_channels = next_power_of_two(group_channels)
    for groups in (groups for groups in range(1, shape.num_groups + 1) if shape.num_groups % groups == 0):
        block_groups = next_power_of_two(groups)
        row = block_groups * block_channels * itemsize
        for block_positions in (positions, 128, 256):
            whole, tile = block_positions == positions, row * block_positions
            if not 16 <= row <= 128 or block_positions > positions or tile > (2**16 if whole else 2**14):
                continue
            for warps in {min(16, max(1, tile // (32 * per_thread))) for per_thread in BYTES_PER_THREAD}:
                for registers in REGISTERS[direction]:
                    if registers * warps * 32 <= 65536:
                        yield Tiling(groups, block_groups, block_channels, block_positions, whole, warps, registers)


def time_tiling(direction: str, shape: NormShape, sets: list[dict[str, Any]], tiling: Tiling) -> Microseconds:
    """Of one launch."""
    calls: list[Callable[[], None]] = []
    options = Options(shape.num_groups, 1e-5, shape.activation == "silu", shape.dropout_p)
    for inputs in sets:
        x, skip, bias = inputs["x"], inputs.get("skip"), inputs.get("bias")
        scale, shift = (inputs[name].expand(x.shape[0], -1) for name in ("scale", "shift"))
        vectors = (scale, shift, bias)
        seeds = inputs["dropout_seed"] if shape.dropout_p else None
        chosen = tiling if direction == "forward" else None
        made, (_, joined, mean, rstd) = launch.forward(x, skip, *vectors, seeds, options, chosen)
        if direction == "backward":
            made.run()
            dy, djoined = (*inputs["gradients"], None)[:2]
            whole = x if joined is None else joined
            made, _ = launch.backward(dy, djoined, whole, *vectors, seeds, mean, rstd, shape.skip, options, tiling)
        calls.append(made.run)
    return time_calls(calls, DEVICE, replays=5)


def sweep(shape: NormShape, batch: int, dtype: torch.dtype, bandwidth: float) -> list[dict[str, Any]]:
    """The rule's tiling and all others, of both directions, fastest first."""
    size = batch * shape.channels * shape.size**2 * dtype.itemsize
    sets = [make_inputs(shape, batch, dtype, True, DEVICE, seed) for seed in range(rotations(3 * size, DEVICE))]
    rows = []
    for direction, passes in shape.passes.items():
        chosen = choose_tiling(
            BUDGETS[direction], shape.channels, shape.size**2, shape.num_groups, dtype.itemsize, True
        )
        found = []
        for tiling in dict.fromkeys((chosen, *candidates(direction, shape, dtype.itemsize))):
            time = time_tiling(direction, shape, sets, tiling)
            share = passes * size / (time.median * 1e-6) / bandwidth
            found.append(
                {"direction": direction, "rule": tiling == chosen, "share": share, **asdict(tiling), **asdict(time)}
            )
        found.sort(key=lambda row: row["median"])
        print(f"{shape}, batch {batch}, {direction}: {len(found)} tilings")
        for row in [row for row in found if row["rule"]] + found[:3]:
            print("  " + ("rule  " if row["rule"] else "      ") + format_tiling(row), flush=True)
        rows += [{"shape": str(shape), "batch": batch, **row} for row in found]
    return rows


def largest(norms: Mapping[NormShape, int], count: int) -> list[NormShape]:
    """The shapes that move the most bytes in a step."""
    return [shape for shape, _ in sorted(norms.items(), key=most_bytes)[:count]]


def format_tiling(row: dict[str, Any]) -> str:
    """A line for a person."""
    kind = "whole" if row["whole"] else "looped"
    tile = f"{row['block_positions']}x{row['block_groups'] * row['block_channels']}"
    return (
        f"{kind:6} {tile:>9} {row['warps']:2} warps, at most {row['registers']:3} registers: {row['median']:8.1f} us "
        f"({row['lower_quartile']:.1f} .. {row['upper_quartile']:.1f}) {100 * row['share']:5.1f} % of copy"
    )


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kernel_sweep", description=__doc__)
    parser.add_argument("--config", default="configs/cifar10.yaml")
    parser.add_argument("--batch", type=int, default=256, help="images")
    parser.add_argument("--top", type=int, default=4, help="how many shapes: those that move the most bytes in a step")
    parser.add_argument("--json", type=Path, help="write all tilings here")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print("benchmarks.kernel_sweep: it times a GPU, and PyTorch sees none here", file=sys.stderr)
        return 2
    try:
        norms = decoder_norms(load_config(options.config))
    except ValueError as error:
        print(f"benchmarks.kernel_sweep: {error}", file=sys.stderr)
        return 2
    bandwidth = copy_bandwidth(DEVICE)
    print(f"copy {bandwidth / 1e12:.2f} TB/s")
    shapes = largest(norms, options.top)
    rows = [row for shape in shapes for row in sweep(shape, options.batch, torch.bfloat16, bandwidth)]
    if options.json:
        result = {"machine": describe_machine(DEVICE), "copy_bytes_per_second": bandwidth, "rows": rows}
        write_json(options.json, result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
