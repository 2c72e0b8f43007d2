"""Layer modulation: each section of z steers its stages and no others; masks reach their sections and no others."""

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from soda_fast.model import SODA, ResNetEncoder, UNet
from soda_fast.sections import assign_sections, section_bounds

LEVELS, BLOCKS, Z_DIM = 3, 2, 23


def layerwise(modulation: str, resample: str = "residual") -> SODA:
    torch.manual_seed(0)
    encoder = ResNetEncoder("small", z_dim=Z_DIM, widths=(8,), depths=(1,))
    attention = (False, True, False)
    decoder = UNet(Z_DIM, 32, (1, 1, 2), attention, None, BLOCKS, 0.0, resample, modulation)
    return SODA(encoder, decoder).eval()


def test_the_way_up_mirrors_the_way_down() -> None:
    """Written out by hand for two resolutions of two blocks: block, block, change of resolution, block, block."""
    by_resolution = assign_sections("resolution", 2, 2)
    assert by_resolution.down == (0, 0, 0, 1, 1)
    assert by_resolution.middle == 2
    assert by_resolution.up == (1, 1, 1, 0, 0, 0, 0)
    by_block = assign_sections("block", 2, 2)
    assert by_block.down == (0, 1, 1, 2, 3)
    assert by_block.middle == 4
    assert by_block.up == (3, 2, 2, 1, 1, 0, 0)
    assert assign_sections("shared", 2, 2).count == 1


@pytest.mark.parametrize(("levels", "blocks"), [(1, 1), (4, 2), (4, 3), (5, 1)])
def test_there_are_m_plus_1_sections_and_all_steer_something(levels: int, blocks: int) -> None:
    for modulation, m in (("resolution", levels), ("block", levels * blocks)):
        sections = assign_sections(modulation, levels, blocks)
        assert sections.count == m + 1
        assert set(sections.down) == set(sections.up) == set(range(m))
        assert len(sections.down) == levels * blocks + levels - 1
        assert len(sections.up) == levels * (blocks + 1) + levels - 1


@pytest.mark.parametrize(("width", "count"), [(128, 5), (128, 9), (7, 7), (100, 1), (9, 4)])
def test_sections_cover_z_and_differ_by_one_element_at_most(width: int, count: int) -> None:
    bounds = section_bounds(width, count)
    widths = [end - start for start, end in pairwise(bounds)]
    assert (bounds[0], bounds[-1], len(widths)) == (0, width, count)
    assert max(widths) - min(widths) <= 1
    assert [section for section, wide in enumerate(widths) for _ in range(wide)] == [
        d * count // width for d in range(width)
    ]


def projections(model: SODA) -> dict[str, torch.nn.Linear]:
    """The decoder's linear layers of z, by their names."""
    return {name: layer for name, layer in model.decoder.named_modules() if name.endswith("z_proj")}  # type: ignore[misc]


def sections_of(model: SODA, names: list[str]) -> dict[str, int]:
    """The section that steers each projection, from where it stands in the network."""
    sections = model.decoder.sections
    found = {}
    for name in names:
        way, number = name.split(".")[:2]
        found[name] = sections.middle if way == "middle" else getattr(sections, way)[int(number)]
    return found


@pytest.mark.parametrize("resample", ["conv", "residual"])
@pytest.mark.parametrize("modulation", ["resolution", "block"])
def test_a_section_reaches_exactly_its_stages(modulation: str, resample: str) -> None:
    """The input of each projection depends on the elements of its section, and on no other element of z."""
    model = layerwise(modulation, resample)
    z = torch.randn(2, Z_DIM, requires_grad=True)
    inputs: dict[str, Tensor] = {}
    for name, layer in projections(model).items():
        layer.register_forward_hook(lambda _, args, __, name=name: inputs.__setitem__(name, args[0]))
    model.denoise(torch.randn(2, 3, 8, 8), torch.tensor([3, 700]), z, torch.zeros(2))
    expected = sections_of(model, list(inputs))
    assert set(expected.values()) == set(range(model.decoder.sections.count))
    element = torch.arange(Z_DIM) * model.decoder.sections.count // Z_DIM
    for name, value in inputs.items():
        (gradient,) = torch.autograd.grad(value.sum(), z, retain_graph=True)
        assert torch.equal(gradient[0] != 0, element == expected[name]), name


@pytest.mark.parametrize("modulation", ["resolution", "block"])
def test_the_gradient_of_a_section_comes_through_its_projections_alone(modulation: str) -> None:
    """With the projections of one section cut off, the image no longer depends on it, but still on all others."""
    model = layerwise(modulation)
    element = torch.arange(Z_DIM) * model.decoder.sections.count // Z_DIM
    cut = 1
    for name, layer in projections(model).items():
        if sections_of(model, [name])[name] == cut:
            torch.nn.init.zeros_(layer.weight)
    z = torch.randn(1, Z_DIM, requires_grad=True)
    model.denoise(torch.randn(1, 3, 8, 8), torch.tensor([30]), z, torch.zeros(1)).square().sum().backward()
    assert z.grad is not None
    assert torch.equal(z.grad[0] != 0, element != cut)


def test_a_mask_with_columns_withholds_sections() -> None:
    model = layerwise("resolution")
    count = model.decoder.sections.count
    x_t, t, z = torch.randn(2, 3, 8, 8), torch.tensor([3, 700]), torch.randn(2, Z_DIM)
    mask = torch.zeros(2, count)
    mask[0, 1] = mask[1, 0] = mask[1, count - 1] = 1
    by_hand = z.clone()
    bounds = section_bounds(Z_DIM, count)
    for row, section in mask.nonzero().tolist():
        by_hand[row, bounds[section] : bounds[section + 1]] = 0
    assert torch.equal(model.denoise(x_t, t, z, mask), model.denoise(x_t, t, by_hand, torch.zeros(2)))
    whole = torch.tensor([1.0, 0.0])
    assert torch.equal(model.denoise(x_t, t, z, whole), model.denoise(x_t, t, z, whole[:, None].expand(-1, count)))


def test_a_mask_of_other_sections_is_refused() -> None:
    model = layerwise("resolution")
    with pytest.raises(ValueError, match=r"drop_mask has 3 columns, but z has 4 sections"):
        model.denoise(torch.randn(2, 3, 8, 8), torch.tensor([3, 7]), torch.randn(2, Z_DIM), torch.zeros(2, 3))


def test_rescaled_blocks_keep_the_variance_of_their_terms() -> None:
    from soda_fast.model.blocks import Attention, ResidualBlock

    x, time, z = torch.randn(4, 32, 8, 8), torch.randn(4, 16), torch.randn(4, 8)
    torch.manual_seed(1)
    plain = ResidualBlock(32, 32, 16, 8, 0.0).eval()
    rescaled = ResidualBlock(32, 32, 16, 8, 0.0, rescale=True).eval()
    rescaled.load_state_dict(plain.state_dict())
    torch.testing.assert_close(rescaled(x, time, z) * 2**0.5, plain(x, time, z))
    attention, halved = Attention(32, None), Attention(32, None, rescale=True)
    halved.load_state_dict(attention.state_dict())
    torch.testing.assert_close(halved(x) * 2**0.5, attention(x))
