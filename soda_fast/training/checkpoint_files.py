"""The files of checkpoints: which there are, which are whole, which stay.

    checkpoints/images-000000512000/__0_0.distcp ..   tensors only: model.*, ema.*, ema-LENGTH.*, optimizer.*
                                    .metadata         where each tensor lies
                                    manifest.json     images_seen, configuration, versions; SHA-256 of all files
                .images-000000512000.tmp/             being written; never read
                damaged-images-000000512000/          failed its checks when a run resumed; never read

The newest folder whose manifest and files agree is the one that counts.
"""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt, ValidationError

from soda_fast.files import sync_directory, write_atomically

MANIFEST = "manifest.json"
FORMAT = 1
_SEAL = "manifest_sha256"
_NAME = re.compile(r"images-\d{12}")  # a copy that somebody made beside it is none


class _FileEntry(BaseModel):
    """As `fingerprint` gives it: of a file beside the manifest."""

    model_config = ConfigDict(strict=True, extra="forbid")

    name: str = Field(pattern=r"^[^/]+$")
    bytes: NonNegativeInt
    sha256: str


class _Images(BaseModel):
    """Which images a run was trained on."""

    model_config = ConfigDict(strict=True, extra="forbid")

    count: PositiveInt
    sha256: str


class _Manifest(BaseModel):
    """What every manifest holds, and may hold. An imported run does not say which images it was trained on."""

    model_config = ConfigDict(strict=True)

    format: Literal[1]
    conv_layout: Literal["OHWI"]
    images_seen: NonNegativeInt
    steps: NonNegativeInt
    skipped_steps: NonNegativeInt
    processes: PositiveInt
    images: _Images | None = None
    config: dict[str, Any]
    files: list[_FileEntry] = Field(min_length=1)
    manifest_sha256: str


def checkpoint_path(root: Path, images_seen: int) -> Path:
    """Where a checkpoint is published."""
    return root / f"images-{images_seen:012d}"


def temporary_path(root: Path, images_seen: int) -> Path:
    """Where it is written before."""
    return root / f".images-{images_seen:012d}.tmp"


def checkpoints(root: Path) -> list[Path]:
    """Published checkpoints, oldest first; their files are not checked."""
    return sorted(path for path in root.glob("images-*") if _NAME.fullmatch(path.name) and (path / MANIFEST).exists())


def latest(root: Path) -> tuple[Path | None, list[str]]:
    """The newest checkpoint whose files are what its manifest says, and a sentence for each newer one that is not."""
    complaints: list[str] = []
    for path in reversed(checkpoints(root)):
        damage = find_damage(path)
        if damage is None:
            return path, complaints
        if not path.exists():  # removed as an old one meanwhile, by a training at work, which has a newer one
            return latest(root)
        complaints.append(f"checkpoint {path} is damaged ({damage}) and is passed over")
    return None, complaints


def newest_manifest(root: Path) -> tuple[Path | None, dict[str, Any]]:
    """The newest checkpoint whose manifest is what was written, and that; None and nothing if there is none.

    The other files are not checked, which takes seconds.
    """
    for path in reversed(checkpoints(root)):
        try:
            manifest = read_manifest(path)
            _check_manifest(path, manifest)
        except (OSError, ValueError, RecursionError):
            continue  # told of by `latest`
        return path, manifest
    return None, {}


def find_damage(path: Path) -> str | None:
    """What is wrong with a checkpoint's files, or None."""
    try:
        manifest = read_manifest(path)
        _check_manifest(path, manifest)
        for expected in manifest["files"]:
            if fingerprint(path / expected["name"]) != expected:
                return f"{expected['name']} is not what was written"
    except ValidationError as error:
        detail = error.errors(include_url=False)[0]
        return f"{MANIFEST}: {'.'.join(map(str, detail['loc']))}: {detail['msg']}"
    except (OSError, ValueError, RecursionError) as error:
        return f"{type(error).__name__}: {error}"
    return None


