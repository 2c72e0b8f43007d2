"""Snapshots of power-function averages: the files of averages/, which lengths can be made of after training.

    averages/images-000000512000-0.05.safetensors    the average of sigma_rel 0.05 after 512,000 images
            .images-000000512000-0.05.safetensors.tmp   being written; never read

Each holds the parameters and floating-point buffers, whole, in float32, under the names of the state dict, and in its
header images_seen, steps, the length, and SHA-256 of the tensors and of all that. Nothing in it depends on the number
of processes.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor

from soda_fast.files import write_atomically
from soda_fast.training.checkpoint_files import sealed

_NAME = re.compile(r"images-(\d{12})-[0-9.e-]+\.safetensors")
_HEADER = "soda_fast"  # one key: safetensors promises no order among several
_DIGEST = "tensors_sha256"


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """What an average is of. length: sigma_rel. steps: t, the optimisation steps that it has averaged over."""

    length: float
    images_seen: int
    steps: int


def snapshot_path(folder: Path, images_seen: int, length: float) -> Path:
    """Where the snapshot of an average lies."""
    return folder / f"images-{images_seen:012d}-{length!r}.safetensors"


def write_snapshot(folder: Path, snapshot: Snapshot, tensors: Mapping[str, Tensor]) -> None:
    """Write a snapshot into its folder, which is made, whole or not at all.

    Raises:
        OSError: it could not be written.
    """
    folder.mkdir(exist_ok=True)
    header = sealed({**asdict(snapshot), _DIGEST: _digest(tensors)})
    data = save(dict(tensors), metadata={_HEADER: json.dumps(header)})
    write_atomically(snapshot_path(folder, snapshot.images_seen, snapshot.length), data)


def remove_newer(folder: Path, images_seen: int) -> None:
    """Remove the snapshots that a run resumed at `images_seen` is about to write again, and what is half written."""
    for path, seen in _files(folder):
        if seen > images_seen:
            path.unlink()
    for leftover in folder.glob(".images-*.safetensors.tmp"):
        leftover.unlink()


def snapshots(folder: Path) -> dict[Path, Snapshot]:
    """The snapshots in a folder, which need not exist, by their headers, oldest first. Their tensors are not checked.

    Raises:
        ValueError: a file's header is damaged, or it is another file's.
    """
    return {path: _snapshot(path, _header(path)) for path, _ in sorted(_files(folder))}


def read_snapshot(path: Path) -> dict[str, Tensor]:
    """The tensors of a snapshot, on the CPU. No code is executed.

    Raises:
        ValueError: the file is damaged.
    """
    try:
        tensors = load_file(path)
    except SafetensorError as error:
        raise _damaged(path, str(error)) from error
    if _digest(tensors) != _header(path)[_DIGEST]:
        raise _damaged(path, "its tensors are not what was written")
    return tensors


def _digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of names, types, shapes and values."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name].contiguous()
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _header(path: Path) -> dict[str, Any]:
    try:
        with safe_open(path, framework="pt") as file:
            header = TypeAdapter(dict[str, Any]).validate_json((file.metadata() or {}).get(_HEADER, ""))
    except (SafetensorError, ValidationError) as error:
        raise _damaged(path, str(error)) from error
    if _DIGEST not in header or sealed(header) != header:
        raise _damaged(path, "its header is not what was written")
    return header


def _snapshot(path: Path, header: dict[str, Any]) -> Snapshot:
    try:
        snapshot = TypeAdapter(Snapshot).validate_python(header)
    except ValidationError as error:
        raise _damaged(path, str(error)) from error
    if path != snapshot_path(path.parent, snapshot.images_seen, snapshot.length):
        raise _damaged(path, f"it is the one of {snapshot.images_seen:,} images and length {snapshot.length:g}")
    return snapshot


def _damaged(path: Path, reason: str) -> ValueError:
    return ValueError(
        f"{path} is not a whole snapshot of an average ({reason.splitlines()[0]}); remove it, and what is asked for is "
        "made of the others"
    )


def _files(folder: Path) -> Iterator[tuple[Path, int]]:
    for path in folder.glob("images-*.safetensors"):
        match = _NAME.fullmatch(path.name)
        if match:
            yield path, int(match[1])
