"""The paper's mathematics: noise schedule, training loss, samplers."""

from soda_fast.diffusion.guidance import Guidance
from soda_fast.diffusion.loss import Noising, denoising_loss, draw_noising, noise_images
from soda_fast.diffusion.objective import expected_prediction, loss_weights
from soda_fast.diffusion.sampler import ddim_sample, dpm_solver_sample
from soda_fast.diffusion.schedule import NoiseSchedule

__all__ = [
    "Guidance",
    "NoiseSchedule",
    "Noising",
    "ddim_sample",
    "denoising_loss",
    "dpm_solver_sample",
    "draw_noising",
    "expected_prediction",
    "loss_weights",
    "noise_images",
]
