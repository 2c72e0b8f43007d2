"""The fused kernel against float64, on a GPU if there is one, else in Triton's interpreter: what its tests share."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from soda_kernels import group_norm_modulate, join_norm_modulate

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
# The most that one rounding to the type costs, relative to the value. The interpreter cuts bfloat16 off, a GPU rounds.
ROUNDING = {torch.float32: 2**-24, torch.float16: 2**-11, torch.bfloat16: 2**-8 if DEVICE == "cuda" else 2**-7}
# Float32 roundings that pile up on the way to a value: a chain of about twenty operations, sums by trees of up to
# twenty levels, and exponentials and quotients good to two units in the last place. In the interpreter NumPy adds a
# tile's rows, up to 4096, one after the other.
ROUNDINGS = 64 if DEVICE == "cuda" else 256


@dataclass(frozen=True)
class Case:
    """Shape and arguments of one comparison."""

    batch: int
    channels: int
    height: int
    width: int
    num_groups: int
    activation: str = "silu"
    dropout_p: float = 0.0
    biased: bool = False
    skip: int = 0

    def __str__(self) -> str:
        extras = ("-dropout" if self.dropout_p else "") + ("-bias" if self.biased else "")
        extras += f"-skip{self.skip}" if self.skip else ""
        shape = f"{self.batch}x{self.channels}x{self.height}x{self.width}"
        return f"{shape}-G{self.num_groups}-{self.activation}{extras}"

    def inputs(self, dtype: torch.dtype, layout: torch.memory_format, seed: int = 0) -> dict[str, Any]:
        """Random arguments of the operation, x of mean 1 and deviation 2, and `dy`."""
        generator = torch.Generator().manual_seed(seed)

        def normal(*size: int) -> Tensor:
            return torch.randn(*size, generator=generator).to(DEVICE)

        image = (self.batch, self.channels, self.height, self.width)

        def gradient() -> Tensor:
            return normal(*image).to(dtype).contiguous(memory_format=layout)

        x, skip = (1 + 2 * normal(*image)).to(dtype).split((self.channels - self.skip, self.skip), dim=1)
        inputs = {
            "x": x.contiguous(memory_format=layout),
            "scale": 1 + 0.5 * normal(self.batch, self.channels),
            "shift": 0.5 * normal(self.batch, self.channels),
            "dy": gradient(),
            "num_groups": self.num_groups,
            "activation": self.activation,
        }
        if self.skip:
            return inputs | {"skip": skip.contiguous(memory_format=layout), "djoined": gradient()}
        seed = torch.tensor(12345 + (7 << 32), device=DEVICE)
        bias = normal(self.channels) if self.biased else None
        return inputs | {"bias": bias, "dropout_p": self.dropout_p, "dropout_seed": seed}


def run(inputs: dict[str, Any], backend: str) -> dict[str, Tensor]:
    """The outputs and the gradients of all floating inputs."""
    arguments = dict(inputs)
    gradients = [arguments.pop(name) for name in ("dy", "djoined") if name in arguments]
    names = [name for name in ("x", "skip", "scale", "shift", "bias") if arguments.get(name) is not None]
    for name in names:
        arguments[name] = arguments[name].detach().requires_grad_()
    operation = join_norm_modulate if "skip" in arguments else group_norm_modulate
    result = operation(**arguments, backend=backend)
    outputs = result if isinstance(result, tuple) else (result,)
    found = torch.autograd.grad(outputs, [arguments[name] for name in names], gradients)
    named = zip(("y", "joined"), outputs, strict=False)
    return {name: output.detach() for name, output in named} | {f"d{n}": g for n, g in zip(names, found, strict=True)}


def in_float64(inputs: dict[str, Any]) -> dict[str, Tensor]:
    """The same from plain PyTorch, every floating tensor in float64."""
    wide = {
        name: value.double() if isinstance(value, Tensor) and value.is_floating_point() else value
        for name, value in inputs.items()
    }
    return run(wide, "pytorch")


def assert_right(found: dict[str, Tensor], inputs: dict[str, Any]) -> None:
    """Every tensor within the rounding of its type and ROUNDINGS roundings of float32 of the largest value.

    Elements of y, dx and dskip are single chains; dscale, dshift and dbias sum a channel's (or all samples') terms,
    each at most |dy| times a factor of the order of xhat: their roundings are relative to the sum of |dy|.
    """
    expected = in_float64(inputs)
    total = inputs["dy"].double().abs().sum(dim=(2, 3))
    assert found.keys() == expected.keys()
    magnitude = {"dscale": total.max(), "dshift": total.max(), "dbias": total.sum(dim=0).max()}
    for name, value in found.items():
        wanted = expected[name]
        size = magnitude.get(name, wanted.abs().max())
        limits = torch.finfo(value.dtype)
        subnormal = limits.smallest_normal * limits.eps
        allowed = ROUNDING[value.dtype] * wanted.abs() + ROUNDINGS * 2**-24 * size + subnormal
        wrong = (value.double() - wanted).abs() / allowed
        assert (wrong <= 1).all(), f"{name}: {wrong.max():.1f} times the tolerance at {wrong.argmax().item()}"
