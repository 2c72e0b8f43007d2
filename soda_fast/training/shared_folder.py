"""Whether all processes see one folder under one path: on several machines, a file system that they share."""

import time
import uuid
from pathlib import Path

from soda_fast.parallel import Processes

PATIENCE_S = 10.0
"""How long a file may take to be seen on another machine."""
_LOOK_S = 0.05


def require_shared(folder: Path, processes: Processes) -> None:
    """Refuse a run directory of which another process sees another one. A collective.

    Raises:
        ValueError: the first process's file in it cannot be written, or is not seen by all.
    """
    if processes.world_size == 1:
        return
    token = processes.on_main(lambda: _leave(folder))
    seen = processes.gather(_sees(folder / token))
    if processes.is_main:
        (folder / token).unlink(missing_ok=True)
    without = [str(rank) for rank, found in enumerate(seen) if not found]
    if without:
        raise ValueError(
            f"run.dir {folder} is not the same folder on process {', '.join(without)} as on process 0; it must be on a "
            "file system that all machines share"
        )


def _leave(folder: Path) -> str:
    name = f".shared-{uuid.uuid4().hex}"
    try:
        (folder / name).touch()
    except OSError as error:
        raise ValueError(f"run.dir {folder}: cannot be written ({error.strerror}); choose another run.dir") from error
    return name


def _sees(path: Path) -> bool:
    until = time.monotonic() + PATIENCE_S
    while not path.exists():
        if time.monotonic() > until:
            return False
        time.sleep(_LOOK_S)
    return True
