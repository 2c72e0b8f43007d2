"""What the suite measures, in order of value: what proves correctness first, then speed, then a training.

Before the first part that compiles the training step the caches of Inductor and Triton are empty, and it waits for a
compilation of minutes; those after it find what it has compiled, since nothing here moves the caches from where all
processes of a user share them. So `profile` comes first of them: it is one process, and its batch and networks are the
ladder's.
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
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
    on_gpu, data = options.on_gpu, options.data
    cifar10 = ("--config", CIFAR10, *_overrides(options))
    # A loader's images: real ones if there are any; else random ones, which the benchmarks then say.
    images = _data_keys(data) if data else _random_images(options)

    def sized(gpu: str, cpu: str) -> list[str]:
        return (gpu if on_gpu else cpu).split()

    return [
        Part("environment", "The machine and its ceilings", _module("benchmarks.environment"), 60),
        Part("tests", "Tests that need a GPU", _module("benchmarks.suite.tests"), 300, _why_no_tests(options)),
        Part(
            "profile",
            "Where a training step's time goes",
            _module("benchmarks.suite.profile", *cifar10, "--folder", str(options.folder)),
            240,
        ),
        _ladder(options, "32", CIFAR10, images, 440),
        Part(
            "kernels",
            "The fused normalisation against eager and compiled PyTorch",
            _module(
                "benchmarks.kernels",
                *sized("--batch 512 64", "--device cpu --batch 1 --shapes 1"),
                *sized("--layout channels_last contiguous", "--layout channels_last"),
            ),
            180,
            environment={} if on_gpu else {"TRITON_INTERPRET": "1"},
        ),
        Part(
            "memory",
            "Memory of a training step, predicted and measured",
            _module("benchmarks.memory", *cifar10),
            120,
        ),
        # On one GPU its computation, from two batches, and from that on paper what more of them would give.
        Part(
            "scaling",
            "More GPUs: measured where there are some, and on paper",
            _module("benchmarks.scaling", *cifar10, *sized("", "--steps 4 --warmup 1 --processes 1 2 --gpu H200")),
            300,
        ),
        Part(
            "input_pipeline",
            "Images a second that the loaders make",
            _module(
                "benchmarks.input_pipeline",
                *sized(
                    "--sizes 32 64 --randaugment with --batch 512 --seconds 1",
                    "--images 64 --batch 16 --seconds 0.5 --sizes 32",
                ),
            ),
            240,
        ),
        Part(
            "evaluation",
            "k-NN and probes on features",
            _module("benchmarks.evaluation", *sized("", "--bank 500 --queries 100 --width 16")),
            120,
        ),
        Part(
            "probe_costs",
            "Protocols, encoding included",
            _module(
                "benchmarks.probe_costs",
                *cifar10,
                *sized("--all", "evaluation.protocols=[knn-dino] --train 256 --test 32 --batches 1"),
            ),
            240,
        ),
        # What --data names are CIFAR-10's images.
        _ladder(options, "64", TINY_IMAGENET, _random_images(options), 330),
        _training(options),
    ]


def _module(name: str, *arguments: str) -> tuple[str, ...]:
    return (sys.executable, "-m", name, *arguments)


def _overrides(options: Options) -> tuple[str, ...]:
    return () if options.on_gpu else SMALL


def _data_keys(data: Path) -> tuple[str, ...]:
    """CIFAR-10's official files, or a tree of class folders."""
    return (f"data.root={data}", *(("data.dataset=folder",) if (data / "train").is_dir() else ()))


def _random_images(options: Options) -> tuple[str, ...]:
    return ("--synthetic-images", "50000" if options.on_gpu else "512")


def _why_no_tests(options: Options) -> str:
    if not options.on_gpu:
        return "there is no GPU"
    return "" if is_installed("pytest") else "pytest is not installed"


def _ladder(options: Options, size: str, config: str, images: tuple[str, ...], limit_s: float) -> Part:
    seconds, rung_limit = ("5", "300") if options.on_gpu else ("0.2", "120")
    command = _module(
        "benchmarks.train_step", "--ladder", "--config", config, *_overrides(options), *images,
        "--seconds-per-rung", seconds, "--rung-limit", rung_limit,
    )  # fmt: skip
    return Part(f"ladder_{size}", f"From the reference's recipe to this trainer, {size}x{size}", command, limit_s)


def _training(options: Options) -> Part:
    length, probe = ("1000000", "200000") if options.on_gpu else ("64", "32")
    keys = [
        f"train.images={length}",
        "train.epochs=null",
        "train.warmup_epochs=1",
        f"evaluation.during={{knn: {probe}}}",
    ]
    data = _data_keys(options.data) if options.data else ()
    command = _module("benchmarks.suite.training", "--config", CIFAR10, *data, *keys, *_overrides(options))
    title = "A short training on real images, and what its features are worth"
    return Part("training", title, command, 600, "" if options.data else "--data was not given")
