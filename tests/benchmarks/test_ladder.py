"""The ladder starts at the reference's arithmetic, ends at the trainer's own step, and changes one thing at a time."""

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from ema_pytorch import EMA
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode
from training.test_no_synchronisation import Reads
from training.tiny import BATCH, losses, run_tiny, tiny_tree

from benchmarks.ladder import measure, run
from benchmarks.ladder.child import Request
from benchmarks.ladder.images import synthetic_images
from benchmarks.ladder.measure import Limits, OnDevice, make_loader, make_step, measure_rung, rates
from benchmarks.ladder.plain_network import make_plain
from benchmarks.ladder.reference_step import ReferenceStep
from benchmarks.ladder.rungs import LAST_RUNG, RUNGS, Recipe, on_device, rung_named
from benchmarks.ladder.table import HEADER, format_row, format_targets
from benchmarks.ladder.targets import judge
from benchmarks.ladder.timeline import PHASES, Timeline
from benchmarks.ladder.trainer_step import UnfusedAdamW
from benchmarks.ladder.worker_loader import WorkerLoader
from benchmarks.synthetic import synthetic_parts
from soda_fast.build import build_model
from soda_fast.config import Config, config_from_tree, load_config
from soda_fast.data import load_dataset
from soda_fast.data.executor import dali_is_installed
from soda_fast.parallel import Processes, start_processes
from soda_fast.train import resolve
from soda_fast.training.optimizer import build_optimizer

SHORT = Limits(seconds=0.01, min_steps=2, warmup_steps=1)


@pytest.fixture
def processes() -> Iterator[Processes]:
    with start_processes("cpu") as found:
        yield found


def tiny(path: Path, **decoder: Any) -> tuple[Config, Any]:
    tree = tiny_tree(path, steps=5)
    tree["model"]["decoder"].update(decoder)
    config = config_from_tree(tree)
    dataset = load_dataset(config.data)
    return resolve(config, dataset), dataset


def on_cpu(name: str) -> Recipe:
    return on_device(rung_named(name).recipe, torch.device("cpu"))[0]


@pytest.mark.parametrize("resample", ["conv", "residual"])
@pytest.mark.parametrize("oihw", [True, False])
def test_the_plain_networks_are_ours(tmp_path: Path, resample: str, oihw: bool) -> None:
    config, _ = tiny(tmp_path, resample=resample, head_channels=16, dropout=0)
    ours, plain = build_model(config), make_plain(build_model(config), oihw)
    generator = torch.Generator().manual_seed(0)
    images = [torch.randn(4, 3, 8, 8, generator=generator) for _ in range(2)]
    inputs = *images, torch.tensor([1, 40, 70, 100]), torch.tensor([0.0, 0.0, 1.0, 0.0])
    weights = torch.randn(4, 3, 8, 8, generator=generator)
    for model in (ours, plain):
        (model(*inputs) * weights).sum().backward()
    torch.testing.assert_close(plain(*inputs), ours(*inputs), rtol=1e-5, atol=1e-5)
    theirs = dict(plain.named_parameters())
    for name, parameter in ours.named_parameters():
        gradient = theirs.pop(name).grad
        assert gradient is not None
        if gradient.shape != parameter.shape or (oihw and gradient.ndim == 4):
            gradient = gradient.permute(0, 2, 3, 1)
        torch.testing.assert_close(gradient, parameter.grad, rtol=1e-3, atol=1e-4, msg=name)
    assert not theirs


def test_each_rung_changes_one_thing() -> None:
    changed = [
        {key for key, value in asdict(below.recipe).items() if value != asdict(rung.recipe)[key]}
        for below, rung in pairwise(RUNGS)
    ]
    assert changed == [
        {"autotuned", "reads", "loader"},
        {"precision"},
        {"channels_last"},
        {"sharded", "compiled"},
        {"own_networks"},
        {"reads"},
        {"lists"},
        {"loader"},
        {"loader"},
        {"loader"},
    ]


