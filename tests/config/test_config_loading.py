"""Reading, writing and explaining configurations."""

import random
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from soda_fast.config import Config, ConfigError, config_from_tree, help_text, load_config, run_length_images, to_yaml
from soda_fast.config.help import WIDTH, documentation_of_keys
from soda_fast.config.keys import KEYS, SECTIONS
from soda_fast.config.suggest import OTHER_NAMES

FOLDER = Path(__file__).parents[2] / "configs"
CONFIGS = sorted(FOLDER.glob("*.yaml"))
UNUSUAL = [
    "train.encoder_lr=1e-7",
    "train.weight_decay=1e17",
    "data.mean=[0,0.5,1]",
    "evaluation.during={linear: 7}",
    "perf.compile=false",
    "run.seed=9223372036854775807",
]
JUNK = [
    "",
    "null",
    "true",
    "-1",
    "1e999",
    "[",
    "{a: b}",
    "'",
    "&a",
    "*a",
    "!!set {}",
    "- x",
    ": :",
    "\t",
    "\x00",
    "é",
    "%",
]
DIRECTORIES = [
    "1e3",
    "on",
    "null",
    "",
    "a: b # c",
    "ü/\t",
    "0x10",
    "it's",
    "line\nline",
    "~",
    "7",
    "'quoted'",
]


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_shipped_configuration(path: Path) -> None:
    """Each loads, is a claim that says how to check it, and takes its run directory from its name."""
    config = load_config(path)
    header = path.read_text().split("\n\n")[0]
    assert all(line.startswith("#") for line in header.splitlines())
    for word in ["Command:", "Hardware:", "Time:", "Expected:", f"configs/{path.name}"]:
        assert word in header
    assert config.run.dir == f"runs/{path.stem}"
    # Few steps that look like many: tests/diffusion/test_samplers.py.
    assert (config.sampling.solver, config.sampling.steps) == ("dpm-solver++", 20)
    assert config_from_tree(yaml.safe_load(to_yaml(config))) == config


def test_shipped_configurations_are_found() -> None:
    assert {"cifar10", "cifar100", "demo_digits", "tiny_imagenet"} <= {path.stem for path in CONFIGS}


@pytest.mark.parametrize("directory", DIRECTORIES, ids=ascii)
def test_to_yaml_loads_back(tmp_path: Path, directory: str) -> None:
    first = load_config(CONFIGS[0], [*UNUSUAL, f"run.dir={directory}"])
    assert not directory or first.run.dir in (directory, directory.strip("'"))
    copy = tmp_path / "copy.yaml"
    copy.write_text(to_yaml(first), encoding="utf-8")
    assert load_config(copy) == first
    assert config_from_tree(asdict(first)) == first
    # Plain YAML: another reader sees the same numbers and no tags.
    tree = yaml.safe_load(to_yaml(first))
    assert tree["train"]["encoder_lr"] == 1e-7
    assert tree["run"]["dir"] == first.run.dir
    assert "!" not in to_yaml(first)


def test_values() -> None:
    config = load_config(CONFIGS[0], ["train.decoder_lr=1e-3", "train.images=null", "--train.epochs=1", "data.root=1"])
    assert (config.train.decoder_lr, config.train.epochs, config.data.root) == (1e-3, 1.0, "1")
    assert isinstance(config.train.epochs, float)
    assert config.train.betas == (0.9, 0.95)


def test_last_override_counts() -> None:
    assert load_config(CONFIGS[0], ["run.seed=1", "run.seed=2"]).run.seed == 2


def test_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_bytes(b"\xef\xbb\xbftrain: {images: 5}\r\n")
    assert load_config(path).train.images == 5


def test_help_mentions_every_key_and_what_it_means() -> None:
    text = help_text()
    documentation = documentation_of_keys()
    assert max(len(line) for line in text.splitlines()) <= WIDTH
    for name, key in KEYS.items():
        assert f"  {name}\n" in text
        assert key.accepts.split()[0] in text
        assert documentation[name].endswith((".", ")")), f"{name} has no documentation"
    for section, cls in SECTIONS.items():
        assert f"{section}: " in text
        assert cls.__doc__


