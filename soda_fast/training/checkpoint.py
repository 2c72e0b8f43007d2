"""Checkpoints: torch.distributed.checkpoint, sharded, published whole or not at all.

    checkpoints/images-000000512000/__0_0.distcp ..   tensors only: model.*, ema.*, optimizer.*
                                    .metadata         where each tensor lies
                                    manifest.json     images_seen, versions, size and SHA-256 of each file

A checkpoint is written beside its place and renamed when all of it is on disk; the newest folder whose manifest and
files agree is the one that counts. Nothing random is saved: it all follows from the seed and images_seen.
"""

import hashlib
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn

from soda_fast.checkpoint_reader import SafeReader
from soda_fast.files import sync_directory, write_atomically
from soda_fast.parallel import Processes, reshard

FORMAT = 1
_MOMENTS = ("exp_avg", "exp_avg_sq")


@dataclass(frozen=True)
class TrainState:
    """What training changes."""

    model: nn.Module
    average: nn.Module
    optimizer: torch.optim.AdamW

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor of the state by name; loading into them restores the state in place."""
        reshard(self.model)
        reshard(self.average)
        tensors = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        tensors |= {f"ema.{name}": value for name, value in self.average.state_dict().items()}
        for name, parameter in self.model.named_parameters():
            for moment in _MOMENTS:
                tensors[f"optimizer.{moment}.{name}"] = self._moments(parameter)[moment]
        return tensors

    def set_steps(self, steps: int) -> None:
        """Tell AdamW's bias correction how many steps it has made."""
        for parameter in self.model.parameters():
            self._moments(parameter)["step"].fill_(steps)

    def _moments(self, parameter: Tensor) -> dict[str, Tensor]:
        """AdamW's state of one parameter, made here if no step has made it yet."""
        state = self.optimizer.state[parameter]
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float32, device=parameter.device)
            state |= {moment: torch.zeros_like(parameter) for moment in _MOMENTS}
        return state


class CheckpointStore:
    """The checkpoints of one run. `save` and `load_latest` are collectives.

    Args:
        root: the run's `checkpoints` folder.
        keep: how many of the newest stay.
    """

    def __init__(self, root: Path, processes: Processes, keep: int) -> None:
        self.root, self.processes, self.keep = root, processes, keep
        self.notices: list[str] = []

    def save(self, images_seen: int, state: TrainState, steps: int) -> None:
        """Write and publish a checkpoint, then remove those beyond the newest `keep`."""
        final = self.root / f"images-{images_seen:012d}"
        temporary = self.root / f".{final.name}.tmp"
        if self.processes.is_main:
            # A folder of the final name is one that failed its checks, or the same state saved before.
            shutil.rmtree(temporary, ignore_errors=True)
            shutil.rmtree(final, ignore_errors=True)
            self.root.mkdir(parents=True, exist_ok=True)
        self.processes.barrier()
        dcp.save(state.tensors(), checkpoint_id=temporary)
        written = [_fingerprint(path) for path in sorted(temporary.glob(f"__{self.processes.rank}_*.distcp"))]
        everyone: list[list[dict[str, Any]]] = [[] for _ in range(self.processes.world_size)]
        dist.all_gather_object(everyone, written)
        if self.processes.is_main:
            files = [entry for entries in everyone for entry in entries] + [_fingerprint(temporary / ".metadata")]
            manifest = {"format": FORMAT, "images_seen": images_seen, "steps": steps, "conv_layout": "OHWI"}
            manifest |= {"processes": self.processes.world_size, "torch": torch.__version__, "files": files}
            write_atomically(temporary / "manifest.json", json.dumps(manifest, indent=1).encode())
            temporary.rename(final)
            sync_directory(self.root)
            # Newer ones were found damaged when this attempt began; they must not outlive the good ones in `prune`.
            for damaged in [path for path in checkpoints(self.root) if path.name > final.name]:
                shutil.rmtree(damaged)
            prune(self.root, self.keep)
        self.processes.barrier()

    def load_latest(self, state: TrainState) -> dict[str, Any] | None:
        """Restore `state` from the newest whole checkpoint, of any number of processes; returns its manifest."""
        found: list[Any] = [None, []]
        if self.processes.is_main:
            found = list(latest(self.root))
        # One process looks: two that look at a changing disk may see different things.
        dist.broadcast_object_list(found)
        path, self.notices = found
        if path is None:
            return None
        manifest = read_manifest(path)
        dcp.load(state.tensors(), storage_reader=SafeReader(path))
        state.set_steps(manifest["steps"])
        return manifest


def read_manifest(path: Path) -> dict[str, Any]:
    """The manifest of a checkpoint."""
    return json.loads((path / "manifest.json").read_text())


def prune(root: Path, keep: int) -> None:
    """Remove all but the newest `keep` checkpoints, and what interrupted saves left."""
    for old in checkpoints(root)[:-keep]:
        shutil.rmtree(old)
    for leftover in root.glob(".images-*.tmp"):
        shutil.rmtree(leftover, ignore_errors=True)


def checkpoints(root: Path) -> list[Path]:
    """Published checkpoints, oldest first; their files are not checked."""
    return sorted(path for path in root.glob("images-*") if (path / "manifest.json").exists())


def latest(root: Path) -> tuple[Path | None, list[str]]:
    """The newest checkpoint whose files are what its manifest says, and a sentence for each newer one that is not."""
    complaints: list[str] = []
    for path in reversed(checkpoints(root)):
        damage = _damage(path)
        if damage is None:
            return path, complaints
        complaints.append(f"checkpoint {path} is damaged ({damage}) and is passed over")
    return None, complaints


def _damage(path: Path) -> str | None:
    try:
        manifest = read_manifest(path)
        for expected in manifest["files"]:
            if _fingerprint(path / expected["name"]) != expected:
                return f"{expected['name']} is not what was written"
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"{type(error).__name__}: {error}"
    return None


def _fingerprint(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"name": path.name, "bytes": path.stat().st_size, "sha256": digest}
