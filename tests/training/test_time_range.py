"""A part of the schedule alone is trained, and a step that is repeated tells the same timesteps."""

from pathlib import Path

import torch
from training.tiny import BATCH, tiny_tree, trainer_of

from soda_fast.parallel import start_processes
from soda_fast.training.faults import examine_step


def test_a_part_of_the_schedule(tmp_path: Path) -> None:
    tree = tiny_tree(tmp_path, 1)
    tree["diffusion"]["time_range"] = [0.25, 0.75]
    seen: list[torch.Tensor] = []
    with start_processes("cpu") as processes:
        trainer = trainer_of(tree, processes)
        trainer.step.model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[2]))
        for step in range(8):
            trainer.step(trainer.global_batch(BATCH * step))
        told = [finding.timesteps for finding in examine_step(trainer.step, trainer.global_batch(0))]
        trainer.checkpoints.close()
    trained = torch.cat(seen[:8])
    assert trained.min() > 25  # of 100
    assert trained.max() <= 75
    assert len(trained.unique()) > 30  # 43 are to be expected of 96 draws
    assert told == [seen[0].tolist()]
