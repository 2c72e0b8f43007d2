"""Inputs that break normalisations: far means, constant groups, extreme values, NaN, unusual strides. Both backends."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from kernel_cases import LAYOUTS, Case, assert_right, in_float64, run
from torch import Tensor

from soda_kernels import group_norm_modulate
from soda_kernels.group_norm_modulate.dropout import sample_seeds

BACKENDS = ["triton", "auto", "pytorch"]
WHOLE, LOOPED = Case(2, 16, 16, 16, 8), Case(2, 8, 68, 64, 4)


@pytest.mark.parametrize("case", [WHOLE, LOOPED], ids=["whole", "looped"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_mean_far_from_zero_costs_no_digits(case: Case, layout: str, backend: str) -> None:
    """Mean 100 times the deviation, against float64, to 2e-4; F.group_norm misses this on a CPU in channels_last."""
    inputs = case.inputs(torch.float32, LAYOUTS[layout])
    inputs["x"] = inputs["x"] * 0.5 + 99.5
    one, zero = torch.ones_like(inputs["scale"]), torch.zeros_like(inputs["shift"])
    found = group_norm_modulate(inputs["x"], one, zero, case.num_groups, activation="none", backend=backend)
    expected = F.group_norm(inputs["x"].double(), case.num_groups)
    torch.testing.assert_close(found.double(), expected, atol=2e-4, rtol=2e-4)


def test_a_first_tile_unlike_the_rest_costs_no_digits() -> None:
    """The looped kernel's pivot is the first tile's mean: here it is 1000 away from nearly all other values."""
    inputs = LOOPED.inputs(torch.float32, torch.channels_last)
    inputs["x"][:, :, :4] += 1000
    expected = F.group_norm(inputs["x"].double(), LOOPED.num_groups)
    one, zero = torch.ones_like(inputs["scale"]), torch.zeros_like(inputs["shift"])
    found = group_norm_modulate(inputs["x"], one, zero, LOOPED.num_groups, activation="none", backend="triton")
    torch.testing.assert_close(found.double(), expected, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("value", [3.1, 1234.567, 1e30])
@pytest.mark.parametrize("case", [WHOLE, LOOPED, Case(2, 12, 7, 9, 4)], ids=["whole", "looped", "odd"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_constant_groups(case: Case, backend: str, value: float) -> None:
    """Variance 0: the normalised value is 0, although 1 / sqrt(eps) is large, and the gradient is finite."""
    inputs = case.inputs(torch.float32, torch.channels_last)
    inputs["x"] = torch.full_like(inputs["x"], value)
    found = run(inputs, backend)
    torch.testing.assert_close(found["y"], F.silu(inputs["shift"])[:, :, None, None].expand_as(found["y"]))
    assert all(value.isfinite().all() for value in found.values())


@pytest.mark.parametrize("case", [replace(WHOLE, biased=True), replace(LOOPED, biased=True)], ids=str)
@pytest.mark.parametrize("backend", BACKENDS)
def test_groups_made_constant_by_a_bias(case: Case, backend: str) -> None:
    inputs = case.inputs(torch.float32, torch.channels_last)
    inputs |= {"x": torch.full_like(inputs["x"], 0.1), "bias": torch.full_like(inputs["bias"], 60000.0)}
    found = run(inputs, backend)["y"]
    torch.testing.assert_close(found, F.silu(inputs["shift"])[:, :, None, None].expand_as(found), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("backend", "factor"),
    # Autograd's own derivative of rsqrt, rstd ** 3, leaves float32 long before the operator's formula does.
    [
        (backend, factor)
        for backend in BACKENDS
        for factor in (1e-30, 1e-6, 1e6, 1e16)
        if (backend, factor) != ("pytorch", 1e16)
    ],
)
def test_huge_and_tiny_values(backend: str, factor: float) -> None:
    inputs = Case(2, 12, 5, 7, 3).inputs(torch.float32, torch.channels_last)
    inputs["x"] = inputs["x"] * factor
    assert_right(run(inputs, backend), inputs)


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_ends_of_float16(backend: str) -> None:
    inputs = Case(2, 12, 5, 7, 3).inputs(torch.float16, torch.channels_last)
    inputs["x"] = (inputs["x"].sign() * 65000).to(torch.float16)
    assert_right(run(inputs, backend), inputs)


@pytest.mark.parametrize("case", [WHOLE, LOOPED], ids=["whole", "looped"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_bad_sample_stays_alone(case: Case, value: float, backend: str) -> None:
    inputs = case.inputs(torch.float32, torch.channels_last)
    clean = run(inputs, backend)
    inputs["x"][1, 5, 5, 6] = value
    found = run(inputs, backend)
    for name, result in found.items():
        assert torch.equal(result[0], clean[name][0]), name
    group = found["y"][1].unflatten(0, (case.num_groups, 2))[2]
    assert group.isnan().all()
    assert found["y"][1].isnan().sum() == group.numel()


def strided(x: Tensor) -> dict[str, Tensor]:
    """The same values in other strides."""
    n, c, h, w = x.shape
    wide = torch.cat((x, x), dim=1).contiguous(memory_format=torch.channels_last)
    return {
        "channels of a channels_last tensor": wide[:, :c],
        "channels of a contiguous tensor": wide.contiguous()[:, c:],
        "every second row": x.repeat_interleave(2, dim=2)[:, :, ::2],
        "transposed": x.transpose(2, 3).contiguous().transpose(2, 3),
        "expanded": x[:, :, :1, :1].expand(n, c, h, w),
        "batch reversed in memory": x.permute(1, 0, 2, 3).contiguous().permute(1, 0, 2, 3),
    }


@pytest.mark.parametrize("kind", strided(torch.zeros(2, 12, 4, 6)))
@pytest.mark.parametrize("backend", BACKENDS)
def test_any_strides(kind: str, backend: str) -> None:
    inputs = Case(2, 12, 4, 6, 3, dropout_p=0.2, biased=True).inputs(torch.float32, torch.contiguous_format)
    inputs["x"] = strided(inputs["x"])[kind]
    found = run(inputs, backend)
    assert_right(found, inputs)
    if kind == "channels of a channels_last tensor":
        assert found["y"].is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("skip_kind", ["as x", "contiguous", "every second row", "expanded"])
@pytest.mark.parametrize("kind", strided(torch.zeros(2, 12, 4, 6)))
@pytest.mark.parametrize("backend", BACKENDS)
def test_joining_any_strides(kind: str, skip_kind: str, backend: str) -> None:
    inputs = Case(2, 21, 4, 6, 3, skip=9).inputs(torch.float32, torch.contiguous_format)
    kinds = {"as x": kind, "contiguous": None}
    inputs["x"], chosen = strided(inputs["x"])[kind], kinds.get(skip_kind, skip_kind)
    inputs["skip"] = inputs["skip"].contiguous() if chosen is None else strided(inputs["skip"])[chosen]
    assert_right(run(inputs, backend), inputs)


@pytest.mark.parametrize("backend", BACKENDS)
def test_joining_one_channel_of_a_batch_that_is_one_sample(backend: str) -> None:
    inputs = Case(2, 8, 4, 6, 2, skip=3).inputs(torch.float32, torch.channels_last)
    inputs["x"] = inputs["x"][:1].expand(2, 5, 4, 6)
    assert_right(run(inputs, backend), inputs)


@pytest.mark.parametrize("backend", BACKENDS)
def test_vectors_and_gradients_of_any_strides(backend: str) -> None:
    """As the model has them: halves of a projection, one row for all samples; autograd's expanded and turned dy."""
    case = Case(3, 12, 4, 6, 3, biased=True)
    inputs = case.inputs(torch.float32, torch.channels_last)
    both = torch.cat((inputs["scale"], inputs["shift"]), dim=1)
    inputs["scale"], _ = both.chunk(2, dim=1)
    inputs["shift"] = inputs["shift"][:1].expand(3, 12)
    inputs["bias"] = torch.stack((inputs["bias"], inputs["bias"]), dim=1)[:, 0]
    for dy in (inputs["dy"].contiguous(), inputs["dy"][:, :, :1, :1].expand(3, 12, 4, 6)):
        assert_right(run({**inputs, "dy": dy}, backend), {**inputs, "dy": dy})


@pytest.mark.parametrize("backend", BACKENDS)
def test_dropout_is_the_same_in_every_layout_and_backend(backend: str) -> None:
    inputs = Case(3, 8, 6, 5, 2, dropout_p=0.4).inputs(torch.float32, torch.contiguous_format)
    expected = in_float64(inputs)["y"] == 0
    assert 0.3 < expected.double().mean() < 0.5
    for layout in LAYOUTS.values():
        found = run({**inputs, "x": inputs["x"].contiguous(memory_format=layout)}, backend)["y"]
        assert torch.equal(found == 0, expected)
    seeds = sample_seeds(inputs["dropout_seed"], 3)
    assert torch.equal(run({**inputs, "dropout_seed": seeds}, backend)["y"] == 0, expected)
