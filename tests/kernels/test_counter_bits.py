"""The random words of the Triton kernel are those of plain PyTorch, and of Philox's authors."""

import pytest
import torch
from kernel_cases import DEVICE

from soda_fast import counter_rng
from soda_kernels import counter_bits


@pytest.mark.parametrize("seed", [0, 1, 12345, 2**31 + 5, 2**63 + 3, 2**64 - 1])
@pytest.mark.parametrize("count", [1, 2, 4, 7, 192, 1030])
def test_words_are_plain_pytorchs(seed: int, count: int) -> None:
    positions = torch.tensor([0, 1, 77, 2**32 - 1, 2**32, 2**40 + 3, 2**62], device=DEVICE)
    stream = counter_rng.stream_id("noise")
    found = counter_bits(seed, stream, positions, count)
    assert torch.equal(found.cpu(), counter_rng._bits(seed, stream, positions.cpu(), count))


@pytest.mark.parametrize("stream", [0, 1, 16, 2**31 - 1, 2**31, 2**32 - 1])
def test_every_stream_has_its_words(stream: int) -> None:
    """Also those that a launch could take for a constant, a multiple of 16 or a negative number."""
    positions = torch.tensor([0, 2**40 + 3], device=DEVICE)
    found = counter_bits(12345, stream, positions, 6)
    assert torch.equal(found.cpu(), counter_rng._bits(12345, stream, positions.cpu(), 6))


def test_the_authors_known_answer() -> None:
    """Random123's kat_vectors: philox4x32-10, counter and key of the digits of pi."""
    position = torch.tensor([0x03707344_13198A2E], device=DEVICE)
    seed, stream, block = 0x299F31D0_A4093822, 0x85A308D3, 0x243F6A88
    expected = [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1]
    counter = tuple(torch.tensor([word]) for word in (block, stream, 0x13198A2E, 0x03707344))
    assert [int(word) for word in counter_rng.philox(counter, (seed & 0xFFFFFFFF, seed >> 32))] == expected
    found = counter_bits(seed, stream, position, 8)[0].tolist()
    plain = counter_rng._bits(seed, stream, position.cpu(), 8)[0].tolist()
    assert found == plain


def test_no_positions_and_no_words() -> None:
    assert counter_bits(3, 5, torch.empty(0, dtype=torch.int64, device=DEVICE), 4).shape == (0, 4)


def test_positions_that_are_not_neighbours() -> None:
    positions = torch.arange(10, device=DEVICE)[::3]
    assert torch.equal(counter_bits(3, 5, positions, 6), counter_bits(3, 5, positions.contiguous(), 6))
