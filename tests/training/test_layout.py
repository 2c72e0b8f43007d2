"""From the loader to the loss, forward and backward, images stay channels_last; weights are not copied into it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from training.tiny import tiny_tree, trainer_of, with_two_resolutions

from soda_fast.model.layers import Conv2d
from soda_fast.parallel import start_processes


def is_channels_last(x: Tensor) -> bool:
    """Also where an axis of length 1 leaves the question open."""
    return x.is_contiguous(memory_format=torch.channels_last)


class Convolutions(TorchDispatchMode):
    """Notes the layouts that convolutions are given, forward and backward, and where their weights lie."""

    def __init__(self) -> None:
        super().__init__()
        self.wrong: list[str] = []
        self.weights: list[int] = []
        self.backward = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        images = {"convolution": args[:2], "convolution_backward": args[:3]}.get(name, ())
        self.wrong += [f"{name}: {tuple(x.shape)} {x.stride()}" for x in images if not is_channels_last(x)]
        if name == "convolution":
            self.weights.append(args[1].data_ptr())
        self.backward += name == "convolution_backward"
        return func(*args, **(kwargs or {}))


def activations(value: Any) -> Iterator[Tensor]:
    """The 4-D tensors in a module's inputs or outputs."""
    values = value if isinstance(value, (tuple, list)) else [value]
    yield from (x for x in values if isinstance(x, Tensor) and x.ndim == 4)


def walk_one_step(folder: Path, device: str, perf: dict[str, Any]) -> None:
    tree = with_two_resolutions(tiny_tree(folder / "run", steps=1))
    tree["model"]["decoder"]["resample"] = "residual"
    with start_processes(device) as processes:
        trainer = trainer_of({**tree, "perf": perf}, processes)
        wrong: list[str] = []
        seen: set[str] = set()
        kept: set[int] = set()

        def look(name: str, module: torch.nn.Module) -> None:
            def hook(_: Any, inputs: Any, output: Any) -> None:
                for x in (*activations(inputs), *activations(output)):
                    seen.add(name)
                    if not is_channels_last(x):
                        wrong.append(f"{name}: {tuple(x.shape)} {x.stride()}")
                if isinstance(module, Conv2d):
                    kept.add(module.weight.data_ptr())

            module.register_forward_hook(hook)

        for name, module in trainer.step.model.named_modules():
            look(name, module)
        batches = trainer._global_batches()
        parts = next(batches)
        with Convolutions() as convolutions:
            trainer.step(parts)
        batches.close()
    assert wrong == []
    assert {"encoder.conv1", "encoder.bn1", "encoder.layer2", "decoder.middle", "decoder.conv_out", ""} <= seen
    assert convolutions.wrong == []
    assert convolutions.weights
    assert set(convolutions.weights) <= kept, "a convolution's weight was copied"
    assert convolutions.backward == len(convolutions.weights)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_channels_last_on_a_cpu(tmp_path: Path, precision: str) -> None:
    walk_one_step(tmp_path, "cpu", {"channels_last": True, "precision": precision})


@pytest.mark.gpu
def test_channels_last_on_a_gpu(tmp_path: Path) -> None:
    walk_one_step(tmp_path, "cuda", {"compile": False})
