"""What the compiled kernels occupy, without a GPU: python -m benchmarks.kernel_resources --config configs/cifar10.yaml

Compiles the forward and the backward kernel ahead of time for each shape of a configuration's decoder, exactly as the
launcher would start it, and reads registers, spills and shared memory from the machine code. TRITON_INTERPRET must not
be set: an interpreted kernel cannot be compiled.
"""

import argparse
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from benchmarks.json_file import write_json
from benchmarks.kernel_shapes import DTYPES, NormShape, decoder_norms
from soda_fast.config import load_config
from soda_kernels.group_norm_modulate.arguments import Options
from soda_kernels.group_norm_modulate.launch import Launch, backward, forward

ARCHITECTURES = (80, 90, 100)
# Triton's names of element types.
_POINTER = {torch.bfloat16: "*bf16", torch.float16: "*fp16", torch.float32: "*fp32", torch.int64: "*i64"}


@dataclass(frozen=True)
class Resources:
    """Of one compiled kernel. Registers per thread; spilled: bytes of a thread's local memory; shared: bytes."""

    kernel: str
    shape: str
    layout: str
    dtype: str
    architecture: int
    tile: str
    warps: int
    registers: int
    spilled: int
    shared: int


def launches(shape: NormShape, dtype: torch.dtype, channels_last: bool) -> Iterator[Launch]:
    """The forward and the backward launch of a shape, on shapes alone."""
    layout = torch.channels_last if channels_last else torch.contiguous_format

    def image(channels: int) -> Tensor:
        size = (2, channels, shape.size, shape.size)
        return torch.empty(size, dtype=dtype, device="meta", memory_format=layout)

    x, skip = image(shape.channels - shape.skip), image(shape.skip) if shape.skip else None
    vector = torch.empty(2, shape.channels, device="meta")
    bias = torch.empty(shape.channels, dtype=dtype, device="meta") if shape.biased else None
    seeds = torch.empty(2, dtype=torch.int64, device="meta")
    options = Options(shape.num_groups, 1e-5, shape.activation == "silu", shape.dropout_p)
    launch, (_, joined, mean, rstd) = forward(x, skip, vector, vector, bias, seeds, options)
    yield launch
    whole = x if joined is None else joined
    yield backward(whole, joined, whole, vector, vector, bias, seeds, mean, rstd, shape.skip, options)[0]


def compile_ahead(launch: Launch, architecture: int, limited: bool = True) -> Any:
    """The compiled kernel, specialised as for tensors from PyTorch's allocator. limited: see `Launch.options`."""
    constants: dict[str, Any] = dict(launch.constants)
    signature, divisible = dict.fromkeys(constants, "constexpr"), []
    for name, tensor in launch.tensors.items():
        if tensor is None:
            signature[name], constants[name] = "constexpr", None
        else:
            signature[name] = _POINTER[tensor.dtype]
            divisible.append(name)
    for name, value in launch.integers.items():
        if value == 1:
            signature[name], constants[name] = "constexpr", 1
        else:
            signature[name] = "i32"
            divisible += [name] if value % 16 == 0 else []
    names = launch.kernel.arg_names
    attributes = {(names.index(name),): [["tt.divisibility", 16]] for name in divisible}
    ordered = {name: signature[name] for name in names}
    source = ASTSource(launch.kernel, ordered, {(names.index(n),): v for n, v in constants.items()}, attributes)
    return triton.compile(source, target=GPUTarget("cuda", architecture, 32), options=launch.options(limited))


def measure(launch: Launch, shape: NormShape, dtype: str, channels_last: bool, architecture: int) -> Resources:
    """Compile and read the machine code; like the launcher, without a register limit that makes the kernel spill."""
    compiled = compile_ahead(launch, architecture)
    registers, spilled = read_usage(compiled.asm["cubin"])
    if spilled:
        compiled = compile_ahead(launch, architecture, limited=False)
        registers, spilled = read_usage(compiled.asm["cubin"])
    constants = launch.constants
    tile = f"{constants['BLOCK_P']}x{constants['BLOCK_G'] * constants['BLOCK_C']}"
    layout = "channels_last" if channels_last else "contiguous"
    return Resources(
        launch.kernel.__name__,
        str(shape),
        layout,
        dtype,
        architecture,
        tile,
        launch.warps,
        registers,
        spilled,
        compiled.metadata.shared,
    )


