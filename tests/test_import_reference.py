"""Checkpoints of the reference implementation become runs; the Python API reproduces its golden numbers from them."""

import hashlib
import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from golden_cases import CASES, GoldenCase, golden_state, load_case
from torch import Tensor

import soda_fast
from soda_fast.cli import main
from soda_fast.errors import TrainingError
from soda_fast.import_reference import import_reference, reference_config
from soda_fast.run_directory import RunDirectory

FORWARD = {"atol": 1e-4, "rtol": 0.0}


def reference_file(case: GoldenCase, ema: bool = True, prefix: str = "module.") -> dict[str, Any]:
    """A checkpoint as the reference writes it; without the averaged weights, online ones count."""
    state = golden_state(case.description["state_dict"])
    other = {key: torch.zeros_like(value) for key, value in state.items()}
    online = {prefix + key: value for key, value in (other if ema else state).items()}
    checkpoint: dict[str, Any] = {"MODEL": online, "opt": {"state": {}, "param_groups": []}}
    if ema:
        averaged: dict[str, Tensor] = {"initted": torch.tensor(True), "step": torch.tensor(5)}
        averaged |= {f"online_model.{key}": value for key, value in other.items()}
        averaged |= {f"ema_model.{key}": value for key, value in state.items()}
        checkpoint["EMA"] = averaged
    return checkpoint


def write(folder: Path, case: GoldenCase, checkpoint: dict[str, Any], **changes: Any) -> tuple[Path, Path]:
    torch.save(checkpoint, folder / "model.pth")
    (folder / "reference.yaml").write_text(yaml.safe_dump({**case.description["config"], **changes}))
    return folder / "model.pth", folder / "reference.yaml"


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The run that the reference's checkpoint of each case becomes. Tests that change files take a copy."""
    runs = {}
    for name in CASES:
        folder, case = tmp_path_factory.mktemp(name), load_case(name)
        checkpoint, config = write(folder, case, reference_file(case))
        assert main(["import", str(checkpoint), "--config", str(config), str(folder / "run")]) == 0
        runs[name] = folder / "run"
    return runs


