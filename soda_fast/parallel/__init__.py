"""Processes and how a model is spread over them. Applied from outside; a single process is not special."""

from soda_fast.parallel.parallelize import parallelize, reshard
from soda_fast.parallel.processes import Processes, start_processes

__all__ = ["Processes", "parallelize", "reshard", "start_processes"]
