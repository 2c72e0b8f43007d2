"""Checkpoints of the reference implementation become runs; the Python API reproduces its golden numbers from them."""

import json
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


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize(("ema", "prefix"), [(True, "module."), (False, "module."), (False, "")])
def test_golden_numbers_through_import_and_load(tmp_path: Path, name: str, ema: bool, prefix: str) -> None:
    case = load_case(name)
    checkpoint, config = write(tmp_path, case, reference_file(case, ema, prefix))
    assert main(["import", str(checkpoint), "--config", str(config), str(tmp_path / "run")]) == 0
    model = soda_fast.load(tmp_path / "run")
    a = case.arrays
    torch.testing.assert_close(model.encode(a["source"]), a["z"], **FORWARD)
    torch.testing.assert_close(model.denoise(a["x_t"], a["t"], a["z"], a["drop_mask"]), a["eps"], **FORWARD)
    images = model.sample(a["z"], steps=10, guidance=0.3, x_T=a["x_T"])
    torch.testing.assert_close(images, a["ddim_10_w03"], **FORWARD)


def test_export_keeps_the_numbers(tmp_path: Path) -> None:
    case = load_case(CASES[0])
    checkpoint, config = write(tmp_path, case, reference_file(case))
    import_reference(checkpoint, config, RunDirectory(tmp_path / "run"))
    assert main(["export", str(tmp_path / "run"), str(tmp_path / "out")]) == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "config.json",
        "encoder.safetensors",
        "model.safetensors",
    ]
    a = case.arrays
    torch.testing.assert_close(soda_fast.load(tmp_path / "out").encode(a["source"]), a["z"], **FORWARD)
    encoder, preprocess = soda_fast.load_encoder(tmp_path / "out")
    torch.testing.assert_close(encoder(a["source"]), a["z"], **FORWARD)

    from PIL import Image

    pixels = preprocess(Image.new("L", (50, 40), 128))
    assert pixels.shape == (3, 32, 32)
    described = json.loads((tmp_path / "out" / "config.json").read_text())["preprocess"]
    expected = (128 / 255 - torch.tensor(described["mean"])) / torch.tensor(described["std"])
    torch.testing.assert_close(pixels[:, 3, 4], expected)


def test_encoder_is_torchvisions(tmp_path: Path) -> None:
    """The exported encoder loads strictly into torchvision's ResNet-18 with a 7x7 stem."""
    from safetensors.torch import load_file
    from torchvision.models import resnet18

    case = load_case(CASES[1])
    checkpoint, config = write(tmp_path, case, reference_file(case))
    import_reference(checkpoint, config, RunDirectory(tmp_path / "run"))
    main(["export", str(tmp_path / "run"), str(tmp_path / "out")])
    resnet = resnet18(num_classes=16)
    resnet.load_state_dict(load_file(tmp_path / "out" / "encoder.safetensors"))
    torch.testing.assert_close(resnet.eval()(case.arrays["source"]), case.arrays["z"], **FORWARD)


def test_a_small_stem_needs_two_changes_in_torchvision(tmp_path: Path) -> None:
    """config.json says which."""
    from safetensors.torch import load_file
    from torchvision.models import resnet18

    case = load_case(CASES[0])
    checkpoint, config = write(tmp_path, case, reference_file(case))
    import_reference(checkpoint, config, RunDirectory(tmp_path / "run"))
    main(["export", str(tmp_path / "run"), str(tmp_path / "out")])
    told = json.loads((tmp_path / "out" / "config.json").read_text())["torchvision"]
    assert told["model"] == "resnet18"
    resnet = resnet18(num_classes=told["num_classes"])
    for name, code in told["replace"].items():
        setattr(resnet, name, eval(code, vars(torch.nn)))
    resnet.load_state_dict(load_file(tmp_path / "out" / "encoder.safetensors"))
    torch.testing.assert_close(resnet.eval()(case.arrays["source"]), case.arrays["z"], **FORWARD)


def test_an_exported_file_that_does_not_fit(tmp_path: Path) -> None:
    case = load_case(CASES[0])
    checkpoint, config = write(tmp_path, case, reference_file(case))
    import_reference(checkpoint, config, RunDirectory(tmp_path / "run"))
    main(["export", str(tmp_path / "run"), str(tmp_path / "out")])
    file = tmp_path / "out" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-7])
    with pytest.raises(ValueError, match=r"model\.safetensors is not the file that was exported"):
        soda_fast.load(tmp_path / "out")
    # Exports of earlier versions do not say what their files are.
    described = json.loads((tmp_path / "out" / "config.json").read_text())
    del described["sha256"]
    (tmp_path / "out" / "config.json").write_text(json.dumps(described))
    with pytest.raises(ValueError, match=r"model\.safetensors does not hold what config\.json describes"):
        soda_fast.load(tmp_path / "out")
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
