"""Camera poses as inputs: a ray for each pixel, in Fourier features, concatenated to the image.

A camera of a view is (3, 4): the first three columns take (u, v, 1) to the direction of the ray through the point
(u, v) of the view, not normalised, in the world's coordinates; u runs from 0 to 1 from the left to the right edge, v
from the top to the bottom. The last column is the camera's position, where all its rays begin. All zeros: not known.

The reading of SODA here: source and target rays are concatenated to the inputs of encoder and decoder alike, as the
published implementations of its novel view synthesis do; the paper's authors published no code. Positions and
directions go through NeRF's encoding (Mildenhall et al., arXiv 2003.08934, equation 4), so positions should lie within
about -1..1: the lowest frequency has a period of 2.
"""

import math

import torch
from torch import Tensor


def ray_channels(frequencies: int) -> int:
    """Sine and cosine of each frequency, of three numbers of the position and three of the direction."""
    return 12 * frequencies


def ray_features(camera: Tensor, size: int, frequencies: int) -> Tensor:
    """sin(2^k pi p) and cos(2^k pi p), k = 0..frequencies-1, of each pixel's ray origin and unit direction.

    Args:
        camera: (N, 3, 4) float32.
        size: side S of the view in pixels; rays go through the pixels' centres.
        frequencies: L, positive.

    Returns:
        (N, 12 L, S, S) float32; zeros where the camera is not known.
    """
    origin, direction = rays(camera, size)
    octaves = math.pi * 2.0 ** torch.arange(frequencies, device=camera.device)
    angles = torch.cat((origin, direction), dim=1)[:, :, None] * octaves[:, None, None]
    features = torch.stack((angles.sin(), angles.cos()), dim=2).flatten(1, 3)
    known = camera.flatten(1).ne(0).any(dim=1)
    return features * known[:, None, None, None]


def rays(camera: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Origins and unit directions of the rays through the pixels' centres: (N, 3, S, S) both. Arguments as above."""
    centres = (torch.arange(size, device=camera.device) + 0.5) / size
    across, down, corner, position = camera.float()[..., None, None].unbind(dim=2)
    direction = across * centres + down * centres[:, None] + corner
    return position.expand_as(direction), torch.nn.functional.normalize(direction, dim=1)


def with_rays(images: Tensor, features: Tensor | None, channels: int) -> Tensor:
    """Images (N, 3, S, S) with `channels` more channels: the features, zeros without them, none if channels is 0.

    Raises:
        ValueError: features for a network without channels for them, or of another number.
    """
    found = channels if features is None else features.shape[1]
    if found != channels:
        raise ValueError(f"rays have {found} channels, but the network was built for {channels} (model.pose)")
    if not channels:
        return images
    if features is None:
        features = images.new_zeros(len(images), channels, *images.shape[2:])
    layout = torch.channels_last if images.is_contiguous(memory_format=torch.channels_last) else torch.contiguous_format
    return torch.cat((images, features.to(images.dtype)), dim=1).contiguous(memory_format=layout)
