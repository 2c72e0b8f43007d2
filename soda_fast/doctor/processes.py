"""How many processes of this machine a configuration can be trained by."""

from soda_fast.config import Config, ConfigError, check_shard_processes, check_world_size


def fitting_processes(config: Config, most: int) -> int:
    """The most processes, of `most` on one machine, that share out batch and shards evenly; 0: not even one does."""
    return next((count for count in range(most, 0, -1) if why_not(config, count) is None), 0)


def why_not(config: Config, processes: int) -> str | None:
    """Why training refuses so many processes on one machine; None: it takes them."""
    try:
        check_world_size(config, processes)
        check_shard_processes(config, processes, processes)
    except ConfigError as error:
        return str(error)
    return None
