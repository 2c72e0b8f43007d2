"""What a training step moves through memory, operation by operation: python -m benchmarks.step_bytes

Forward and backward of the networks run on shapes alone (no GPU, no arithmetic, in bfloat16 and channels_last); each
operation's inputs are counted as read and its outputs as written. Convolutions and matrix products are listed apart:
they are bound by arithmetic. torch.compile joins neighbouring pointwise operations, and on a GPU attention is a single
one, so this is what eager PyTorch moves, and the most that a fusion can save. Milliseconds: bytes by bandwidth.
"""

import argparse
import sys
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from soda_fast.build import build_model
from soda_fast.config import Config, load_config

ARITHMETIC = ("convolution", "addmm", "mm", "bmm", "scaled_dot_product", "_efficient_attention", "_flash_attention")


@dataclass
class Traffic:
    """Of one kind of operation in a step: calls and bytes."""

    calls: int = 0
    bytes: int = 0


class Ledger(TorchDispatchMode):
    """Counts the bytes of every operation that is not a view."""

    def __init__(self) -> None:
        super().__init__()
        self.traffic: dict[str, Traffic] = defaultdict(Traffic)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        outputs = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        inputs = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        name = func.overloadpacket.__name__
        if not func.is_view and name not in ("detach", "empty_like", "empty", "new_empty", "lift_fresh"):
            entry = self.traffic[name]
            entry.calls += 1
            entry.bytes += sum(_stored(tensor) for tensor in (*inputs, *outputs))
        return result


def _stored(tensor: Tensor) -> int:
    """Bytes behind a tensor: an expanded dimension is stored once."""
    sizes = [size for size, stride in zip(tensor.shape, tensor.stride(), strict=True) if stride != 0]
    return tensor.element_size() * torch.Size(sizes).numel()


def count(config: Config, batch: int) -> dict[str, Traffic]:
    """Traffic of a forward and backward pass of `batch` images by operation, most bytes first."""
    with torch.device("meta"):
        model = build_model(config).to(torch.bfloat16).train()
        source, target = (
            torch.empty(batch, 3, size, size, dtype=torch.bfloat16, memory_format=torch.channels_last)
            for size in (config.data.source_size, config.data.target_size)
        )
        t, seeds = torch.ones(batch, dtype=torch.int64), torch.zeros(batch, dtype=torch.int64)
        with Ledger() as ledger:
            model(source, target, t, torch.zeros(batch), seeds).sum().backward()
    return dict(sorted(ledger.traffic.items(), key=lambda item: -item[1].bytes))


def format_table(traffic: dict[str, Traffic], bandwidth: float) -> str:
    """For a person: memory-bound operations first."""
    lines = []
    for title, bound in (("memory-bound", False), ("arithmetic-bound", True)):
        chosen = {name: entry for name, entry in traffic.items() if name.startswith(ARITHMETIC) == bound}
        total = sum(entry.bytes for entry in chosen.values())
        lines.append(f"{title}: {total / 1e9:.2f} GB, {1e3 * total / bandwidth:.2f} ms")
        for name, entry in chosen.items():
            if entry.bytes > total / 500:
                share = f"{entry.bytes / 1e9:8.2f} GB {1e3 * entry.bytes / bandwidth:7.2f} ms"
                lines.append(f"  {name:34} {entry.calls:4} calls {share}")
    return "\n".join(lines)


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.step_bytes", description=__doc__)
    parser.add_argument("--config", default="configs/cifar10.yaml", help="YAML file")
    parser.add_argument("--batch", type=int, default=512, help="images")
    parser.add_argument("--bandwidth", type=float, default=4.3, help="TB/s; 4.3 is a copy's on an H200")
    options = parser.parse_args()
    try:
        config = load_config(options.config)
    except ValueError as error:
        print(f"benchmarks.step_bytes: {error}", file=sys.stderr)
        return 2
    print(format_table(count(config, options.batch), 1e12 * options.bandwidth))
    return 0


if __name__ == "__main__":
    sys.exit(main())
