"""The trainings of a study that are under way, which end with it."""

import signal
import subprocess
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path


class Trainings:
    """Processes, in any thread, that are asked to end when the study is: then each writes a checkpoint first.

    They are in sessions of their own: Ctrl-C is for the study, which passes it on as SIGTERM.
    """

    def __init__(self) -> None:
        self._running: set[subprocess.Popen[bytes]] = set()
        self._lock, self._is_over = threading.Lock(), False

    def run(self, command: Sequence[str], environment: Mapping[str, str], log: Path) -> int:
        """The exit status; what is printed is added to `log`.

        Raises:
            KeyboardInterrupt: the study has been ended; nothing was started.
        """
        with log.open("ab") as file, self._lock:
            if self._is_over:
                raise KeyboardInterrupt
            process = subprocess.Popen(
                command, env=environment, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
            )
            self._running.add(process)
        try:
            return process.wait()
        except BaseException:
            process.send_signal(signal.SIGTERM)
            process.wait()
            raise
        finally:
            self._running.discard(process)

    def end(self) -> None:
        """Ask all to end, and let no other begin."""
        with self._lock:
            self._is_over = True
            for process in list(self._running):
                process.send_signal(signal.SIGTERM)
