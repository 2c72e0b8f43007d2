"""A file of lines on a disk that may be full for a while."""

import os
from pathlib import Path


class PatientLines:
    """Appends lines to a file. What the disk does not take is kept, in order, and tried again with the next line."""

    def __init__(self, path: Path) -> None:
        # Unbuffered: a file's own buffer drops what comes after its first 8 KiB.
        self._file = path.open("ab", buffering=0)
        self._waiting = bytearray()

    @property
    def waiting(self) -> int:
        """Lines that are not, or not whole, in the file."""
        return self._waiting.count(b"\n")

    def write(self, line: str) -> None:
        """Append a line, after those that wait.

        Raises:
            OSError: not all of it could be written.
        """
        self._waiting += f"{line}\n".encode()
        self._flush()

    def close(self) -> None:
        """Try what waits once more, and close the file. Raises as `write`."""
        try:
            self._flush()
        finally:
            self._file.close()

    def _flush(self) -> None:
        while self._waiting:
            written = os.write(self._file.fileno(), self._waiting)
            del self._waiting[:written]
