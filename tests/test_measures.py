"""Measures through `evaluate`: the numbers of a small run, alone and on two processes, in any encoder's features."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from spawn import run_in_processes
from training.tiny import run_tiny, tiny_tree

import soda_fast
from soda_fast.cli import main
from soda_fast.data import load_dataset
from soda_fast.evaluate import newest_picture
from soda_fast.evaluation import frechet_distance, psnr, ssim
from soda_fast.parallel import start_processes
from soda_fast.pretrained import load_run
from soda_fast.synthesis.studio import Studio

MEASURES = ["reconstruction", "frechet", "frechet-unconditional"]
IMAGES = 10


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Targets of twelve pixels, so that SSIM's window fits; batches of four, so that two processes share them."""
    path = tmp_path_factory.mktemp("measures") / "run"
    tree = tiny_tree(path, steps=3)
    tree["data"]["target_size"] = 12
    tree["sampling"] |= {"batch_images": 4, "solver": "dpm-solver++"}
    tree["evaluation"] = {"made_images": IMAGES, "batch_images": 4}
    run_tiny(tree)
    return path


def evaluate(run: Path, *options: str) -> int:
    torch.set_num_threads(1)
    return main(["evaluate", str(run), *options])


def measured(file: Path) -> dict[str, float]:
    entries: list[dict[str, Any]] = json.loads(file.read_text())["measures"]
    return {" ".join((e["encoder"], e["protocol"], e["measure"], e["features"])).strip(): e["value"] for e in entries}


