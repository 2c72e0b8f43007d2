"""Looking at single steps of a training: at given ones, on demand, and when one is suddenly slow.

RUN/profile/
  summary.txt, summary.json          of the newest capture's main process
  steps-20-25/rank0.pt.trace.json.gz for Perfetto (ui.perfetto.dev) and TensorBoard
  steps-20-25/rank0.memory.pickle    on GPUs, for pytorch.org/memory_viz: the allocations of the step before
  steps-20-25/rank0.summary.json
"""

import json
import signal
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict
from pathlib import Path
from types import FrameType

import torch
from torch.profiler import ProfilerActivity, _KinetoProfile, record_function

from soda_fast.config.schema import ProfileConfig
from soda_fast.files import write_atomically
from soda_fast.parallel import Processes
from soda_fast.profiling import Summary, as_text, read_trace, summarise
from soda_fast.profiling.summary import STEP
from soda_fast.training.slow_steps import SlowSteps

REQUEST = "profile.request"
REQUESTED_STEPS = 5
MAX_SLOW_CAPTURES = 3
_LOOK_EVERY_S = 1.0
_SLOW, _ASKED = 1, 2  # what a process may say to the others; the larger wins


class Profiler:
    """Called around each step. Costs microseconds while nothing is traced, and never waits for the device then.

    A capture takes a step to warm up, in which the profiler's libraries load and on GPUs allocations are recorded, and
    then the traced steps. All processes trace the same ones: between two steps each is asked for its `word`, and all
    `hear` the largest.

    Args:
        config: what to trace.
        run: the run's directory. `touch RUN/profile.request` asks for a capture, and so does SIGUSR2.
        processes: of the run.
        say: tells the user; called on every process.
        tolerating: a context in which an error of the disk, in writing what is named, is a warning.
    """

    def __init__(
        self,
        config: ProfileConfig,
        run: Path,
        processes: Processes,
        say: Callable[[str], None],
        tolerating: Callable[[str], AbstractContextManager[None]],
    ) -> None:
        self._tolerating = tolerating
        self._folder, self._request = run / "profile", run / REQUEST
        self._processes, self._say = processes, say
        self._windows = [config.steps] if config.steps else []
        self._slow_steps, self._slow_captures = SlowSteps(config.slow_factor, processes.device), 0
        self._wanted, self._own_word, self._signalled = 0, 0, False
        self._looked = time.monotonic()
        self._capture: _Capture | None = None
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGUSR2, self._note_signal)

    def begin_step(self, step: int) -> None:
        """Before step `step` of the run, counted from 0, waits for its images."""
        if self._capture is not None and step > self._capture.last:
            self._finish()
        if self._capture is None:
            self._plan(step)
        if self._capture is None:
            self._slow_steps.begin()
        else:
            with self._tolerating("profile/"):
                self._capture.begin_step(step)

    def end_step(self) -> None:
        """After it has been launched."""
        if self._capture is not None:
            self._capture.end_step()
            return
        notice = self._slow_steps.end()
        if notice and self._slow_captures < MAX_SLOW_CAPTURES:
            self._say(notice)
            self._own_word = _SLOW

    def word(self) -> int:
        """What this process has to say to all since it was last asked."""
        word, self._own_word = self._own_word, 0
        if self._signalled or self._finds_request():
            self._signalled, word = False, max(word, _ASKED)
        return word

    def hear(self, word: int) -> None:
        """The largest word of all processes, the same on each: a capture may begin with the next step."""
        self._wanted = max(self._wanted, word)

    def close(self) -> None:
        """Write what has been traced so far: the training has come to its end."""
        if self._capture is not None:
            self._finish()

    def _finds_request(self) -> bool:
        now = time.monotonic()
        if not self._processes.is_main or now - self._looked < _LOOK_EVERY_S:
            return False
        self._looked = now
        found = self._request.exists()
        if found:
            self._request.unlink(missing_ok=True)
        return found

    def _plan(self, step: int) -> None:
        """Begin a capture if one is due, or wanted."""
        if self._wanted and not (self._wanted == _SLOW and self._slow_captures >= MAX_SLOW_CAPTURES):
            self._windows.insert(0, (step + 1, step + REQUESTED_STEPS))
            self._slow_captures += self._wanted == _SLOW
        self._wanted = 0
        due = next((window for window in self._windows if window[0] - 1 <= step <= window[1]), None)
        if due is not None:
            self._windows.remove(due)
            self._capture = _Capture(self._folder, due, self._processes)
            self._say(f"profiling steps {due[0]} to {due[1]}")

    def _finish(self) -> None:
        assert self._capture is not None, "nothing is being captured"
        capture, self._capture = self._capture, None
        with self._tolerating("profile/"):
            self._write(capture)

    def _write(self, capture: "_Capture") -> None:
        summary = capture.finish()
        if summary is not None and self._processes.is_main:
            on_gpu = self._processes.device.type == "cuda"
            files = "trace, memory snapshot" if on_gpu else "trace (no memory snapshot: that needs a GPU)"
            text = f"{capture.folder}: {files} and summary of each process\n\n{as_text(summary)}\n"
            write_atomically(self._folder / "summary.txt", text.encode())
            write_atomically(self._folder / "summary.json", _as_json(summary))
            self._say(f"profiled; see {self._folder / 'summary.txt'}")

    def _note_signal(self, number: int, frame: FrameType | None) -> None:
        self._signalled = True


