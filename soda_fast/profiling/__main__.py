"""Summarise a trace that a training wrote, or any other of Kineto's: python -m soda_fast.profiling TRACE.json.gz"""

import argparse
import sys
from pathlib import Path

from soda_fast.profiling import as_text, read_trace, summarise


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m soda_fast.profiling", description=__doc__)
    parser.add_argument("trace", type=Path, help="Kineto's trace, .json or .json.gz")
    try:
        print(as_text(summarise(read_trace(parser.parse_args().trace))))
    except (ValueError, OSError) as error:
        print(f"soda_fast.profiling: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