def read_usage(cubin: bytes) -> tuple[int, int]:
    """Registers per thread, and bytes of stack and local memory per thread, by the cuobjdump in Triton's package."""
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        report = subprocess.run([tool, "-res-usage", file.name], capture_output=True, text=True, check=True).stdout
    usage = {name: int(value) for name, value in re.findall(r"(REG|STACK|LOCAL):(\d+)", report)}
    return usage["REG"], usage["STACK"] + usage["LOCAL"]


def survey(
    shapes: Iterable[NormShape], dtypes: Iterable[str], layouts: Iterable[bool], architectures: Iterable[int]
) -> list[Resources]:
    """Every combination. Shapes that compile to one kernel are compiled once."""
    architectures, dtypes, layouts = tuple(architectures), tuple(dtypes), tuple(layouts)
    rows, seen = [], set()
    for shape in sorted(shapes):
        for dtype in dtypes:
            for channels_last in layouts:
                for launch in launches(shape, DTYPES[dtype], channels_last):
                    kind = (launch.kernel.__name__, dtype, _kind(launch))
                    if kind not in seen:
                        seen.add(kind)
                        rows += [measure(launch, shape, dtype, channels_last, arch) for arch in architectures]
    return rows


def most_demanding(shapes: Iterable[NormShape]) -> list[NormShape]:
    """Of shapes that are cut alike, the one whose kernels do most: with an activation, dropout and a bias, or the
    nearest to it. Those that join a skip connection are kernels of their own."""
    chosen: dict[tuple[Any, ...], NormShape] = {}

    def work(shape: NormShape) -> tuple[bool, bool, bool]:
        return shape.dropout_p > 0, shape.biased, shape.activation != "none"

    for shape in sorted(shapes):
        cut = (shape.size, shape.channels, shape.num_groups, shape.skip)
        chosen[cut] = max(chosen.get(cut, shape), shape, key=work)
    return list(chosen.values())


def _kind(launch: Launch) -> tuple[Any, ...]:
    """What the compiler specialises on."""
    absent = tuple(name for name, tensor in launch.tensors.items() if tensor is None)
    divisible = tuple((value == 1, value % 16 == 0) for value in launch.integers.values())
    return (absent, divisible, *launch.constants.values(), launch.warps, launch.registers)


def format_row(row: Resources) -> str:
    """A line for a person."""
    return (
        f"{row.kernel:16} {row.shape:28} {row.layout:13} {row.dtype} sm_{row.architecture:<4} {row.tile:>9} "
        f"{row.warps:3} warps {row.registers:4} registers {row.spilled:4} spilled {row.shared:6} shared"
    )


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kernel_resources", description=__doc__)
    parser.add_argument("--config", nargs="+", default=["configs/cifar10.yaml", "configs/tiny_imagenet.yaml"])
    parser.add_argument(
        "--arch", nargs="+", type=int, default=list(ARCHITECTURES), help="compute capabilities, 90 = 9.0"
    )
    parser.add_argument("--dtype", nargs="+", choices=sorted(DTYPES), default=["bf16"])
    parser.add_argument("--layout", nargs="+", choices=("channels_last", "contiguous"), default=["channels_last"])
    parser.add_argument(
        "--demanding", action="store_true", help="of shapes that are cut alike only the one whose kernels do most"
    )
    parser.add_argument("--json", type=Path, help="write the rows here as well")
    options = parser.parse_args()
    try:
        shapes: set[NormShape] = set()
        for config in options.config:
            shapes |= set(decoder_norms(load_config(config)))
    except ValueError as error:
        print(f"benchmarks.kernel_resources: {error}", file=sys.stderr)
        return 2
    if options.demanding:
        shapes = set(most_demanding(shapes))
    layouts = [layout == "channels_last" for layout in options.layout]
    rows = survey(shapes, options.dtype, layouts, options.arch)
    print("\n".join(format_row(row) for row in rows))
    if options.json:
        write_json(options.json, [asdict(row) for row in rows])
    return 0


if __name__ == "__main__":
    sys.exit(main())
