"""Every key of a configuration: its meaning, its unit, its default. The text under a key is what `--help` prints.

Progress is counted in images everywhere, so that no key changes its meaning with the batch or the number of GPUs.
"""

from dataclasses import field
from typing import Annotated, Literal, get_args

from pydantic import Field

from soda_fast.config.model_schema import DiffusionConfig, ModelConfig, SamplingConfig
from soda_fast.config.types import (
    Dimension,
    EmaLength,
    Epochs,
    Kernels,
    NonNegative,
    NonNegativeFloat,
    Positive,
    PositiveFloat,
    Probability,
    ProbabilityBelowOne,
    Share,
    Switch,
    WarmupEpochs,
    section,
)


@section
class RunConfig:
    """Where the run lives and what its random numbers follow from."""

    dir: str = ""
    """Run directory, on a file system that all machines share; the same directory resumes. Empty: runs/ and the
    configuration file's name."""
    seed: NonNegative = 0
    """Seed of the initial weights, the order, the views, the noise: of everything random."""


@section
class ViewConfig:
    """What happens to one view of an image, in this order. Defaults: the reference implementation's."""

    crop_flip_probability: Probability = 0.95
    """Probability that the view is cropped at random, and then perhaps flipped. Otherwise: the central square."""
    crop_scale: tuple[Share, Share] = (0.08, 1.0)
    """Smallest and largest share of the image's area in a random crop."""
    crop_ratio: tuple[PositiveFloat, PositiveFloat] = (3 / 4, 4 / 3)
    """Smallest and largest width / height of a random crop; drawn log-uniformly."""
    flip_probability: Probability = 0.5
    """Probability that a cropped view is mirrored left to right."""
    randaugment_probability: Probability = 0.65
    """Probability that RandAugment (arXiv 1909.13719) follows."""
    randaugment_num_ops: NonNegative = 2
    """Operations that RandAugment applies one after the other, each drawn from 14."""
    randaugment_magnitude: Annotated[int, Field(ge=0, le=30, strict=True)] = 9
    """Strength of RandAugment's operations, 0..30 (torchvision's 31 bins)."""
    jitter_probability: Probability = 0.0
    """Probability that brightness, contrast, saturation and hue then change, in an order drawn for each view."""
    jitter_brightness: NonNegativeFloat = 0.4
    """Brightness is multiplied by a factor of 1 - this (at least 0) to 1 + this. 0: it stays."""
    jitter_contrast: NonNegativeFloat = 0.4
    """The same for contrast."""
    jitter_saturation: NonNegativeFloat = 0.2
    """The same for saturation."""
    jitter_hue: Annotated[float, Field(ge=0, le=0.5, strict=True)] = 0.1
    """Largest change of hue either way, in turns of the colour circle, 0..0.5."""
    grayscale_probability: Probability = 0.0
    """Probability that the view then loses its colours."""
    blur_probability: Probability = 0.0
    """Probability that a Gaussian then blurs the view."""
    blur_kernel: Positive = 3
    """Pixels, an odd number, at which the Gaussian is cut off; about a tenth of the view's side is customary."""
    blur_sigma: tuple[PositiveFloat, PositiveFloat] = (0.1, 2.0)
    """Smallest and largest deviation of the Gaussian, in pixels; drawn uniformly."""
    solarize_probability: Probability = 0.0
    """Probability that grey levels from `solarize_threshold` on are then inverted."""
    solarize_threshold: Annotated[float, Field(ge=0, le=256, strict=True)] = 128.0
    """The first grey level that solarizing inverts, 0..256."""


