"""The command line as a user meets it: mistakes in one sentence, a whole small run, dry runs."""

import json
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from spawn import run_in_processes
from torch import nn
from training.tiny import run_tiny, tiny_tree

import soda_fast
from soda_fast.cli import main
from soda_fast.config import config_from_tree
from soda_fast.config.schema import DataConfig
from soda_fast.data import Dataset, load_dataset
from soda_fast.encoding import frozen
from soda_fast.evaluate import report_name
from soda_fast.run_directory import RunDirectory

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cli") / "run"
    tree = tiny_tree(path, steps=2)
    tree["evaluation"] = {"during": {"knn": 12, "linear": 24}, "protocols": ["knn-reference", "linear-reference"]}
    run_tiny(tree)
    return path


def test_a_run_leaves_what_the_readme_says(run: Path) -> None:
    assert {path.name for path in run.iterdir()} == {
        "config.yaml",
        "metrics.jsonl",
        "tensorboard",
        "samples",
        "checkpoints",
        ".lock",
    }
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert {"loss", "grad_norm", "encoder_lr", "decoder_lr", "images_per_second", "data_wait_share"} < set(lines[0])
    probes = [line for line in lines if "knn-dino/z" in line]
    assert [line["images_seen"] for line in probes] == [12, 24]
    assert any("linear-reference/pooled" in line for line in lines)
    picture = np.asarray(Image.open(run / "samples" / "000000000024.png"))
    assert picture.shape[0] == 3 * 66 - 2
    assert picture.shape[1] > 3 * 66 - 2  # the words beside it
    assert picture.std() > 10


def test_evaluate_prints_and_writes(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(run), "--baselines", "untrained", "pixels"]) == 0
    table = capsys.readouterr().out
    for word in ("trained", "untrained", "pixels", "pooled", "knn-reference k=20", "linear-reference", ".png"):
        assert word in table
    report = json.loads((run / "evaluation.json").read_text())
    assert report["checkpoint"]["images_seen"] == 24
    assert report["checkpoint"]["weights"] == "EMA of train.ema_beta 0.5"
    assert {result["features"] for result in report["results"]} == {"z", "pooled", "pixels"}


