"""Contradictions between keys. Each rule yields the keys that it speaks of, and one sentence with their values."""

import math
from collections.abc import Callable, Iterator

from soda_fast.config.modulation import guidance_contradiction, sections_contradiction
from soda_fast.config.problems import ConfigError, show
from soda_fast.config.schema import Config, ViewConfig

Contradiction = tuple[tuple[str, ...], str]
OBJECT_DATASETS = ("coil100", "folder", "webdataset")
"""Data sets whose labels may be single objects."""
POSELESS_DATASETS = ("digits", "webdataset")
"""Data sets whose images have no names that poses.csv could tell them by."""
GROUPS = 32
"""Groups of the decoder's normalisations."""
MOST_EMA_LENGTHS = 4
"""Further moving averages: two are enough to make others of, three make that more exact, each takes memory."""
MOST_INVERTED_STEPS = 70_000
"""The inverted schedule ends with betas of 0.999, the more the more timesteps: with 71,000, float32 cannot hold it."""
_LEAST_LOG_SIGNAL = -126 * math.log(2)  # of float32's smallest normal number


def contradictions(config: Config) -> list[Contradiction]:
    """All contradictions in a configuration whose keys are valid one by one."""
    return [found for rule in RULES for found in rule(config)]


def check_world_size(config: Config, world_size: int) -> None:
    """Refuse a batch that cannot be shared out evenly among the processes and their accumulation steps."""
    batch, parts = config.train.global_batch_images, config.train.accumulate
    unit = world_size * parts
    if batch % unit:
        nearest = max(unit, (batch + unit // 2) // unit * unit)
        raise ConfigError(
            f"train.global_batch_images is {batch}, which {world_size} processes times train.accumulate {parts} "
            f"= {unit} do not divide; the nearest batch that fits is {nearest}"
        )


def check_shard_processes(config: Config, world_size: int, local_world_size: int) -> None:
    """Refuse groups of processes that do not come out even."""
    if config.parallel.strategy != "hsdp":
        return
    shard = config.parallel.shard_processes or local_world_size
    if world_size % shard:
        raise ConfigError(
            f"parallel.shard_processes is {shard}, which does not divide the {world_size} processes; "
            "give a divisor, or use parallel.strategy=fsdp"
        )


def _run_length(config: Config) -> Iterator[Contradiction]:
    images, epochs = config.train.images, config.train.epochs
    keys = ("train.images", "train.epochs")
    if images is None and epochs is None:
        yield keys, "train.images and train.epochs are both null; give one of them, as in train.images=1000000"
    if images is not None and epochs is not None:
        yield keys, f"train.images is {images} and train.epochs is {epochs:g}; give one, and set the other to null"


def _paths(config: Config) -> Iterator[Contradiction]:
    for key, path in (("run.dir", config.run.dir), ("data.root", config.data.root)):
        if any("\ud800" <= letter <= "\udfff" for letter in path):  # what Python makes of bytes that are no text
            yield (key,), f"{key} is {show(path)}, which is not UTF-8, as config.yaml is; rename the folder"


def _warmup(config: Config) -> Iterator[Contradiction]:
    images, epochs = config.train.warmup_images, config.train.warmup_epochs
    if images is not None and epochs is not None:
        text = f"train.warmup_images is {images} and train.warmup_epochs is {epochs:g}; give at most one of them"
        yield ("train.warmup_images", "train.warmup_epochs"), text


def _accumulation(config: Config) -> Iterator[Contradiction]:
    batch, parts = config.train.global_batch_images, config.train.accumulate
    if batch % parts:
        text = f"train.global_batch_images is {batch}, which train.accumulate {parts} does not divide"
        yield ("train.global_batch_images", "train.accumulate"), text


def _ema_lengths(config: Config) -> Iterator[Contradiction]:
    lengths, keys = config.train.ema_lengths, ("train.ema_lengths",)
    if len(set(lengths)) < len(lengths):
        yield keys, f"train.ema_lengths is {show(lengths)}, which has a length twice; give each once"
    if len(lengths) > MOST_EMA_LENGTHS:
        text = f"train.ema_lengths is {show(lengths)}, more than {MOST_EMA_LENGTHS} averages; two, as [0.05, 0.1], are "
        yield keys, text + "enough to make others of"


def _small_encoder(config: Config) -> Iterator[Contradiction]:
    encoder = config.model.encoder
    if encoder.arch == "small" and len(encoder.widths) != len(encoder.depths):
        text = (
            f"model.encoder.widths {show(encoder.widths)} and model.encoder.depths {show(encoder.depths)} "
            "must have the same length, one entry for each stage"
        )
        yield ("model.encoder.widths", "model.encoder.depths"), text


def _decoder_channels(config: Config) -> Iterator[Contradiction]:
    channels = config.model.decoder.channels
    if channels % GROUPS:
        text = f"model.decoder.channels is {channels}, but must be a multiple of {GROUPS} (the groups of GroupNorm)"
        yield ("model.decoder.channels",), text


def _decoder_levels(config: Config) -> Iterator[Contradiction]:
    decoder, size = config.model.decoder, config.data.target_size
    keys = ("model.decoder.multipliers", "model.decoder.attention")
    if len(decoder.multipliers) != len(decoder.attention):
        text = (
            f"model.decoder.multipliers {show(decoder.multipliers)} and model.decoder.attention "
            f"{show(decoder.attention)} must have the same length, one entry for each resolution"
        )
        yield keys, text
    halvings = len(decoder.multipliers) - 1
    if size % 2**halvings:
        text = (
            f"data.target_size is {size}, which cannot be halved {halvings} times, once between each two of "
            f"model.decoder.multipliers {show(decoder.multipliers)}; it must be a multiple of {2**halvings}"
        )
        yield ("data.target_size", "model.decoder.multipliers"), text


def _attention_heads(config: Config) -> Iterator[Contradiction]:
    decoder = config.model.decoder
    head = decoder.head_channels
    if head is None:
        return
    attended = [wide for wide, on in zip(decoder.multipliers, decoder.attention, strict=False) if on]
    # The middle of the UNet, at the last resolution, always attends.
    for multiplier in dict.fromkeys([*attended, decoder.multipliers[-1]]):
        if decoder.channels * multiplier % head:
            text = (
                f"model.decoder.head_channels is {head}, which does not divide the {decoder.channels * multiplier} "
                f"channels of an attention (model.decoder.channels {decoder.channels} times {multiplier})"
            )
            yield ("model.decoder.head_channels", "model.decoder.channels", "model.decoder.multipliers"), text


def _betas(config: Config) -> Iterator[Contradiction]:
    diffusion = config.diffusion
    if diffusion.schedule == "linear" and not diffusion.beta_start < diffusion.beta_end < 1:
        text = (
            f"diffusion.beta_start is {diffusion.beta_start} and diffusion.beta_end is {diffusion.beta_end}; "
            "a linear schedule needs beta_start < beta_end < 1"
        )
        yield ("diffusion.beta_start", "diffusion.beta_end"), text


def _signal_left(config: Config) -> Iterator[Contradiction]:
    """At the last timestep a normal float32 number must be left of the signal: losses and samplers divide by it."""
    diffusion = config.diffusion
    start, end, steps = diffusion.beta_start, diffusion.beta_end, diffusion.steps
    if diffusion.schedule == "inverted" and steps > MOST_INVERTED_STEPS:
        text = (
            f"diffusion.steps is {steps}, with which diffusion.schedule inverted leaves nothing of the signal that "
            f"float32 could hold; give at most {MOST_INVERTED_STEPS}"
        )
        yield ("diffusion.steps", "diffusion.schedule"), text
    if diffusion.schedule == "linear" and start < end < 1:
        # The sampler's schedule has a beta more than the training's.
        logarithm = math.fsum(math.log1p(-start - (end - start) * i / steps) for i in range(steps + 1))
        if logarithm < _LEAST_LOG_SIGNAL:
            text = (
                f"diffusion.steps is {steps} with diffusion.beta_end {end:g}, so exp({logarithm:.0f}) of the signal is "
                f"left at the last of them, less than float32 can hold (exp({_LEAST_LOG_SIGNAL:.0f})); lower one of "
                "them: their product should be near 20"
            )
            yield ("diffusion.steps", "diffusion.beta_start", "diffusion.beta_end"), text


def _time_range(config: Config) -> Iterator[Contradiction]:
    diffusion = config.diffusion
    first, last = diffusion.trained_timesteps()
    if first > last:
        text = (
            f"diffusion.time_range is {show(diffusion.time_range)}, which in whole timesteps holds none of the "
            f"{diffusion.steps} of diffusion.steps; give the smaller share first, and at least one timestep, as in "
            "[0.0, 1.0]"
        )
        yield ("diffusion.time_range", "diffusion.steps"), text


def _sampling(config: Config) -> Iterator[Contradiction]:
    steps, known = config.sampling.steps, config.diffusion.steps
    if steps > known:
        text = f"sampling.steps is {steps}, more than the {known} of diffusion.steps"
        yield ("sampling.steps", "diffusion.steps"), text
    if config.sampling.eta and config.sampling.solver != "ddim":
        text = f"sampling.eta is {config.sampling.eta:g}, but sampling.solver {config.sampling.solver} takes no fresh "
        yield ("sampling.eta", "sampling.solver"), text + "noise; use ddim, or set sampling.eta to 0"


def _views(config: Config) -> Iterator[Contradiction]:
    views = {"data.source": config.data.source, "data.target": config.data.target}
    for name, view in {**views, "evaluation.view": config.evaluation.view.as_view()}.items():
        yield from _ordered(name, view)
    yield from _blur("source", config.data.source, config.data.source_size)
    yield from _blur("target", config.data.target, config.data.target_size)


def _ordered(name: str, view: ViewConfig) -> Iterator[Contradiction]:
    ranges = {"crop_scale": view.crop_scale, "crop_ratio": view.crop_ratio, "blur_sigma": view.blur_sigma}
    for key, (low, high) in ranges.items():
        if low > high:
            text = f"{name}.{key} is {show([low, high])}; the smaller must come first, as {show([high, low])}"
            yield (f"{name}.{key}",), text


def _pairs(config: Config) -> Iterator[Contradiction]:
    if config.data.pairs and config.data.dataset not in OBJECT_DATASETS:
        text = (
            f"data.pairs is true, but the labels of data.dataset {config.data.dataset} are kinds of objects, not "
            f"single ones: two images of a label do not show the same thing; use {' or '.join(OBJECT_DATASETS)}"
        )
        yield ("data.pairs", "data.dataset"), text


def _targets(config: Config) -> Iterator[Contradiction]:
    targets = config.data.targets_per_source
    if config.data.pairs and targets > 1:
        text = (
            f"data.targets_per_source is {targets} and data.pairs is true, but a pair has one target, the object's "
            "other image; set data.targets_per_source to 1, or data.pairs to false"
        )
        yield ("data.targets_per_source", "data.pairs"), text


def _poses(config: Config) -> Iterator[Contradiction]:
    if config.model.pose != "none" and config.data.dataset in POSELESS_DATASETS:
        text = (
            f"model.pose is {config.model.pose}, but data.dataset {config.data.dataset} has no poses; lay its images "
            "out in class folders with a poses.csv beside them, store both with soda-fast prepare folder, and use "
            "data.dataset=folder; or set model.pose=none"
        )
        yield ("model.pose", "data.dataset"), text


def _rays(config: Config) -> Iterator[Contradiction]:
    """RandAugment moves pixels, and their rays would stay behind."""
    if config.model.pose == "none":
        return
    for name, view in (("data.source", config.data.source), ("data.target", config.data.target)):
        if view.randaugment_probability and view.randaugment_num_ops:
            text = (
                f"{name}.randaugment_probability is {view.randaugment_probability:g}, but under model.pose rays a "
                "view's pixels must stay where the camera saw them; set it to 0"
            )
            yield (f"{name}.randaugment_probability", "model.pose"), text


def _profile(config: Config) -> Iterator[Contradiction]:
    steps, factor = config.profile.steps, config.profile.slow_factor
    if steps is not None and steps[0] > steps[1]:
        text = f"profile.steps is {show(steps)}; the smaller must come first, as {show((steps[1], steps[0]))}"
        yield ("profile.steps",), text
    if 0 < factor <= 1:
        yield (
            ("profile.slow_factor",),
            f"profile.slow_factor is {factor:g}: every other step is slower than the median; give more than 1, or 0",
        )


def _deterministic(config: Config) -> Iterator[Contradiction]:
    if config.train.deterministic and config.perf.compile_mode == "max-autotune" and config.perf.compile is not False:
        yield (
            ("train.deterministic", "perf.compile_mode"),
            "perf.compile_mode is max-autotune, which chooses kernels by timing them, so a resumed run may compute "
            "with others; train.deterministic rules that out: use perf.compile_mode=default or cuda-graphs, or set "
            "train.deterministic to false",
        )


def _blur(name: str, view: ViewConfig, size: int) -> Iterator[Contradiction]:
    """torchvision reflects the view at its border, which it cannot do farther than the view is wide."""
    if view.blur_probability and (view.blur_kernel % 2 == 0 or view.blur_kernel >= 2 * size):
        text = (
            f"data.{name}.blur_kernel is {view.blur_kernel}; it must be odd and below {2 * size}, twice "
            f"data.{name}_size; a tenth of the view's side is customary"
        )
        yield (f"data.{name}.blur_kernel",), text


RULES: tuple[Callable[[Config], Iterator[Contradiction]], ...] = (
    _run_length,
    _paths,
    _warmup,
    _accumulation,
    _ema_lengths,
    _small_encoder,
    _decoder_channels,
    _decoder_levels,
    _attention_heads,
    _betas,
    _signal_left,
    _time_range,
    _sampling,
    sections_contradiction,
    guidance_contradiction,
    _views,
    _pairs,
    _targets,
    _poses,
    _rays,
    _profile,
    _deterministic,
)
