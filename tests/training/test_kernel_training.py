"""Training with the fused operator and with plain PyTorch: one arithmetic, one set of weights."""

from pathlib import Path
from typing import Any

import pytest
import torch
from training.tiny import losses, run_tiny, tiny_tree

from soda_fast.build import build_model, choose_kernels
from soda_fast.config import ConfigError, config_from_tree


def train_with(kernels: str, folder: Path, batch: int, **decoder: Any) -> dict[int, float]:
    tree = tiny_tree(folder / kernels, steps=20)
    tree["model"]["decoder"] |= decoder
    tree["train"] |= {"images": 20 * batch, "global_batch_images": batch, "log_every_images": batch}
    run_tiny({**tree, "perf": {"kernels": kernels, "precision": "fp32", "compile": False}})
    return losses(folder / kernels)


def test_twenty_steps_have_the_same_losses(tmp_path: Path) -> None:
    fused, plain = train_with("auto", tmp_path, 12), train_with("pytorch", tmp_path, 12)
    assert len(fused) == 20
    for images, loss in plain.items():
        assert fused[images] == pytest.approx(loss, rel=1e-4)


@pytest.mark.slow
def test_twenty_steps_of_the_triton_kernel_have_the_same_losses(tmp_path: Path) -> None:
    """In Triton's interpreter, where there is no GPU: one image, one resolution. That has every use of the operator:
    with an activation and without, modulated with bias and dropout, joining a skip connection."""
    fused, plain = (train_with(kernels, tmp_path, 1, attention=[False]) for kernels in ("triton", "pytorch"))
    assert len(fused) == 20
    for images, loss in plain.items():
        assert fused[images] == pytest.approx(loss, rel=1e-4)


def test_weights_have_the_same_names_with_and_without(tmp_path: Path) -> None:
    model = build_model(config_from_tree(tiny_tree(tmp_path, 1)))
    names = list(model.state_dict())
    choose_kernels(model, "pytorch", torch.device("cpu"))
    assert list(model.state_dict()) == names


def test_a_kernel_asked_for_and_not_available_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("soda_fast.build.why_not_triton", lambda device: "it runs on GPUs")
    tree: dict[str, Any] = {**tiny_tree(tmp_path / "run", 1), "perf": {"kernels": "triton"}}
    with pytest.raises(ConfigError, match=r"perf\.kernels: triton is not available here: it runs on GPUs; use auto"):
        run_tiny(tree)
