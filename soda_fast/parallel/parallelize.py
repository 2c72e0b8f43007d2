"""Spread a model over processes: global BatchNorm, compilation, sharding, in this order."""

from collections.abc import Callable, Sequence
from functools import partial
from types import FunctionType, MethodType
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.utils.checkpoint import checkpoint

from soda_fast.parallel.batch_norm import synchronise_batch_norm


def parallelize(
    model: nn.Module,
    blocks: Sequence[nn.Module],
    mesh: DeviceMesh,
    *,
    bf16: bool,
    compile_blocks: bool,
    entry_methods: Sequence[str] = (),
    recomputed: Sequence[nn.Module] = (),
    compiler: str | Callable[..., Any] = "inductor",
) -> None:
    """Prepare `model` for training on the processes of `mesh`, in place. Parameter names do not change.

    Args:
        model: on its device, with float32 parameters.
        blocks: its repeated parts: compiled and sharded one by one, so that compile time stays flat and
            communication overlaps computation.
        mesh: from `Processes.mesh`.
        bf16: compute in bfloat16; parameters, gradients' reduction and optimizer stay float32.
        compile_blocks: torch.compile each block; a block that does not compile whole is an error.
        entry_methods: methods besides forward that callers use; FSDP gathers parameters for these too.
        recomputed: those of the blocks whose activations are not kept for the backward pass but computed again. They
            must draw no random numbers and change no buffers.
        compiler: torch.compile's backend.
    """
    synchronise_batch_norm(model, dist.group.WORLD)
    if compile_blocks:
        for block in blocks:
            # Not block.compile(): that would trace FSDP's hooks too, which torch 2.14 refuses with fullgraph. The hooks
            # run around the compiled forward instead.
            block.forward = _compile_apart(block.forward, compiler)
    for block in recomputed:
        # Their dropout is a function of seeds that they are given, so no generator's state needs to be kept.
        block.forward = partial(checkpoint, block.forward, use_reentrant=False, preserve_rng_state=False)
    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32) if bf16 else None
    for block in (*blocks, model):
        fully_shard(block, mesh=mesh, mp_policy=policy or MixedPrecisionPolicy())
    for method in entry_methods:
        register_fsdp_forward_method(model, method)


def _compile_apart(method: Callable[..., Any], compiler: str | Callable[..., Any]) -> Callable[..., Any]:
    """torch.compile of a bound method with a code object of its own, whole and for fixed shapes.

    torch.compile keeps what it has compiled with the code object, tries the entries one after the other, and gives up
    at eight: more than eight blocks of one class and different shapes would be an error, and fewer would be slow. It
    also takes the second block's other widths for a reason to compile for any.
    """
    function = method.__func__  # type: ignore[attr-defined]
    code = function.__code__.replace()
    own = FunctionType(code, function.__globals__, function.__name__, function.__defaults__, function.__closure__)
    own.__kwdefaults__ = function.__kwdefaults__
    bound = MethodType(own, method.__self__)  # type: ignore[attr-defined]
    return torch.compile(bound, fullgraph=True, dynamic=False, backend=compiler)


def reshard(model: nn.Module) -> None:
    """Give the gathered parameters back.

    A forward without backward leaves the root's parameters gathered; whoever then reads `model.parameters()` (the EMA,
    a checkpoint) would see plain tensors that are not the sharded weights.
    """
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()
