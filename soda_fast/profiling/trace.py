"""Kineto's trace files (Chrome's trace event format) as plain spans."""

import gzip
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DEVICE_CATEGORIES = ("kernel", "gpu_memcpy", "gpu_memset")
"""What runs on a GPU."""
LAUNCH_CATEGORIES = ("cuda_runtime", "cuda_driver")
"""Calls by which the host starts it."""
HOST_CATEGORIES = ("cpu_op", "user_annotation")
_KEPT = (*DEVICE_CATEGORIES, *LAUNCH_CATEGORIES, *HOST_CATEGORIES)


@dataclass(frozen=True, slots=True)
class Span:
    """Something that took time.

    start, end: in microseconds. lane: thread of the host, or stream of the GPU. correlation: the same for a kernel and
    the call that launched it; -1: none.
    """

    name: str
    category: str
    start: float
    end: float
    lane: str
    correlation: int = -1

    @property
    def duration(self) -> float:
        return self.end - self.start


def read_trace(path: Path) -> list[Span]:
    """The spans of a trace file, .json or .json.gz.

    Raises:
        ValueError: it is not such a file.
    """
    data = path.read_bytes()
    try:
        tree = json.loads(gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data)
        events = tree["traceEvents"]
    except (ValueError, KeyError, TypeError, EOFError, OSError) as error:
        raise ValueError(f"{path}: is not a trace of Kineto ({error})") from error
    return parse_events(events)


def parse_events(events: Iterable[Mapping[str, Any]]) -> list[Span]:
    """The spans among trace events that a summary looks at, in the order of their starts."""
    spans = [
        Span(
            event["name"],
            event["cat"],
            float(event["ts"]),
            float(event["ts"]) + float(event["dur"]),
            f"{event.get('pid')}/{event.get('tid')}",
            int(event.get("args", {}).get("correlation", -1)),
        )
        for event in events
        if event.get("ph") == "X" and event.get("cat") in _KEPT
    ]
    return sorted(spans, key=lambda span: (span.start, -span.end))