def test_evaluate_takes_overrides_and_draws(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keys = ["evaluation.protocols=[linear-reference]", "evaluation.seeds=2", "evaluation.feature_precision=bf16"]
    keys.append("evaluation.encoder_precision=bf16")
    assert main(["evaluate", str(run), *keys, "--plot"]) == 0
    assert "±" in capsys.readouterr().out
    report = json.loads((run / "evaluation.json").read_text())
    assert report["seeds"] == [3, 4]
    assert {result["protocol"] for result in report["results"]} == {"linear-reference"}
    assert all(len(result["per_seed"]) == 2 for result in report["results"])
    assert report["features"] == "bf16, encoder in bf16"
    assert len(report["dataset_hash"]["test"]) == 64
    for name in ("accuracy", "map", "confusion", "neighbours"):
        assert np.asarray(Image.open(run / "plots" / "evaluation" / f"{name}.png")).std() > 10
    assert list((run / "tensorboard").rglob("metadata.tsv"))


def test_several_processes_draw_what_no_protocol_has_encoded(run: Path) -> None:
    """The main process draws, after the others have left: they must have helped to encode both splits before."""
    keys = ["evaluation.protocols=[knn-reference]", "parallel.timeout_minutes=2", "--plot"]
    (run / "plots" / "evaluation" / "map.png").unlink(missing_ok=True)
    assert run_in_processes(main, 2, ["evaluate", str(run), *keys]) == [0, 0]
    assert (run / "plots" / "evaluation" / "map.png").is_file()


def test_evaluate_any_module_and_compare(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    made_ready: list[nn.Module] = []

    def noted(model: nn.Module, device: torch.device) -> nn.Module:
        made_ready.append(frozen(model, device))
        return made_ready[-1]

    monkeypatch.setattr("soda_fast.evaluate.frozen", noted)
    protocols = "evaluation.protocols=[knn-dino]"
    assert main(["evaluate", str(run), protocols]) == 0
    assert main(["evaluate", str(run), protocols, "--encoder", "torchvision:resnet18"]) == 0
    assert isinstance(made_ready[-1], torchvision.models.ResNet), "on a GPU it is channels_last, as its images are"
    assert not made_ready[-1].training
    (first,) = run.glob("evaluation-torchvision-resnet18-digits-*.json")
    untrained = json.loads(first.read_text())
    weights = torchvision.models.resnet18(num_classes=3).state_dict()
    torch.save(weights, run / "resnet.pt")
    assert (
        main(
            ["evaluate", str(run), protocols, "--encoder", "torchvision:resnet18", "--weights", str(run / "resnet.pt")]
        )
        == 0
    )
    (second,) = set(run.glob("evaluation-torchvision-resnet18-digits-*.json")) - {first}
    loaded = json.loads(second.read_text())
    assert json.loads(first.read_text()) == untrained, "other weights, another file"
    assert untrained["checkpoint"]["weights"] == "untrained"
    assert loaded["checkpoint"]["weights"].endswith("resnet.pt")
    assert untrained["results"] != loaded["results"]
    assert untrained["dataset_hash"] == loaded["dataset_hash"]
    capsys.readouterr()
    assert main(["compare", str(run)]) == 0
    table = capsys.readouterr().out.splitlines()
    assert table[0].split() == ["encoder", "features", "knn-dino", "k=20"]
    assert [line.split()[1] for line in table[1:5]] == ["torchvision:resnet18"] * 2 + ["trained"] * 2


def test_evaluate_on_held_out_images_leaves_the_test_split_unread(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def without_test(config: DataConfig) -> Dataset:
        return replace(load_dataset(config), test=None)

    monkeypatch.setattr("soda_fast.evaluate.load_dataset", without_test)
    keys = ["evaluation.protocols=[knn-dino]", "evaluation.holdout_fraction=0.2"]
    assert main(["evaluate", str(run), *keys]) == 2
    assert "no test split" in capsys.readouterr().err
    assert main(["evaluate", str(run), *keys, "--held-out"]) == 0
    assert "on images held out of the training split" in capsys.readouterr().out
    report = json.loads((run / "evaluation-held-out.json").read_text())
    whole = len(load_dataset(RunDirectory(run).load_config().data).train)
    assert sum(report["split_sizes"].values()) == whole
    assert report["split_sizes"]["test"] == pytest.approx(0.2 * whole, abs=5)
    assert report["tested_on"] == "images held out of the training split"
    assert main(["evaluate", str(run), *keys, "--held-out", "--encoder", "torchvision:resnet18"]) == 0
    assert len(list(run.glob("evaluation-torchvision-resnet18-*-held-out.json"))) == 1
    monkeypatch.undo()
    assert main(["evaluate", str(run), *keys]) == 0
    capsys.readouterr()
    assert main(["compare", str(run)]) == 0
    assert "held-out" not in capsys.readouterr().out
    assert main(["compare", str(run / "evaluation.json"), *map(str, run.glob("*-held-out.json"))]) == 0
    assert "not equal: tested_on" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--held-out", "--plot"], ["--plot", "--held-out"]),
        (["--held-out", "--protocols", "knn-dino", "reconstruction"], ["--held-out", "reconstruction"]),
        (["model.encoder.z_dim=9"], ["model.encoder.z_dim", "trained with 8"]),
        (["evaluation.protocols=[knn]"], ["evaluation.protocols"]),
        (["--encoder", "resnet18"], ["--encoder resnet18", "torchvision:NAME"]),
        (["--encoder", "torchvision:resnet19"], ["resnet19", "resnet18"]),
        (["--encoder", "torchvision:vit_b_16"], ["vit_b_16: cannot take images of 3 x 8 x 8", "height", "source_size"]),
        (["--encoder", "torchvision:alexnet"], ["alexnet: cannot take images of 3 x 8 x 8", "RuntimeError"]),
        (["--encoder", "math:nothing"], ["math:nothing", "nothing"]),
        (["--encoder", "torchvision:resnet18", "--weights", "absent.pt"], ["absent.pt"]),
        (["--encoder", "torchvision:resnet18", "--weights", "BOMB"], ["bomb.pt", "refused: it could run code)"]),
        (["--weights", "absent.pt"], ["--encoder"]),
    ],
)
def test_mistakes_of_evaluate(
    run: Path, tmp_path: Path, arguments: list[str], words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save(print, tmp_path / "bomb.pt")
    arguments = [argument.replace("BOMB", str(tmp_path / "bomb.pt")) for argument in arguments]
    assert main(["evaluate", str(run), *arguments]) == 2
    error = capsys.readouterr().err
    assert "weights_only" not in error, "torch's advice is to run it"
    for word in words:
        assert word in error


def test_sample(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sample", str(run), "--images", "3", "--steps", "2"]) == 0
    path = run / "samples" / "reconstruct-000000000024.png"
    assert str(path) in capsys.readouterr().out
    assert np.asarray(Image.open(path)).std() > 10


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--task", "mix"], ["mix", "model.modulation is shared", "layerwise"]),
        (["--task", "interpolate", "--images", "1"], ["--images must be at least 2"]),
        (["--task", "traverse", "--images", "1"], ["--images must be at least 2"]),
        (["--steps", "101"], ["--steps 101", "sampling.steps is 101", "100 of diffusion.steps"]),
        (["--steps", "0"], ["--steps 0", "found 0, expected a whole number > 0"]),
        (["--images", "-3"], ["--images -3", "found -3, expected a whole number > 0"]),
        (["--seed", "-1"], ["--seed -1", "found -1, expected a whole number >= 0"]),
        (["--guidance", "-1"], ["--guidance -1", "found -1.0, expected a number >= 0"]),
        (
            ["--guidance", "1,2.5"],
            ["--guidance 1,2.5", "guidance is [1.0, 2.5], but z has no sections", "layerwise"],
        ),
        (["--task", "novel-view"], ["novel-view: model.pose is none", "model.pose=rays"]),
        (["sampling.eta=0.5"], ["sampling.eta is 0.5, but sampling.solver dpm-solver++", "use ddim"]),
        (["sampling.batch_images=0"], ["sampling.batch_images"]),
    ],
)
def test_mistakes_of_sample(
    run: Path, arguments: list[str], words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["sample", str(run), *arguments]) == 2
    error = capsys.readouterr().err
    for word in words:
        assert word in error


def test_a_picture_that_cannot_be_written_is_told_before_it_is_made(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = run / "samples" / "interpolate-000000000024.png"
    path.mkdir()
    assert main(["sample", str(run), "--task", "interpolate"]) == 2
    assert f"{path}: cannot be written; make" in capsys.readouterr().err
    path.rmdir()
    others, folder = run / "others", run / "samples"
    folder.rename(others)
    folder.touch()
    assert main(["sample", str(run), "--task", "interpolate"]) == 2
    assert f"{folder}: cannot be made (File exists)" in capsys.readouterr().err
    folder.unlink()
    others.rename(folder)


def test_a_guidance_that_is_no_number_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["sample", "run", "--guidance", "1,x"])
    assert "argument --guidance: '1,x' is neither a number nor numbers with commas" in capsys.readouterr().err


def test_api_on_a_run(run: Path) -> None:
    model = soda_fast.load(run)
    encoder, preprocess = soda_fast.load_encoder(str(run))
    images = preprocess(Image.new("RGB", (9, 12)))[None]
    z = encoder(images)
    assert z.shape == (1, 8)
    assert (model.encode(images) == z).all()
    assert model.sample(z, steps=2).shape == (1, 3, 8, 8)


FEW_LAYERS = [
    *("model.encoder.arch=small", "model.encoder.widths=[64]", "model.encoder.depths=[1]", "model.decoder.blocks=1"),
    *("model.decoder.multipliers=[1]", "model.decoder.attention=[true]"),
]


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "tiny_imagenet", "demo_digits"])
def test_dry_run_needs_no_data(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--dry-run", "--processes", "2", "--gpu-memory-gib", "80", "perf.compile=false"]
    # The published model whole; what takes the time is the number of layers.
    arguments += [] if name == "cifar10" else FEW_LAYERS
    assert main(["train", str(ROOT / "configs" / f"{name}.yaml"), *arguments]) == 0
    text = capsys.readouterr().out
    assert "GFLOP per image" in text
    assert "memory       per GPU, 2 processes" in text
    assert "bf16, channels_last, eager\n  fits in 80.0 GiB" in text
    if name == "cifar10":
        # The figures of the published model: 11.2 M + 39.6 M parameters, 13.56 and 40.7 GFLOP.
        assert "encoder 11,234,496, decoder 39,595,139" in text
        assert "forward 13.6 GFLOP per image (encoder 1.11), forward and backward 40.7" in text
        assert "40,000,000 images = 78,125 steps of 512 = 800.0 epochs" in text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train", "absent.yaml"], ["absent.yaml", "no such file"]),
        (["train", "configs/cifar10.yaml", "train.encoder_lrr=1"], ["train.encoder_lrr", "train.encoder_lr"]),
        (["train", "configs/cifar10.yaml", "data.root=/nowhere"], ["data.root", "/nowhere", "cifar10"]),
        (["train", "configs/demo_digits.yaml", "data.dataset=folder", "data.root=/nowhere"], ["/nowhere"]),
        (["train", "configs/demo_digits.yaml", "run.dir=/dev/null/run"], ["run.dir", "/dev/null/run"]),
        (["train", "configs/cifar10.yaml", "--processes", "8"], ["--processes", "--dry-run", "torchrun"]),
        (["evaluate", "no_such_run"], ["no_such_run", "config.yaml"]),
        (["export", "no_such_run", "out"], ["no_such_run"]),
        (["sample", "no_such_run"], ["no_such_run"]),
        (["compare", "no_such_run"], ["no_such_run", "evaluation.json"]),
    ],
)
def test_mistakes_are_one_sentence(
    arguments: list[str], words: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "Traceback" not in error
    for word in words:
        assert word in error


def test_a_diverging_run_stops_with_its_step(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tree = tiny_tree(tmp_path / "run", steps=50, encoder_lr=1e30, decoder_lr=1e30, warmup_images=0)
    (tmp_path / "bad.yaml").write_text(json.dumps(tree))
    assert main(["train", str(tmp_path / "bad.yaml")]) == 1
    error = capsys.readouterr().err
    assert "NaN or infinite in step" in error
    assert error.count("\n") == 1


def test_a_machine_tells_of_what_it_lacks_before_the_processes_meet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tree = tiny_tree(tmp_path / "run", 1)
    tree["data"] |= {"dataset": "cifar10", "root": str(tmp_path / "absent")}
    (tmp_path / "tree.yaml").write_text(json.dumps(tree))
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("RANK", "2")
    monkeypatch.setenv("LOCAL_RANK", "0")
    assert main(["train", str(tmp_path / "tree.yaml")]) == 2
    told = capsys.readouterr().err
    assert told.startswith(f"soda-fast: process 2 on {socket.gethostname()}: ")
    assert "absent" in told
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert main(["train", str(tmp_path / "tree.yaml")]) == 2
    assert capsys.readouterr().err == ""


def test_help_answers_without_torch() -> None:
    code = (
        "import sys; from soda_fast.cli import main\n"
        "try: main(['train', '--help'])\n"
        "except SystemExit: pass\n"
        "assert 'torch' not in sys.modules, 'help imports torch'"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert "train.global_batch_images" in found.stdout


def test_the_step_benchmark(tmp_path: Path) -> None:
    from benchmarks import train_step

    arguments = ["train_step", "--config", str(ROOT / "configs" / "demo_digits.yaml"), "--device", "cpu"]
    arguments += ["--steps", "2", "--warmup", "1", "--json", str(tmp_path / "out.json"), "train.global_batch_images=8"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", arguments)
        assert train_step.main() == 0
    result = json.loads((tmp_path / "out.json").read_text())
    assert result["images_per_second"] == pytest.approx(8 / result["timing"]["median_s"])
    assert result["mfu_data_sheet"] is None
    assert result["loader"] == "synthetic"
    assert result["machine"]["torch"]


def test_reports_of_other_encoders_and_images_have_other_names(tmp_path: Path) -> None:
    def name(spec: str, weights: str | None = None, **data: object) -> str:
        config = config_from_tree({"train": {"images": 1}, "data": {"root": str(tmp_path), **data}})
        return report_name(config, spec, Path(weights) if weights else None)

    names = [
        name("a:b"),
        name("a-b"),
        name("a:b", "x.pt"),
        name("a:b", dataset="cifar100"),
        name("a:b", source_size=64),
    ]
    names.append(name("a:b", root=str(tmp_path / "elsewhere")))
    assert len(set(names)) == len(names)
    assert name("a:b", root=f"{tmp_path}/") == names[0]
    assert names[3].startswith("evaluation-a-b-cifar100-")
