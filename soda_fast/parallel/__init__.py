"""Processes and how a model is spread over them. Applied from outside; a single process is not special."""

from soda_fast.parallel.parallelize import gathering_modules, parallelize, reshard
from soda_fast.parallel.processes import Processes, excuse, start_processes
from soda_fast.parallel.shards import copy_shards, local_shards, sharding_group
from soda_fast.parallel.vote import Vote
from soda_fast.parallel.watchdog import Watchdog

__all__ = [
    "Processes",
    "Vote",
    "Watchdog",
    "copy_shards",
    "excuse",
    "gathering_modules",
    "local_shards",
    "parallelize",
    "reshard",
    "sharding_group",
    "start_processes",
]