def _check_manifest(path: Path, manifest: Any) -> None:
    """Raises a ValueError if a manifest is not what was written, or is another checkpoint's."""
    checked = _Manifest.model_validate(manifest)
    if sealed(manifest) != manifest:
        raise ValueError(f"{MANIFEST} is not what was written")
    if path.name != checkpoint_path(path.parent, checked.images_seen).name:
        raise ValueError(f"{MANIFEST} is of {checked.images_seen:,} images")
    if ".metadata" not in {entry.name for entry in checked.files}:
        raise ValueError(f"{MANIFEST} names no .metadata")


def sealed(manifest: dict[str, Any]) -> dict[str, Any]:
    """A manifest as it will be read, with the SHA-256 of its canonical JSON (sorted, without spaces, without that)."""
    plain = json.loads(json.dumps({key: value for key, value in manifest.items() if key != _SEAL}))
    canonical = json.dumps(plain, sort_keys=True, separators=(",", ":")).encode()
    return {**plain, _SEAL: hashlib.sha256(canonical).hexdigest()}


def find_absent(folder: Path, entries: Sequence[dict[str, Any]]) -> str | None:
    """What is wrong with the first of these files that is not in `folder` with its size, or None."""
    for entry in entries:
        try:
            # Opened, since a network's file system may tell an old size of a file that it has not opened.
            with (folder / entry["name"]).open("rb") as file:
                size = file.seek(0, os.SEEK_END)
        except FileNotFoundError:
            return f"{entry['name']}, which a process has written, is not in {folder}"
        if size != entry["bytes"]:
            return f"{entry['name']} has {size:,} bytes in {folder}, of {entry['bytes']:,} that a process has written"
    return None


def read_manifest(path: Path) -> dict[str, Any]:
    """The manifest of a checkpoint."""
    return json.loads((path / MANIFEST).read_text())


def fingerprint(path: Path) -> dict[str, Any]:
    """{"name", "bytes", "sha256"} of a file."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"name": path.name, "bytes": path.stat().st_size, "sha256": digest}


def publish(temporary: Path, final: Path, manifest: dict[str, Any]) -> None:
    """Make what lies in `temporary` a checkpoint: the manifest last, then the rename that commits."""
    write_atomically(temporary / MANIFEST, json.dumps(sealed(manifest), indent=1).encode())
    set_aside(final)
    temporary.rename(final)
    sync_directory(final.parent)


def set_aside(path: Path) -> None:
    """Take a checkpoint out of the order, without deleting it; nothing to do if there is none."""
    if path.exists():
        aside = path.with_name(f"damaged-{path.name}")
        remove_folder(aside)
        path.rename(aside)


def set_newer_aside(root: Path, path: Path | None) -> None:
    """Set all checkpoints aside that are newer than `path`; None: all."""
    for other in checkpoints(root):
        if path is None or other > path:
            set_aside(other)


def prune(root: Path, keep: int, keep_every_images: int) -> None:
    """Remove the checkpoints that `to_remove` names, and what interrupted saves left."""
    paths = {int(path.name.removeprefix("images-")): path for path in checkpoints(root)}
    for images in to_remove(list(paths), keep, keep_every_images):
        # Renamed first, so that it is no checkpoint any more, wherever the removal is interrupted.
        paths[images].rename(temporary_path(root, images))
    remove_leftovers(root)


def remove_leftovers(root: Path) -> None:
    """Remove what interrupted saves and removals left. Nothing may be being written."""
    for leftover in root.glob(".images-*.tmp"):
        remove_folder(leftover)


def remove_folder(path: Path) -> None:
    """Remove a folder as far as possible; one that is not there is removed."""
    shutil.rmtree(path, ignore_errors=True)


def to_remove(images: Sequence[int], keep: int, keep_every_images: int) -> list[int]:
    """Which checkpoints go: not the newest `keep`, nor the first at or after each multiple of `keep_every_images`.

    Args:
        images: images_seen of each checkpoint, rising.
        keep: at least 1.
        keep_every_images: 0 for none.
    """
    firsts: dict[int, int] = {}
    if keep_every_images:
        for count in images:
            firsts.setdefault(count // keep_every_images, count)
        firsts.pop(0, None)
    return [count for count in images[:-keep] if count not in firsts.values()]