@section
class DataConfig:
    """Images, and the two views that the model sees of each."""

    dataset: Literal[
        "digits", "cifar10", "cifar100", "tiny_imagenet", "imagenet", "coil100", "folder", "webdataset"
    ] = "cifar10"
    """Data set. `folder`: any tree of class folders under train/ and optionally val/ or test/ (.jpg, .jpeg, .png; and
    .webp, .bmp, .tif, .tiff, which Pillow decodes whatever the backend). `webdataset`: tar shards of such images with
    labels (.cls or .json), as train/*.tar or train-*.tar, and val or test alike."""
    root: str = "data"
    """Folder that holds the data set, or its store as `soda-fast prepare` made it, which then is what is read (unused
    by digits, which come with scikit-learn)."""
    backend: Literal["auto", "dali", "batched", "torchvision"] = "auto"
    """What decodes and augments. batched: resident images, whole batches at once, on a GPU as `kernels` says, on a CPU
    in C. auto: batched where the images are resident; else DALI where it is installed, else torchvision."""
    kernels: Kernels = "auto"
    """Triton kernels for views on a GPU: one launch resizes (batched), one does all operations on views of at most 64
    pixels (batched, dali). triton: an error where they cannot run. pytorch: hundreds of launches. auto: triton where it
    runs. The views are equal in every bit."""
    source_size: Dimension = 32
    """Side of the square source view, which the encoder sees, in pixels."""
    target_size: Dimension = 32
    """Side of the square target view, which the decoder denoises, in pixels."""
    pairs: Switch = False
    """Source and target are two different images of one object, drawn anew in each epoch, in place of two views of one
    image. Class folders (or labels) must then be single objects: dataset coil100, folder or webdataset."""
    targets_per_source: Dimension = 1
    """Target views of each image. The encoder sees one source view of it, and from that one z the decoder denoises so
    many target views, each with a crop, a timestep, noise and a dropped condition of its own; the loss is their mean.
    An image of a batch, a rate or a length still is one source. Not with data.pairs."""
    camera_drop_probability: ProbabilityBelowOne = 0.1
    """Probability that the camera of a source, and apart from that of a target, is withheld under model.pose rays, so
    that the networks also work with images whose camera nobody knows, as probes and load_encoder have them."""
    mean: tuple[Probability, Probability, Probability] | None = None
    """Mean of the source view's channels, of values in [0, 1]. null: the data set's own."""
    std: tuple[PositiveFloat, PositiveFloat, PositiveFloat] | None = None
    """Deviation of the source view's channels, of values in [0, 1]. null: the data set's own."""
    source: ViewConfig = field(default_factory=ViewConfig)
    """The source view."""
    target: ViewConfig = field(default_factory=ViewConfig)
    """The target view."""
    source_noise: NonNegativeFloat = 0.1
    """Deviation of the Gaussian noise added to the normalised source view in training."""
    threads: NonNegative = 0
    """CPU threads of the data pipeline in each process. 0: the cores divided among the machine's processes."""
    resident_mib: NonNegative = 2048
    """Splits of images of one size that take at most this many MiB decoded are decoded once, into a hidden folder in
    data.root (or ~/.cache/soda_fast), and mapped into memory, one copy for all processes of a machine. 0: none."""
    resident_device_mib: NonNegative = 8192
    """Resident training images that take at most this many MiB are also kept in each GPU's memory, from where the
    batched backend takes them. 0: they are sent batch by batch."""
    on_unreadable: Literal["error", "replace"] = "error"
    """Images that cannot be decoded. error: stop, naming file and cause. replace: the next readable image of the same
    class stands in; unreadable.tsv in the run directory lists them."""
    unreadable_limit: Probability = 0.01
    """Largest share of a split's images that may be replaced; beyond it the run stops."""
    prefetch_batches: Positive = 2
    """Batches that are prepared ahead of the one in use, while the model computes."""


