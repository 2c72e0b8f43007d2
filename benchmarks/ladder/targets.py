"""The targets, and whether a ladder met them."""

from typing import Any

from benchmarks.ladder.rungs import LAST_RUNG
from soda_fast.config import Config, ConfigError, load_config

GPU = "H200"
REFERENCE_CONFIG = "configs/cifar10.yaml"
TARGETS = (
    ("images/s", "images_per_second", 9700.0),
    ("times the reference's recipe as published", "times_published", 6.0),
    ("times the reference's recipe repaired", "times_repaired", 2.5),
)


def judge(result: dict[str, Any], config: Config) -> list[dict[str, Any]]:
    """Each target with what the last rung reached and whether that met it.

    Empty where they do not apply: another GPU than an H200, other networks or sizes than those of
    configs/cifar10.yaml, or no real loader. `met` is None where a rung that a target needs was not measured.
    """
    if not applies(result, config):
        return []
    measured = (row for row in result["rungs"] if row["name"] == LAST_RUNG and row["status"] == "measured")
    last: dict[str, Any] = next(measured, {})
    verdicts = []
    for name, key, target in TARGETS:
        reached = last.get(key)
        if isinstance(reached, dict):
            reached = reached["median"]
        met = None if reached is None else reached >= target
        verdicts.append({"target": name, "at_least": target, "reached": reached, "met": met})
    return verdicts


def verdict_text(what: str, reached: float | None, target: float) -> str:
    """Met or missed, in words."""
    if reached is None:
        return f"{what}: target {target:,g}, not measured"
    return f"{what}: target {target:,g}, reached {reached:,.2f}, {'met' if reached >= target else 'MISSED'}"


def not_judged(device: str) -> str:
    """For a GPU's name a sentence on why nothing that it reaches is judged; empty for the targets' own."""
    return "" if GPU in device else f"Targets speak of an {GPU}: nothing is judged by them on this GPU, {device}."


def applies(result: dict[str, Any], config: Config) -> bool:
    """Whether this is what the targets speak of."""
    ceiling = result.get("ceiling")  # absent where it could not be measured
    if ceiling is None or ceiling["data_sheet"] != GPU or result["loader"] != "real":
        return False
    try:
        reference = load_config(REFERENCE_CONFIG)
    except ConfigError:  # run from elsewhere
        return False
    sizes = (config.data.source_size, config.data.target_size, config.train.global_batch_images)
    wanted = (reference.data.source_size, reference.data.target_size, reference.train.global_batch_images)
    return config.model == reference.model and sizes == wanted
