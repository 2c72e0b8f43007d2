"""Sharding and compilation change neither names nor numbers."""

import copy
from pathlib import Path

import pytest
import torch
from torch import nn
from training.tiny import tiny_tree

from soda_fast.build import build_model
from soda_fast.config import config_from_tree
from soda_fast.model.layers import Conv2d, GroupNorm
from soda_fast.parallel import parallelize, start_processes


class Block(nn.Module):
    """The layers that a compiled block must hold: our convolution, global BatchNorm, the modulated norm."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = Conv2d(4, 4, 3, padding=1)
        self.bn = nn.BatchNorm2d(4)
        self.norm = GroupNorm(2, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.norm(self.bn(self.conv(x)))


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = Block(), Block()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(self.first(x))


@pytest.mark.parametrize("compile_blocks", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_names_and_numbers_stay(compile_blocks: bool) -> None:
    torch.manual_seed(0)
    plain = Network()
    wrapped = copy.deepcopy(plain)
    x = torch.randn(2, 4, 4, 4)
    with start_processes("cpu") as processes:
        blocks = [wrapped.first, wrapped.second]
        compiled = [(block, "forward") for block in blocks] if compile_blocks else []
        parallelize(wrapped, [blocks], processes.mesh("fsdp"), bf16=False, compiled=compiled)
        assert list(wrapped.state_dict()) == list(plain.state_dict())
        for _ in range(2):  # the second step must not compile again
            expected, found = plain(x), wrapped(x)
            torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
            expected.square().mean().backward()
            found.square().mean().backward()
        gradients = {name: parameter.grad for name, parameter in plain.named_parameters()}
        for name, parameter in wrapped.named_parameters():
            torch.testing.assert_close(parameter.grad.full_tensor(), gradients[name], atol=1e-5, rtol=1e-3)


class Widening(nn.Module):
    """Blocks of one class and as many shapes as blocks."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Wide(width, width + 1) for width in range(1, count + 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


class Wide(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, outputs)

    def forward(self, x: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
        return self.linear(x).tanh() * scale


def test_blocks_of_many_shapes_compile_once_each() -> None:
    """torch.compile allows eight compilations of one code object."""
    network, count = Widening(12), 0

    def count_graphs(graph: torch.fx.GraphModule, _: object) -> torch.fx.GraphModule:
        nonlocal count
        count += 1
        return graph

    with start_processes("cpu") as processes, torch.compiler.set_stance("default", force_backend=count_graphs):
        layers = list(network.layers)
        compiled = [(layer, "forward") for layer in layers]
        parallelize(network, [layers], processes.mesh("fsdp"), bf16=False, compiled=compiled)
        for _ in range(3):
            network(torch.ones(2, 1)).sum().backward()
    assert count == 12


def test_recomputed_activations_change_nothing() -> None:
    torch.manual_seed(0)
    plain = Widening(3)
    wrapped = copy.deepcopy(plain)
    x = torch.randn(4, 1)
    with start_processes("cpu") as processes:
        layers = list(wrapped.layers)
        parallelize(wrapped, [layers], processes.mesh("fsdp"), bf16=False, recomputed=layers)
        plain(x).sum().backward()
        wrapped(x).sum().backward()
        for (name, one), other in zip(plain.named_parameters(), wrapped.parameters(), strict=True):
            assert torch.equal(one.grad, other.grad.full_tensor()), name


def test_the_default_decoder_compiles_for_fixed_shapes(tmp_path: Path) -> None:
    """As many graphs as methods, in the first step alone; none of them for shapes of any size."""
    tree = tiny_tree(tmp_path, 1)
    tree["model"]["decoder"] = {"channels": 32, "dropout": 0.1}
    tree["data"] |= {"target_size": 16}
    config = config_from_tree(tree)
    model = build_model(config).train()
    sizes: list[list[object]] = []

    def note_shapes(graph: torch.fx.GraphModule, inputs: list[object]) -> torch.fx.GraphModule:
        sizes.append([value for value in inputs if isinstance(value, torch.SymInt)])
        return graph

    seeds, t = torch.arange(2), torch.tensor([3, 9])
    with start_processes("cpu") as processes, torch.compiler.set_stance("default", force_backend=note_shapes):
        mesh = processes.mesh("fsdp")
        parallelize(model, model.blocks, mesh, bf16=False, compiled=model.compiled_methods)
        for _ in range(2):
            x = torch.randn(2, 3, 16, 16)
            model(torch.randn(2, 3, 8, 8), x, t, torch.zeros(2), seeds).sum().backward()
            assert len(sizes) == len(model.compiled_methods) > 20
    assert not any(sizes)