def test_values_are_those_of_the_images(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate(run, "--protocols", *MEASURES) == 0
    found = measured(run / "evaluation.json")
    table = capsys.readouterr().out
    for words in ("PSNR", "dB", "SSIM", "frechet-unconditional", "lower is better"):
        assert words in table
    assert "top-1" not in table

    model = soda_fast.load(run)
    with start_processes("cpu") as processes:
        studio = Studio(model, load_dataset(model.config.data), model.config, processes)
        indices = studio.choose(IMAGES)
        real = studio.targets(indices)
        made = studio.make(model.encode(studio.sources(indices)), torch.arange(IMAGES), "")
        made = (made.clamp(0, 1) * 255).round() / 255
        small = torch.nn.functional.interpolate(torch.cat((real, made)), size=8, mode="bilinear", antialias=True)
        mean, std = (torch.tensor(v)[:, None, None] for v in (studio.dataset.mean, studio.dataset.std))
        z = model.encode((small - mean) / std)
    assert found["trained reconstruction PSNR"] == pytest.approx(psnr(real, made).mean().item(), abs=0.02)
    assert found["trained reconstruction SSIM"] == pytest.approx(ssim(real, made).mean().item(), abs=0.002)
    distance = frechet_distance(z[:IMAGES], z[IMAGES:])
    assert found["trained frechet Frechet distance z"] == pytest.approx(distance, rel=0.01)
    assert found["trained frechet-unconditional Frechet distance pooled"] > 0


def test_two_processes_measure_the_same(run: Path) -> None:
    assert evaluate(run, "--protocols", "knn-reference", *MEASURES) == 0
    alone = json.loads((run / "evaluation.json").read_text())
    assert run_in_processes(evaluate, 2, run, "--protocols", "knn-reference", *MEASURES) == [0, 0]
    together = json.loads((run / "evaluation.json").read_text())
    assert together["measures"] == alone["measures"]
    assert [r["accuracy"] for r in together["results"]] == [r["accuracy"] for r in alone["results"]]


def test_features_of_another_encoder(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A run's encoder by name is the run's own; another one gives other distances, of the same images."""
    assert evaluate(run, "--protocols", *MEASURES) == 0
    own = measured(run / "evaluation.json")
    spec = f"run:{run}"
    assert evaluate(run, "--protocols", "frechet", "--encoder", spec) == 0
    (named,) = (file for file in run.glob("evaluation-run-*.json"))
    distance = measured(named)[f"{spec} frechet Frechet distance output"]
    assert distance == pytest.approx(own["trained frechet Frechet distance z"], rel=1e-3)
    named.unlink()
    assert evaluate(run, "--protocols", *MEASURES, "--encoder", "torchvision:resnet18") == 0
    (another,) = run.glob("evaluation-torchvision-resnet18-*.json")
    other = measured(another)
    assert other["torchvision:resnet18 reconstruction PSNR"] == own["trained reconstruction PSNR"]
    assert other["torchvision:resnet18 frechet Frechet distance output"] > 0
    entry = json.loads(another.read_text())["measures"][0]
    assert entry["setting"]["made_by"] == "images-000000000036"
    capsys.readouterr()
    assert main(["compare", str(run)]) == 0
    table = capsys.readouterr().out
    assert table.count("reconstruction") == 4
    assert "torchvision:resnet18  output" in table


def test_dci_of_baselines_too(run: Path) -> None:
    assert evaluate(run, "--protocols", "dci", "--baselines", "untrained", "pixels") == 0
    found = measured(run / "evaluation.json")
    assert set(found) == {
        f"{encoder} dci {measure} z"
        for encoder in ("trained", "untrained")
        for measure in ("disentanglement", "completeness", "informativeness (error)")
    }
    assert all(0 < value < 1.2 for value in found.values())


@pytest.mark.parametrize("part", ["encoder", "decoder"])
def test_a_model_that_has_diverged(
    run: Path, part: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One sentence; and accuracies that were finished before are in the report."""

    def load_diverged(*arguments: Any, **named: Any) -> Any:
        model, *others = load_run(*arguments, **named)
        with torch.no_grad():
            next(reversed(list(model.get_submodule(part).parameters()))).fill_(math.nan)
        return model, *others

    monkeypatch.setattr("soda_fast.evaluate.load_run", load_diverged)
    protocols = {"encoder": ["dci"], "decoder": ["knn-reference", "reconstruction"]}[part]
    report = run / "evaluation.json"
    report.unlink(missing_ok=True)
    assert evaluate(run, "--protocols", *protocols) == 2
    what = {"encoder": "features of shapes: 1500 of 1500", "decoder": f"images made from z: {IMAGES} of {IMAGES}"}
    error = capsys.readouterr().err
    assert f"{what[part]} have NaN or infinity" in error
    assert "has diverged" in error
    assert "Traceback" not in error
    assert report.exists() == (part == "decoder")
    if part == "decoder":
        assert len(json.loads(report.read_text())["results"]) > 0


def test_the_newest_picture_is_one_of_training(tmp_path: Path) -> None:
    assert newest_picture(tmp_path) is None
    for name in ("000000000512.png", "000000001024.png", "unconditional-000000001024.png"):
        (tmp_path / name).touch()
    assert newest_picture(tmp_path) == tmp_path / "000000001024.png"


def test_images_of_a_run_that_the_file_does_not_describe(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "other.yaml"
    file.write_text((run / "config.yaml").read_text())
    options = ["--protocols", "reconstruction", "--encoder", "torchvision:resnet18"]
    assert evaluate(file, *options) == 0
    assert evaluate(file, "diffusion.prediction=v", *options) == 2
    error = capsys.readouterr().err
    assert "diffusion.prediction = 'noise', not 'v'" in error
    assert "give the run directory" in error


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--encoder", "run:nowhere"], ["nowhere", "config.yaml"]),
        (["--encoder", "run:.", "--weights", "some.pt"], ["--encoder run:.", "leave --weights out"]),
        (["evaluation.made_images=0"], ["evaluation.made_images"]),
        (["evaluation.during={frechet: 100}"], ["evaluation.during"]),
    ],
)
def test_mistakes(run: Path, arguments: list[str], words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate(run, *arguments) == 2
    error = capsys.readouterr().err
    for word in words:
        assert word in error
