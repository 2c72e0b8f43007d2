"""Processes and how a model is spread over them. Applied from outside; a single process is not special."""

from soda_fast.parallel.parallelize import parallelize, reshard
from soda_fast.parallel.processes import Processes, start_processes
from soda_fast.parallel.shards import copy_shards
from soda_fast.parallel.vote import Vote
from soda_fast.parallel.watchdog import Watchdog

__all__ = ["Processes", "Vote", "Watchdog", "copy_shards", "parallelize", "reshard", "start_processes"]
