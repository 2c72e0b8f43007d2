"""SODA: an encoder and a decoder that meet in z."""

import torch
from torch import Tensor, nn

from soda_fast.model.encoder import ResNetEncoder
from soda_fast.model.unet import UNet
from soda_fast.spans import span


class SODA(nn.Module):
    """The encoder squeezes the source view into z; the decoder, told only z and t, denoises the target view.

    Args:
        encoder, decoder: the networks.
        steps: number T of timesteps.
        time_scale: the decoder sees time_scale * t / T. 1 as in the reference implementation; 1000 spreads the
            sinusoidal embedding over the whole range.
    """

    def __init__(self, encoder: ResNetEncoder, decoder: UNet, steps: int = 1000, time_scale: float = 1.0) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder, decoder
        self.steps, self.time_scale = steps, time_scale

    @property
    def blocks(self) -> list[list[nn.Module]]:
        """The repeated parts, which are compiled one by one: the encoder's and the decoder's, each run as a whole."""
        return [list(self.encoder.stages), list(self.decoder.blocks)]

    @property
    def compiled_methods(self) -> list[tuple[nn.Module, str]]:
        """What is worth compiling, one by one, as (module, name of a method): all but single operations."""
        return [
            (self.encoder, "stem"),
            (self.decoder.time_emb, "forward"),
            *((block, "forward") for network in self.blocks for block in network),
        ]

    def encode(self, images: Tensor, rays: Tensor | None = None) -> Tensor:
        """Normalised images (N, 3, S, S) -> z (N, D). rays: see `ray_features`; None: the camera is not known."""
        return self.encoder(images, rays)

    def features(self, images: Tensor, rays: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Normalised images (N, 3, S, S) -> z (N, D), and the encoder's pooled features (N, F). rays: as above."""
        return self.encoder.features(images, rays)

    def denoise(
        self,
        x_t: Tensor,
        t: Tensor,
        z: Tensor,
        drop_mask: Tensor,
        dropout_seed: Tensor | None = None,
        rays: Tensor | None = None,
    ) -> Tensor:
        """What the decoder was trained to predict of x_t: its noise; or x_0 or v, as `diffusion.prediction` says.

        Args:
            x_t: (N, 3, T, T), noised images of values around [-1, 1].
            t: (N,) integers in 1..steps.
            z: (N, D).
            drop_mask: (N,), 1 where the sample is denoised without z (its z becomes 0); or (N, S), 1 where it is
                denoised without that of the S = decoder.sections.count sections of z (SODA's layer masking).
            dropout_seed: (N,) int64, one a sample, or 0-d; needed in training if the decoder has dropout.
            rays: (N, C, T, T), of the target's camera (`ray_features`); None: it is not known.

        Returns:
            (N, 3, T, T).

        Raises:
            ValueError: drop_mask has columns, but not one for each section of z.
        """
        return self._denoise(x_t, t, z, drop_mask, dropout_seed, rays)

    def forward(
        self,
        source: Tensor,
        x_t: Tensor,
        t: Tensor,
        drop_mask: Tensor,
        dropout_seed: Tensor | None = None,
        source_rays: Tensor | None = None,
        target_rays: Tensor | None = None,
    ) -> Tensor:
        """As `denoise`, told z of the source view. Shapes as in `encode` and `denoise`.

        source may have fewer rows, N / K: the K targets of a source, next to each other in x_t and all that belongs to
        it, are then told the same z, which is computed once.
        """
        # Not through `encode` and `denoise`: to FSDP these are entries of their own, each with its hooks.
        with span("encoder"):
            z = self.encoder(source, source_rays)
        with span("decoder"):
            z = z[:, None].expand(-1, len(x_t) // len(z), -1).flatten(0, 1)
            return self._denoise(x_t, t, z, drop_mask, dropout_seed, target_rays)

    def _denoise(
        self,
        x_t: Tensor,
        t: Tensor,
        z: Tensor,
        drop_mask: Tensor,
        dropout_seed: Tensor | None,
        rays: Tensor | None,
    ) -> Tensor:
        time = t.float() * (self.time_scale / self.steps)
        z = z * self._kept(drop_mask, z)
        return self.decoder(x_t, time, z, dropout_seed, rays)

    def _kept(self, drop_mask: Tensor, z: Tensor) -> Tensor:
        """1 where an element of z is kept, else 0: (N, D), or (N, 1) for a mask of whole z."""
        kept = 1 - drop_mask.to(z.dtype)
        if drop_mask.ndim == 1:
            return kept[:, None]
        sections, width = self.decoder.sections.count, z.shape[1]
        if drop_mask.shape[1] != sections:
            raise ValueError(
                f"drop_mask has {drop_mask.shape[1]} columns, but z has {sections} sections; give (N,) "
                f"or (N, {sections})"
            )
        return kept[:, torch.arange(width, device=z.device) * sections // width]
