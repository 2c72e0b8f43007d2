"""The registered operator: PyTorch's own checks, and the company it keeps."""

import os
import subprocess
import sys
from typing import Any

import pytest
import torch
import torch._dynamo.testing
from kernel_cases import DEVICE, LAYOUTS, Case, run
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from soda_kernels import group_norm_modulate, join_norm_modulate
from soda_kernels.group_norm_modulate.registration import forward_op

BACKENDS = ["auto", "triton"]


def operator_arguments(case: Case, layout: str, backend: str, dtype: torch.dtype = torch.float32) -> tuple[Any, ...]:
    inputs = case.inputs(dtype, LAYOUTS[layout])
    floats = [inputs.get(name) for name in ("x", "skip", "scale", "shift", "bias")]
    floats = [value if value is None else value.requires_grad_() for value in floats]
    seeds = torch.arange(case.batch, device=DEVICE) if case.dropout_p else None
    return (*floats, seeds, case.num_groups, 1e-5, case.activation == "silu", case.dropout_p, backend)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    "case",
    [
        Case(2, 8, 4, 6, 4, dropout_p=0.2, biased=True),
        Case(2, 6, 1, 1, 3, activation="none"),
        Case(1, 1, 3, 3, 1),
        Case(2, 8, 4, 6, 4, dropout_p=0.2, skip=3),
    ],
    ids=str,
)
def test_opcheck(case: Case, layout: str, backend: str) -> None:
    torch.library.opcheck(forward_op, operator_arguments(case, layout, backend))


@pytest.mark.parametrize("backend", BACKENDS)
def test_opcheck_of_a_slice_in_bfloat16(backend: str) -> None:
    x, *others = operator_arguments(Case(2, 8, 4, 6, 4), "channels_last", backend, torch.bfloat16)
    wide = torch.cat((x, x), dim=1).contiguous(memory_format=torch.channels_last)
    torch.library.opcheck(forward_op, (wide[:, :8].detach().requires_grad_(), *others))


@pytest.mark.parametrize("backend", ["auto", "pytorch"])
@pytest.mark.parametrize("activation", ["silu", "none"])
def test_gradcheck_of_the_reference(activation: str, backend: str) -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = ((2, 6, 3, 2), (2, 6), (2, 6), (6,))
    inputs = [torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_() for shape in shapes]

    def operation(x: Tensor, scale: Tensor, shift: Tensor, bias: Tensor) -> Tensor:
        seed = torch.tensor(5)
        return group_norm_modulate(x, scale, shift, 3, 1e-5, activation, 0.2, seed, backend, bias=bias)

    assert torch.autograd.gradcheck(operation, inputs)