@section
class TrainConfig:
    """The optimisation. Learning rates belong to the global batch, whatever the number of GPUs."""

    images: Positive | None = None
    """How far to train, in images. Give this or `epochs`."""
    epochs: Epochs | None = None
    """How far to train, in passes over the data set. Give this or `images`."""
    global_batch_images: Positive = 512
    """Images of one optimisation step, over all processes."""
    accumulate: Positive = 1
    """Parts into which each process cuts its share of the batch, to save memory."""
    encoder_lr: PositiveFloat = 8.0e-4
    """AdamW's learning rate for the encoder."""
    decoder_lr: PositiveFloat = 4.0e-4
    """AdamW's learning rate for the decoder."""
    weight_decay: NonNegativeFloat = 0.05
    """AdamW's decoupled weight decay, on all parameters."""
    betas: tuple[ProbabilityBelowOne, ProbabilityBelowOne] = (0.9, 0.95)
    """AdamW's betas."""
    clip_norm: PositiveFloat = 1.0
    """Largest L2 norm of the whole gradient; longer ones are scaled down to it."""
    warmup_images: NonNegative | None = None
    """Images over which the learning rates rise linearly from 0. Give this or `warmup_epochs`; neither: no warm-up."""
    warmup_epochs: WarmupEpochs | None = None
    """The same in passes over the data set."""
    ema_beta: ProbabilityBelowOne = 0.9999
    """Decay of the weights' moving average for each step. Its horizon, global_batch_images / (1 - ema_beta) images,
    should be shorter than the run."""
    ema_lengths: tuple[EmaLength, ...] = ()
    """Lengths of further averages, of which averages of other lengths can be made after training (`--ema-length` of
    evaluate, sample and export), as [0.05, 0.1]: the deviation of their profile relative to the run so far (sigma_rel
    of Karras et al., arXiv 2312.02696, section 3). At most 4; each takes as much memory as the weights. Empty: none."""
    ema_snapshot_images: Literal["auto"] | Positive = "auto"
    """Interval of the snapshots of those averages, in images; each is a file of 4 bytes a parameter and stays. auto: a
    32nd of the run."""
    log_every_images: Positive = 25_600
    """Interval of a line in metrics.jsonl and of TensorBoard scalars, in images."""
    save_every_images: Literal["auto"] | NonNegative = "auto"
    """Interval of checkpoints, in images. auto: about ten minutes, by the main process's clock. 0: none before the end.
    The end of the run, and a signal that stops it, are saved in any case."""
    keep_checkpoints: Positive = 2
    """How many of the newest checkpoints stay on disk."""
    keep_every_images: NonNegative = 0
    """Besides those, the first checkpoint at or after each multiple of this many images stays for good. 0: none."""
    max_failed_saves: Positive = 3
    """How many saves in a row may fail (a full disk) until training stops. Until then it goes on."""
    max_skipped_steps: NonNegative = 0
    """Steps whose loss or gradient is NaN or infinite that a run may leave out. The next one stops it."""
    deterministic: Switch = False
    """Use only deterministic kernels on the GPU, and not its JPEG decoder, so that a resumed run is equal bit for bit.
    Slower. Not with perf.compile_mode max-autotune."""


@section
class ProbeViewConfig:
    """The random view of training images in evaluation protocols that have one. Defaults: the reference's."""

    crop_flip_probability: Probability = 0.65
    """Probability that the view is cropped at random, and then perhaps flipped. Otherwise: the central square."""
    crop_scale: tuple[Share, Share] = (0.08, 1.0)
    """Smallest and largest share of the image's area in a random crop."""
    crop_ratio: tuple[PositiveFloat, PositiveFloat] = (3 / 4, 4 / 3)
    """Smallest and largest width / height of a random crop; drawn log-uniformly."""
    flip_probability: Probability = 0.5
    """Probability that a cropped view is mirrored left to right."""

    def as_view(self) -> ViewConfig:
        """The same view, without RandAugment."""
        return ViewConfig(**vars(self), randaugment_probability=0.0)


ProtocolName = Literal[
    "knn-dino",
    "knn-lightly",
    "knn-reference",
    "linear-reference",
    "linear-mae",
    "linear-dinov2",
    "linear-solo",
    "linear-logistic",
]
MeasureName = Literal["reconstruction", "frechet", "frechet-unconditional", "dci"]
PROTOCOL_NAMES: tuple[str, ...] = (*get_args(ProtocolName), *get_args(MeasureName))
DuringName = Literal["knn", "linear", ProtocolName]


