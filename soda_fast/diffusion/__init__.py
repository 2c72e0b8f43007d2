"""The paper's mathematics: noise schedule, training loss, sampler."""

from soda_fast.diffusion.loss import Noising, denoising_loss, draw_noising, noise_images
from soda_fast.diffusion.sampler import ddim_sample
from soda_fast.diffusion.schedule import NoiseSchedule

__all__ = ["NoiseSchedule", "Noising", "ddim_sample", "denoising_loss", "draw_noising", "noise_images"]