@pytest.fixture(scope="module")
def exported(imported: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """What `export` makes of these runs."""
    folders = {name: tmp_path_factory.mktemp("exported") / "out" for name in CASES}
    for name, folder in folders.items():
        assert main(["export", str(imported[name]), str(folder)]) == 0
    return folders


@pytest.mark.parametrize("name", CASES)
def test_golden_numbers_through_import_and_load(imported: dict[str, Path], name: str) -> None:
    model, a = soda_fast.load(imported[name]), load_case(name).arrays
    torch.testing.assert_close(model.encode(a["source"]), a["z"], **FORWARD)
    torch.testing.assert_close(model.denoise(a["x_t"], a["t"], a["z"], a["drop_mask"]), a["eps"], **FORWARD)
    images = model.sample(a["z"], steps=10, guidance=0.3, x_T=a["x_T"])
    torch.testing.assert_close(images, a["ddim_10_w03"], **FORWARD)


@pytest.mark.parametrize("prefix", ["module.", ""])
def test_weights_that_were_not_averaged(tmp_path: Path, imported: dict[str, Path], prefix: str) -> None:
    """A checkpoint without EMA, of one process or of several, becomes the same model."""
    case = load_case(CASES[0])
    checkpoint, config = write(tmp_path, case, reference_file(case, ema=False, prefix=prefix))
    assert main(["import", str(checkpoint), "--config", str(config), str(tmp_path / "run")]) == 0
    found = soda_fast.load(tmp_path / "run").state_dict()
    expected = soda_fast.load(imported[CASES[0]]).state_dict()
    assert found.keys() == expected.keys()
    for name, value in found.items():
        assert torch.equal(value, expected[name]), name


def test_export_keeps_the_numbers(exported: dict[str, Path]) -> None:
    out, a = exported[CASES[0]], load_case(CASES[0]).arrays
    assert sorted(path.name for path in out.iterdir()) == ["config.json", "encoder.safetensors", "model.safetensors"]
    torch.testing.assert_close(soda_fast.load(out).encode(a["source"]), a["z"], **FORWARD)
    encoder, preprocess = soda_fast.load_encoder(out)
    torch.testing.assert_close(encoder(a["source"]), a["z"], **FORWARD)

    from PIL import Image

    pixels = preprocess(Image.new("L", (50, 40), 128))
    assert pixels.shape == (3, 32, 32)
    described = json.loads((out / "config.json").read_text())["preprocess"]
    expected = (128 / 255 - torch.tensor(described["mean"])) / torch.tensor(described["std"])
    torch.testing.assert_close(pixels[:, 3, 4], expected)


def test_encoder_is_torchvisions(exported: dict[str, Path]) -> None:
    """The exported encoder loads strictly into torchvision's ResNet-18 with a 7x7 stem."""
    from safetensors.torch import load_file
    from torchvision.models import resnet18

    a = load_case(CASES[1]).arrays
    resnet = resnet18(num_classes=16)
    resnet.load_state_dict(load_file(exported[CASES[1]] / "encoder.safetensors"))
    torch.testing.assert_close(resnet.eval()(a["source"]), a["z"], **FORWARD)


def test_a_small_stem_needs_two_changes_in_torchvision(exported: dict[str, Path]) -> None:
    """config.json says which."""
    from safetensors.torch import load_file
    from torchvision.models import resnet18

    out, a = exported[CASES[0]], load_case(CASES[0]).arrays
    told = json.loads((out / "config.json").read_text())["torchvision"]
    assert told["model"] == "resnet18"
    resnet = resnet18(num_classes=told["num_classes"])
    for name, code in told["replace"].items():
        setattr(resnet, name, eval(code, vars(torch.nn)))
    resnet.load_state_dict(load_file(out / "encoder.safetensors"))
    torch.testing.assert_close(resnet.eval()(a["source"]), a["z"], **FORWARD)


def test_an_exported_file_that_does_not_fit(tmp_path: Path, exported: dict[str, Path]) -> None:
    shutil.copytree(exported[CASES[0]], tmp_path / "out")
    file = tmp_path / "out" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-7])
    with pytest.raises(ValueError, match=r"model\.safetensors is not the file that was exported"):
        soda_fast.load(tmp_path / "out")
    soda_fast.load_encoder(tmp_path / "out")
    described = json.loads((tmp_path / "out" / "config.json").read_text())
    described["sha256"]["model.safetensors"] = hashlib.sha256(file.read_bytes()).hexdigest()
    (tmp_path / "out" / "config.json").write_text(json.dumps(described))
    with pytest.raises(ValueError, match=r"model\.safetensors does not hold what config\.json describes"):
        soda_fast.load(tmp_path / "out")
    del described["sha256"]
    (tmp_path / "out" / "config.json").write_text(json.dumps(described))
    with pytest.raises(ValueError, match=r"config\.json is not the description of an exported model"):
        soda_fast.load_encoder(tmp_path / "out")


def test_what_does_not_fit_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    case = load_case(CASES[0])
    key = "decoder.middle.res1.conv1.weight"

    def complaint(change: Any, **yaml_changes: Any) -> str:
        checkpoint = reference_file(case, ema=False)
        change(checkpoint["MODEL"])
        path, config = write(tmp_path, case, checkpoint, **yaml_changes)
        capsys.readouterr()
        assert main(["import", str(path), "--config", str(config), str(tmp_path / "run")]) == 2
        assert not (tmp_path / "run").exists()
        return capsys.readouterr().err

    assert f"{key} is missing" in complaint(lambda state: state.pop(f"module.{key}"))
    assert "encoder.surprise is not part" in complaint(
        lambda state: state.update({"module.encoder.surprise": torch.ones(1)})
    )
    assert f"{key} has shape (2, 2)" in complaint(lambda state: state.update({f"module.{key}": torch.ones(2, 2)}))
    assert "dataset is 'mnist'" in complaint(lambda state: None, dataset="mnist")
    assert "section encoder is missing" in complaint(lambda state: None, encoder=None)
    assert f"{key} is a str, expected a tensor" in complaint(lambda state: state.update({f"module.{key}": "x"}))
    assert "dataset is ['cifar10']" in complaint(lambda state: None, dataset=["cifar10"])
    assert "batch_size is nan, expected a number" in complaint(lambda state: None, batch_size=float("nan"))
    shape = {**case.description["config"]["decoder"], "image_shape": 32}
    assert "decoder.image_shape is 32, expected [3, height, width]" in complaint(
        lambda state: None, decoder=shape, dataset=None
    )


