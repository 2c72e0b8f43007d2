"""The keys of the networks, of the diffusion and of sampling; see `soda_fast.config.schema`."""

from dataclasses import field
from typing import Annotated, Literal

from pydantic import Field

from soda_fast.config.types import (
    Dimension,
    NonNegative,
    NonNegativeFloat,
    NonNegativeList,
    Positive,
    PositiveFloat,
    PositiveList,
    Probability,
    ProbabilityBelowOne,
    ProbabilityList,
    Switch,
    Timesteps,
    section,
)


@section
class EncoderConfig:
    """The ResNet that squeezes the source view into z."""

    arch: Literal["resnet18", "resnet34", "resnet50", "small"] = "resnet18"
    """torchvision's ResNet of that name, or `small`: BasicBlocks of the widths and depths below."""
    stem: Literal["3x3", "7x7"] = "3x3"
    """First convolution: 3x3 with stride 1 for small images; 7x7 with stride 2 and max pooling as for ImageNet."""
    z_dim: Dimension = 128
    """Width of the latent z."""
    widths: PositiveList = (32, 64, 128)
    """Channels of each stage of the `small` encoder; each stage after the first halves the resolution."""
    depths: PositiveList = (1, 1, 1)
    """Blocks in each stage of the `small` encoder."""


@section
class DecoderConfig:
    """The DDPM UNet that predicts the noise in the target view, told z and t."""

    channels: Dimension = 128
    """Channels at full resolution; a multiple of 32 (the groups of its normalisations)."""
    multipliers: PositiveList = (1, 2, 2, 2)
    """Channels at each resolution, as multiples of `channels`; each resolution is half of the one before."""
    attention: Annotated[tuple[Switch, ...], Field(min_length=1)] = (False, True, False, False)
    """Whether the blocks at each resolution are followed by self-attention."""
    head_channels: Dimension | None = None
    """Channels of an attention head. null: one head of all channels."""
    blocks: Dimension = 2
    """Residual blocks at each resolution on the way down (one more on the way up)."""
    dropout: ProbabilityBelowOne = 0.1
    """Dropout probability inside residual blocks."""
    resample: Literal["conv", "residual"] = "conv"
    """Change of resolution: a convolution, or a residual block with resampling inside."""
    rescale: Switch = False
    """Divide the sum of each block and its shortcut by sqrt(2), as the paper does."""


@section
class ModelConfig:
    """Encoder, decoder, and how z steers the decoder."""

    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    """The encoder."""
    decoder: DecoderConfig = field(default_factory=DecoderConfig)
    """The decoder."""
    modulation: Literal["shared", "layerwise"] = "shared"
    """shared: the whole z modulates every residual block. layerwise: z is split into sections, each of which modulates
    one stage of the way down and its mirror on the way up, the last one the middle (SODA, section 3.2)."""
    granularity: Literal["resolution", "block"] = "resolution"
    """What a stage is under layerwise: all blocks of a resolution, or each block."""
    pose: Literal["none", "rays"] = "none"
    """What the networks are told of the cameras. rays: origin and direction of each pixel's ray, in Fourier features,
    are further channels of the inputs: the source's of the encoder's, the target's of the decoder's. Needs poses.csv
    (soda_fast/data/poses.py) in data.root or in the store; webdataset and digits cannot have it."""
    ray_frequencies: Annotated[int, Field(ge=1, le=16, strict=True)] = 6
    """Frequencies of these features (NeRF's encoding, arXiv 2003.08934); 12 channels each."""
    initialisation: Literal["reference", "paper"] = "reference"
    """Fresh weights. reference: torchvision's for the encoder, PyTorch's for the decoder. paper: Xavier for the
    encoder, truncated normal with deviation 1 / sqrt(inputs) for the decoder, biases 0."""


@section
class DiffusionConfig:
    """The forward process and what the decoder is told of it."""

    schedule: Literal["linear", "cosine", "inverted"] = "linear"
    """Noise schedule: linear betas (DDPM), cosine (arXiv 2102.09672), inverted cosine (SODA, section 3.2)."""
    steps: Timesteps = 1000
    """Number T of timesteps."""
    time_range: tuple[Probability, Probability] = (0.0, 1.0)
    """Part of the schedule that is trained: the timesteps t with low < t/T <= high, both rounded to whole timesteps,
    each t as often as another. What is left out the decoder never learns, so that images cannot be made: for studies of
    what teaches the encoder."""
    beta_start: PositiveFloat = 1.0e-4
    """First beta of the linear schedule."""
    beta_end: PositiveFloat = 0.02
    """Last beta of the linear schedule."""
    time_embedding: Literal["reference", "scaled"] = "reference"
    """Time as the decoder sees it: t/T in (0, 1] as the reference implementation, or scaled to (0, 1000]."""
    prediction: Literal["noise", "x_0", "v"] = "noise"
    """What the decoder predicts: the noise, the clean image, or v (arXiv 2202.00512)."""
    loss_weighting: Literal["uniform", "min-snr"] = "uniform"
    """Weight of the timesteps. uniform: that of the plain squared error of the prediction. min-snr: the error of x_0
    counts min(SNR, min_snr_gamma) (arXiv 2303.09556)."""
    min_snr_gamma: PositiveFloat = 5.0
    """gamma of min-snr."""
    drop_probability: ProbabilityBelowOne = 0.1
    """Probability that a sample is denoised without z, for classifier-free guidance."""
    section_drop_probability: ProbabilityBelowOne | ProbabilityList = 0.0
    """Layer masking: probability that a section of z is dropped, independently of the others. One number, or one for
    each section under model.modulation layerwise, the finest resolution's first and the middle's last."""

    def trained_timesteps(self) -> tuple[int, int]:
        """The first and the last timestep of `time_range`."""
        low, high = self.time_range
        return round(low * self.steps) + 1, round(high * self.steps)


@section
class SamplingConfig:
    """How images are made, and the grids that a run writes: source, target, reconstruction from the source's z."""

    every_images: NonNegative = 0
    """Interval in images of training. 0: only at the end."""
    images: Positive = 10
    """Images in a row of a grid."""
    batch_images: Positive = 128
    """Images that a process makes at once for `soda-fast sample` and `evaluate`; memory grows with it."""
    steps: Positive = 20
    """Steps of the solver; at most diffusion.steps. 20 of dpm-solver++ look like 100; ddim needs 100 or more."""
    guidance: NonNegativeFloat | NonNegativeList = 0.3
    """Weight w of classifier-free guidance: (1 + w) with z - w without. Or one for each section of z, the finest
    resolution's first: a section with a larger weight shapes the image more."""
    solver: Literal["ddim", "dpm-solver++"] = "dpm-solver++"
    """dpm-solver++: of second order (arXiv 2211.01095), ending with the decoder's x_0 at the first timestep. ddim: as
    the reference implementation, on its schedule, which needs five times the steps and leaves the noise of its first
    beta (much of it on the inverted schedule)."""
    eta: Probability = 0.0
    """Share of fresh noise in each step of ddim. 0: the image is a function of z and the starting noise."""