@section
class EvaluationConfig:
    """Probes of the frozen encoder: in training on a slice held out of train, at the end on the test split."""

    during: Literal["none"] | Annotated[dict[DuringName, Positive], Field(min_length=1)] = "none"
    """Protocols to run in training and their intervals in images, as {knn-dino: 500000, linear-reference: 5000000}; or
    none. knn and linear are short for these two. All processes encode; each protocol runs with one seed."""
    holdout_fraction: Annotated[float, Field(gt=0, lt=1, strict=True)] = 0.1
    """Share of each training class that the probes in training are tested on, and not fitted to."""
    view: ProbeViewConfig = field(default_factory=ProbeViewConfig)
    """The random view of the training images in protocols that have one. Defaults: the reference implementation's."""
    batch_images: Positive = 512
    """Images that a process encodes at once."""
    protocols: tuple[Literal[ProtocolName, MeasureName], ...] = ("knn-dino", "knn-reference", "linear-reference")
    """Protocols of `soda-fast evaluate`; see soda_fast/evaluation/protocols.py. linear-mae and linear-solo encode the
    training images 90 and 100 times, linear-dinov2 1.6 million images, all through fresh random views. reconstruction,
    frechet, frechet-unconditional and dci measure something else than accuracy: soda_fast/evaluation/measurement.py."""
    made_images: Positive = 2048
    """Test images that the model makes anew for reconstruction and frechet, and images for frechet-unconditional; all
    there are if there are fewer. Frechet distances of different numbers cannot be compared."""
    seeds: Positive = 3
    """Seeds of the linear protocols, run.seed and those after it: mean and deviation are reported."""
    l2_normalize: Switch = False
    """L2-normalise features before all protocols. k-NN and linear-reference do so in any case."""
    feature_precision: Literal["fp32", "bf16"] = "fp32"
    """How features are kept on the device; bf16 needs half the memory. Protocols compute in fp32 or more."""
    encoder_precision: Literal["fp32", "bf16"] = "fp32"
    """In which `evaluate` runs the encoder: bf16 is autocast, faster and a little different. fp32 on a GPU leaves
    convolutions to cuDNN, which PyTorch allows TF32."""
    compile_encoder: Switch = False
    """Let `evaluate` compile the encoder. Pays where images are encoded many times, as for linear-mae."""


@section
class ParallelConfig:
    """How the model is spread over processes."""

    strategy: Literal["fsdp", "hsdp", "ddp"] = "fsdp"
    """fsdp: parameters, gradients and optimizer state sharded over all processes (FSDP2). hsdp: sharded inside each
    group of `shard_processes`, copied across groups. ddp: a copy on each process. Gradients are averaged over all."""
    shard_processes: Positive | None = None
    """Processes that share one copy under hsdp. null: those of one machine."""
    reshard_after_forward: Literal["auto"] | Switch = "auto"
    """Free a block's gathered weights after its forward pass and gather them again for its backward pass: less memory,
    half as much again to send. auto: if all gathered weights are larger than 1 GiB."""
    unit_mib: Literal["auto"] | NonNegative = "auto"
    """Neighbouring blocks are sharded together until their float32 weights have so many MiB: fewer units cost the host
    less time and send larger messages, more of them take less memory and overlap better with computation. A model with
    no more is one unit. 0: each block apart. auto: 16; on a single process, which sends nothing, 1024."""
    timeout_minutes: PositiveFloat = 30.0
    """The longest that a step, a probe, a picture or the writing of a checkpoint may take. When processes wait for each
    other longer than this, those that are behind are named and all end."""


@section
class PerfConfig:
    """Speed. auto: the fastest known for the device."""

    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """Arithmetic of the networks; weights, statistics and losses stay fp32. auto: bf16 on GPUs, fp32 on CPUs."""
    compile: Literal["auto"] | Switch = "auto"
    """torch.compile each block. auto: on GPUs."""
    compile_mode: Literal["default", "max-autotune", "cuda-graphs"] = "default"
    """How to compile. max-autotune: time the variants of each kernel first, which takes minutes. cuda-graphs: start
    each block's kernels as one, for small batches, where the host is slower than the GPU."""
    channels_last: Literal["auto"] | Switch = "auto"
    """Memory layout of activations. auto: on GPUs."""
    activation_checkpointing: Switch = False
    """Keep only the inputs of the decoder's blocks and compute the rest again in the backward pass: less memory, one
    more forward pass of the decoder."""
    kernels: Kernels = "auto"
    """Normalisation and modulation. triton: one fused kernel; pytorch: plain operations. auto: triton on GPUs."""


@section
class ProfileConfig:
    """Looking at single steps: traces, memory snapshots and a summary, in RUN/profile. While a training runs,
    `touch RUN/profile.request` or SIGUSR2 to one of its processes profiles five steps."""

    steps: tuple[NonNegative, NonNegative] | None = None
    """First and last step to trace, counted from the run's beginning (the first step is 0). null: none."""
    slow_factor: NonNegativeFloat = 3.0
    """Profile by itself, at most three times, when a step takes this many times the median of those before. 0: never.
    """


@section
class Config:
    """A training run."""

    run: RunConfig = field(default_factory=RunConfig)
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    diffusion: DiffusionConfig = field(default_factory=DiffusionConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    perf: PerfConfig = field(default_factory=PerfConfig)
    profile: ProfileConfig = field(default_factory=ProfileConfig)
