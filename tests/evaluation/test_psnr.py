"""PSNR of errors that are known."""

import pytest
import torch

from soda_fast.evaluation import psnr


def test_psnr() -> None:
    x = torch.zeros(3, 3, 4, 4)
    y = torch.stack([torch.zeros(3, 4, 4), torch.full((3, 4, 4), 0.1), torch.ones(3, 4, 4)])
    assert psnr(x, y).tolist() == pytest.approx([100.0, 20.0, 0.0], abs=1e-5)
    with pytest.raises(ValueError, match="give two equal"):
        psnr(x, y[:2])
