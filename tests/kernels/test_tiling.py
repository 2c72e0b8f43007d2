"""The rule that cuts tensors into programs."""

import pytest

from soda_kernels.group_norm_modulate.tiling import BUDGETS, choose_tiling


@pytest.mark.parametrize("direction", BUDGETS)
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("itemsize", [2, 4])
def test_every_shape_is_covered(direction: str, channels_last: bool, itemsize: int) -> None:
    budget = BUDGETS[direction]
    for num_groups in (1, 2, 7, 8, 32, 96):
        for group_channels in (1, 3, 4, 12, 16, 100, 5000):
            for positions in (1, 16, 63, 1024, 4096, 22801):
                channels = num_groups * group_channels
                tiling = choose_tiling(budget, channels, positions, num_groups, itemsize, channels_last)
                assert num_groups % tiling.groups == 0
                assert tiling.groups <= tiling.block_groups < 2 * tiling.groups
                assert 1 <= tiling.warps <= 16
                slots = tiling.block_groups * tiling.block_channels * tiling.block_positions
                if tiling.whole:
                    assert tiling.block_channels >= group_channels
                    assert tiling.block_positions >= positions
                    assert slots * itemsize <= budget.limit
                else:
                    assert slots * itemsize <= budget.loop_tile
                    assert tiling.groups == 1 or tiling.block_channels >= group_channels


@pytest.mark.parametrize("direction", BUDGETS)
def test_the_32x32_decoder_is_read_once(direction: str) -> None:
    """bfloat16, channels_last: the layout of GPUs."""
    for channels, size, num_groups in (
        (128, 32, 32),
        (128, 32, 8),
        (256, 32, 32),
        (384, 32, 32),
        (512, 16, 32),
        (256, 4, 32),
    ):
        assert choose_tiling(BUDGETS[direction], channels, size * size, num_groups, 2, True).whole
