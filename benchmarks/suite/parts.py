"""What the suite measures, in order of value: what proves correctness first, then speed, then a training.

Before the first part that compiles the training step the caches of Inductor and Triton are empty, and it waits for a
compilation of minutes; those after it find what it has compiled, since nothing here moves the caches from where all
processes of a user share them. So `profile` comes first of them: it is one process, and its batch and networks are the
ladder's.
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from benchmarks.packages import is_installed

CIFAR10, TINY_IMAGENET = "configs/cifar10.yaml", "configs/tiny_imagenet.yaml"
# On a CPU: networks that take milliseconds, to see that every part works.
SMALL = (
    "model.encoder.arch=small",
    "model.encoder.widths=[16,32]",
    "model.encoder.depths=[1,1]",
    "model.encoder.z_dim=16",
    "model.decoder.channels=32",
    "model.decoder.multipliers=[1,2]",
    "model.decoder.attention=[false,true]",
    "model.decoder.blocks=1",
    "data.source_size=16",
    "data.target_size=16",
    "train.global_batch_images=16",
)


@dataclass(frozen=True)
class Part:
    """One part.

    command: without the file that it must write its result to, which `--json` names. limit_s: the longest it may take.
    missing: why it cannot run here; empty: it can. environment: variables it needs.
    """

    name: str
    title: str
    command: tuple[str, ...]
    limit_s: float
    missing: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Options:
    """What the suite was told. data: a folder with CIFAR-10, or with class folders of such images; None: none. folder:
    where results and traces go."""

    on_gpu: bool
    data: Path | None
    folder: Path


def all_parts(options: Options) -> list[Part]:
    """Every part, in order."""
    makers = (
        _environment,
        _tests,
        _profile,
        _ladder_32,
        _kernels,
        _memory,
        _scaling,
        _pipeline,
        _evaluation,
        _probe_costs,
        _ladder_64,
        _training,
    )
    return [make(options) for make in makers]


def _module(name: str, *arguments: str) -> tuple[str, ...]:
    return (sys.executable, "-m", name, *arguments)


def _overrides(options: Options) -> tuple[str, ...]:
    return () if options.on_gpu else SMALL


def _data_keys(data: Path) -> tuple[str, ...]:
    """CIFAR-10's official files, or a tree of class folders."""
    return (f"data.root={data}", *(("data.dataset=folder",) if (data / "train").is_dir() else ()))


def _images(options: Options) -> tuple[str, ...]:
    """Real images if there are any; else random ones, which the benchmarks then say."""
    if options.data:
        return _data_keys(options.data)
    return ("--synthetic-images", "50000" if options.on_gpu else "512")


def _environment(options: Options) -> Part:
    return Part(
        "environment",
        "The machine and its ceilings",
        _module("benchmarks.environment"),
        60,
    )


def _tests(options: Options) -> Part:
    return Part(
        "tests",
        "Tests that need a GPU",
        _module("benchmarks.suite.tests"),
        300,
        missing=_why_no_tests(options),
    )


def _why_no_tests(options: Options) -> str:
    if not options.on_gpu:
        return "there is no GPU"
    return "" if is_installed("pytest") else "pytest is not installed"


def _profile(options: Options) -> Part:
    return Part(
        "profile",
        "Where a training step's time goes",
        _module("benchmarks.suite.profile", "--config", CIFAR10, *_overrides(options), "--folder", str(options.folder)),
        240,
    )


def _kernels(options: Options) -> Part:
    sizes = ("--batch", "512", "64") if options.on_gpu else ("--device", "cpu", "--batch", "1", "--shapes", "1")
    layouts = ("--layout", "channels_last", "contiguous") if options.on_gpu else ("--layout", "channels_last")
    return Part(
        "kernels",
        "The fused normalisation against eager and compiled PyTorch",
        _module("benchmarks.kernels", *sizes, *layouts),
        180,
        environment={} if options.on_gpu else {"TRITON_INTERPRET": "1"},
    )


def _ladder(options: Options, name: str, title: str, config: str, limit_s: float) -> Part:
    seconds = (
        ("--seconds-per-rung", "5", "--rung-limit", "300")
        if options.on_gpu
        else ("--seconds-per-rung", "0.2", "--rung-limit", "120")
    )
    images = _images(options)
    arguments = ("--ladder", "--config", config, *_overrides(options), *images, *seconds)
    return Part(
        name,
        title,
        _module("benchmarks.train_step", *arguments),
        limit_s,
    )


def _ladder_32(options: Options) -> Part:
    return _ladder(options, "ladder_32", "From the reference's recipe to this trainer, 32x32", CIFAR10, 440)


def _ladder_64(options: Options) -> Part:
    without_data = replace(options, data=None)  # what --data names are CIFAR-10's images
    title = "From the reference's recipe to this trainer, 64x64"
    return _ladder(without_data, "ladder_64", title, TINY_IMAGENET, 330)


def _memory(options: Options) -> Part:
    return Part(
        "memory",
        "Memory of a training step, predicted and measured",
        _module("benchmarks.memory", "--config", CIFAR10, *_overrides(options)),
        120,
    )


def _scaling(options: Options) -> Part:
    """On one GPU its computation, from two batches, and from that on paper what more of them would give."""
    size = () if options.on_gpu else ("--steps", "4", "--warmup", "1", "--processes", "1", "2", "--gpu", "H200")
    return Part(
        "scaling",
        "More GPUs: measured where there are some, and on paper",
        _module("benchmarks.scaling", "--config", CIFAR10, *_overrides(options), *size),
        300,
    )


def _pipeline(options: Options) -> Part:
    size = (
        ("--sizes", "32", "64", "--randaugment", "with", "--batch", "512", "--seconds", "1")
        if options.on_gpu
        else ("--images", "64", "--batch", "16", "--seconds", "0.5", "--sizes", "32")
    )
    return Part(
        "input_pipeline",
        "Images a second that the loaders make",
        _module("benchmarks.input_pipeline", *size),
        240,
    )


def _evaluation(options: Options) -> Part:
    size = () if options.on_gpu else ("--bank", "500", "--queries", "100", "--width", "16")
    return Part(
        "evaluation",
        "k-NN and probes on features",
        _module("benchmarks.evaluation", *size),
        120,
    )


def _probe_costs(options: Options) -> Part:
    size = (
        ("--all",)
        if options.on_gpu
        else (
            *SMALL,
            "evaluation.protocols=[knn-dino]",
            "--train",
            "256",
            "--test",
            "32",
            "--batches",
            "1",
        )
    )
    return Part(
        "probe_costs",
        "Protocols, encoding included",
        _module("benchmarks.probe_costs", "--config", CIFAR10, *size),
        240,
    )


def _training(options: Options) -> Part:
    length, probe = ("1000000", "200000") if options.on_gpu else ("64", "32")
    data = _data_keys(options.data) if options.data else ()
    return Part(
        "training",
        "A short training on real images, and what its features are worth",
        _module(
            "benchmarks.suite.training",
            "--config",
            CIFAR10,
            *data,
            f"train.images={length}",
            "train.epochs=null",
            "train.warmup_epochs=1",
            f"evaluation.during={{knn: {probe}}}",
            *_overrides(options),
        ),
        600,
        missing="" if options.data else "--data was not given",
    )