def test_every_rung_runs(tmp_path: Path, processes: Processes) -> None:
    config, dataset = tiny(tmp_path)
    different = {on_cpu(rung.name): rung for rung in reversed(RUNGS)}  # some are the same on a CPU
    assert len(different) == 8
    for rung in different.values():
        row = measure_rung(rung, config, dataset, processes, SHORT)
        assert row["steps"] >= 2
        assert 0 < row["host_s"] < 3 * row["step_s"]
        assert set(row["phase_s"]) == set(PHASES)
        assert all(row["phase_s"][phase] > 0 for phase in ("data", "forward", "backward", "optimizer", "ema"))
        assert (row["phase_s"]["other"] > 0) == (rung.name == "published")
        assert row["images_per_second"]["lower_quartile"] <= row["images_per_second"]["upper_quartile"]


@pytest.mark.parametrize(("loader", "kernels"), [("tensors", "pytorch"), ("own", "auto")])
def test_a_rung_does_without_kernels_for_views(
    loader: Any, kernels: str, tmp_path: Path, processes: Processes, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Config] = []
    monkeypatch.setattr("benchmarks.ladder.measure.open_loader", lambda config, *_: asked.append(config))
    make_loader(*tiny(tmp_path), Recipe(loader=loader), processes, real=True)
    assert [config.data.kernels for config in asked] == [kernels]


@pytest.mark.gpu
def test_every_rung_runs_on_a_gpu(tmp_path: Path) -> None:
    config, dataset = tiny(tmp_path)
    with start_processes("cuda") as processes:
        for rung in RUNGS:
            if rung.name == "dali" and not dali_is_installed():
                continue
            row = measure_rung(rung, config, dataset, processes, SHORT)
            assert row["notes"] == []
            assert row["step_s"] > 0


def test_the_last_rung_is_the_trainer(tmp_path: Path, processes: Processes) -> None:
    """Losses of its steps, with its loader, are those of a training run, to the last bit."""
    config, dataset = tiny(tmp_path / "run")
    recipe, timeline = on_cpu(LAST_RUNG), Timeline(torch.device("cpu"))
    step: Any = make_step(config, dataset, recipe, processes, timeline)
    loader, _ = make_loader(config, dataset, recipe, processes, real=True)
    found = {}
    for _ in range(5):
        step.own.loss_sum.zero_()
        step.step([next(loader)])
        found[step.own.images_seen] = step.own.loss_sum.item()
    loader.close()
    assert "losses" not in vars(step.own), "the trainer's step is as it was"
    torch.distributed.destroy_process_group()
    run_tiny(tiny_tree(tmp_path / "run", steps=5))
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    assert found == losses(tmp_path / "run")
    assert len(found) == 5


def test_accumulation_marks_every_part(tmp_path: Path, processes: Processes) -> None:
    config, dataset = tiny(tmp_path)
    config = replace(config, train=replace(config.train, accumulate=3))
    timeline = Timeline(torch.device("cpu"))
    step: Any = make_step(config, dataset, on_cpu(LAST_RUNG), processes, timeline)
    step.step(synthetic_parts(config, processes.device))
    assert [phase for phase, _ in timeline._steps[0]] == [*["forward", "backward"] * 3, "optimizer", "ema"]


@pytest.mark.parametrize(("above", "below"), [("published", "repaired"), ("kernel", "no synchronisation")])
def test_what_the_host_reads(tmp_path: Path, processes: Processes, above: str, below: str) -> None:
    """One thing less: the loss, or whether the gradient is finite. (What else is read are counters on the host: of
    PyTorch's default AdamW, and of ema-pytorch, which the published recipe has on the GPU.)"""

    def reads(name: str) -> int:
        config, dataset = tiny(tmp_path)
        timeline = Timeline(torch.device("cpu"))
        step = make_step(config, dataset, on_cpu(name), processes, timeline)
        parts = synthetic_parts(config, processes.device)
        step.step(parts)
        with Reads() as found:
            step.step(parts)
        return len(found.found)

    assert reads(above) == reads(below) + 1


