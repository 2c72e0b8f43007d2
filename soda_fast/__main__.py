"""`soda-fast`, and `python -m soda_fast`, which torchrun needs."""

import os
import sys

from soda_fast.cli import main
from soda_fast.errors import EXIT_INTERRUPTED


def leave(status: int) -> None:
    """End the process; one of several, or after Ctrl-C, without taking the interpreter apart.

    Gloo's threads may still hold a tensor of the last collective. If such a thread lets go of it while Python is being
    torn down, the process aborts (https://github.com/pytorch/pytorch/pull/179291), and torchrun calls a run that went
    well a failure. And the interpreter would wait for the thread that writes a checkpoint, which a second Ctrl-C has
    given up. All other files are closed by now.
    """
    if "RANK" in os.environ or status == EXIT_INTERRUPTED:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


def run() -> None:
    """The command."""
    leave(main())


if __name__ == "__main__":
    run()
