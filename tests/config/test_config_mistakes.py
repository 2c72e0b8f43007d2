"""Every mistake in a configuration is a ConfigError of one sentence that names place, key, value and remedy."""

import os
from pathlib import Path

import pytest

from soda_fast.config import ConfigError, config_from_tree, load_config

VALID = """\
train:
  images: 1000
  decoder_lr: 1e-3
model:
  decoder: {channels: 32, multipliers: [1, 2], attention: [false, true]}
"""

# (the file, or the override on top of VALID, and what the message must contain)
FILES = {
    "unknown key": ("train:\n  images: 5\n  imagse: 6\n", ["c.yaml:3: train.imagse", "did you mean train.images?"]),
    "unknown section": ("trian: {images: 1}\n", ["c.yaml:1: trian: unknown section", "did you mean train?"]),
    "unlike any section": ("zebra: {a: 1}\n", ["zebra", "the sections are run, data, model"]),
    "wrong section": ("train: {images: 5, dropout: 0}\n", ["train.dropout", "did you mean model.decoder.dropout?"]),
    "key at the top": ("seed: 3\n", ["c.yaml:1: seed", "did you mean run.seed?"]),
    "dotted key": ("train.images: 5\n", ["c.yaml:1: train.images", "write images inside of the section train"]),
    "number as key": ("1: 2\n", ["c.yaml:1: 1: unknown key"]),
    "line break in a key": ('"a\\nb": 2\n', ["c.yaml:1: a b: unknown key"]),
    "list as key": ("? [a, b]\n: 2\n", ["c.yaml:1", "a key must be a name"]),
    "duplicate": ("train:\n  images: 5\n  images: 6\n", ["c.yaml:3: images", "written twice", "c.yaml:2"]),
    "duplicate section": ("train: {images: 5}\ntrain: {accumulate: 1}\n", ["c.yaml:2: train: written twice"]),
    "text for a number": ("train: {images: many}\n", ["train.images", '"many"', "whole number > 0"]),
    "quoted number": ("train:\n  images: '64'\n", ["c.yaml:2", '"64"', "without quotes"]),
    "truth for a number": ("train: {images: true}\n", ["found true", "whole number"]),
    "truth for a real number": ("train: {images: 5, clip_norm: true}\n", ["train.clip_norm: found true"]),
    "number for a truth": ("train: {images: 5, deterministic: 1}\n", ["found 1", "true or false"]),
    "text for a truth": ("evaluation: {l2_normalize: 'yes'}\n", ['found "yes"', "true or false"]),
    "YAML 1.1 truth": ("train: {images: 5, deterministic: yes}\n", ['found "yes"', "true or false"]),
    "octal": ("train: {images: 010}\n", ['found "010"', "whole number"]),
    "sexagesimal": ("train: {images: 1:30}\n", ['found "1:30"', "whole number"]),
    "real for a whole number": ("train: {images: 5e6}\n", ["found 5000000.0", "write 5000000"]),
    "number for text": ("run: {dir: 5}\ntrain: {images: 5}\n", ["run.dir: found 5, expected text", "in quotes"]),
    "null": ("train: {images: 5, decoder_lr: null}\n", ["train.decoder_lr: found null, expected a number"]),
    "empty section": ("train:\nrun: {seed: 1}\n", ["c.yaml:1: train: found null, expected the keys"]),
    "section as list": ("model: {encoder: [1]}\n", ["model.encoder: found [1]", "keys of this section"]),
    "mapping for a number": ("train: {images: {a: 1}}\n", ['found {"a": 1}', "whole number"]),
    "empty file": ("", ["c.yaml: train.images and train.epochs are both null"]),
    "only comments": ("# nothing\n", ["both null"]),
    "list at the top": ("- a\n- b\n", ["c.yaml:1", 'found ["a", "b"]', "expected sections"]),
    "text at the top": ("hello\n", ['found "hello"', "expected sections"]),
    "unclosed": ("train: {images: 5\nrun: 3\n", ["c.yaml:", "not valid YAML at column"]),
    "tab": ("train:\n\timages: 5\n", ["c.yaml:2: not valid YAML at column 1"]),
    "two documents": ("train: {images: 5}\n---\nrun: {}\n", ["c.yaml:2", "another document"]),
    "Python tag": ("run: !!python/object/apply:os.system [ls]\n", ["c.yaml:1", "tags (!...) are not supported"]),
    "plain tag": ("train: {images: !!int '5'}\n", ["tags (!...) are not supported"]),
    "alias": ("a: &a [1]\nb: *a\n", ["c.yaml:1", "anchors and aliases are not supported"]),
    "bomb": ("a: &a [x, x]\nb: &b [*a, *a]\nc: &c [*b, *b]\n", ["anchors and aliases"]),
    "merge key": ("run: {<<: {seed: 1}}\n", ["run.<<: unknown"]),
    "deep": ("a: " + "[" * 400 + "]" * 400, ["c.yaml:1", "nested too deeply"]),
    "control character": ("run: {dir: \x07}\n", ["c.yaml: ", "special characters"]),
    "huge number": ("train: {images: " + "9" * 5000 + "}\n", ["train.images", "..."]),
    "beyond 64 bits": ("train: {images: 99999999999999999999}\n", ["train.images", "< 2**63"]),
    "several": ("train:\n  images: 0\n  betas: 3\nrun:\n  sed: 1\n", ["c.yaml:2: train.images", "(2 more mistakes"]),
}

