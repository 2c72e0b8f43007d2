"""From measured computation, counted bytes and given links to the time of a step on more GPUs.

    step = computation + what blocks + the first gather + the last scatter + max(0, what overlaps - computation)

FSDP's collectives run beside the computation, in the order of the blocks; so they cost time only where there is more of
them than of it, and at both ends, where there is nothing to compute beside them: the first block's weights and the
last block's gradients. BatchNorm's sums and the gradient norm's block. Left out: processes that wait for slower ones,
and the memory bandwidth and multiprocessors that communication takes from computation.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.scaling.traffic import MACHINE_PROCESSES, Collective, Group


@dataclass(frozen=True)
class Links:
    """What carries the bytes.

    machine_bytes_s: of one process to those of its machine, each way. network_bytes_s: of one process's share of its
    machine's network, each way. machine_hop_s, network_hop_s: from one process to the next, for the shortest message.
    launch_s: of any collective. overlapped: whether communication runs beside computation (gloo's takes the same
    cores).
    """

    machine_bytes_s: float
    network_bytes_s: float
    machine_hop_s: float
    network_hop_s: float
    launch_s: float
    overlapped: bool = True


@dataclass(frozen=True)
class Computation:
    """A step's time without communication: fixed_s + image_s * images of one process."""

    fixed_s: float
    image_s: float

    def seconds(self, images: float) -> float:
        """For `images` of one process."""
        return self.fixed_s + self.image_s * images


@dataclass(frozen=True)
class Prediction:
    """A step on some number of processes. Seconds; exposed_s is what communication adds to the computation."""

    processes: int
    process_images: float
    computation_s: float
    exposed_s: float

    @property
    def step_s(self) -> float:
        """The whole."""
        return self.computation_s + self.exposed_s

    @property
    def images_per_second(self) -> float:
        """Of all processes together."""
        return self.processes * self.process_images / self.step_s


def links_of(row: dict[str, Any], overlapped: bool) -> Links:
    """The links between processes of one machine as they were measured beside a step."""
    found = row["links"]
    return Links(found["bytes_s"], found["bytes_s"], 0.0, 0.0, found["launch_s"], overlapped)


def fit_computation(steps: Sequence[tuple[float, float]]) -> Computation:
    """Through two measurements (images of one process, seconds), or one, whose time is then all the images'.

    Raises:
        ValueError: none, or two of the same size.
    """
    if not steps or len({images for images, _ in steps}) < len(steps):
        raise ValueError("measure a step with one or two different numbers of images")
    (small, fast), (large, slow) = min(steps), max(steps)
    if len(steps) == 1:
        return Computation(0.0, slow / large)
    image_s = max(0.0, (slow - fast) / (large - small))
    return Computation(max(0.0, fast - image_s * small), image_s)


def predict(
    computation: Computation,
    traffic: Sequence[Collective],
    links: Links,
    processes: int,
    process_images: float,
    machine_processes: int = MACHINE_PROCESSES,
) -> Prediction:
    """A step on `processes`, full machines of `machine_processes` or a part of one, with `process_images` each.

    Raises:
        ValueError: a number of processes that does not fill its machines.
    """
    if processes > machine_processes and processes % machine_processes:
        raise ValueError(f"{processes} processes do not fill machines of {machine_processes}")
    computing = computation.seconds(process_images)
    times = [(one, collective_seconds(one, links, processes, machine_processes)) for one in traffic]
    blocking = sum(time for one, time in times if one.blocks)
    beside = [time for one, time in times if not one.blocks]
    if not links.overlapped:
        return Prediction(processes, process_images, computing, blocking + sum(beside))
    ends = beside[0] + beside[-1] if beside else 0.0
    return Prediction(processes, process_images, computing, blocking + max(ends, sum(beside) - computing))


def collective_seconds(collective: Collective, links: Links, processes: int, machine_processes: int) -> float:
    """One collective: bytes over the slower of the links they must pass, and hops, of a ring or, for a sum, of a tree.

    A ring of n sends (n - 1)/n of the bytes through each process, a sum twice that. Between machines the processes of
    one share its network.
    """
    here, machines = _extent(collective.group, processes, machine_processes)
    n = here * machines
    if n == 1:
        return 0.0
    rounds = 2 if collective.kind == "all_reduce" else 1
    inside = (n - 1) / n * collective.bytes / links.machine_bytes_s if here > 1 else 0.0
    between = (machines - 1) / machines * collective.bytes / (here * links.network_bytes_s)
    ring = (n - machines) * links.machine_hop_s + (machines - 1) * links.network_hop_s
    hops = ring
    if collective.kind == "all_reduce":
        depth = math.log2(here) * links.machine_hop_s + math.log2(machines) * links.network_hop_s
        hops = min(ring, depth)
    return links.launch_s + rounds * (hops + max(inside, between))


def _extent(group: Group, processes: int, machine_processes: int) -> tuple[int, int]:
    """The processes of a group on one machine, and its machines."""
    here = min(processes, machine_processes)
    machines = processes // here
    return {"one": (1, 1), "machine": (here, 1), "across": (1, machines), "all": (here, machines)}[group]
