"""Agreeing on numbers in every step without waiting for the slowest process."""

import torch
import torch.distributed as dist

from soda_fast.parallel.processes import Processes


class Vote:
    """For each of a few questions the largest number that any process said, known to all at the same call.

    The processes' answers travel, on the host, during the step that follows: a call returns what was said in the one
    before. A process that is lost is noticed here too, at the next call. One process hears itself at once.
    """

    def __init__(self, processes: Processes) -> None:
        self._alone = processes.world_size == 1
        self._group = None if self._alone else processes.host_group()
        self._answers = torch.zeros(0, dtype=torch.int64)
        self._work: dist.Work | None = None

    def ask(self, *said: int) -> tuple[int, ...]:
        """The largest numbers said in the last call, in which as many were; 0 in the first. A collective."""
        if self._alone:
            return said
        self.close()
        largest = self._answers.tolist() or [0] * len(said)
        self._answers = torch.tensor(said, dtype=torch.int64)
        self._work = dist.all_reduce(self._answers, dist.ReduceOp.MAX, group=self._group, async_op=True)
        return tuple(largest)

    def ask_now(self, *said: int) -> tuple[int, ...]:
        """The largest numbers said in this call, waiting for the slowest process. A collective.

        What `ask` has under way stays for its next call.
        """
        if self._alone:
            return said
        self.close()
        answers = torch.tensor(said, dtype=torch.int64)
        dist.all_reduce(answers, dist.ReduceOp.MAX, group=self._group)
        return tuple(answers.tolist())

    def close(self) -> None:
        """Wait for the last call's answers."""
        if self._work is not None:
            self._work.wait()
            self._work = None
