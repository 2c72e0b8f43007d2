"""The prediction of scaling: the bytes against arithmetic and against real processes, the time against both."""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from memory.test_prediction import configuration, prepared
from spawn import run_in_processes
from torch import nn

import benchmarks.scaling.__main__ as command
from benchmarks.measurements import measurements
from benchmarks.plots import draw
from benchmarks.record import PartResult, Record
from benchmarks.scaling.prediction import Computation, Links, collective_seconds, fit_computation, predict
from benchmarks.scaling.traffic import Collective, TrafficCounter, step_traffic
from benchmarks.sections import scaling
from soda_fast import cores
from soda_fast.build import build_empty_model
from soda_fast.config import Config

ROOT = Path(__file__).parents[2]
LINKS = Links(1e9, 1e8, machine_hop_s=1e-3, network_hop_s=1e-2, launch_s=0.1)


def small(strategy: str, **perf: Any) -> Config:
    return configuration(parallel={"strategy": strategy}, perf=perf, train={"global_batch_images": 16})


def sent(traffic: list[Collective]) -> dict[tuple[str, str, bool], int]:
    total: Counter[tuple[str, str, bool]] = Counter()
    for one in traffic:
        total[one.kind, one.group, one.blocks] += one.bytes
    return total


@pytest.mark.parametrize(("strategy", "bf16"), [("fsdp", True), ("hsdp", False), ("ddp", False)])
def test_every_parameter_is_gathered_once_and_every_gradient_reduced_once(strategy: str, bf16: bool) -> None:
    config = small(strategy, precision="bf16" if bf16 else "fp32")
    model = build_empty_model(config)
    numbers = sum(parameter.numel() for parameter in model.parameters())
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    traffic = step_traffic(config)
    found = sent(traffic)
    # Shards are rounded up to equal numbers of rows: at most a row too many for each process but one.
    rows = sum(parameter[0].numel() for parameter in model.parameters() if parameter.dim())
    if strategy == "fsdp":
        width = 2 if bf16 else 4
        assert 0 <= found["all_gather", "all", False] - width * numbers <= 15 * width * rows
        assert 0 <= found["reduce_scatter", "all", False] - 4 * numbers <= 15 * 4 * rows
        assert not any(group != "all" for _, group, _ in found)
    elif strategy == "hsdp":
        assert 0 <= found["all_gather", "machine", False] - 4 * numbers <= 7 * 4 * rows
        assert found["all_reduce", "across", False] == found["reduce_scatter", "machine", False] / 8
    else:
        assert found["all_reduce", "all", False] == 4 * numbers
        assert not any(kind != "all_reduce" for kind, _, _ in found)
    # Forward (two moments and a count) and backward of each BatchNorm; the gradient norm adds to them.
    moments = sum(2 * 4 * (2 * norm.num_features + 1) for norm in norms)
    assert 0 <= found["all_reduce", "all", True] - moments <= 4 * len(list(model.parameters()))


def real_traffic(config: Config) -> list[Collective]:
    """Of the second step of real processes, both on one machine."""
    for step, parts in prepared(config, "cpu"):
        step(parts)
        with TrafficCounter(2) as counter:
            step(parts)
    return counter.collectives


def test_real_processes_send_what_the_simulation_counts() -> None:
    config = small("fsdp")
    first, second = run_in_processes(real_traffic, 2, config)
    assert first == second
    simulated = step_traffic(config)
    assert [(one.kind, one.blocks) for one in first] == [(one.kind, one.blocks) for one in simulated]
    for real, counted_one in zip(first, simulated, strict=True):
        assert real.group == "machine"
        assert counted_one.bytes >= real.bytes  # sixteen shards are rounded up more than two


def test_a_collective_takes_its_bytes_and_its_hops() -> None:
    gather, reduce = (Collective(kind, 8_000_000, "all", False) for kind in ("all_gather", "all_reduce"))  # type: ignore[arg-type]
    assert collective_seconds(gather, LINKS, 1, 8) == 0
    # Four processes of one machine: three quarters of 8 ms, three hops.
    assert collective_seconds(gather, LINKS, 4, 8) == pytest.approx(0.1 + 0.006 + 0.003)
    # A sum sends twice as much, and its hops are a tree's.
    assert collective_seconds(reduce, LINKS, 4, 8) == pytest.approx(0.1 + 2 * (0.006 + 0.002))
    # Two machines of eight: half of the bytes through eight network links, which is more than the machine's 7.5 ms.
    assert collective_seconds(gather, LINKS, 16, 8) == pytest.approx(0.1 + 0.01 * 4 / 4 * 0.5 + 0.0 + 0.024 + 0.0025)
    across = Collective("all_reduce", 1_000_000, "across", False)
    assert collective_seconds(across, LINKS, 8, 8) == 0
    assert collective_seconds(across, LINKS, 16, 8) == pytest.approx(0.1 + 2 * (0.005 + 0.01))