OVERRIDES = {
    "no equals": ("train.images", ["command line: train.images: expected key=value"]),
    "no key": ("=3", ["expected key=value"]),
    "section": ("train=5", ["command line: train: this is a section", "train.images="]),
    "section as mapping": ("data.source={}", ["data.source: this is a section"]),
    "lr": ("train.lr=1", ["train.lr: unknown key; did you mean train.encoder_lr or train.decoder_lr?"]),
    "another trainer's word": ("data.batch_size=1", ["did you mean train.global_batch_images?"]),
    "key within a key": ("evaluation.during.knn=5", ["did you mean evaluation.during?"]),
    "wrong section": ("--optim.weight_decay=0", ["did you mean train.weight_decay?"]),
    "zero": ("train.images=0", ["command line: train.images: found 0, expected a whole number > 0"]),
    "negative": ("data.threads=-1", ["found -1, expected a whole number >= 0"]),
    "above one": ("data.source.flip_probability=1.5", ["found 1.5, expected a number >= 0 and <= 1"]),
    "choice": ("diffusion.schedule=quadratic", ['"quadratic"', "one of linear, cosine, inverted"]),
    "choice or truth": ("perf.compile=1", ["perf.compile: found 1, expected auto, true or false"]),
    "too short": ("train.betas=[0.9]", ["found [0.9], expected a list of 2 values"]),
    "too long": ("data.mean=[0,0,0,0]", ["data.mean", "a list of 3 values", "or null"]),
    "empty list": ("model.decoder.multipliers=[]", ["found []", "at least one value"]),
    "wrong element": ("model.decoder.attention=[0, 1]", ["[0, 1]", "true or false"]),
    "not a number": ("train.encoder_lr=.nan", ["found NaN, expected a number > 0"]),
    "infinite": ("train.encoder_lr=.inf", ["found Infinity, expected a number > 0"]),
    "empty value": ("train.encoder_lr=", ["found null, expected a number > 0"]),
    "no YAML": ("train.betas=[0.9,", ["command line: train.betas: not valid YAML"]),
    "tag": ("train.images=!!python/name:os.system", ["tags (!...) are not supported"]),
    "probe": ("evaluation.during={fid: 5}", ['{"fid": 5}', "knn, linear"]),
    "probe interval": ("evaluation.during={knn: 0}", ['{"knn": 0}', "whole number > 0"]),
    "no probe": ("evaluation.during={}", ["evaluation.during: found {}", "none, or"]),
    "protocol": ("evaluation.protocols=[knn]", ['["knn"]', "knn-dino"]),
    "endless": ("train.epochs=1e300", ["train.epochs: found 1e+300", "<= 1000000"]),
}


def message(tmp_path: Path, text: str, *overrides: str) -> str:
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_config(path, overrides)
    assert "\n" not in str(caught.value)
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    return str(caught.value)


@pytest.mark.parametrize("name", FILES)
def test_file(tmp_path: Path, name: str) -> None:
    text, expected = FILES[name]
    found = message(tmp_path, text)
    for words in expected:
        assert words in found


@pytest.mark.parametrize("name", OVERRIDES)
def test_override(tmp_path: Path, name: str) -> None:
    override, expected = OVERRIDES[name]
    found = message(tmp_path, VALID, override)
    for words in [*expected, "command line: "]:
        assert words in found


def test_file_comes_before_command_line(tmp_path: Path) -> None:
    found = message(tmp_path, "train:\n  images: 5\n  betas: 1\n", "train.clip_norm=0")
    assert "c.yaml:3: train.betas" in found
    assert "(1 more mistake after" in found


def test_override_mends_a_mistake_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("train: {images: many}\n")
    assert load_config(path, ["--train.images=500"]).train.images == 500


def test_paths(tmp_path: Path) -> None:
    binary, large = tmp_path / "binary.yaml", tmp_path / "large.yaml"
    binary.write_bytes(b"run: {dir: \xff}\n")
    large.write_text("#" * (1024 * 1024 + 1))
    cases = {
        tmp_path / "none.yaml": "no such file",
        tmp_path: "this is a folder",
        Path("/dev/null"): "not a regular file",
        binary: "not UTF-8",
        large: "larger than 1 MiB",
        tmp_path / "a\0b": "not a path",
        tmp_path / ("n" * 300): "cannot be read",
    }
    for path, words in cases.items():
        with pytest.raises(ConfigError, match=words):
            load_config(path)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root reads every file")
def test_unreadable(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(VALID)
    path.chmod(0)
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(path)


def test_tree_needs_no_place() -> None:
    with pytest.raises(ConfigError, match=r"^train.images: found -5, expected"):
        config_from_tree({"train": {"images": -5}})
