"""Who comes when."""

import numpy as np
import pytest

from soda_fast.config import ViewConfig
from soda_fast.data.order import local_positions, sample_indices
from soda_fast.data.views import plan


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


WORLDS = (1, 2, 3, 4, 8)
SAMPLES, BATCH = 101, 48  # a prime, so that batches straddle epochs in every way; a multiple of every world
Drawn = tuple[int, tuple[float, ...]]


def drawn_by(rank: int, world: int, parts: int, start: int, batches: int) -> dict[int, Drawn]:
    """What one process makes of its shares of some global batches: {position: (index, all numbers of both plans)}."""
    heights, widths = np.random.default_rng(0).integers(8, 90, (2, SAMPLES))
    view = ViewConfig(jitter_probability=0.5, blur_probability=0.5)
    found: dict[int, Drawn] = {}
    for number in range(batches):
        for part in range(parts):
            where = local_positions(start + number * BATCH, BATCH, rank, world, part, parts)
            index = sample_indices(11, where, SAMPLES)
            plans = [plan(view, 11, stream, where, heights[index], widths[index]) for stream in ("source", "target")]
            numbers = np.concatenate([np.column_stack([*list(vars(p).values())[:-1]]) for p in plans], axis=1)
            for position, sample, row in zip(where.tolist(), index.tolist(), numbers.tolist(), strict=True):
                assert position not in found
                found[position] = (sample, tuple(row))
    return found


@pytest.fixture(scope="module")
def uninterrupted() -> dict[int, Drawn]:
    return drawn_by(0, 1, 1, start=0, batches=14)


@pytest.mark.parametrize("case", range(40))
def test_any_stop_and_any_restart_give_what_one_process_would(case: int, uninterrupted: dict[int, Drawn]) -> None:
    """A run that is stopped up to three times and goes on each time on another number of processes, drawn at random.

    The state that a restart needs is one integer, the images seen."""
    generator = np.random.default_rng(case)
    found: dict[int, Drawn] = {}
    images_seen = 0
    while images_seen < 14 * BATCH:
        left = 14 - images_seen // BATCH
        batches = left if left < 3 else int(generator.integers(1, left + 1))
        world = int(generator.choice(WORLDS))
        parts = int(generator.choice([n for n in (1, 2, 3) if BATCH % (world * n) == 0]))
        shares = [drawn_by(rank, world, parts, images_seen, batches) for rank in range(world)]
        assert len({len(share) for share in shares}) == 1, "equal shares"
        for share in shares:
            assert not found.keys() & share.keys(), "no position twice"
            found |= share
        images_seen += batches * BATCH
    assert found == uninterrupted


def test_every_epoch_of_a_run_holds_every_sample_once(uninterrupted: dict[int, Drawn]) -> None:
    order = [uninterrupted[position][0] for position in range(14 * BATCH)]
    for epoch in range(len(order) // SAMPLES):
        assert sorted(order[epoch * SAMPLES : (epoch + 1) * SAMPLES]) == list(range(SAMPLES))
    assert len({numbers for _, numbers in uninterrupted.values()}) == 14 * BATCH, "no plan twice"
