"""How far few steps are from many: python -m benchmarks.solvers RUN

Test images are made from their z by each solver with several numbers of steps, from the same noise, and compared with
those of the same solver with 100 steps and with those of DPM-Solver++ with 100: PSNR in dB of images in [0, 1].
"""

import argparse
import sys
import time
from pathlib import Path

import torch
from torch import Tensor

from soda_fast.data import load_dataset
from soda_fast.evaluation import psnr
from soda_fast.parallel import start_processes
from soda_fast.pretrained import load
from soda_fast.sampling import with_sampling
from soda_fast.synthesis.studio import Studio

STEPS = (5, 10, 20, 50)
MANY = 100
SOLVERS = ("dpm-solver++", "ddim")


def make(studio: Studio, solver: str, steps: int, images: int) -> tuple[Tensor, float]:
    """(N, 3, T, T) in [0, 1] from the z of the same test images, always from the same noise; and seconds."""
    config = with_sampling(studio.config, {"solver": solver, "steps": steps, "eta": 0.0})
    indices = studio.choose(images)
    camera = studio.cameras(indices)
    z = studio.encode(studio.sources(indices), camera)
    start = time.perf_counter()
    maker = Studio(studio.model, studio.dataset, config, studio.processes)
    made = maker.make(z, torch.arange(len(z)), solver, camera)
    return made.clamp(0, 1), time.perf_counter() - start


def main() -> int:
    """Print a line for each solver and number of steps."""
    parser = argparse.ArgumentParser(prog="benchmarks.solvers", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("run", metavar="RUN", type=Path, help="run directory")
    parser.add_argument("--images", type=int, default=64, help="test images (64)")
    options = parser.parse_args()
    model = load(options.run)
    with start_processes() as processes:
        studio = Studio(model.to(processes.device), load_dataset(model.config.data), model.config, processes)
        many = {solver: make(studio, solver, MANY, options.images)[0] for solver in SOLVERS}
        print("solver        steps  PSNR to own 100 (lowest)  to dpm-solver++ 100 (lowest)  seconds")
        for solver in SOLVERS:
            for steps in STEPS:
                made, seconds = make(studio, solver, steps, options.images)
                own, best = psnr(made, many[solver]), psnr(made, many[SOLVERS[0]])
                print(
                    f"{solver:13} {steps:5}  {own.mean():15.1f} ({own.min():4.1f})  {best.mean():19.1f} "
                    f"({best.min():4.1f})  {seconds:12.2f}"
                )
    return 0


if __name__ == "__main__":
    sys.exit(main())
