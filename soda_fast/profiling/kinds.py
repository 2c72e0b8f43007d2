"""What a kernel or an operation does, from its name."""

import re
from functools import cache

KINDS = {
    "convolution": "convolutions",
    "linear": "linear layers",
    "attention": "attention",
    "norm": "norms, modulation",
    "pointwise": "pointwise, reductions",
    "layout": "layouts, casts, clones",
    "optimizer": "optimizer, average",
    "communication": "communication, exposed",
    "copy": "copies, memsets",
    "data": "image decoding (DALI)",
    "other": "other",
}
"""Every kind, and its line in a summary of a GPU's time."""
# The host's time in FSDP's reduction of gradients is there in a single process too, which has nobody to talk to.
HOST_KINDS = {**KINDS, "communication": "FSDP, communication"}
"""The same, of a host's time."""

ROOMS = ("data", "noising", "encoder", "decoder", "loss", "backward", "optimizer", "ema")
"""The parts of a step, as training names them in traces (soda_fast/spans.py)."""
_OPTIMIZER_ROOMS = ("optimizer", "ema")

# The first that is found in the name decides. Names: cuDNN 8 and 9, cuBLAS (nvjet), CUTLASS, PyTorch, Inductor, ours.
_KERNELS = (
    ("communication", r"nccl"),
    ("data", r"\bdali|nvjpeg"),
    ("copy", r"^Mem(cpy|set)|split_with_sizes_copy|chunk_cat"),
    ("optimizer", r"multi_tensor_apply|adam"),
    ("norm", r"^(forward|backward)_(whole|looped)|(group|batch|layer)_?norm|\bbn_|welford|rowwisemoments"),
    ("attention", r"flash|fmha|sdpa|mem_eff|softmax"),
    ("convolution", r"^triton_(tem_\w*conv|conv)"),
    ("linear", r"^triton_(tem_|mm)"),
    ("norm", r"^triton_\w*(var_mean|native_batch_norm|native_group_norm)"),
    (
        "layout",
        r"^triton_poi_fused_((_to_copy|clone|copy|convolution|convolution_backward|permute|transpose|view)_?)+\d*$",
    ),
    ("pointwise", r"^triton_|^philox"),
    ("layout", r"nchwtonhwc|nhwctonchw|converttensor|transpose|copy_kernel|catarray|im2col|col2im"),
    ("convolution", r"conv|fprop|dgrad|wgrad|winograd|implicit"),
    ("linear", r"gemm|gemv|cublas|cutlass|nvjet|splitk"),
    ("pointwise", r"elementwise|reduce_kernel|index|scatter|gather|fill|distribution|upsample|pool|scan"),
)
_OPERATIONS = (
    # FSDP reduces gradients in its RegisterPostBackwardFunction, where a CPU waits for them.
    ("communication", r"c10d|gloo:|fsdp::|record_param_comms|nccl|RegisterPostBackward"),
    ("optimizer", r"^aten::_(fused|foreach)|adam|^Optimizer"),
    ("norm", r"^soda_kernels::group_norm|(group|batch|layer)_norm|var_mean"),
    ("attention", r"scaled_dot_product|flash|softmax"),
    ("convolution", r"^aten::.*conv"),
    ("linear", r"^aten::(linear|addmm|addbmm|baddbmm|mm|bmm|matmul|mkldnn_linear)|^mkl::"),
    ("layout", r"^aten::(copy_|clone|contiguous|_?to(_copy)?|cat|stack|split_with_sizes_copy|_chunk_cat)$"),
    ("pointwise", r"^aten::|^soda_kernels::|cpp_fused|^CompiledFunction|^Torch-Compiled|^torch_compile"),
)


@cache
def kernel_kind(name: str, room: str = "") -> str:
    """The kind of what runs on a GPU, launched in `room` (one of ROOMS, or empty)."""
    kind = _first(_KERNELS, name)
    if room in _OPTIMIZER_ROOMS and kind in ("pointwise", "norm", "other", "layout"):
        return "optimizer"
    return kind


@cache
def operation_kind(name: str, room: str = "") -> str:
    """The kind of an operation on a CPU, called in `room`."""
    kind = _first(_OPERATIONS, name)
    return "optimizer" if room in _OPTIMIZER_ROOMS and kind in ("pointwise", "layout") else kind


def _first(rules: tuple[tuple[str, str], ...], name: str) -> str:
    return next((kind for kind, pattern in rules if re.search(pattern, name, re.IGNORECASE)), "other")