class Spread(TorchDispatchMode):
    """Notes every operation on a DTensor."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if any(issubclass(kind, DTensor) for kind in types):
            self.found.append(str(func))
        return func(*args, **(kwargs or {}))


def test_a_rung_that_shards_does_not_pay_for_dtensors_dispatch(tmp_path: Path, processes: Processes) -> None:
    """In its clipping, its optimizer and its average, neither the reference's step nor the trainer's."""
    config, dataset = tiny(tmp_path)
    step = ReferenceStep(config, dataset, on_cpu("compile"), processes, Timeline(torch.device("cpu")))
    step.step(synthetic_parts(config, processes.device))
    parameters = list(step.model.parameters())
    assert all(isinstance(parameter, DTensor) for parameter in parameters)
    unfused = UnfusedAdamW(build_optimizer(step.model, config.train), reads=True)  # type: ignore[arg-type]
    unfused.step()  # which makes its moments
    with Spread() as seen:
        step._clip_and_step()
        step.ema.update()
        unfused.step()
    assert seen.found == []
    with Spread() as seen:
        parameters[0].detach()
    assert seen.found, "it would have been seen"


def test_a_rung_that_shards_takes_the_same_steps(tmp_path: Path, processes: Processes) -> None:
    """As PyTorch's default AdamW and ema-pytorch on a whole model, to the last bit, with the same gradients."""
    config, dataset = tiny(tmp_path)
    config = replace(config, train=replace(config.train, warmup_images=0))
    step = ReferenceStep(config, dataset, on_cpu("compile"), processes, Timeline(torch.device("cpu")))
    model: Any = step.model

    def whole(spread: Any) -> torch.nn.ParameterList:
        return torch.nn.ParameterList(parameter.full_tensor().detach().clone() for parameter in spread.parameters())

    twin, average = whole(model), whole(step.ema.model)
    theirs = dict(zip(model.parameters(), twin, strict=True))
    groups = [
        {"params": [theirs[one] for one in network.parameters()], "lr": rate}
        for network, rate in ((model.encoder, config.train.encoder_lr), (model.decoder, config.train.decoder_lr))
    ]
    adamw = torch.optim.AdamW(groups, betas=config.train.betas, weight_decay=config.train.weight_decay)
    ema = EMA(twin, average, config.train.ema_beta, 0, update_every=1, include_online_model=False)
    for _ in range(3):
        step.step(synthetic_parts(config, processes.device))
        for parameter, own in theirs.items():
            own.grad = parameter.grad.full_tensor()
        adamw.step()
        ema.update()
    assert all(map(torch.equal, whole(model), twin))
    assert all(map(torch.equal, whole(step.ema.model), average))
    assert not all(map(torch.equal, twin, average))


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_the_reference_learns(tmp_path: Path, processes: Processes, precision: Any) -> None:
    """Autocast and GradScaler also work on a CPU, only slowly."""
    config, dataset = tiny(tmp_path, dropout=0)
    config = replace(config, train=replace(config.train, warmup_images=0))
    recipe = Recipe(precision=precision, reads="loss" if precision == "fp16" else "finite")
    step = ReferenceStep(config, dataset, recipe, processes, Timeline(torch.device("cpu")))
    before = [parameter.clone() for parameter in step.model.parameters()]
    torch.manual_seed(0)
    found = []
    for _ in range(10):
        step.step(synthetic_parts(config, processes.device))
        found.append(step.loss.item())
    assert sum(found[-3:]) < 0.95 * sum(found[:3])
    averages = zip(before, step.ema.model.parameters(), step.model.parameters())
    assert any(not old.equal(average) and not average.equal(new) for old, average, new in averages)


def test_the_references_loader(tmp_path: Path) -> None:
    config, dataset = tiny(tmp_path)
    loader = WorkerLoader(config, dataset, BATCH, torch.device("cpu"), one_worker=True)
    first, second = next(loader), next(loader)
    loader.close()
    assert first.source.shape == first.target.shape == (BATCH, 3, 8, 8)
    assert 0 <= first.target.min() < 0.1
    assert 0.9 < first.target.max() <= 1
    assert first.source.min() < -0.5, "normalised"
    assert second.position.tolist() == list(range(BATCH, 2 * BATCH))
    assert loader.queued_batches == 2


def test_synthetic_images_need_no_files() -> None:
    config = load_config("configs/cifar10.yaml", ["data.root=/nowhere"])
    dataset, words = synthetic_images(config, 20)
    assert dataset.train.read(3).shape == (32, 32, 3)
    assert words.startswith("SYNTHETIC")


