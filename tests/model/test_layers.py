"""Layers shared by the networks, against PyTorch's own."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from soda_fast.model import SODA, ResNetEncoder, UNet
from soda_fast.model.layers import Conv2d
from soda_kernels import group_norm_modulate, join_norm_modulate
from soda_kernels.group_norm_modulate.dropout import keep_mask, sample_seeds


def test_convolution_equals_pytorchs_in_both_layouts() -> None:
    theirs = nn.Conv2d(5, 7, 3, stride=2, padding=1)
    ours = Conv2d(5, 7, 3, stride=2, padding=1)
    with torch.no_grad():
        ours.oihw.copy_(theirs.weight)
        ours.bias.copy_(theirs.bias)
    x = torch.randn(2, 5, 9, 11)
    for layout in (torch.contiguous_format, torch.channels_last):
        y = ours(x.contiguous(memory_format=layout))
        assert y.is_contiguous(memory_format=layout)
        torch.testing.assert_close(y, theirs(x), atol=1e-5, rtol=1e-5)
    ours(x).sum().backward()
    theirs(x).sum().backward()
    torch.testing.assert_close(ours.weight.grad.permute(0, 3, 1, 2), theirs.weight.grad, atol=1e-4, rtol=1e-4)


def test_convolution_is_initialised_as_pytorchs() -> None:
    torch.manual_seed(0)
    weight = Conv2d(64, 32, 3).weight
    bound = (64 * 9) ** -0.5
    assert weight.abs().max() <= bound
    assert weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.02)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("activation", ["silu", "none"])
def test_group_norm_modulate_equals_its_parts(layout: torch.memory_format, activation: str) -> None:
    torch.manual_seed(0)
    x = torch.randn(3, 12, 5, 7).contiguous(memory_format=layout).requires_grad_()
    scale, shift = torch.randn(3, 12, requires_grad=True), torch.randn(3, 12, requires_grad=True)
    weights = torch.randn(3, 12, 5, 7)

    y = group_norm_modulate(x, scale, shift, 4, activation=activation)
    expected = F.group_norm(x, 4) * scale[:, :, None, None] + shift[:, :, None, None]
    expected = F.silu(expected) if activation == "silu" else expected
    assert y.is_contiguous(memory_format=layout)
    torch.testing.assert_close(y, expected, atol=1e-5, rtol=1e-5)
    found = torch.autograd.grad((y * weights).sum(), (x, scale, shift))
    wanted = torch.autograd.grad((expected * weights).sum(), (x, scale, shift))
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_mean_far_from_zero_costs_no_digits(layout: torch.memory_format) -> None:
    """Mean 100 times the deviation, against float64, to 2e-4."""
    x = (100 + torch.randn(2, 64, 16, 16, generator=torch.Generator().manual_seed(0))).contiguous(memory_format=layout)
    one, zero = torch.ones(2, 64), torch.zeros(2, 64)
    expected = F.group_norm(x.double(), 32)
    found = group_norm_modulate(x, one, zero, 32, activation="none").double()
    torch.testing.assert_close(found, expected, atol=2e-4, rtol=2e-4)


def test_dropout_is_a_function_of_seed_and_element() -> None:
    seed, shape = torch.tensor(2**40 + 5), torch.Size((4, 8, 16, 16))
    seeds = sample_seeds(seed, 4)
    mask = keep_mask(seeds, shape, 0.3)
    assert torch.equal(mask, keep_mask(seeds, shape, 0.3))
    assert torch.equal(mask[1:3], keep_mask(seeds[1:3], torch.Size((2, 8, 16, 16)), 0.3))
    assert abs(mask.float().mean().item() - 0.7) < 0.02
    for other in (seeds + 1, seeds + 2**32):
        agreement = (mask == keep_mask(other, shape, 0.3)).float().mean().item()
        assert abs(agreement - (0.7**2 + 0.3**2)) < 0.02

    x = torch.randn(shape)
    scale, shift = torch.ones(4, 8), torch.zeros(4, 8)
    whole = group_norm_modulate(x, scale, shift, 4)
    dropped = group_norm_modulate(x, scale, shift, 4, dropout_p=0.3, dropout_seed=seed)
    torch.testing.assert_close(dropped, torch.where(mask, whole / 0.7, 0.0))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"num_groups": 5}, "divide the 12 channels"),
        ({"scale": torch.ones(3, 11)}, "scale and shift must be"),
        ({"activation": "relu"}, "activation"),
        ({"dropout_p": 1.0}, "dropout_p"),
        ({"dropout_p": 0.5}, "dropout_seed"),
        ({"backend": "cuda"}, "backend"),
        ({"x": torch.ones(3, 12, 4)}, "N, C, H, W"),
        ({"bias": torch.ones(11)}, "bias must be"),
        ({"eps": -1.0}, "eps"),
        ({"dropout_p": 0.5, "dropout_seed": torch.arange(2)}, r"0-d or \(3,\) int64"),
        ({"dropout_p": 0.5, "dropout_seed": torch.tensor(1.0)}, "int64"),
        ({"dropout_p": 0.5, "dropout_seed": torch.arange(3, dtype=torch.int32)}, "must be int64"),
        ({"shift": torch.ones(3, 12, device="meta")}, "shift must be on x's device, cpu, got meta"),
        ({"eps": float("nan")}, "eps"),
    ],
)
def test_wrong_arguments_are_named(changes: dict[str, object], words: str) -> None:
    arguments = {"x": torch.ones(3, 12, 4, 4), "scale": torch.ones(3, 12), "shift": torch.ones(3, 12), "num_groups": 4}
    with pytest.raises(ValueError, match=words):
        group_norm_modulate(**{**arguments, **changes})


@pytest.mark.parametrize(
    ("skip", "words"),
    [
        (torch.ones(3, 2, 4, 5), "skip must be"),
        (torch.ones(3, 2, 4, 4).half(), "skip must be"),
        (torch.ones(3, 0, 4, 4), "1 or more"),
        (torch.ones(3, 2, 4, 4), r"scale and shift must be \(N, C\) = \(3, 14\)"),
    ],
)
def test_a_wrong_skip_is_named(skip: torch.Tensor, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        join_norm_modulate(torch.ones(3, 12, 4, 4), skip, torch.ones(3, 12), torch.ones(3, 12), 2)


def test_blocks_draw_different_dropout_and_a_seed_repeats() -> None:
    torch.manual_seed(0)
    model = SODA(ResNetEncoder("small", z_dim=8, widths=(8,), depths=(1,)), UNet(8, 32, (1,), (False,), None, 1, 0.5))
    x, t, drop = torch.randn(2, 3, 8, 8), torch.tensor([3, 900]), torch.tensor([0.0, 1.0])
    first = model(x, x, t, drop, torch.tensor(1))
    assert torch.equal(first, model(x, x, t, drop, torch.tensor(1)))
    assert not torch.equal(first, model(x, x, t, drop, torch.tensor(2)))
    with pytest.raises(ValueError, match="dropout_seed"):
        model(x, x, t, drop)


def test_a_dropped_condition_does_not_see_the_source() -> None:
    torch.manual_seed(0)
    encoder = ResNetEncoder("small", z_dim=8, widths=(8,), depths=(1,))
    model = SODA(encoder, UNet(8, 32, (1,), (False,), None, 1, 0.0)).eval()
    x, t = torch.randn(1, 3, 8, 8), torch.tensor([5])
    a, b = torch.randn(2, 1, 3, 8, 8)
    assert torch.equal(model(a, x, t, torch.ones(1)), model(b, x, t, torch.ones(1)))
    assert not torch.equal(model(a, x, t, torch.zeros(1)), model(b, x, t, torch.zeros(1)))


@pytest.mark.parametrize(("arch", "feature_dim"), [("resnet18", 512), ("resnet34", 512), ("resnet50", 2048)])
def test_architectures_are_torchvisions(arch: str, feature_dim: int) -> None:
    from torchvision.models import get_model

    with torch.device("meta"):
        ours, theirs = ResNetEncoder(arch, "7x7", 10), get_model(arch, num_classes=10)
    shapes = {
        name: tuple(value.permute(0, 3, 1, 2).shape if value.ndim == 4 else value.shape)
        for name, value in ours.state_dict().items()
    }
    assert shapes == {name: tuple(value.shape) for name, value in theirs.state_dict().items()}
    assert ours.feature_dim == feature_dim