def test_defaults_of_the_table_are_those_of_the_schema() -> None:
    tree = asdict(Config())
    for name, key in KEYS.items():
        node = tree
        for part in name.split("."):
            node = node[part]
        assert node == key.default


def test_other_names_lead_to_keys() -> None:
    assert {key for keys in OTHER_NAMES.values() for key in keys} <= set(KEYS)
    assert not set(OTHER_NAMES) & {name.rpartition(".")[2] for name in KEYS}


def test_torch_is_not_imported() -> None:
    code = (
        "import sys; import soda_fast.config as c; c.help_text(); c.load_config(sys.argv[1]);"
        "sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(CONFIGS[0])], check=False).returncode == 0


def test_mutations_never_escape_as_other_errors(tmp_path: Path) -> None:
    """Whatever a file holds: a configuration or a ConfigError."""
    draw = random.Random(0)
    refused = []
    for _ in range(400):
        path = tmp_path / "mutated.yaml"
        path.write_text(mutate(draw.choice(CONFIGS).read_text(), draw), encoding="utf-8")
        overrides = [f"{draw.choice(list(KEYS))}={draw.choice(JUNK)}"] if draw.random() < 0.3 else []
        try:
            config = load_config(path, overrides)
            assert run_length_images(config, 1000) > 0
        except ConfigError as error:
            refused.append(str(error))
    assert 100 < len(refused) < 400
    assert not any("\n" in message for message in refused)


def mutate(text: str, draw: random.Random) -> str:
    lines = text.splitlines()
    for _ in range(draw.randint(1, 2)):
        row = draw.randrange(len(lines))
        key, colon, _ = lines[row].partition(":")
        choice = draw.randrange(4)
        if choice == 0:
            del lines[row]
        elif choice == 1:
            lines[row] = f"{key}{colon} {draw.choice(JUNK)}"
        elif choice == 2:
            lines[row] = " " * draw.randint(0, 6) + lines[row].lstrip()
        else:
            column = draw.randrange(len(lines[row]) + 1)
            lines[row] = lines[row][:column] + draw.choice(JUNK) + lines[row][column:]
    return "\n".join(lines) + "\n"


# The ablations of configs/cifar10.yaml, and the keys in which each differs from it.
ABLATIONS = {
    "layerwise": {"model.modulation"},
    "layerwise_blocks": {"model.modulation", "model.granularity"},
    "masking": {"model.modulation", "diffusion.section_drop_probability"},
    "inverted": {"diffusion.schedule"},
    "scaled_time": {"diffusion.time_embedding"},
    "cosine": {"diffusion.schedule"},
    "v": {"diffusion.prediction"},
    "x_0": {"diffusion.prediction"},
    "rescaled": {"model.decoder.rescale"},
    "always_z": {"diffusion.drop_probability", "sampling.guidance"},
    "min_snr": {"diffusion.loss_weighting"},
    "paper_weights": {"model.initialisation", "model.decoder.rescale"},
    "clean_target": {"data.target.randaugment_probability"},
    "fast": {
        "diffusion.schedule",
        "train.epochs",
        "train.warmup_epochs",
        "train.ema_beta",
        "sampling.every_images",
        "evaluation.during.knn",
    },
    "paper": {
        "model.modulation",
        "model.initialisation",
        "model.decoder.rescale",
        "diffusion.schedule",
        "diffusion.time_embedding",
        "diffusion.section_drop_probability",
    },
}


def flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in tree.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return found


@pytest.mark.parametrize("name", ABLATIONS)
def test_an_ablation_differs_in_its_own_keys_alone(name: str) -> None:
    ours, theirs = (
        flat(asdict(replace(config, run=replace(config.run, dir=""))))
        for config in (load_config(FOLDER / f"cifar10_{name}.yaml"), load_config(FOLDER / "cifar10.yaml"))
    )
    assert {key for key in ours if ours[key] != theirs[key]} == ABLATIONS[name]
