"""Who comes when."""

import numpy as np
import pytest

from soda_fast.data.order import local_positions, sample_indices


def test_each_epoch_holds_each_sample_once_in_an_order_of_its_own() -> None:
    epochs = sample_indices(7, np.arange(300), 100).reshape(3, 100)
    assert (np.sort(epochs, axis=1) == np.arange(100)).all()
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert tuple(sample_indices(8, np.arange(100), 100)) not in {tuple(epoch) for epoch in epochs}


def test_a_batch_may_straddle_epochs_and_come_in_any_order() -> None:
    whole = sample_indices(7, np.arange(300), 100)
    assert (sample_indices(7, np.arange(90, 210), 100) == whole[90:210]).all()
    scattered = np.array([250, 3, 120, 99, 100])
    assert (sample_indices(7, scattered, 100) == whole[scattered]).all()


def test_orders_never_change_between_versions() -> None:
    """A resumed run must go on in the order in which it began."""
    assert sample_indices(3, np.arange(12), 10).tolist() == [3, 9, 2, 7, 5, 6, 4, 8, 0, 1, 6, 1]


@pytest.mark.parametrize("world", [1, 2, 3, 4])
@pytest.mark.parametrize("parts", [1, 2])
def test_processes_and_parts_cover_the_global_batch(world: int, parts: int) -> None:
    shares = [
        np.concatenate([local_positions(1000, 24, rank, world, part, parts) for part in range(parts)])
        for rank in range(world)
    ]
    assert all((share == np.arange(1000 + rank, 1024, world)).all() for rank, share in enumerate(shares))
    assert (np.sort(np.concatenate(shares)) == np.arange(1000, 1024)).all()


def test_a_batch_that_cannot_be_divided_is_refused() -> None:
    with pytest.raises(ValueError, match=r"train.global_batch_images 10 is not divisible by 4 .*train.accumulate 2"):
        local_positions(0, 10, rank=0, world=2, part=0, parts=2)
