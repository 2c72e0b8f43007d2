"""The compiled kernels of the decoders, for three generations of GPUs, without a GPU."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


COMPILE_COUNTER_BITS = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from benchmarks.kernel_resources import read_usage
from soda_kernels.counter_bits.kernel import philox_words as kernel
signature = dict(out_ptr="*i64", positions_ptr="*i64", total="i32", blocks="i32", count="i32", stream="u32")
signature |= dict.fromkeys(("SEED", "BLOCK"), "constexpr")
constants = {(6,): 2**63 + 3, (7,): 256}
# Of any stream: its type is given, and the launch does not look at its value.
stream = next(one for one in kernel.params if one.name == "stream")
assert stream.annotation_type == "u32" and stream.do_not_specialize and not stream.is_constexpr
for architecture in (80, 90, 100):
    source = ASTSource(kernel, signature, constants)
    print(read_usage(triton.compile(source, target=GPUTarget("cuda", architecture, 32)).asm["cubin"])[1])
"""

COMPILE_VIEW_OPERATIONS = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from benchmarks.kernel_resources import read_usage
from soda_kernels.view_operations.kernel import change_view as kernel
from soda_kernels.view_operations.launch import options
signature = dict(views_ptr="*u8", steps_ptr="*i32", num_steps="i32", SIZE="constexpr", PIXELS="constexpr")
aligned = {(place,): [["tt.divisibility", 16]] for place in (0, 1)}
for size in (32, 48, 64):
    chosen = options(size)
    constants = {(3,): chosen.pop("SIZE"), (4,): chosen.pop("PIXELS")}
    for architecture in (80, 90, 100):
        source = ASTSource(kernel, signature, constants, aligned)
        made = triton.compile(source, target=GPUTarget("cuda", architecture, 32), options=chosen)
        rounded = not any(word in made.asm["ptx"] for word in ("fma.rn", ".ftz", ".approx", "div.full"))
        print(size, chosen["num_warps"], *read_usage(made.asm["cubin"]), made.metadata.shared, int(rounded))
"""

COMPILE_RESIZE_VIEWS = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from benchmarks.kernel_resources import read_usage
from soda_kernels.resize_views.kernel import resize_boxes as kernel
from soda_kernels.resize_views.launch import MOST_TAPS, options
pointers = dict(views_ptr="*u8", images_ptr="*u8", boxes_ptr="*i64", first_ptr="*i64", weights_ptr="*i32")
aligned = {(place,): [["tt.divisibility", 16]] for place in range(len(pointers))}
for height, width, size, taps in ((32, 32, 32, 3), (375, 500, 64, MOST_TAPS)):
    chosen = options(height, width, size, taps, precision_bits=22)
    constants = {name: chosen.pop(name) for name in kernel.arg_names if name in chosen}
    signature = pointers | dict.fromkeys(constants, "constexpr")
    numbered = {(kernel.arg_names.index(name),): value for name, value in constants.items()}
    for architecture in (80, 90, 100):
        source = ASTSource(kernel, signature, numbered, aligned)
        made = triton.compile(source, target=GPUTarget("cuda", architecture, 32), options=chosen)
        print(*read_usage(made.asm["cubin"]), made.metadata.shared)
"""


def run_compiling(arguments: list[str], cache: Path) -> str:
    """In a process of its own: where kernels are interpreted they cannot be compiled."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment |= {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "kernels")]), "TRITON_CACHE_DIR": str(cache)}
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True, text=True).stdout


def test_random_words_compile(tmp_path: Path) -> None:
    assert run_compiling(["-c", COMPILE_COUNTER_BITS], tmp_path).split() == ["0", "0", "0"]


def test_resized_views_compile(tmp_path: Path) -> None:
    """No spills, no shared memory, and eight programs of 128 threads on a multiprocessor."""
    lines = run_compiling(["-c", COMPILE_RESIZE_VIEWS], tmp_path).splitlines()
    assert len(lines) == 6
    for line in lines:
        registers, spilled, shared = map(int, line.split())
        assert (spilled, shared) == (0, 0), line
        assert registers <= 64, line


@pytest.mark.slow
def test_operations_on_views_compile(tmp_path: Path) -> None:
    """No spills, room for several views of 32 pixels on a multiprocessor, and every operation rounded by itself."""
    lines = run_compiling(["-c", COMPILE_VIEW_OPERATIONS], tmp_path).splitlines()
    assert len(lines) == 9
    for line in lines:
        size, warps, registers, spilled, shared, rounded = map(int, line.split())
        assert spilled == 0, line
        assert rounded, line
        assert shared <= 16 * 1024, line
        assert registers * warps * 32 <= (65536 if size > 32 else 65536 // 3), line


@pytest.mark.slow
def test_no_kernel_spills(tmp_path: Path) -> None:
    """Of shapes that are cut alike, the one whose kernels do most. In a survey of all, the others took at most four
    registers more per thread, and none more than 165 of the 255 there are."""
    survey = ["-m", "benchmarks.kernel_resources", "--demanding", "--json", str(tmp_path / "rows.json")]
    run_compiling(survey, tmp_path)
    rows = json.loads((tmp_path / "rows.json").read_text())

    assert {row["architecture"] for row in rows} == {80, 90, 100}
    assert {row["kernel"] for row in rows} == {"forward_whole", "forward_looped", "backward_whole", "backward_looped"}
    for row in rows:
        assert row["spilled"] == 0, row
        # Shared memory holds only what warps exchange in sums: it never bounds how many programs are resident.
        assert row["shared"] <= 16 * 1024, row
        assert row["registers"] * row["warps"] * 32 <= 65536, row
