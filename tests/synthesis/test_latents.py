"""Ways through the space of z, against NumPy and by their defining properties."""

import numpy as np
import pytest
import torch

from soda_fast.synthesis.latents import fine_sections, mix_sections, principal_directions, slerp


def cloud(count: int, *deviations: float) -> torch.Tensor:
    z = torch.randn(count, len(deviations), generator=torch.Generator().manual_seed(0))
    return z * torch.tensor(deviations) + 5


def test_principal_directions_are_eigenvectors_of_the_covariance() -> None:
    z = cloud(50, 0.5, 4.0, 1.0, 2.0)
    found = principal_directions(z, 3)
    values, vectors = np.linalg.eigh(np.cov(z.double().numpy(), rowvar=False))
    for number in range(3):
        expected = vectors[:, -1 - number] * np.sign(vectors[np.abs(vectors[:, -1 - number]).argmax(), -1 - number])
        assert found.vectors[number].numpy() == pytest.approx(expected, abs=1e-5)
        assert found.deviations[number].item() == pytest.approx(np.sqrt(values[-1 - number]), rel=1e-5)
        assert found.shares[number].item() == pytest.approx(values[-1 - number] / values.sum(), rel=1e-5)


@pytest.mark.parametrize(("images", "width", "expected"), [(3, 8, 2), (50, 2, 2), (50, 8, 4)])
def test_no_more_directions_than_there_are(images: int, width: int, expected: int) -> None:
    assert len(principal_directions(cloud(images, *[1.0] * width), 4).vectors) == expected


def test_slerp_keeps_to_the_circle() -> None:
    start, end = torch.tensor([[2.0, 0.0, 0.0]]), torch.tensor([[0.0, 4.0, 0.0]])
    way = slerp(start, end, torch.tensor([[0.0], [0.5], [1.0]]))
    torch.testing.assert_close(way, torch.tensor([[2.0, 0, 0], [3 / 2**0.5, 3 / 2**0.5, 0], [0, 4.0, 0]]))


def test_mixing_takes_fine_sections_first() -> None:
    """Seven elements in three sections: 0-2, 3-4, 5-6; one of three is fine."""
    coarse, fine = torch.zeros(2, 7), torch.ones(2, 7)
    assert mix_sections(coarse, fine, 3).tolist() == [[1, 1, 1, 0, 0, 0, 0]] * 2
    assert [fine_sections(count) for count in (2, 3, 4, 5)] == [1, 1, 2, 2]