def test_rates_are_over_spans() -> None:
    """Bursts of a loader do not pass for speed."""
    found = rates([0.0, 0.0, 0.0, 4.0] * 8, batch=100)
    assert (found.windows, found.steps_per_window) == (8, 4)
    assert found.median == found.overall == found.lower_quartile == 100
    assert rates([0.5], batch=100).median == 200


def request() -> Request:
    return Request("configs/demo_digits.yaml", ["train.global_batch_images=16"], "cpu", seconds=0.1)


def test_what_the_targets_speak_of_is_measured_first() -> None:
    order = [rung.name for rung in run.by_value(RUNGS)]
    assert order[:3] == ["published", "repaired", LAST_RUNG]
    assert order[3:] == [rung.name for rung in RUNGS if rung.name not in order[:3]]


def test_climbing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Real processes: a rung that cannot run leaves the others, and all is written."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join((".", "kernels")))
    broken = replace(rung_named("published"), name="no such rung")
    path = tmp_path / "ladder.json"
    seen: list[dict[str, Any]] = []
    result = run.climb(run.Plan(request(), (broken, rung_named("published")), json=path), seen.append)
    assert [row["status"] for row in seen] == ["measured", "failed"], "what the targets speak of comes first"
    assert result["rungs"] == seen[::-1], "in the order of the ladder"
    assert "no such rung" in seen[1]["error"]
    assert seen[0]["times_published"] == 1
    assert seen[0]["mfu_measured"] > 0
    assert seen[0]["mfu_data_sheet"] is None
    assert json.loads(path.read_text()) == result
    said: set[str] = set()
    assert len(HEADER) == len(format_row(seen[0], said).splitlines()[0])
    assert "fp32 instead of fp16" in said.pop()


def test_a_ladder_from_the_reference_has_one_target_for_a_source() -> None:
    several = replace(request(), overrides=["data.targets_per_source=2"])
    with pytest.raises(ValueError, match=r"data\.targets_per_source is 2, but the reference.* set it to 1"):
        run.climb(run.Plan(several))


def test_out_of_time() -> None:
    assert run.ask(request(), limit_s=0.05)["status"] == "out of time"


def test_a_batch_that_does_not_fit_is_halved(monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(asked: Request, limit_s: float) -> dict[str, Any]:
        fits = asked.rung and asked.batch == 16
        return {"status": "measured", "notes": []} if fits else {"status": "out of memory", "error": "no memory"}

    monkeypatch.setattr(run, "ask", answer)
    config = load_config("configs/demo_digits.yaml", [])
    row = run._measured(run.Plan(replace(request(), overrides=[])), RUNGS[0], config)
    assert row == {"status": "measured", "notes": ["batch 16: 32 did not fit into memory"]}


@pytest.mark.parametrize(("gpu", "rate", "met"), [("H200", 9800.0, True), ("H200", 9600.0, False), ("H100", 1.0, None)])
def test_targets_apply_to_one_gpu(gpu: str, rate: float, met: bool | None) -> None:
    rates = {"median": rate}
    row = {"name": LAST_RUNG, "status": "measured", "images_per_second": rates, "times_published": 7.0}
    result = {"ceiling": {"data_sheet": gpu}, "loader": "real", "rungs": [row | {"times_repaired": None}]}
    verdicts = judge(result, load_config("configs/cifar10.yaml", []))
    assert [verdict["met"] for verdict in verdicts] == ([] if met is None else [met, True, None])
    words = format_targets({"targets": verdicts})
    assert ("MISSED" in words) == (met is False)
    assert judge({**result, "loader": "synthetic"}, load_config("configs/cifar10.yaml", [])) == []
    assert judge(result, load_config("configs/demo_digits.yaml", [])) == []


def test_the_device_loader_goes_round(tmp_path: Path) -> None:
    config, _ = tiny(tmp_path)
    parts = synthetic_parts(replace(config, train=replace(config.train, accumulate=2)), torch.device("cpu"))
    loader = OnDevice(parts)
    assert [next(loader) is part for part in (*parts, *parts)] == [True] * 4
    assert measure.peak_memory_gib(torch.device("cpu")) > 0
