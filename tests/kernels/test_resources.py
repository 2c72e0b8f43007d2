"""The compiled kernels of the decoders, for three generations of GPUs, without a GPU."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_no_kernel_spills(tmp_path: Path) -> None:
    """In a process of its own: where kernels are interpreted they cannot be compiled."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment |= {
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "kernels")]),
        "TRITON_CACHE_DIR": str(tmp_path),
    }
    command = [sys.executable, "-m", "benchmarks.kernel_resources", "--json", str(tmp_path / "rows.json")]
    subprocess.run(command, cwd=ROOT, env=environment, check=True, stdout=subprocess.DEVNULL)
    rows = json.loads((tmp_path / "rows.json").read_text())

    assert {row["architecture"] for row in rows} == {80, 90, 100}
    assert {row["kernel"] for row in rows} == {"forward_whole", "forward_looped", "backward_whole", "backward_looped"}
    for row in rows:
        assert row["spilled"] == 0, row
        # Shared memory holds only what warps exchange in sums: it never bounds how many programs are resident.
        assert row["shared"] <= 16 * 1024, row
        assert row["registers"] * row["warps"] * 32 <= 65536, row
