"""`python -m soda_fast`, which torchrun needs."""

import os
import sys

from soda_fast.cli import main


def leave(status: int) -> None:
    """End the process; one of several, without taking the interpreter apart.

    Gloo's threads may still hold a tensor of the last collective. If such a thread lets go of it while Python is being
    torn down, the process aborts (https://github.com/pytorch/pytorch/pull/179291), and torchrun calls a run that went
    well a failure. All files are closed by now.
    """
    if "RANK" in os.environ:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


if __name__ == "__main__":
    leave(main())
