"""The kernel on a GPU, at the decoders' full sizes and in the compiler's company."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor

from benchmarks.kernel_shapes import NormShape, apply, decoder_norms, make_inputs
from soda_fast.build import build_model, choose_kernels
from soda_fast.config import load_config
from soda_kernels import group_norm_modulate

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
CONFIGS = Path(__file__).resolve().parents[2] / "configs"
SHAPES = sorted(
    {shape for name in ("cifar10", "tiny_imagenet") for shape in decoder_norms(load_config(CONFIGS / f"{name}.yaml"))}
)


@pytest.fixture(autouse=True)
def fresh_compiler() -> None:
    """Each shape is compiled for itself, and not as the ninth variant of one function."""
    torch._dynamo.reset()


def outputs_and_gradients(
    operation: Callable[..., tuple[Tensor, ...]], shape: NormShape, dtype: torch.dtype
) -> list[Tensor]:
    inputs = make_inputs(shape, 256, dtype, True, "cuda")
    gradients = inputs.pop("gradients")
    wanted = [
        value.requires_grad_() for value in inputs.values() if isinstance(value, Tensor) and value.is_floating_point()
    ]
    outputs = operation(**inputs)
    return [*(output.detach() for output in outputs), *torch.autograd.grad(outputs, wanted, gradients)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_full_size_under_the_compiler(shape: NormShape) -> None:
    """bfloat16, against plain PyTorch in float32 on the same values: a rounding of each, and no more."""
    compiled = torch.compile(partial(apply, "triton"), fullgraph=True, dynamic=False)
    found = outputs_and_gradients(compiled, shape, torch.bfloat16)

    def in_float32(x: Tensor, **others: Tensor) -> tuple[Tensor, ...]:
        skip = {"skip": others.pop("skip").float()} if "skip" in others else {}
        return tuple(value.to(torch.bfloat16) for value in apply("pytorch", x=x.float(), **skip, **others))

    for value, wanted in zip(found, outputs_and_gradients(in_float32, shape, torch.bfloat16), strict=True):
        error = (value.double() - wanted.double()).norm() / wanted.double().norm()
        assert error < (2**-8 if value.dtype == torch.bfloat16 else 2**-10)


@pytest.mark.parametrize("shape", SHAPES[:3] + SHAPES[-3:], ids=str)
def test_two_runs_are_equal_bit_for_bit(shape: NormShape) -> None:
    first, second = (outputs_and_gradients(partial(apply, "triton"), shape, torch.bfloat16) for _ in range(2))
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))


def test_offsets_beyond_32_bits() -> None:
    """More than 2**31 elements, and the last sample is still right."""
    x = torch.randn(2**31 // (256 * 64 * 64) + 2, 256, 64, 64, device="cuda", dtype=torch.bfloat16)
    x = x.contiguous(memory_format=torch.channels_last)
    scale, shift = torch.ones(len(x), 256, device="cuda"), torch.zeros(len(x), 256, device="cuda")
    whole = group_norm_modulate(x, scale, shift, 32, backend="triton")
    last = group_norm_modulate(x[-1:], scale[-1:], shift[-1:], 32, backend="triton")
    assert torch.equal(whole[-1:], last)


def test_a_decoder_stays_channels_last_and_agrees_with_plain_pytorch() -> None:
    config = load_config(CONFIGS / "cifar10.yaml", ["model.decoder.channels=64"])
    model = build_model(config).decoder.to("cuda", torch.bfloat16).eval()
    layouts: dict[str, bool] = {}

    def note(name: str) -> Callable[..., None]:
        def hook(module: torch.nn.Module, inputs: object, output: object) -> None:
            if isinstance(output, Tensor) and output.ndim == 4:
                layouts[name] = output.is_contiguous(memory_format=torch.channels_last)

        return hook

    for name, module in model.named_modules():
        module.register_forward_hook(note(name))
    x = torch.randn(8, 3, 32, 32, device="cuda", dtype=torch.bfloat16).contiguous(memory_format=torch.channels_last)
    time, z = (
        torch.rand(8, device="cuda"),
        torch.randn(8, config.model.encoder.z_dim, device="cuda", dtype=torch.bfloat16),
    )
    results = []
    for backend in ("triton", "pytorch"):
        choose_kernels(model, backend, x.device)
        with torch.no_grad():
            results.append(model(x, time, z).float())
    assert [name for name, kept in layouts.items() if not kept] == []
    assert (results[0] - results[1]).norm() / results[1].norm() < 0.02
