"""The list of unreadable images that others stood in for, in the run directory."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from soda_fast.data import ImageSet
from soda_fast.data.unreadable import Replaced, check_share
from soda_fast.files import write_atomically
from soda_fast.parallel import Processes

FILE = "unreadable.tsv"


class ReplacedImages:
    """Of all processes and, on resuming, of the attempts before.

    Args:
        directory: the run's.
        images: the training set.
        limit: data.unreadable_limit.
        processes: those of the run.
        tolerating: a context in which an error of the disk, in writing what is named, is a warning.
    """

    def __init__(
        self,
        directory: Path,
        images: ImageSet,
        limit: float,
        processes: Processes,
        tolerating: Callable[[str], AbstractContextManager[None]],
    ) -> None:
        self._path, self._images, self._limit, self._processes = directory / FILE, images, limit, processes
        self._tolerating = tolerating
        self._lines: dict[int, str] = {}
        if self._path.is_file():
            try:
                for line in self._path.read_text(encoding="utf-8").splitlines()[1:]:
                    self._lines[int(line.split("\t")[0])] = line
            except ValueError as error:
                raise ValueError(f"{self._path}: is damaged ({error}); remove it, and it is begun anew") from error

    def report(self, replaced: Sequence[Replaced]) -> int:
        """Join what this process has met with what the others have; the main process writes the list. A collective.

        Returns:
            Images replaced so far.

        Raises:
            ValueError: more than the limit, on all processes alike; the list is written.
        """
        new = [item for item in replaced if item.index not in self._lines]
        lines = {item.index: self._line(item) for item in new}
        found = {index: line for part in self._processes.gather(lines) for index, line in part.items()}
        if found.keys() - self._lines.keys():
            self._lines |= found
            self._processes.on_main(self._write)
        check_share(len(self._lines), len(self._images), "train", self._limit)
        return len(self._lines)

    def _write(self) -> None:
        rows = [self._lines[index] for index in sorted(self._lines)]
        text = "\n".join(["index\tby\tcause\tstand-in", *rows, ""])
        with self._tolerating(FILE):
            write_atomically(self._path, text.encode("utf-8", "backslashreplace"))

    def _line(self, item: Replaced) -> str:
        texts = (item.cause, self._images.describe(item.by))
        return "\t".join([str(item.index), str(item.by), *(" ".join(text.split()) for text in texts)])
