"""`python -m soda_fast`, which torchrun needs."""

import sys

from soda_fast.cli import main

if __name__ == "__main__":
    sys.exit(main())
