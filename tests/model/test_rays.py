"""Rays as inputs: their features by the equation, and what a network makes of them."""

import math

import pytest
import torch

from soda_fast.model import SODA, ResNetEncoder, UNet, ray_channels, ray_features
from soda_fast.model.rays import rays

CAMERA = torch.tensor([[[0.5, 0.0, -0.25, 0.1], [0.0, 0.0, 1.0, -0.9], [0.0, -0.5, 0.25, 0.3]]])


def posed(frequencies: int) -> SODA:
    torch.manual_seed(0)
    channels = ray_channels(frequencies)
    encoder = ResNetEncoder("small", z_dim=8, widths=(8,), depths=(1,), ray_channels=channels)
    return SODA(encoder, UNet(8, 32, (1,), (False,), None, 1, 0.0, ray_channels=channels)).eval()


def test_features_are_nerfs() -> None:
    """Equation 4 of NeRF, in float64, element by element: for each number the sines, then the cosines."""
    found = ray_features(CAMERA, 3, 4)
    assert found.shape == (1, ray_channels(4), 3, 3)
    origin, direction = rays(CAMERA, 3)
    for number, values in enumerate(torch.cat((origin, direction), dim=1)[0].double()):
        for k in range(4):
            angle = 2**k * math.pi * values
            torch.testing.assert_close(found[0, 8 * number + k].double(), angle.sin(), atol=1e-5, rtol=0)
            torch.testing.assert_close(found[0, 8 * number + 4 + k].double(), angle.cos(), atol=1e-5, rtol=0)


def test_a_camera_that_is_not_known_is_zeros_whoever_else_is_in_the_batch() -> None:
    found = ray_features(torch.cat((torch.zeros_like(CAMERA), CAMERA)), 4, 2)
    assert not found[0].any()
    assert torch.equal(found[1:], ray_features(CAMERA, 4, 2))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_both_networks_listen_to_their_rays(layout: torch.memory_format) -> None:
    model, size = posed(2), 8
    images = torch.randn(2, 3, size, size).contiguous(memory_format=layout)
    one, other = (ray_features(c.expand(2, -1, -1), size, 2) for c in (CAMERA, CAMERA.flip(1)))
    assert not torch.allclose(model.encode(images, one), model.encode(images, other))
    arguments = (images, torch.tensor([3, 700]), torch.randn(2, 8), torch.zeros(2))
    assert not torch.allclose(model.denoise(*arguments, rays=one), model.denoise(*arguments, rays=other))
    assert model.denoise(*arguments, rays=one).shape == images.shape
    unknown = torch.zeros_like(one)
    assert torch.equal(model.encode(images), model.encode(images, unknown))
    assert torch.equal(model.denoise(*arguments), model.denoise(*arguments, rays=unknown))


def test_all_in_one_pass_is_the_same() -> None:
    model, size = posed(2), 8
    source, x_t, t, mask = (
        torch.randn(1, 3, size, size),
        torch.randn(1, 3, size, size),
        torch.tensor([5]),
        torch.zeros(1),
    )
    one, other = (ray_features(c, size, 2) for c in (CAMERA, CAMERA.flip(1)))
    z = model.encode(source, one)
    whole = model(source, x_t, t, mask, source_rays=one, target_rays=other)
    assert torch.equal(whole, model.denoise(x_t, t, z, mask, rays=other))


def test_a_network_without_channels_for_rays_refuses_them() -> None:
    encoder = ResNetEncoder("small", z_dim=8, widths=(8,), depths=(1,))
    with pytest.raises(ValueError, match="rays have 24 channels, but the network was built for 0"):
        encoder(torch.randn(1, 3, 4, 4), ray_features(CAMERA, 4, 2))
