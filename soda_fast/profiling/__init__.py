"""What a trace of training steps amounts to. Knows trace files alone: neither torch nor the training."""

from soda_fast.profiling.report import as_text
from soda_fast.profiling.summary import Summary, summarise
from soda_fast.profiling.trace import parse_events, read_trace

__all__ = ["Summary", "as_text", "parse_events", "read_trace", "summarise"]