def test_unreadable_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    case = load_case(CASES[0])
    _, config = write(tmp_path, case, {"weights": 1})
    for name, content in (("garbage.pth", b"not a checkpoint"), ("empty.pth", b"")):
        (tmp_path / name).write_bytes(content)
        assert main(["import", str(tmp_path / name), "--config", str(config), str(tmp_path / "run")]) == 2
        assert name in capsys.readouterr().err
    assert main(["import", str(tmp_path / "model.pth"), "--config", str(config), str(tmp_path / "run")]) == 2
    assert "expected a dict with MODEL" in capsys.readouterr().err
    assert main(["import", str(tmp_path / "absent.pth"), "--config", str(config), str(tmp_path / "run")]) == 2
    assert "absent.pth: cannot be read" in capsys.readouterr().err


@pytest.mark.parametrize(
    "content", [b"\x80\x02.", b"\x80\x02J\x01", b"\x80\x02h\x05.", b"\x80\x02}]K\x01s.", b"\x80\x04\x8e" + b"\xff" * 8]
)
def test_damaged_pickles_are_told_in_a_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes
) -> None:
    """An empty stack, a torn number, an unknown entry, an impossible key, an absurd length."""
    _, config = write(tmp_path, load_case(CASES[0]), {})
    (tmp_path / "damaged.pth").write_bytes(content)
    with warnings.catch_warnings(action="ignore"):
        assert main(["import", str(tmp_path / "damaged.pth"), "--config", str(config), str(tmp_path / "run")]) == 2
    assert "damaged.pth: not a checkpoint of tensors that torch can read safely" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_an_interrupted_import_can_be_repeated(tmp_path: Path) -> None:
    case = load_case(CASES[0])
    run, paths = RunDirectory(tmp_path / "run"), write(tmp_path, case, reference_file(case))
    run.path.mkdir()
    run.checkpoints.touch()  # where the weights cannot be written
    with pytest.raises((TrainingError, OSError)):
        import_reference(*paths, run)
    assert not run.config.exists()
    run.checkpoints.unlink()
    import_reference(*paths, run)
    run.config.unlink()  # as if interrupted between the weights and config.yaml
    import_reference(*paths, run)
    assert [path.name for path in run.checkpoints.iterdir()] == ["images-000000000000"]
    soda_fast.load(run.path)
    # A run that has gone on is none of that, even without its config.yaml.
    (run.checkpoints / "images-000000000000").rename(run.checkpoints / "images-000000000012")
    run.config.unlink()
    with pytest.raises(ValueError, match="already holds a run"):
        import_reference(*paths, run)


def test_published_configurations_and_text_numbers() -> None:
    published = {
        "dataset": "tiny",
        "encoder": {"arch": "resnet18", "feature_dim": 128, "cifar_small_image": False},
        "decoder": {"image_shape": [3, 32, 32], "n_channels": 128, "z_channels": 128},
        "diffusion": {"betas": ["1e-4", 0.02], "n_T": 1000, "drop_prob": 0.1},
        "batch_size": 64,
        "lrate": "1e-4",
        "lrate_ratio": 2,
    }
    config = reference_config(published, "tiny.yaml", Path("run"))
    assert (config.data.dataset, config.data.source_size, config.data.target_size) == ("tiny_imagenet", 64, 64)
    assert config.model.encoder.stem == "7x7"
    assert config.train.decoder_lr == pytest.approx(4e-4)
    assert config.train.encoder_lr == pytest.approx(8e-4)
    assert config.diffusion.beta_start == pytest.approx(1e-4)
