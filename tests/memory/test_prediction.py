"""The predicted peak against what PyTorch's allocators say of the real step."""

import gc
from dataclasses import replace
from typing import Any

import pytest
import torch
from spawn import run_in_processes
from torch.profiler import ProfilerActivity, profile, record_function

from soda_fast.config import Config, ConfigError, config_from_tree
from soda_fast.data import Batch
from soda_fast.memory import predict_memory
from soda_fast.memory.plan import TOLERANCE
from soda_fast.parallel import start_processes
from soda_fast.training.step import TrainStep

SECOND_STEP = "second step"


def configuration(**sections: dict[str, Any]) -> Config:
    tree: dict[str, Any] = {
        "data": {"dataset": "digits", "source_size": 16, "target_size": 16},
        "model": {
            "encoder": {"arch": "small", "z_dim": 32, "widths": [32], "depths": [1]},
            "decoder": {"channels": 32, "multipliers": [1, 2], "attention": [False, True], "blocks": 1},
        },
        "train": {"images": 9600, "global_batch_images": 48},
    }
    for name, values in sections.items():
        tree[name] = {**tree.get(name, {}), **values}
    return config_from_tree(tree)


def prepared(config: Config, device: str) -> Any:
    """A training step, and a batch in its parts."""
    with start_processes(device) as processes:
        step = TrainStep(config, processes, warmup_images=0)
        parts = config.train.accumulate
        n = config.train.global_batch_images // processes.world_size // parts
        where, data = processes.device, config.data

        def part() -> Batch:
            position = torch.arange(n, device=where)
            source = torch.randn(n, 3, data.source_size, data.source_size, device=where)
            target = torch.rand(n * data.targets_per_source, 3, data.target_size, data.target_size, device=where)
            return Batch(source, target, position, position, position)

        yield step, [part() for _ in range(parts)]


def measured_peak(config: Config) -> int:
    """Bytes that the CPU's allocator has given out at most in the second step, as the profiler heard from it."""
    gc.collect()  # what earlier tests left must not be freed, and so be subtracted, under the profiler
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        for step, parts in prepared(config, "cpu"):
            step(parts)
            with record_function(SECOND_STEP):
                step(parts)
    events = profiler.profiler.kineto_results.events()
    (start,) = [event.start_ns() for event in events if event.name() == SECOND_STEP]
    now = peak = 0
    for event in sorted((event for event in events if event.name() == "[memory]"), key=lambda event: event.start_ns()):
        now += event.nbytes()
        if event.start_ns() >= start:
            peak = max(peak, now)
    return peak


# Recomputed blocks run plain operations here: where little is kept, what the fused operator's CPU twin allocates
# inside, and a GPU's kernel does not, would be a fifth of the whole.
RECOMPUTED = {"activation_checkpointing": True, "kernels": "pytorch"}


@pytest.mark.parametrize(
    ("processes", "sections"),
    [
        (1, {}),
        (1, {"train": {"accumulate": 3}, "perf": {"kernels": "pytorch"}}),
        (2, {"train": {"accumulate": 2, "global_batch_images": 96}, "perf": RECOMPUTED}),
        (2, {"parallel": {"strategy": "ddp"}, "train": {"ema_lengths": [0.05, 0.1]}}),
        (4, {"data": {"source_size": 8}}),
        (1, {"data": {"source_size": 8, "targets_per_source": 3}, "perf": {"kernels": "pytorch"}}),
    ],
    ids=str,
)
def test_a_real_step_takes_what_was_predicted(processes: int, sections: dict[str, Any]) -> None:
    config = configuration(**sections)
    if processes == 1:
        measured = measured_peak(config)
    else:
        measured = max(run_in_processes(measured_peak, processes, config))
    plan = predict_memory(config, processes, device="cpu")
    print(f"predicted {plan.peak_bytes / 2**20:.2f} MiB, measured {measured / 2**20:.2f} MiB")
    assert plan.peak_bytes == pytest.approx(measured, rel=TOLERANCE)


@pytest.mark.gpu
@pytest.mark.parametrize("perf", [{}, {"compile": False}, {"activation_checkpointing": True}], ids=str)
def test_a_gpu_step_takes_what_was_predicted(perf: dict[str, Any]) -> None:
    """At a size where activations are gigabytes."""
    model = {"encoder": {"arch": "resnet18"}, "decoder": {"channels": 128}}
    data = {"source_size": 32, "target_size": 32}
    config = configuration(model=model, data=data, train={"global_batch_images": 256}, perf=perf)
    for step, parts in prepared(config, "cuda"):
        for _ in range(3):  # compilation, and cuDNN's choice of algorithms
            step(parts)
        torch.cuda.reset_peak_memory_stats()
        step(parts)
        measured = torch.cuda.max_memory_allocated()
    assert predict_memory(config).peak_bytes == pytest.approx(measured, rel=TOLERANCE)


def test_what_is_sharded_shrinks_with_the_processes() -> None:
    config = configuration(perf={"compile": False})
    one, four = (predict_memory(config, processes).usage.largest for processes in (1, 4))
    for kind in ("weights", "optimizer", "average", "gradients"):
        assert four[kind] == pytest.approx(one[kind] / 4, rel=0.1), kind
    ddp = configuration(perf={"compile": False}, parallel={"strategy": "ddp"})
    assert predict_memory(ddp, 4).usage.largest["weights"] == pytest.approx(one["weights"], rel=0.01)


def test_further_averages_are_counted() -> None:
    one, three = (
        predict_memory(configuration(perf={"compile": False}, train={"ema_lengths": lengths})).usage.largest
        for lengths in ([], [0.05, 0.1])
    )
    assert three["average"] == pytest.approx(3 * one["average"], rel=0.01)


def test_compiled_blocks_keep_less() -> None:
    encoder = {"arch": "small", "widths": [32], "depths": [2]}
    decoder = {"channels": 32, "multipliers": [1], "attention": [False], "blocks": 1}
    tree = {"model": {"encoder": encoder, "decoder": decoder}}
    eager, compiled = (predict_memory(configuration(**tree, perf={"compile": on})) for on in (False, True))
    assert compiled.peak_bytes < 0.95 * eager.peak_bytes
    assert (eager.setting, compiled.setting) == ("bf16, channels_last, eager", "bf16, channels_last, compiled")


def test_processes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"train\.global_batch_images is 48, which 5 processes"):
        predict_memory(configuration(), 5)


def test_the_verdict() -> None:
    plan = predict_memory(configuration(perf={"compile": False}))
    need = plan.peak_bytes + 2 * 2**30
    sizes = (2 * need, int(1.05 * need), need - 1)
    assert [plan.fit(size) for size in sizes] == ["fits", "may not fit", "does not fit"]
    assert plan.verdict(4 << 30) == "fits in 4.0 GiB"
    assert plan.verdict(1 << 30).startswith("does not fit in 1.0 GiB; train.accumulate, ")
    assert replace(plan, device="cpu").fit(need) == "fits", "a CPU has no CUDA context"