def test_communication_hides_behind_computation_but_for_its_ends() -> None:
    links = Links(1e9, 1e9, 0.0, 0.0, 0.0)
    traffic = [Collective("all_gather", 2_000_000_000, "all", False) for _ in range(4)]  # a second each for two
    traffic.append(Collective("all_reduce", 1_000_000_000, "all", True))
    slow = predict(Computation(1.0, 1.0), traffic, links, 2, 9)
    assert (slow.computation_s, slow.exposed_s) == (10.0, pytest.approx(1.0 + 2.0))
    fast = predict(Computation(0.0, 0.1), traffic, links, 2, 10)
    assert fast.exposed_s == pytest.approx(1.0 + 3.0)
    assert fast.images_per_second == pytest.approx(2 * 10 / 5)
    alone = predict(Computation(1.0, 1.0), traffic, links, 1, 9)
    assert alone.exposed_s == 0
    beside = Links(1e9, 1e9, 0.0, 0.0, 0.0, overlapped=False)
    assert predict(Computation(1.0, 1.0), traffic, beside, 2, 9).exposed_s == pytest.approx(5.0)
    with pytest.raises(ValueError, match="12 processes do not fill machines of 8"):
        predict(Computation(1.0, 1.0), traffic, links, 12, 9)


def test_computation_goes_through_its_measurements() -> None:
    fitted = fit_computation([(8, 3.0), (64, 10.0)])
    assert (fitted.seconds(8), fitted.seconds(64)) == (pytest.approx(3.0), pytest.approx(10.0))
    assert fit_computation([(8, 4.0)]).seconds(16) == 8.0
    assert fit_computation([(8, 3.0), (16, 2.0)]).image_s == 0.0
    with pytest.raises(ValueError, match="measure a step"):
        fit_computation([])


def test_what_is_on_paper_follows_from_what_there_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The recipe's batch is measured first; a measurement that is cut off takes nothing away."""

    def measured(request: Any, processes: int, *_: Any) -> dict[str, Any]:
        if request.process_images < 512:
            raise KeyboardInterrupt
        return {"processes": processes, "process_images": request.process_images, "step_s": {"median": 0.05}}

    monkeypatch.setattr(command, "measure_step", measured)
    monkeypatch.setattr(command, "step_traffic", lambda config: [])
    answer = tmp_path / "scaling.json"
    arguments = ["--config", "configs/cifar10.yaml", "--processes", "1", "--gpu", "H200", "--json", str(answer)]
    with pytest.raises(KeyboardInterrupt):
        command.scaling(command._parser().parse_args(arguments))
    found = json.loads(answer.read_text())
    assert [(row["processes"], row["process_images"]) for row in found["measured"]] == [(1, 512)]
    assert found["predicted"]["weak"][-1]["images_per_second"] == pytest.approx(256 * 512 / 0.05)


def test_processes_share_the_cores_that_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not all of the machine's, of which a job or a container may have few."""
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(cores, "available_cores", lambda: 4.0)
    threads: list[int] = []
    monkeypatch.setattr(command, "measure_step", lambda request, processes, each, limit: threads.append(each) or {})
    options = command._parser().parse_args(["--config", "configs/cifar10.yaml", "--processes", "1", "2"])
    command.measured_rows(options, small("fsdp"), "cpu", lambda rows: None)
    assert set(threads) == {2}


def measured_scaling(config: Path, answer: Path) -> tuple[dict[str, Any], str]:
    """What the command found for one and two processes, and what it printed."""
    called = [sys.executable, "-m", "benchmarks.scaling", "--config", str(config), "--processes", "1", "2"]
    called += ["--steps", "8", "--warmup", "2", "--gpu", "H200", "--json", str(answer)]
    ended = subprocess.run(called, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    return json.loads(answer.read_text()), ended.stdout


def predicted_share(found: dict[str, Any]) -> float:
    """Of the step that two processes took."""
    row = found["measured"][-1]
    return float(row["predicted_step_s"] / row["step_s"]["median"])


@pytest.mark.slow
def test_steps_of_two_processes_take_what_was_predicted(tmp_path: Path) -> None:
    """Within a factor of two and a half: on a busy machine two processes and one are not slowed down alike.

    Other work that came or went between the two is measured away: a wrong prediction is wrong each time.
    """
    config = tmp_path / "small.json"
    config.write_text(
        json.dumps(
            {
                "data": {"dataset": "digits", "source_size": 8, "target_size": 8},
                "model": {
                    "encoder": {"arch": "small", "z_dim": 64, "widths": [128, 512], "depths": [1, 1]},
                    "decoder": {"channels": 64, "multipliers": [1, 4], "attention": [False, False], "blocks": 1},
                },
                "train": {"images": 96, "global_batch_images": 1},
                "sampling": {"images": 2},
            }
        )
    )
    for _ in range(3):
        found, printed = measured_scaling(config, tmp_path / "scaling.json")
        if 0.4 < predicted_share(found) < 2.5:
            break
    assert 0.4 < predicted_share(found) < 2.5, found["measured"]
    # One image cannot be shared by two: no strong scaling.
    assert [(row["processes"], row["process_images"]) for row in found["measured"]] == [(1, 1), (2, 1)]
    assert [row["processes"] for row in found["predicted"]["weak"]] == [1, 2, 4, 8, 16, 32, 64, 128, 256]
    assert "predicted step, ms" in printed
    record = Record("2026-01-01T00:00:00+00:00", "test", "cpu", True, "", 1.0, {"device": "test"})
    record.parts = [PartResult("scaling", "scaling", "measured", result=found)]
    text = "\n".join(scaling(record))
    assert "| strong | 2 |" not in text
    assert "| weak | 256 | 1 |" in text
    assert "| 2 | 1 |" in text
    (picture,) = draw(record, tmp_path)
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert "2/1" in "".join(measurements(record))
