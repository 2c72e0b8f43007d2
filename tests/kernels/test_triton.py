"""The Triton kernels against float64: outputs and all gradients."""

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from kernel_cases import DEVICE, LAYOUTS, Case, assert_right, run

from benchmarks.kernel_resources import launches
from benchmarks.kernel_shapes import NormShape, decoder_norms
from soda_fast.config import load_config

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
LAUNCH_BATCH = 2  # of `launches`
DTYPES = [torch.float32, torch.float16, torch.bfloat16]


def with_fewest_groups(shape: NormShape, dtype: torch.dtype, layout: str) -> NormShape:
    """The shape without most of its groups: the same kernels with the same constants, in two programs or more.

    Programs know nothing of each other: further groups are further programs that do the same elsewhere.
    """

    def kernels(shape: NormShape) -> list[tuple[Any, dict[str, Any]]]:
        made = launches(shape, dtype, layout == "channels_last")
        return [(launch.kernel, launch.constants) for launch in made if launch.programs >= 2 * LAUNCH_BATCH]

    for parts in (16, 8, 4, 2):
        counts = {name: getattr(shape, name) for name in ("channels", "num_groups", "skip")}
        if all(count % parts == 0 for count in counts.values()):
            fewer = replace(shape, **{name: count // parts for name, count in counts.items()})
            if kernels(fewer) == kernels(shape) != []:
                return fewer
    return shape


@cache
def decoder_cases() -> list[tuple[Case, str, torch.dtype]]:
    """Every normalisation in the decoders of 32x32 and 64x64 images: batches of 64 on a GPU; in the interpreter, which
    takes as long as there are programs, one sample of few groups."""
    configs = (load_config(CONFIGS / f"{name}.yaml") for name in ("cifar10", "tiny_imagenet"))
    found = []
    for shape in sorted({shape for config in configs for shape in decoder_norms(config)}):
        for layout, dtype in (("channels_last", torch.bfloat16), ("contiguous", torch.float32)):
            taken = shape if DEVICE == "cuda" else with_fewest_groups(shape, dtype, layout)
            case = Case(
                64 if DEVICE == "cuda" else 1,
                taken.channels,
                taken.size,
                taken.size,
                taken.num_groups,
                taken.activation,
                taken.dropout_p,
                taken.biased,
                taken.skip,
            )
            found.append((case, layout, dtype))
    return list(dict.fromkeys(found))


ODD = [
    Case(1, 1, 1, 1, 1),
    Case(3, 7, 5, 3, 7, dropout_p=0.3, biased=True),
    Case(2, 6, 1, 1, 2, biased=True),
    Case(2, 30, 9, 5, 6, dropout_p=0.1),
    Case(1, 12, 1, 17, 12, activation="none"),
    Case(2, 96, 13, 3, 8, biased=True),
    Case(2, 36, 6, 7, 3, dropout_p=0.5, biased=True),
    # Looped: a long group; groups that make a row together; groups wider than a tile, cut into columns. Hardly larger
    # than it takes for that: the interpreter takes as long as there are tiles.
    Case(1, 3, 61, 69, 1, dropout_p=0.1, biased=True),
    Case(2, 10, 33, 35, 5, biased=True),
    Case(1, 2050, 1, 5, 1, dropout_p=0.1, biased=True),
    Case(1, 300, 5, 7, 1, biased=True),
    # With a skip connection: its border inside a group, between groups, inside a tile of columns; of one channel.
    Case(2, 36, 6, 7, 3, skip=16),
    Case(2, 36, 6, 7, 3, skip=24),
    Case(2, 12, 43, 49, 3, skip=5),
    Case(1, 300, 5, 7, 1, activation="none", skip=120),
    Case(2, 3, 3, 3, 1, skip=1),
    Case(2, 8, 1, 1, 2, skip=3),
]


@pytest.mark.parametrize(("case", "layout", "dtype"), decoder_cases(), ids=str)
def test_the_decoders_shapes(case: Case, layout: str, dtype: torch.dtype) -> None:
    inputs = case.inputs(dtype, LAYOUTS[layout])
    found = run(inputs, "triton")
    for name in ("y", "dx"):
        assert found[name].is_contiguous(memory_format=LAYOUTS[layout])
    assert_right(found, inputs)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("case", ODD, ids=str)
def test_odd_shapes(case: Case, layout: str, dtype: torch.dtype) -> None:
    inputs = case.inputs(dtype, LAYOUTS[layout])
    found = run(inputs, "triton")
    assert found["y"].dtype == found["dx"].dtype == dtype
    assert found["y"].is_contiguous(memory_format=LAYOUTS[layout])
    assert_right(found, inputs)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_vectors_of_other_types(layout: str) -> None:
    """scale, shift and bias need not have x's type, and get gradients of their own."""
    inputs = Case(2, 12, 5, 4, 3, biased=True).inputs(torch.float32, LAYOUTS[layout])
    inputs |= {name: inputs[name].to(torch.float16) for name in ("scale", "shift", "bias")}
    found = run(inputs, "triton")
    assert {found[name].dtype for name in ("dscale", "dshift", "dbias")} == {torch.float16}
    assert_right(found, inputs)


@pytest.mark.parametrize("case", [Case(2, 16, 8, 8, 4, dropout_p=0.2, biased=True), Case(1, 4, 70, 90, 2)], ids=str)
def test_two_backward_runs_are_equal_bit_for_bit(case: Case) -> None:
    inputs = case.inputs(torch.bfloat16, torch.channels_last)
    first, second = run(inputs, "triton"), run(inputs, "triton")
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


def test_a_sample_does_not_depend_on_its_batch() -> None:
    inputs = Case(5, 16, 8, 8, 4).inputs(torch.float32, torch.channels_last)
    whole = run(inputs, "triton")
    alone = run({**inputs, **{name: inputs[name][3:4] for name in ("x", "scale", "shift", "dy")}}, "triton")
    for name, value in alone.items():
        assert torch.equal(value, whole[name][3:4]), name


@pytest.mark.parametrize("backend", ["triton", "auto", "pytorch"])
def test_an_empty_batch(backend: str) -> None:
    found = run(Case(0, 8, 4, 4, 2, biased=True).inputs(torch.float32, torch.contiguous_format), backend)
    assert found["y"].shape == (0, 8, 4, 4)
    assert torch.equal(found["dbias"], torch.zeros(8, device=DEVICE))
