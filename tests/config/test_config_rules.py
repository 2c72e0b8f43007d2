"""Contradictions between keys, and lengths in images."""

from pathlib import Path

import pytest

from soda_fast.config import (
    Config,
    ConfigError,
    check_world_size,
    config_from_tree,
    horizon_warning,
    load_config,
    run_length_images,
    warmup_images,
)

SMALL = ["model.encoder.arch=small"]
# (overrides of a valid configuration, what the message must contain)
RULES = {
    "both lengths": (["train.images=1000", "train.epochs=3"], ["train.images is 1000", "train.epochs is 3"]),
    "no length": (["train.images=null"], ["train.images and train.epochs are both null"]),
    "a path that is no text": (["run.dir=runs/\udcff"], ["run.dir is", "not UTF-8", "rename the folder"]),
    "both warm-ups": (["train.warmup_images=1", "train.warmup_epochs=2"], ["warmup_images is 1", "warmup_epochs is 2"]),
    "accumulation": (["train.accumulate=3"], ["global_batch_images is 512", "accumulate 3"]),
    "stages": ([*SMALL, "model.encoder.depths=[1]"], ["widths [32, 64, 128]", "depths [1]", "same length"]),
    "channels": (["model.decoder.channels=48"], ["model.decoder.channels is 48", "multiple of 32"]),
    "attention": (["model.decoder.attention=[true]"], ["multipliers [1, 2, 2, 2]", "attention [true]"]),
    "target size": (["data.target_size=36"], ["data.target_size is 36", "halved 3 times", "multiple of 8"]),
    "heads": (["model.decoder.head_channels=48"], ["head_channels is 48", "256 channels"]),
    "heads in the middle": (
        ["model.decoder.head_channels=128", "model.decoder.multipliers=[1,2,2,1]", "model.decoder.channels=64"],
        ["head_channels is 128", "64 channels"],
    ),
    "kernels chosen by timing": (
        ["train.deterministic=true", "perf.compile_mode=max-autotune"],
        ["compile_mode is max-autotune", "train.deterministic rules that out", "default or cuda-graphs"],
    ),
    "betas": (["diffusion.beta_start=0.5"], ["beta_start is 0.5", "beta_end is 0.02"]),
    "last beta": (["diffusion.beta_end=1.0"], ["beta_end is 1.0", "< 1"]),
    "no signal left": (
        ["diffusion.beta_end=0.2"],
        ["steps is 1000", "beta_end 0.2", "exp(-108) of", "exp(-87)", "near 20"],
    ),
    "no signal left after many steps": (["diffusion.steps=12000"], ["diffusion.steps is 12000", "beta_end 0.02"]),
    "no signal left inverted": (
        ["diffusion.schedule=inverted", "diffusion.steps=71000"],
        ["diffusion.steps is 71000", "inverted leaves nothing", "at most 70000"],
    ),
    "times in the wrong order": (
        ["diffusion.time_range=[0.5, 0.25]"],
        ["time_range is [0.5, 0.25]", "none of the 1000 of", "the smaller share first"],
    ),
    "no time": (
        ["diffusion.time_range=[0.5, 0.5004]"],
        ["time_range is [0.5, 0.5004]", "none of the 1000 of", "at least one"],
    ),
    "sampling steps": (["sampling.steps=1001"], ["sampling.steps is 1001", "1000 of diffusion.steps"]),
    "guidance": (["diffusion.drop_probability=0"], ["sampling.guidance is 0.3", "drop_probability is 0"]),
    "z too narrow": (
        ["model.modulation=layerwise", "model.granularity=block", "model.encoder.z_dim=8"],
        ["z_dim is 8", "9 sections", "4 resolutions of 2 blocks, and the middle", "at least 9"],
    ),
    "masking without sections": (
        ["diffusion.section_drop_probability=0.1"],
        ["section_drop_probability is 0.1", "needs model.modulation layerwise"],
    ),
    "guidance without sections": (["sampling.guidance=[0.1, 0.2]"], ["guidance is [0.1, 0.2]", "layerwise"]),
    "guidance of other sections": (
        ["model.modulation=layerwise", "sampling.guidance=[0.1, 0.2]"],
        ["guidance is [0.1, 0.2], 2 entries", "5 sections", "one number, or 5"],
    ),
    "masking of other sections": (
        ["model.modulation=layerwise", "diffusion.section_drop_probability=[0.1]"],
        ["section_drop_probability is [0.1], 1 entries", "5 sections"],
    ),
    "guidance by sections never dropped": (
        ["model.modulation=layerwise", "sampling.guidance=[0, 0, 0, 0, 1]"],
        ["guidance is [0.0, 0.0, 0.0, 0.0, 1.0]", "section_drop_probability is 0.0", "give one number"],
    ),
    "fresh noise": (["sampling.eta=0.5", "sampling.solver=dpm-solver++"], ["eta is 0.5", "use ddim"]),
    "pairs of kinds": (["data.pairs=true"], ["data.pairs is true", "cifar10", "use coil100 or folder or webdataset"]),
    "pairs of several targets": (
        ["data.pairs=true", "data.dataset=coil100", "data.targets_per_source=2"],
        ["data.targets_per_source is 2", "data.pairs is true", "a pair has one target", "data.pairs to false"],
    ),
    "crop scale": (["data.source.crop_scale=[1,0.5]"], ["data.source.crop_scale is [1.0, 0.5]", "[0.5, 1.0]"]),
    "crop ratio": (["data.target.crop_ratio=[2,1]"], ["data.target.crop_ratio is [2.0, 1.0]"]),
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "c.yaml"
    path.write_text("train:\n  images: 1000\n")
    return path


def config(**train: object) -> Config:
    return config_from_tree({"train": train})


@pytest.mark.parametrize("name", RULES)
def test_contradiction(path: Path, name: str) -> None:
    overrides, expected = RULES[name]
    with pytest.raises(ConfigError) as caught:
        load_config(path, overrides)
    for words in [*expected, "command line: "]:
        assert words in str(caught.value)


def test_contradiction_names_the_line(path: Path) -> None:
    path.write_text("train:\n  images: 1000\n  epochs: 3\n")
    with pytest.raises(ConfigError, match=r"c\.yaml:3: train\.images is 1000"):
        load_config(path)


@pytest.mark.parametrize(
    "overrides",
    [
        ["model.encoder.depths=[1]"],  # not used by a resnet18
        ["diffusion.schedule=cosine", "diffusion.beta_end=1.0"],  # not used by a cosine schedule
        ["diffusion.schedule=inverted", "diffusion.steps=70000"],
        ["diffusion.schedule=cosine", "diffusion.steps=1000000"],
        ["diffusion.steps=8000"],
        ["diffusion.time_range=[0.5, 0.501]"],
        ["model.decoder.head_channels=64"],
        ["diffusion.drop_probability=0", "sampling.guidance=0"],
        ["perf.precision=bf16"],
        ["train.deterministic=true", "perf.compile_mode=cuda-graphs"],
        ["train.deterministic=true", "perf.compile_mode=max-autotune", "perf.compile=false"],
        ["model.modulation=layerwise", "diffusion.section_drop_probability=0.1", "sampling.guidance=[0, 0, 0, 0, 1]"],
        ["model.modulation=layerwise", "sampling.guidance=[1, 1, 1, 1, 1]"],
    ],
)
def test_not_a_contradiction(path: Path, overrides: list[str]) -> None:
    assert load_config(path, overrides)


def test_world_size() -> None:
    check_world_size(config(images=1, accumulate=2), 4)
    with pytest.raises(ConfigError, match=r"global_batch_images is 512.* 6 processes .*accumulate 2 .* fits is 516"):
        check_world_size(config(images=1, accumulate=2), 6)
    with pytest.raises(ConfigError, match="fits is 1000"):
        check_world_size(config(images=1), 1000)


def test_run_length_is_whole_steps() -> None:
    assert run_length_images(config(images=1024), 5) == 1024
    assert run_length_images(config(images=1025), 5) == 1536
    assert run_length_images(config(epochs=1.5), 50_000) == 75_264  # 147 steps of 512


def test_warmup() -> None:
    assert warmup_images(config(images=1), 100) == 0
    assert warmup_images(config(images=1, warmup_images=7), 100) == 7
    assert warmup_images(config(images=1, warmup_epochs=0.5), 100) == 50


def test_horizon() -> None:
    assert horizon_warning(config(epochs=800), 50_000) is None
    warning = horizon_warning(config(epochs=3), 50_000)
    assert warning is not None
    for words in ["train.ema_beta is 0.9999", "5,120,000 images", "150,016 images", "0.97 would fit"]:
        assert words in warning
    assert horizon_warning(config(epochs=3, ema_beta=0.97), 50_000) is None


def test_a_length_on_the_command_line_takes_the_place_of_the_files(path: Path) -> None:
    loaded = load_config(path, ["train.epochs=3", "train.warmup_epochs=1"])
    assert (loaded.train.images, loaded.train.epochs) == (None, 3)
