"""Units of sharding; optimizer, clipping and average on shards, against PyTorch's own on whole tensors."""

import copy
from typing import Any

import torch
from spawn import run_in_processes
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from soda_fast.parallel import (
    Processes,
    gathering_modules,
    local_shards,
    parallelize,
    sharding_group,
    start_processes,
)
from soda_fast.parallel.parallelize import units_of
from soda_fast.training.ema import WeightAverage
from soda_fast.training.finite import FiniteGuard
from soda_fast.training.optimizer import ShardedAdamW, clip_and_step

WIDTHS = (5, 3, 4, 2)  # which two and three processes cannot share evenly


class Chain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList(map(nn.Linear, WIDTHS, WIDTHS[1:]))
        self.last = nn.Linear(WIDTHS[-1], 1)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x).tanh()
        return self.last(x)


def spread(model: Chain, processes: Processes, strategy: str, unit_bytes: int = 0) -> Chain:
    mesh = processes.mesh(strategy, 2 if strategy == "hsdp" else None)
    parallelize(model, [list(model.layers)], mesh, bf16=False, unit_bytes=unit_bytes)
    return model


def test_units_have_the_bytes_asked_for() -> None:
    layers = [nn.Linear(3, 4), nn.Linear(1, 1), nn.Linear(1, 1), nn.Linear(3, 4), nn.Linear(1, 1)]  # 64, 8, 8, 64, 8
    assert units_of(layers, 0) == [[layer] for layer in layers]
    assert units_of(layers, 64) == [layers[:1], layers[1:4], layers[4:]]
    assert units_of(layers, 65) == [layers[:2], layers[2:4], layers[4:]]
    assert units_of(layers, 1 << 20) == [layers]
    assert units_of([], 0) == []


def test_a_model_that_fits_one_unit_is_the_roots() -> None:
    model_bytes = 4 * sum(parameter.numel() for parameter in Chain().parameters())
    with start_processes("cpu") as processes:
        whole, cut = (spread(Chain(), processes, "fsdp", unit) for unit in (model_bytes, model_bytes - 1))
        assert gathering_modules(whole) == [whole]
        assert len(gathering_modules(cut)) == 1 + len(WIDTHS[1:])


class NoOperation(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise AssertionError(f"{func} is called")


@torch.no_grad()
def test_taking_shards_is_no_operation() -> None:
    with start_processes("cpu") as processes:
        parameters = list(spread(Chain(), processes, "fsdp").parameters())
        with NoOperation():
            shards = local_shards(parameters)
        for shard, parameter in zip(shards, parameters, strict=True):
            shard.fill_(1)
            assert torch.equal(parameter.full_tensor(), torch.ones_like(shard))


def steps_on_shards(strategy: str, max_norm: float) -> tuple[list[float], list[Tensor], list[Tensor]]:
    """Three steps, a part of each process's gradient its own: norms, weights, and their average after each step."""
    with start_processes("cpu") as processes:
        model, average = (spread(Chain(), processes, strategy, unit_bytes=60) for _ in range(2))
        ema = WeightAverage(model, average, beta=0.5)
        optimizer = ShardedAdamW(model.parameters(), lr=0.1, weight_decay=0.2, fused=True)
        norms, outputs = [], []
        for step in range(3):
            model(inputs(step, processes.rank)).mean().backward()
            norm, skipped = clip_and_step(optimizer, max_norm, FiniteGuard(torch.device("cpu"), allowed=0), step)
            assert not skipped
            norms.append(norm.item())
            ema.update()
            # Leaves gathered parameters behind, which the next one must not see.
            outputs.append(ema.model(inputs(0, 0)).detach())
        shards = [shard.clone() for shard in local_shards(model.parameters())]
        assert (sharding_group(next(model.parameters())) is None) == (strategy == "ddp")
        assert {type(shard) for shard in shards} == {Tensor}
        return norms, [parameter.full_tensor().detach() for parameter in model.parameters()], outputs


def inputs(step: int, rank: int) -> Tensor:
    return torch.randn(4, WIDTHS[0], generator=torch.Generator().manual_seed(10 * step + rank))


def steps_of_pytorch(world_size: int, max_norm: float) -> tuple[list[float], list[Tensor], list[Tensor]]:
    model = Chain()
    average = copy.deepcopy(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.2)
    norms, outputs = [], []
    for step in range(3):
        model(torch.cat([inputs(step, rank) for rank in range(world_size)])).mean().backward()
        norms.append(nn.utils.clip_grad_norm_(model.parameters(), max_norm).item())
        optimizer.step()
        optimizer.zero_grad()
        decay = min(0.5, 1 - (1 + step) ** (-2 / 3))
        with torch.no_grad():
            for mean, value in zip(average.parameters(), model.parameters(), strict=True):
                mean.mul_(decay).add_((1 - decay) * value)
            outputs.append(average(inputs(0, 0)))
    return norms, list(model.parameters()), outputs


def compare(strategy: str, world_size: int, max_norm: float) -> None:
    expected = steps_of_pytorch(world_size, max_norm)
    for found in run_in_processes(steps_on_shards, world_size, strategy, max_norm):
        torch.testing.assert_close(found[0], expected[0], atol=0, rtol=1e-5)
        torch.testing.assert_close(found[1], [p.detach() for p in expected[1]], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(found[2], expected[2], atol=1e-5, rtol=1e-5)


def test_steps_on_uneven_shards_are_those_of_one_process() -> None:
    compare("fsdp", 3, max_norm=0.1)


def test_steps_on_copies_are_those_of_one_process() -> None:
    compare("ddp", 2, max_norm=0.1)


def test_steps_on_copies_of_shards_are_those_of_one_process() -> None:
    compare("hsdp", 4, max_norm=1e9)
