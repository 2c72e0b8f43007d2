"""What every statement about speed rests on. Run from the repository's root: python -m benchmarks.NAME."""
