"""What all tests share."""

import os
import sys
from pathlib import Path

# Before torch is imported: test processes share the machine's cores instead of each taking all of them.
_WORKERS = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
_THREADS = max(1, (os.cpu_count() or 1) // _WORKERS)
for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, str(_THREADS))

import pytest  # noqa: E402
import torch  # noqa: E402

ROOT = Path(__file__).parents[1]
# Helpers of the tests (spawn, golden_cases, training.tiny), also in the processes that tests start.
sys.path.insert(0, str(ROOT / "tests"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that need a GPU are skipped, by name, where there is none."""
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real images beside the repository (SODA_FAST_SHARED_DATA names another place); skips where they are absent."""
    path = Path(os.environ.get("SODA_FAST_SHARED_DATA", ROOT.parent / "shared" / "data"))
    if not path.is_dir():
        pytest.skip(f"no real images at {path}")
    return path