@pytest.mark.parametrize("backend", ["auto", "pytorch"])
def test_gradcheck_of_the_joining_reference(backend: str) -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = ((2, 4, 3, 2), (2, 2, 3, 2), (2, 6), (2, 6))
    inputs = [torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_() for shape in shapes]

    def operation(x: Tensor, skip: Tensor, scale: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
        return join_norm_modulate(x, skip, scale, shift, 3, backend=backend)

    assert torch.autograd.gradcheck(operation, inputs)


@pytest.mark.parametrize("backend", ["auto", "triton"])
def test_a_joined_tensor_that_nobody_uses(backend: str) -> None:
    inputs = Case(2, 6, 3, 2, 3, skip=2).inputs(torch.float32, torch.contiguous_format)
    dy, _ = inputs.pop("dy"), inputs.pop("djoined")
    inputs["skip"].requires_grad_()
    y, joined = join_norm_modulate(**inputs, backend=backend)
    (alone,) = torch.autograd.grad(y, inputs["skip"], dy, retain_graph=True)
    (both,) = torch.autograd.grad((y, joined), inputs["skip"], (dy, torch.zeros_like(dy)))
    assert torch.equal(alone, both)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_compiles_whole_and_keeps_strides(layout: str) -> None:
    inputs = Case(2, 8, 4, 6, 4, dropout_p=0.2, biased=True).inputs(torch.float32, LAYOUTS[layout])
    dy = inputs.pop("dy")

    def network(x: Tensor, **others: Any) -> Tensor:
        return group_norm_modulate(x * 2, **others).relu()

    def result(function: Any) -> tuple[Tensor, ...]:
        x = inputs["x"].detach().requires_grad_()
        y = function(**{**inputs, "x": x})
        return y, *torch.autograd.grad(y, x, dy)

    eager, compiled = result(network), result(torch.compile(network, fullgraph=True))
    for found, wanted in zip(compiled, eager, strict=True):
        assert found.stride() == wanted.stride()
        torch.testing.assert_close(found, wanted, atol=1e-6, rtol=1e-6)


def test_a_new_seed_does_not_compile_anew() -> None:
    inputs = Case(2, 8, 4, 4, 4, dropout_p=0.2).inputs(torch.float32, torch.contiguous_format)
    del inputs["dy"]
    counter = torch._dynamo.testing.CompileCounter()
    compiled = torch.compile(group_norm_modulate, backend=counter, fullgraph=True)
    outputs = [compiled(**{**inputs, "dropout_seed": torch.tensor(seed, device=DEVICE)}) for seed in (1, 2, 3)]
    assert counter.frame_count == 1
    assert not torch.equal(outputs[0], outputs[1])


def test_batches_of_many_sizes_share_their_graphs() -> None:
    counter = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(
        lambda **inputs: group_norm_modulate(**inputs), backend=counter, fullgraph=True, dynamic=True
    )
    for batch in range(2, 8):
        inputs = Case(batch, 8, 4, 4, 4, dropout_p=0.2).inputs(torch.float32, torch.channels_last)
        del inputs["dy"]
        assert torch.equal(compiled(**inputs), group_norm_modulate(**inputs))
    assert counter.frame_count <= 2


def test_autocast_leaves_types_alone() -> None:
    inputs = Case(2, 8, 4, 4, 4).inputs(torch.float32, torch.contiguous_format)
    with torch.autocast(DEVICE, torch.bfloat16):
        found = run(inputs, "auto")
    for name, value in run(inputs, "auto").items():
        assert torch.equal(found[name], value), name


@pytest.mark.parametrize("reentrant", [False, True])
def test_activation_checkpointing_drops_the_same_elements(reentrant: bool) -> None:
    inputs = Case(2, 8, 4, 4, 4, dropout_p=0.3).inputs(torch.float32, torch.contiguous_format)
    dy = inputs.pop("dy")
    x = inputs.pop("x").requires_grad_()

    def operation(x: Tensor) -> Tensor:
        return group_norm_modulate(x, **inputs)

    (wanted,) = torch.autograd.grad(operation(x), x, dy)
    x.grad = None
    checkpoint(operation, x, use_reentrant=reentrant).backward(dy)
    assert torch.equal(x.grad, wanted)


def test_counts_no_flops() -> None:
    with FlopCounterMode(display=False) as counter:
        run(Case(2, 8, 4, 4, 4).inputs(torch.float32, torch.contiguous_format), "auto")
    assert counter.get_total_flops() == 0


def test_triton_does_not_take_float64() -> None:
    inputs = Case(1, 4, 2, 2, 2).inputs(torch.float64, torch.contiguous_format)
    with pytest.raises(ValueError, match="not float64; use 'auto' or 'pytorch'"):
        run(inputs, "triton")


@pytest.mark.skipif(DEVICE == "cuda", reason="with a GPU, tensors on a CPU are another test's")
def test_triton_without_a_gpu_is_an_error_and_auto_is_not() -> None:
    program = (
        "import torch; from soda_kernels import group_norm_modulate as f\n"
        "x, v = torch.ones(1, 4, 2, 2), torch.ones(1, 4); f(x, v, v, 2)\n"
        "try: f(x, v, v, 2, backend='triton')\n"
        "except ValueError as error: print(error)"
    )
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment, check=True)
    assert "on a CPU; use 'auto' or 'pytorch'" in done.stdout
