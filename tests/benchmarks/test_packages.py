"""What is not installed is named before anything fails for want of it."""

import importlib.util
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from benchmarks import packages
from benchmarks.packages import OPTIONAL, REQUIRED, is_installed, left_out, require_packages

ROOT = Path(__file__).parents[2]


def test_the_lists_are_those_of_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = {re.split(r"[><=; ]", line)[0] for line in project["dependencies"]}
    assert needed == set(REQUIRED.values()) | {OPTIONAL[module][0] for module in ("triton", "nvidia.dali", "skimage")}


def test_everything_missing_is_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    require_packages()
    find = importlib.util.find_spec
    monkeypatch.setattr(
        packages.importlib.util, "find_spec", lambda name: None if name in ("yaml", "PIL") else find(name)
    )
    with pytest.raises(SystemExit, match=r"not installed here: pillow, pyyaml; .*pip install pillow pyyaml"):
        require_packages()


def test_kernels_that_are_not_on_the_path_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(packages.importlib.util, "find_spec", lambda name: None if "soda" in name else find(name))
    with pytest.raises(SystemExit, match=r"does not find soda_kernels, .* export PYTHONPATH=\$PWD:\$PWD/kernels"):
        require_packages()


def test_optional_packages_and_absent_parents() -> None:
    assert not is_installed("no_such_package.module")
    assert is_installed("torch.nn")
    assert set(left_out()) <= {name for name, _ in OPTIONAL.values()}
    assert ("pytest" in left_out()) is False


def test_a_bare_interpreter_says_what_it_lacks() -> None:
    command = [sys.executable, "-I", "-S", "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r}); import benchmarks"]
    bare = subprocess.run(command, capture_output=True, text=True, check=False)
    assert bare.returncode == 1
    assert bare.stderr.startswith("benchmarks: not installed here: torch, torchvision, numpy, pillow")
