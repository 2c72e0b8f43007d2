"""All benchmarks in one command: parts in processes of their own, ordered by value, results written as they come."""
