"""Spread a model over processes: global BatchNorm, compilation, sharding, in this order."""

from collections.abc import Sequence
from functools import partial

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.utils.checkpoint import checkpoint

from soda_fast.parallel.batch_norm import synchronise_batch_norm
from soda_fast.parallel.compiling import compile_method

# Gathered parameters smaller than this stay from forward to backward: a third less to send, for memory nobody misses.
KEPT_BYTES = 1 << 30


def parallelize(
    model: nn.Module,
    blocks: Sequence[Sequence[nn.Module]],
    mesh: DeviceMesh,
    *,
    bf16: bool,
    compiled: Sequence[tuple[nn.Module, str]] = (),
    compile_mode: str = "default",
    reshard_after_forward: bool | None = None,
    entry_methods: Sequence[str] = (),
    recomputed: Sequence[nn.Module] = (),
    unit_bytes: int = 0,
) -> None:
    """Prepare `model` for training on the processes of `mesh`, in place. Parameter names do not change.

    Args:
        model: on its device or on `meta`, with float32 parameters.
        blocks: its repeated parts, in lists of which a forward runs all or none. Each list is sharded in units, so that
            communication overlaps computation.
        mesh: from `Processes.mesh`.
        bf16: compute in bfloat16; parameters, gradients' reduction and optimizer stay float32.
        compiled: the methods to compile, as (module, name), one by one, so that compile time stays flat.
        compile_mode: how, see `compile_method`.
        reshard_after_forward: give a block's gathered parameters back after its forward and gather them again for its
            backward. None: if all of them together are larger than `KEPT_BYTES`.
        entry_methods: methods besides forward that callers use; FSDP gathers parameters for these too.
        recomputed: those of the blocks whose activations are not kept for the backward pass but computed again. They
            must draw no random numbers and change no buffers.
        unit_bytes: neighbouring blocks become one unit until their parameters have these; a model with no more is one
            unit as a whole. 0: each block is one.
    """
    synchronise_batch_norm(model, dist.group.WORLD)
    for module, name in compiled:
        compile_method(module, name, compile_mode)
    for block in recomputed:
        # Their dropout is a function of seeds that they are given, so no generator's state needs to be kept.
        block.forward = partial(checkpoint, block.forward, use_reentrant=False, preserve_rng_state=False)
    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32) if bf16 else None
    if reshard_after_forward is None:
        numbers = sum(parameter.numel() for parameter in model.parameters())
        reshard_after_forward = numbers * (2 if bf16 else 4) > KEPT_BYTES
    # One unit for all is the root's, whose hooks run once: those of a unit of many blocks run for every block, and look
    # at all of the unit's parameters each time.
    fits = _parameter_bytes(model) <= unit_bytes
    units = [] if fits else [unit for together in blocks for unit in units_of(together, unit_bytes)]
    for unit in (*units, [model]):
        fully_shard(
            unit, mesh=mesh, mp_policy=policy or MixedPrecisionPolicy(), reshard_after_forward=reshard_after_forward
        )
    for method in entry_methods:
        register_fsdp_forward_method(model, method)


def units_of(blocks: Sequence[nn.Module], least_bytes: int) -> list[list[nn.Module]]:
    """Neighbouring blocks, joined until their parameters have `least_bytes`; the last ones may have less.

    In FSDP's hooks each unit costs the host about a millisecond of a step, and links do not carry small messages at
    their full rate.
    """
    units: list[list[nn.Module]] = [[]]
    missing = least_bytes
    for block in blocks:
        if units[-1] and missing <= 0:
            units.append([])
            missing = least_bytes
        units[-1].append(block)
        missing -= _parameter_bytes(block)
    return [unit for unit in units if unit]


def _parameter_bytes(module: nn.Module) -> int:
    return sum(parameter.numel() * parameter.element_size() for parameter in module.parameters())


def reshard(model: nn.Module) -> None:
    """Give the gathered parameters back.

    A forward without backward leaves the root's parameters gathered; whoever then reads `model.parameters()` (a
    checkpoint) would see plain tensors that are not the sharded weights.
    """
    for module in gathering_modules(model):
        module.reshard()


def gathering_modules(model: nn.Module) -> list[FSDPModule]:
    """The modules that gather their parameters for a forward; to look for them takes the host milliseconds."""
    return [module for module in model.modules() if isinstance(module, FSDPModule)]
