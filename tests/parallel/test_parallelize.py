"""Sharding and compilation change neither names nor numbers."""

import copy

import pytest
import torch
from torch import nn

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
        parallelize(wrapped, blocks, processes.mesh("fsdp"), bf16=False, compile_blocks=compile_blocks)
        assert list(wrapped.state_dict()) == list(plain.state_dict())
        for _ in range(2):  # the second step must not compile again
            expected, found = plain(x), wrapped(x)
            torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
            expected.square().mean().backward()
            found.square().mean().backward()
        gradients = {name: parameter.grad for name, parameter in plain.named_parameters()}
        for name, parameter in wrapped.named_parameters():
            torch.testing.assert_close(parameter.grad.full_tensor(), gradients[name], atol=1e-5, rtol=1e-3)