class _Capture:
    """One trace of this process, and on a GPU a memory snapshot."""

    def __init__(self, folder: Path, window: tuple[int, int], processes: Processes) -> None:
        self._first, self.last = window
        self.folder = folder / f"steps-{self._first}-{self.last}"
        self._device, self._name = processes.device, f"rank{processes.rank}"
        self._kineto: _KinetoProfile | None = None
        self._traced, self._records_memory = False, False
        self._step: record_function | None = None

    def begin_step(self, step: int) -> None:
        if self._kineto is None:
            self._kineto = self._prepare()
        if step >= self._first:
            if not self._traced:
                self._start(self._kineto)
            self._step = record_function(f"{STEP}{step}")
            self._step.__enter__()

    def end_step(self) -> None:
        if self._step is not None:
            self._step.__exit__(None, None, None)
            self._step = None

    def finish(self) -> Summary | None:
        """Write the files. None if no step was traced."""
        if self._records_memory:
            self._dump_memory()
        if self._kineto is None or not self._traced:
            return None
        self.end_step()
        self._synchronise()
        self._kineto.stop_trace()
        trace = self.folder / f"{self._name}.pt.trace.json.gz"
        self._kineto.export_chrome_trace(str(trace))
        summary = summarise(read_trace(trace))
        write_atomically(self.folder / f"{self._name}.summary.json", _as_json(summary))
        return summary

    def _prepare(self) -> _KinetoProfile:
        self.folder.mkdir(parents=True, exist_ok=True)
        activities = [ProfilerActivity.CPU]
        if self._device.type == "cuda":
            activities.append(ProfilerActivity.CUDA)
            # Recording slows the host: over the step that warms up, not over those that are timed.
            torch.cuda.memory._record_memory_history(context="alloc", stacks="python", max_entries=100_000)
            self._records_memory = True
        kineto = _KinetoProfile(activities=activities)
        kineto.prepare_trace()
        return kineto

    def _start(self, kineto: _KinetoProfile) -> None:
        if self._records_memory:
            self._dump_memory()
        self._synchronise()  # so that no earlier step's kernels run into the trace
        kineto.start_trace()
        self._traced = True

    def _dump_memory(self) -> None:
        torch.cuda.memory._dump_snapshot(str(self.folder / f"{self._name}.memory.pickle"))
        torch.cuda.memory._record_memory_history(enabled=None)
        self._records_memory = False

    def _synchronise(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)


def _as_json(summary: Summary) -> bytes:
    return f"{json.dumps(asdict(summary), indent=1)}\n".encode()
