"""The rungs: what is done at each, from the reference's recipe to our trainer, one thing at a time."""

from dataclasses import dataclass, replace
from typing import Literal

import torch


@dataclass(frozen=True)
class Recipe:
    """How a step is done. The defaults are the reference implementation's.

    precision: of the networks; fp16 and bf16 by autocast, bf16 by FSDP2's bf16 weights once `sharded`.
    autotuned: cuDNN tries its algorithms and keeps the fastest, instead of deterministic ones by heuristics.
    channels_last: memory layout of weights and activations.
    sharded: spread by `soda_fast.parallel` (FSDP2, BatchNorm over all processes) instead of DDP.
    compiled: torch.compile of each block.
    own_networks: the trainer's networks and step (`TrainStep`) instead of the reference's operations.
    reads: what the host reads from the device in a step: "loss" (and all else that the reference waits for), "finite"
        (only whether the gradient is finite), "nothing".
    lists: fused AdamW and a moving average over lists of tensors, instead of PyTorch's default AdamW and a loop. Either
        way they work on plain tensors: of a `sharded` model on this process's parts (benchmarks/ladder/shards.py).
    loader: "one worker" or "workers" of a torch DataLoader with Pillow, "dali", "own": what training itself takes, or
        "tensors": the same without Triton kernels for views.
    """

    precision: Literal["fp16", "bf16", "fp32"] = "fp16"
    autotuned: bool = False
    channels_last: bool = False
    sharded: bool = False
    compiled: bool = False
    own_networks: bool = False
    reads: Literal["loss", "finite", "nothing"] = "loss"
    lists: bool = False
    loader: Literal["one worker", "workers", "dali", "tensors", "own"] = "one worker"


@dataclass(frozen=True)
class Rung:
    """One row of the ladder. changes: what is different from the row before, for a reader."""

    name: str
    changes: str
    recipe: Recipe


_PUBLISHED = Recipe()
_REPAIRED = replace(_PUBLISHED, autotuned=True, reads="finite", loader="workers")
_BF16 = replace(_REPAIRED, precision="bf16")
_CHANNELS_LAST = replace(_BF16, channels_last=True)
_COMPILE = replace(_CHANNELS_LAST, sharded=True, compiled=True)
_KERNEL = replace(_COMPILE, own_networks=True)
_NO_SYNC = replace(_KERNEL, reads="nothing")
_FUSED = replace(_NO_SYNC, lists=True)
_DALI = replace(_FUSED, loader="dali")
_TENSORS = replace(_FUSED, loader="tensors")
_TRAINER = replace(_FUSED, loader="own")
LAST_RUNG = "trainer"
"""The one that targets and summaries speak of."""

RUNGS = (
    Rung(
        "published",
        "the reference's recipe: eager, NCHW, fp16 autocast with GradScaler, DDP, deterministic cuDNN without "
        "autotuning; each step a barrier, the loss all-reduced and read, images and random numbers copied while the "
        "host waits, ema-pytorch with its counters on the GPU; one worker process with Pillow",
        _PUBLISHED,
    ),
    Rung(
        "repaired",
        "as many workers as cores, kept alive; copies that do not wait; cuDNN's autotuning; no barrier, no reading of "
        "the loss, random numbers drawn on the GPU, the average's counters on the host. One read a step is left: "
        "GradScaler's, whether the gradient is finite",
        _REPAIRED,
    ),
    Rung(
        "bf16",
        "bf16 autocast instead of fp16; no GradScaler, but its protection: the host reads whether the gradient is "
        "finite, and skips the step if not",
        _BF16,
    ),
    Rung("channels_last", "weights and activations in channels_last", _CHANNELS_LAST),
    Rung(
        "compile",
        "torch.compile of each block, for which the trainer's way to spread a model comes too: FSDP2 with bf16 weights "
        "instead of DDP with autocast, and our BatchNorm; clipping, AdamW and the average on this process's parts "
        "of the weights as plain tensors, so that the cost of DTensor's dispatch is no part of the rung",
        _COMPILE,
    ),
    Rung(
        "kernel",
        "the trainer's own networks and step: normalise, modulate, activate and drop in one Triton kernel "
        "(group_norm_modulate), scaled_dot_product_attention, random numbers from counters",
        _KERNEL,
    ),
    Rung(
        "no synchronisation",
        "the host no longer reads whether the gradient is finite: the device remembers, and the next log looks",
        _NO_SYNC,
    ),
    Rung(
        "fused optimizer",
        "fused AdamW, which itself leaves out a step that is not finite; the moving average over lists of tensors",
        _FUSED,
    ),
    Rung("dali", "the trainer's loader with DALI: decoded once, augmented on the GPU", _DALI),
    Rung(
        "tensors",
        "data.backend as configured, which on a GPU augments decoded images a batch at once; data.kernels=pytorch: by "
        "tensor operations, whose hundreds of launches compete with the training's own",
        _TENSORS,
    ),
    Rung(LAST_RUNG, "the trainer as it trains: data.kernels as configured, Triton kernels for views", _TRAINER),
)


def rung_named(name: str) -> Rung:
    """Raises ValueError for a name that no rung has."""
    for rung in RUNGS:
        if rung.name == name:
            return rung
    raise ValueError(f"--only {name}: no such rung; there are {', '.join(rung.name for rung in RUNGS)}")


def on_device(recipe: Recipe, device: torch.device) -> tuple[Recipe, list[str]]:
    """The recipe as this device does it, and a sentence for each thing that is done otherwise."""
    if device.type == "cuda":
        return recipe, []
    notes = []
    if recipe.precision != "fp32":
        notes.append(f"fp32 instead of {recipe.precision}: most CPUs have no arithmetic of that kind")
    if recipe.channels_last:
        notes.append("contiguous instead of channels_last, which is slower on a CPU")
    if recipe.compiled:
        notes.append("not compiled: that takes minutes on a CPU and gains nothing")
    if recipe.own_networks:
        notes.append("group_norm_modulate in plain PyTorch instead of Triton")
    if recipe.loader == "tensors":
        notes.append("views as training itself makes them: the kernels that this rung does without are for GPUs")
        recipe = replace(recipe, loader="own")
    return replace(recipe, precision="fp32", channels_last=False, compiled=False), notes
