"""What every statement about speed rests on. Run from the repository's root: python -m benchmarks.NAME."""

from benchmarks.packages import require_packages

require_packages()
