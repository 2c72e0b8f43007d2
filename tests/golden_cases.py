"""The golden outputs of the reference implementation, and the models that must reproduce them."""

import json
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from soda_fast.diffusion import NoiseSchedule
from soda_fast.model import SODA, ResNetEncoder, UNet
from soda_fast.reference_names import state_from_reference

GOLDEN = Path(__file__).parent / "golden"
CASES = ("small_linear", "small_inverted_heads_resupdown")


@dataclass(frozen=True)
class GoldenCase:
    """One case: the reference's configuration, shapes and gradients, and its arrays."""

    description: dict[str, Any]
    arrays: dict[str, Tensor]

    @property
    def stem(self) -> str:
        return "3x3" if self.description["config"]["encoder"]["cifar_small_image"] else "7x7"


def load_case(name: str) -> GoldenCase:
    description = json.loads((GOLDEN / f"{name}.json").read_text())
    with np.load(GOLDEN / f"{name}.npz") as file:
        arrays = {key: torch.from_numpy(np.array(value)) for key, value in file.items()}
    return GoldenCase(description, arrays)


def golden_state(shapes: dict[str, list[int]]) -> dict[str, Tensor]:
    """The reference's weights: each tensor a function of its key (tests/golden, from its README)."""
    return {key: _golden_tensor(key, shape) for key, shape in shapes.items()}


def _golden_tensor(key: str, shape: list[int]) -> Tensor:
    if key.endswith("num_batches_tracked"):
        return torch.tensor(0)
    r = torch.randn(shape, generator=torch.Generator().manual_seed(zlib.crc32(key.encode())))
    if key.endswith("running_var"):
        return 0.5 + r.abs()
    if key.endswith("running_mean") or (len(shape) == 1 and key.endswith("bias")):
        return 0.1 * r
    if len(shape) == 1:
        return 1 + 0.1 * r
    return r / (r.numel() / shape[0]) ** 0.5


def golden_model(case: GoldenCase) -> SODA:
    config = case.description["config"]
    decoder = config["decoder"]
    model = SODA(
        ResNetEncoder(config["encoder"]["arch"], case.stem, config["encoder"]["feature_dim"]),
        UNet(
            z_dim=decoder["z_channels"],
            channels=decoder["n_channels"],
            multipliers=decoder["ch_mults"],
            attention=decoder["is_attn"],
            head_channels=decoder.get("attn_channels_per_head"),
            blocks=decoder["n_blocks"],
            dropout=0.0,
            resample="residual" if decoder["use_res_for_updown"] else "conv",
        ),
        steps=config["diffusion"]["n_T"],
    )
    model.load_state_dict(state_from_reference(model, golden_state(case.description["state_dict"]), case.stem))
    return model.eval()


def golden_schedule(case: GoldenCase) -> NoiseSchedule:
    betas, steps = case.description["config"]["diffusion"]["betas"], case.description["config"]["diffusion"]["n_T"]
    return NoiseSchedule(betas, steps) if isinstance(betas, str) else NoiseSchedule("linear", steps, *betas)
