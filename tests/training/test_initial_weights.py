"""A model that never stood whole anywhere starts with the weights of one that did."""

from pathlib import Path
from typing import Any

import pytest
import torch
from spawn import run_in_processes
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from training.tiny import tiny_tree, with_two_resolutions

from soda_fast import build
from soda_fast.build import build_empty_model, build_model, initialise
from soda_fast.config import Config, config_from_tree
from soda_fast.parallel import start_processes
from soda_fast.training.step import TrainStep


def configuration(path: Path, **sections: Any) -> Config:
    tree = with_two_resolutions(tiny_tree(path, 1))
    tree["model"]["decoder"] |= {"multipliers": [1, 2], "resample": "residual"}
    for name, values in sections.items():
        tree[name] = {**tree.get(name, {}), **values}
    return config_from_tree(tree)


def whole(model: nn.Module) -> dict[str, Tensor]:
    state = model.state_dict()
    return {name: value.full_tensor() if isinstance(value, DTensor) else value for name, value in state.items()}


def starting_weights(path: Path, parallel: dict[str, Any]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Of the trained model and of its average."""
    config = configuration(path, parallel=parallel, train={"global_batch_images": 12})
    with start_processes("cpu") as processes:
        step = TrainStep(config, processes, warmup_images=0)
        return whole(step.model), whole(step.ema.model)


@pytest.mark.parametrize(
    ("processes", "parallel"),
    [
        (1, {"strategy": "fsdp"}),
        (2, {"strategy": "ddp"}),
        (3, {"strategy": "fsdp"}),
        (4, {"strategy": "hsdp", "shard_processes": 2}),
    ],
)
def test_the_trainer_starts_from_the_weights_of_build_model(
    tmp_path: Path, processes: int, parallel: dict[str, Any]
) -> None:
    expected = build_model(configuration(tmp_path)).state_dict()
    for found in run_in_processes(starting_weights, processes, tmp_path, parallel):
        for state in found:
            assert state.keys() == expected.keys()
            for name, value in expected.items():
                assert torch.equal(state[name], value), name


@pytest.mark.parametrize("resample", ["conv", "residual"])
@pytest.mark.parametrize("arch", ["resnet18", "resnet50"])
@pytest.mark.parametrize("initialisation", ["reference", "paper"])
def test_every_kind_of_layer_is_drawn_in_order(tmp_path: Path, arch: str, resample: str, initialisation: str) -> None:
    model: dict[str, Any] = {"initialisation": initialisation}
    model |= {"encoder": {"arch": arch, "z_dim": 8}, "decoder": {"channels": 32, "resample": resample}}
    config = configuration(tmp_path, model=model, data={"target_size": 32}, run={"seed": 11})
    model = build_empty_model(config).to_empty(device="cpu")
    initialise(model, config)
    for name, value in build_model(config).state_dict().items():
        assert torch.equal(model.state_dict()[name], value), name


def test_no_more_than_a_layer_of_the_decoder_stands_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = configuration(tmp_path)
    model = build_empty_model(config).to_empty(device="cpu")
    held: list[int] = []

    def watch(target: nn.Module, source: nn.Module) -> None:
        held.append(sum(parameter.numel() for parameter in source.parameters()))
        copy(target, source)

    copy = build.copy_shards
    monkeypatch.setattr(build, "copy_shards", watch)
    initialise(model, config)
    encoder, *layers = held
    assert encoder == sum(parameter.numel() for parameter in model.encoder.parameters())
    assert sum(layers) == sum(parameter.numel() for parameter in model.decoder.parameters())
    assert max(layers) < sum(layers) / 5
