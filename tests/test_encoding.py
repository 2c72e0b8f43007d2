"""An encoder in bf16, and compiled: its features are the same but for rounding, however short the last batch is."""

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import resnet18

from soda_fast.config.schema import EvaluationConfig
from soda_fast.encoding import Encode, as_configured, weights_to_channels_last
from soda_fast.model.layers import Conv2d

CPU = torch.device("cpu")


@pytest.fixture
def encode() -> Encode:
    torch.manual_seed(0)
    convolution = torch.nn.Conv2d(3, 8, 3).requires_grad_(False)

    def encode(images: Tensor) -> dict[str, Tensor]:
        maps = convolution(images).relu()
        return {"z": maps.mean(dim=(2, 3)), "pooled": maps.amax(dim=(2, 3))}

    return encode


def test_weights_of_every_encoder_are_channels_last() -> None:
    """As the convolution is given them: ours without a copy, torchvision's after one."""
    model = nn.ModuleList([Conv2d(16, 8, 3), resnet18()])
    weights_to_channels_last(model)
    own = [module.oihw for module in model.modules() if isinstance(module, Conv2d)]
    other = [module.weight for module in model.modules() if isinstance(module, nn.Conv2d)]
    assert (len(own), len(other)) == (1, 20)
    assert all(weight.is_contiguous(memory_format=torch.channels_last) for weight in (*own, *other))


def test_as_it_is_by_default(encode: Encode) -> None:
    assert as_configured(encode, EvaluationConfig(), CPU) is encode


def test_bf16_rounds_and_returns_float32(encode: Encode) -> None:
    images = torch.randn(4, 3, 8, 8)
    exact, rounded = encode(images), as_configured(encode, EvaluationConfig(encoder_precision="bf16"), CPU)(images)
    for name in ("z", "pooled"):
        assert rounded[name].dtype == torch.float32
        assert not torch.equal(rounded[name], exact[name])
        # Eight bits: an input, a weight and a result are each off by at most 2^-9 of themselves.
        torch.testing.assert_close(rounded[name], exact[name], rtol=0.02, atol=0.02)


def test_compiled_once_for_batches_of_any_length(encode: Encode) -> None:
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    compiled = as_configured(encode, EvaluationConfig(compile_encoder=True), CPU)
    for count in (6, 6, 1, 4):
        images = torch.randn(count, 3, 8, 8).contiguous(memory_format=torch.channels_last)
        with torch.no_grad():
            features = compiled(images)
        for name, expected in encode(images).items():
            assert features[name].shape == (count, 8)
            torch.testing.assert_close(features[name], expected)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
