"""A run's directory: what lies where.

config.yaml       the resolved configuration
metrics.jsonl     one object a line
tensorboard/      the same for TensorBoard, and pictures
samples/*.png     source, target, reconstruction in training; and what `soda-fast sample` has made
failures/         the step at which a training stopped; see failures.py
memory/           what filled the memory when it did not suffice
.lock             held by the training at work here; see run_lock.py
checkpoints/      see training/checkpoint_files.py
averages/         snapshots of power-function averages, see training/average_files.py
profile/          traces of steps and what they amount to, see training/profiler.py
evaluation.json   probes of the last checkpoint; evaluation-held-out.json: on images held out of the training split
"""

import difflib
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from soda_fast.config import Config, ConfigError, config_from_tree, load_config, to_yaml
from soda_fast.files import write_atomically
from soda_fast.training.checkpoint_files import MANIFEST, newest_manifest

# Keys that a resumed run may change: they do not touch what has been learnt so far. All below a name count.
FREE_KEYS = (
    "run.dir",
    "data.root",
    "data.backend",
    "data.kernels",
    "data.resident_mib",
    "data.resident_device_mib",
    "data.on_unreadable",
    "data.unreadable_limit",
    "data.threads",
    "data.prefetch_batches",
    "train.images",
    "train.epochs",
    "train.ema_snapshot_images",
    "train.log_every_images",
    "train.save_every_images",
    "train.keep_checkpoints",
    "train.keep_every_images",
    "train.max_failed_saves",
    "train.max_skipped_steps",
    "train.deterministic",
    "sampling",
    "evaluation",
    "parallel",
    "perf",
    "profile",
)
_MOST_NAMED = 5


class RunDirectory:
    """Paths of one run."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config, self.evaluation = path / "config.yaml", path / "evaluation.json"
        self.checkpoints, self.averages, self.samples = path / "checkpoints", path / "averages", path / "samples"
        self.failures, self.memory = path / "failures", path / "memory"

    def load_config(self, overrides: Sequence[str] = ()) -> Config:
        """The run's configuration, with `section.key=value` over it.

        Raises:
            ValueError: this is not a run's directory, or an override would shape what was learnt.
        """
        if not self.config.is_file():
            beside = self.path.parent.iterdir() if self.path.parent.is_dir() else ()
            near = difflib.get_close_matches(self.path.name, [path.name for path in beside])
            hint = f"; did you mean {self.path.with_name(near[0])}?" if near else ""
            raise ValueError(f"{self.path} is not a run directory: it has no config.yaml{hint}")
        saved = load_config(self.config)
        config = load_config(self.config, overrides) if overrides else saved
        for key, (before, after) in find_changes(saved, config).items():
            raise ConfigError(f"{key}={after}: {self.path} was trained with {before!r}, which cannot change afterwards")
        return config

    def make(self) -> None:
        """Make the folders.

        Raises:
            ValueError: they cannot be made.
        """
        try:
            self.samples.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            reason = error.strerror or str(error)
            raise ValueError(f"run.dir {self.path}: cannot be made ({reason}); choose another run.dir") from error

    def check_changes(self, config: Config, accept_changes: bool = False) -> str | None:
        """Compare a configuration with that of the run's checkpoints.

        Args:
            accept_changes: go on under a configuration that shapes what is learnt in another way than the saved one.

        Returns:
            A warning that names the changes that were accepted, or says why they are not known.

        Raises:
            ValueError: there are checkpoints, and keys that shape what is learnt differ, or this version does not
                understand which they were.
        """
        # Without a checkpoint nothing has been learnt that the changes could contradict.
        if not any(self.checkpoints.glob("images-*")):
            return None
        try:
            saved = self._trained_config()
        except ConfigError as error:
            if not accept_changes:
                raise
            return f"going on without a comparison of the keys, as --accept-changes says: {error}"
        changes = find_changes(saved, config) if saved else {}
        if changes and not accept_changes:
            raise ConfigError(_refusal(self.path, changes))
        named = (f"{key} = {after!r} (was {before!r})" for key, (before, after) in changes.items())
        return f"going on with {', '.join(named)}, as --accept-changes says" if changes else None

    def _trained_config(self) -> Config | None:
        """What the newest checkpoint was trained with, as its manifest says. Where no manifest is whole: config.yaml,
        which anybody may have edited since; None without one.

        Raises:
            ConfigError: this version does not understand it.
        """
        checkpoint, manifest = newest_manifest(self.checkpoints)
        if checkpoint is None:
            return load_config(self.config) if self.config.is_file() else None
        try:
            return config_from_tree(manifest["config"])
        except ConfigError as error:
            raise ConfigError(
                f"{checkpoint / MANIFEST} holds a configuration that this version does not understand ({error}); "
                "resume with the version that wrote it, or go on with --accept-changes"
            ) from error

    def write_config(self, config: Config) -> None:
        """Write config.yaml.

        Raises:
            ValueError: it cannot be written.
        """
        try:
            write_atomically(self.config, to_yaml(config).encode())
        except OSError as error:
            raise ValueError(
                f"run.dir {self.path}: cannot be written ({error.strerror}); choose another run.dir"
            ) from error


def find_changes(saved: Config, wanted: Config) -> dict[str, tuple[Any, Any]]:
    """{key: (saved, wanted)} of the keys under which something else would have been learnt."""
    before, after = (dict(_leaves(asdict(config))) for config in (saved, wanted))
    # A mapping (evaluation.during) may hold other names than it did.
    pairs = {key: (before.get(key), after.get(key)) for key in before | after}
    return {key: (old, new) for key, (old, new) in pairs.items() if old != new and not _is_free(key)}


def _refusal(path: Path, changes: dict[str, tuple[Any, Any]]) -> str:
    named = [f"{key} = {before!r}, not {after!r}" for key, (before, after) in changes.items()]
    more = f" ({len(named) - _MOST_NAMED} more keys differ)" if len(named) > _MOST_NAMED else ""
    return (
        f"{path} holds a run with {'; '.join(named[:_MOST_NAMED])}{more}; give the saved values to resume, another "
        "run.dir to start anew, or --accept-changes to go on from the checkpoint under the new ones"
    )


def _is_free(key: str) -> bool:
    return any(key == free or key.startswith(f"{free}.") for free in FREE_KEYS)


def _leaves(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
