"""Random numbers that depend on seed, stream and position alone."""

import torch
from torch._subclasses import FakeTensorMode

from soda_fast import counter_rng


def test_philox_known_answers() -> None:
    """The vectors of the authors' own test (Random123, kat_vectors, philox4x32 with 10 rounds)."""
    cases = [
        ((0, 0, 0, 0), (0, 0), "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            "d16cfe09 94fdcceb 5001e420 24126ea1",
        ),
    ]
    for counter, key, expected in cases:
        words = counter_rng.philox(tuple(torch.tensor([word]) for word in counter), key)
        assert " ".join(f"{int(word):08x}" for word in words) == expected


def test_rows_do_not_depend_on_the_batch() -> None:
    positions = torch.tensor([0, 7, 2**40 + 3, 12])
    whole = counter_rng.normal(5, "noise", positions, (3, 9, 7))
    for row, position in enumerate(positions):
        alone = counter_rng.normal(5, "noise", position[None], (3, 9, 7))
        assert torch.equal(whole[row], alone[0])


def test_streams_seeds_and_positions_differ() -> None:
    position = torch.tensor([3])
    draws = [
        counter_rng.bits(0, "noise", position, 8),
        counter_rng.bits(1, "noise", position, 8),
        counter_rng.bits(1 << 32, "noise", position, 8),
        counter_rng.bits(0, "drop", position, 8),
        counter_rng.bits(0, "noise", position + 1, 8),
        counter_rng.bits(0, "noise", position + 2**32, 8),
    ]
    assert len({tuple(draw.flatten().tolist()) for draw in draws}) == len(draws)


def test_distributions() -> None:
    positions = torch.arange(4000)
    normal = counter_rng.normal(0, "a", positions, (50,))
    assert abs(normal.mean().item()) < 0.01
    assert abs(normal.std().item() - 1) < 0.01
    assert abs((normal.abs() < 1).float().mean().item() - 0.6827) < 0.005
    assert torch.isfinite(normal).all()
    uniform = counter_rng.uniform(0, "b", positions, 50)
    assert uniform.min() > 0
    assert uniform.max() < 1
    assert abs(uniform.mean().item() - 0.5) < 0.005
    integers = counter_rng.integers(0, "c", torch.arange(50_000), 1, 11)
    counts = torch.bincount(integers, minlength=12)
    assert counts[0] == counts[11] == 0
    assert (counts[1:11] - 5000).abs().max() < 350  # five deviations


def test_numbers_on_a_cpu_are_those_of_the_plain_way() -> None:
    """The way in NumPy against the way in PyTorch, which other devices and tensors without memory take."""
    positions = torch.tensor([0, 7, 2**40 + 3, 12, 2**32])
    for count in (1, 4, 30, 3072):
        block = torch.arange(-(-count // 4))[None, :].expand(5, -1)
        place = positions[:, None].expand_as(block)
        stream = torch.full_like(block, counter_rng.stream_id("a"))
        words = counter_rng.philox((block, stream, place & 0xFFFFFFFF, place >> 32), (9, 0))
        expected = torch.stack(words, dim=-1).flatten(1)[:, :count]
        assert torch.equal(counter_rng.bits(9, "a", positions, count), expected)
    with FakeTensorMode():
        fake = torch.arange(5)
        assert counter_rng.normal(9, "a", fake, (3, 5, 5)).shape == (5, 3, 5, 5)
        assert counter_rng.uniform(9, "a", fake, 6).shape == (5, 6)
