"""BatchNorm over processes equals one process that sees all images."""

import pytest
import torch
from spawn import run_in_processes
from torch import Tensor, nn

from soda_fast.parallel import start_processes
from soda_fast.parallel.batch_norm import GlobalBatchNorm2d, synchronise_batch_norm

CHANNELS = 5


def images(count: int) -> Tensor:
    """Images whose mean is far from zero, so that cancellation would show."""
    return 20.0 + torch.randn(count, CHANNELS, 4, 3, generator=torch.Generator().manual_seed(count))


def weights_of_loss(count: int) -> Tensor:
    return torch.randn(count, CHANNELS, 4, 3, generator=torch.Generator().manual_seed(1000 + count))


def layer() -> nn.BatchNorm2d:
    module = nn.BatchNorm2d(CHANNELS)
    with torch.no_grad():
        module.weight.copy_(torch.linspace(0.5, 1.5, CHANNELS))
        module.bias.copy_(torch.linspace(-1, 1, CHANNELS))
    return module


def run_layer(module: nn.Module, x: Tensor, weights: Tensor) -> dict[str, Tensor]:
    """Two steps of a sum-of-products loss; the second sees running statistics that have moved."""
    results: dict[str, Tensor] = {}
    for _ in range(2):
        module.zero_grad()
        x = x.detach().requires_grad_()
        y = module(x)
        (y * weights).sum().backward()
        results = {"y": y.detach(), "x.grad": x.grad, "weight.grad": module.weight.grad, "bias.grad": module.bias.grad}
    return results | {name: buffer for name, buffer in module.named_buffers() if "running" in name}


def share(shares: list[int]) -> dict[str, Tensor]:
    with start_processes("cpu") as processes:
        import torch.distributed as dist

        module = layer()
        synchronise_batch_norm(module, dist.group.WORLD)
        assert isinstance(module, GlobalBatchNorm2d)
        total, start = sum(shares), sum(shares[: processes.rank])
        rows = slice(start, start + shares[processes.rank])
        return run_layer(module, images(total)[rows], weights_of_loss(total)[rows])


@pytest.mark.parametrize("shares", [[6], [3, 3], [2, 2, 2], [4, 1, 1], [1, 3]], ids=str)
def test_equals_one_process(shares: list[int]) -> None:
    total = sum(shares)
    expected = run_layer(layer(), images(total), weights_of_loss(total))
    found = run_in_processes(share, len(shares), shares)
    tolerance = {"atol": 2e-5, "rtol": 1e-4}
    for name in ("y", "x.grad"):
        torch.testing.assert_close(torch.cat([result[name] for result in found]), expected[name], **tolerance)
    for name in ("weight.grad", "bias.grad"):
        torch.testing.assert_close(sum(result[name] for result in found), expected[name], **tolerance)
    for name in ("running_mean", "running_var"):
        for result in found:
            torch.testing.assert_close(result[name], expected[name], **tolerance)


def test_evaluation_uses_running_statistics_and_needs_no_processes() -> None:
    module = layer()
    run_layer(module, images(6), weights_of_loss(6))
    expected = module.eval()(images(4))
    synchronise_batch_norm(module, None)
    torch.testing.assert_close(module(images(4)), expected, atol=1e-5, rtol=1e-5)


def test_parameter_and_buffer_names_stay() -> None:
    module = layer()
    names = list(module.state_dict())
    synchronise_batch_norm(module, None)
    assert list(module.state_dict()) == names
