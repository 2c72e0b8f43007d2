"""A model larger than a GPU: built, spread and stepped on paper."""

import resource
from pathlib import Path

import pytest

from soda_fast.build import build_empty_model
from soda_fast.config import load_config
from soda_fast.describe import count_parameters
from soda_fast.memory import MemoryPlan, predict_memory
from soda_fast.memory.plan import GIB

CONFIG = Path(__file__).parents[2] / "configs" / "imagenet64_1b5.yaml"
# As many weights in a quarter of the layers, whose number is what a simulation takes its time for. Eager: compiling
# takes a minute.
FEW_LAYERS = [
    *("model.encoder.arch=small", "model.encoder.widths=[64]", "model.encoder.depths=[1]"),
    *("model.decoder.channels=2912", "model.decoder.multipliers=[1]", "model.decoder.attention=[true]"),
    *("model.decoder.blocks=1", "perf.compile=false"),
]


def plan(processes: int, strategy: str) -> MemoryPlan:
    """Of the large model with few layers."""
    return predict_memory(load_config(CONFIG, [*FEW_LAYERS, f"parallel.strategy={strategy}"]), processes)


def test_the_header_counts_right() -> None:
    model = build_empty_model(load_config(CONFIG, []))
    header = CONFIG.read_text()
    assert f"{count_parameters(model.decoder):,}" in header
    assert f"{count_parameters(model.encoder):,}" in header
    assert 1.4e9 < count_parameters(model.decoder) < 1.6e9
    assert all(parameter.is_meta for parameter in model.parameters())


@pytest.mark.slow
def test_simulated_meshes() -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    eight, many = plan(64, "hsdp"), plan(256, "fsdp")
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    total = 4 * count_parameters(build_empty_model(load_config(CONFIG, FEW_LAYERS)))
    assert total > 6 * GIB > 3 * grown, "the weights never stood anywhere"
    # Rows of a weight are dealt out whole: of 2,912, the first of 256 processes has 12, and the last has none.
    for found, shards, tolerance in ((eight, 8, 0.02), (many, 256, 0.15)):
        weights = total / shards
        for kind, copies in (("weights", 1), ("gradients", 1), ("average", 1), ("optimizer", 2)):
            assert found.usage.largest[kind] == pytest.approx(copies * weights, rel=tolerance), (shards, kind)
    kept_many, kept_eight = (found.peak_bytes - found.usage.at_peak["gathered"] for found in (many, eight))
    assert kept_many < kept_eight / 4
    assert many.usage.largest["activations"] == pytest.approx(eight.usage.largest["activations"] / 4, rel=0.2)
    # What is gathered is a block's, whatever the number of processes.
    assert many.usage.largest["gathered"] == pytest.approx(eight.usage.largest["gathered"], rel=0.3)
