"""The networks. Knows nothing of processes, files or configurations."""

from soda_fast.model.encoder import ResNetEncoder
from soda_fast.model.rays import ray_channels, ray_features
from soda_fast.model.soda import SODA
from soda_fast.model.unet import UNet

__all__ = ["SODA", "ResNetEncoder", "UNet", "ray_channels", "ray_features"]
