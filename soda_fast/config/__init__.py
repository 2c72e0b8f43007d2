"""Configuration: YAML and `section.key=value` to frozen dataclasses, checked before torch is imported."""

from soda_fast.config.auto import resolve_perf
from soda_fast.config.dump import to_yaml
from soda_fast.config.help import help_text
from soda_fast.config.loader import config_from_tree, load_config
from soda_fast.config.model_schema import DecoderConfig, EncoderConfig, ModelConfig
from soda_fast.config.modulation import modulation_of, section_count, section_drops, trained_without_z
from soda_fast.config.problems import ConfigError
from soda_fast.config.rules import check_shard_processes, check_world_size
from soda_fast.config.run_length import (
    horizon_warning,
    run_length_images,
    snapshot_interval_images,
    snapshots_bytes,
    warmup_images,
)
from soda_fast.config.schema import PROTOCOL_NAMES, Config, ViewConfig

__all__ = [
    "PROTOCOL_NAMES",
    "Config",
    "ConfigError",
    "DecoderConfig",
    "EncoderConfig",
    "ModelConfig",
    "ViewConfig",
    "check_shard_processes",
    "check_world_size",
    "config_from_tree",
    "help_text",
    "horizon_warning",
    "load_config",
    "modulation_of",
    "resolve_perf",
    "run_length_images",
    "section_count",
    "section_drops",
    "snapshot_interval_images",
    "snapshots_bytes",
    "to_yaml",
    "trained_without_z",
    "warmup_images",
]
