"""How fast the disks are, measured with little."""

import errno
import os
import tempfile
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from soda_fast.config import Config, snapshots_bytes
from soda_fast.doctor.findings import Finding

_MIB, _GIB = 2**20, 2**30
_CHUNK, _MOST, _SECONDS = 4 * _MIB, 64 * _MIB, 2.0
_FILES = 200
_SLOW_READ = 50 * _MIB


def disk_findings(config: Config, parameters: int, train_images: int | None = None) -> Iterator[Finding]:
    """Space and speed where the run writes, and speed where the images are.

    parameters: numbers in the model; a checkpoint holds them, their averages and AdamW's two moments in float32.
    train_images: None: not known; then snapshots of averages are not counted.
    """
    snapshots = snapshots_bytes(config, train_images, parameters) if train_images else 0
    try:
        yield _of_run(config, nearest_folder(Path(config.run.dir)), parameters, snapshots)
    except OSError as error:
        text = f"run.dir {config.run.dir}: cannot be written ({error.strerror})"
        yield Finding("wrong", "run directory", text, "choose another")
    root = Path(config.data.root)
    if config.data.dataset != "digits" and root.is_dir():
        yield _of_images(root)


def nearest_folder(path: Path) -> Path:
    """The path, or the nearest of its parents that is there.

    Raises:
        NotADirectoryError: it is not a folder.
    """
    path = path.absolute()
    nearest = next(place for place in (path, *path.parents) if place.exists())
    if not nearest.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, f"{nearest} is not a folder")
    return nearest


def write_rate(folder: Path) -> float:
    """Bytes per second to the disk itself; at most 64 MiB or about two seconds, and nothing stays."""
    chunk, written = os.urandom(_CHUNK), 0
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".soda_fast_doctor-") as file:
        start = time.perf_counter()
        while written < _MOST and time.perf_counter() - start < _SECONDS:
            file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
            written += _CHUNK
        return written / max(time.perf_counter() - start, 1e-9)


def read_rate(root: Path) -> float | None:
    """Bytes per second of some files below a folder, past the system's cache where that can be asked for; at most
    64 MiB of 200 files or about two seconds. None: there is nothing to read."""
    files = islice((Path(folder) / name for folder, _, names in os.walk(root) for name in names), _FILES)
    start, read = time.perf_counter(), 0
    for path in files:
        if read >= _MOST or time.perf_counter() - start > _SECONDS:
            break
        read += _read(path, _MOST - read)
    return read / max(time.perf_counter() - start, 1e-9) if read else None


def _read(path: Path, most: int) -> int:
    read = 0
    try:
        with path.open("rb", buffering=0) as file:
            if hasattr(os, "posix_fadvise"):
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            while read < most and (chunk := file.read(_CHUNK)):
                read += len(chunk)
    except OSError:
        return 0  # not for us to read; the data set's own reader says so if it matters
    return read


def _of_run(config: Config, folder: Path, parameters: int, snapshots: int) -> Finding:
    stats = os.statvfs(folder)
    free = stats.f_bavail * stats.f_frsize
    # One more than are kept: the oldest goes only when the newest is whole.
    checkpoint = 4 * (4 + len(config.train.ema_lengths)) * parameters
    need = checkpoint * (config.train.keep_checkpoints + 1) + snapshots
    rate = write_rate(folder)
    text = (
        f"{folder}: {free / _GIB:.1f} GiB free, writes {rate / _MIB:,.0f} MiB/s; "
        f"a checkpoint takes {checkpoint / _MIB:,.0f} MiB, {checkpoint / rate:.1f} s"
    )
    if free < need:
        averages = f", with {snapshots / _GIB:.1f} GiB of snapshots of averages," if snapshots else ""
        remedy = f"{config.train.keep_checkpoints} checkpoints and a new one{averages} need {need / _GIB:.1f} GiB"
        return Finding("wrong", "run directory", text, remedy)
    return Finding("ok", "run directory", text)


def _of_images(root: Path) -> Finding:
    rate = read_rate(root)
    if rate is None:
        return Finding("note", "data root", f"{root}: no file that can be read")
    text = f"{root}: reads {rate / _MIB:,.0f} MiB/s (some of it perhaps from the system's cache)"
    if rate < _SLOW_READ:
        return Finding("slow", "data root", text, "copy the images to a local disk, or make a store: soda-fast prepare")
    return Finding("ok", "data root", text)
