"""What is delivered: the wheel, the versions it allows, the files in the repository."""

import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]
SOURCE_ROOTS = {"soda_fast": ROOT, "soda_kernels": ROOT / "kernels"}
MAX_BYTES = 1_500_000


def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def requirements(lines: list[str]) -> dict[str, Requirement]:
    return {canonicalize_name(requirement.name): requirement for requirement in map(Requirement, lines)}


def pins(name: str) -> dict[str, Version]:
    """A constraints file: every line one exact version, no name twice."""
    lines = [line for line in (ROOT / name).read_text(encoding="utf-8").splitlines() if line and line[0] != "#"]
    found = requirements(lines)
    assert len(found) == len(lines)
    assert all([s.operator for s in requirement.specifier] == ["=="] for requirement in found.values())
    return {name: Version(next(iter(requirement.specifier)).version) for name, requirement in found.items()}


def package_files() -> set[str]:
    """What the wheel must hold: every module and data file of both packages, by its path in the wheel."""
    return {
        path.relative_to(source_root).as_posix()
        for package, source_root in SOURCE_ROOTS.items()
        for path in (source_root / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and path.suffix not in (".pyc", ".md")
    }


def run(*command: str | Path, cwd: Path, **environment: str) -> str:
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


IMPORT_FROM_THE_WHEEL = """
import sys
from pathlib import Path
import soda_fast, soda_fast.config, soda_kernels
assert "torch" in sys.modules  # soda_kernels
where = Path(sys.argv[1])
for module in (soda_fast, soda_fast.config, soda_kernels):
    assert where in Path(module.__file__).parents, module.__file__
"""

ANSWER_WITHOUT_TORCH = """
import sys
import soda_fast, soda_fast.cli, soda_fast.config
assert "torch" not in sys.modules
"""


def test_wheel_is_complete_and_importable_elsewhere(tmp_path: Path) -> None:
    # Of a copy: a build leaves folders behind, and takes up what an earlier one left.
    tree = tmp_path / "tree"
    for file in package_files():
        source = SOURCE_ROOTS[file.split("/")[0]] / file
        copy = tree / source.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(source.read_bytes())
    for file in ("pyproject.toml", "README.md", "LICENSE"):
        (tree / file).write_bytes((ROOT / file).read_bytes())

    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input")
    offline = ("--no-deps", "--no-index")
    run(*pip, "wheel", *offline, "--no-build-isolation", "--wheel-dir", tmp_path, tree, cwd=tmp_path)
    (wheel,) = tmp_path.glob("soda_fast-*.whl")

    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert {name for name in names if ".dist-info/" not in name} == package_files()
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)

    target, elsewhere = tmp_path / "site", tmp_path / "elsewhere"
    elsewhere.mkdir()
    run(*pip, "install", *offline, "--no-compile", "--target", target, wheel, cwd=elsewhere)
    run(sys.executable, "-c", IMPORT_FROM_THE_WHEEL, target, cwd=elsewhere, PYTHONPATH=str(target))
    run(sys.executable, "-c", ANSWER_WITHOUT_TORCH, cwd=elsewhere, PYTHONPATH=str(target))
    help_text = run(sys.executable, "-m", "soda_fast", "--help", cwd=elsewhere, PYTHONPATH=str(target))
    assert "train" in help_text


def test_oldest_versions_are_the_lower_bounds() -> None:
    bounds = {}
    for name, requirement in requirements(project()["dependencies"]).items():
        (specifier,) = requirement.specifier
        assert specifier.operator == ">=", f"{requirement}: one lower bound and nothing else, so that it can be tested"
        bounds[name] = Version(specifier.version)
    assert pins("constraints-oldest.txt") == bounds


def test_tried_versions_are_allowed_ones() -> None:
    metadata = project()
    tried = pins("constraints.txt")
    for name, requirement in requirements(metadata["dependencies"] + metadata["optional-dependencies"]["dev"]).items():
        assert name in tried, f"constraints.txt lacks {name}"
        assert tried[name] in requirement.specifier, f"constraints.txt has {name} {tried[name]}; allowed: {requirement}"


def test_gpu_packages_are_required_only_where_they_exist() -> None:
    required = requirements(project()["dependencies"])
    for name in ("triton", "nvidia-dali-cuda130"):
        marker = required[name].marker
        assert marker is not None
        for system, machine, wanted in (
            ("linux", "x86_64", True),
            ("linux", "aarch64", True),
            ("linux", "riscv64", False),
            ("darwin", "arm64", False),
            ("win32", "AMD64", False),
        ):
            assert marker.evaluate({"sys_platform": system, "platform_machine": machine}) is wanted


def git(*arguments: str) -> str:
    """The repository may belong to another user than the one who tests it."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    done = subprocess.run(
        ["git", "-c", f"safe.directory={ROOT}", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0 or (arguments[0] == "grep" and done.returncode == 1), done.stderr
    return done.stdout


# Spelt in pieces, so that this file does not find itself.
FOREIGN = {
    "a package index": (
        "pypi" + r"\.(org|nvidia)",
        "python" + r"hosted\.org",
        "download" + r"\.pytorch\.org",
        "index" + "-url",
    ),
    "a path of one machine": (
        r"(^|[^A-Za-z0-9_./{}$-])" + r"/(root|work|home|Users|opt|mnt)" + r"/[A-Za-z0-9._]",
        r"\.py" + "env",
    ),
}


@pytest.mark.parametrize("what", FOREIGN)
def test_no_tracked_file_names(what: str) -> None:
    patterns = [argument for pattern in FOREIGN[what] for argument in ("-e", pattern)]
    assert not git("grep", "-nIE", *patterns)


def test_no_tracked_file_is_large() -> None:
    tracked = [ROOT / name for name in git("ls-files", "-z").split("\0") if name]
    large = {str(path.relative_to(ROOT)): path.stat().st_size for path in tracked if path.is_file()}
    assert not {name: size for name, size in large.items() if size > MAX_BYTES}


def test_the_ci_entry_is_executable() -> None:
    entry = ROOT / ".ci" / "run"
    assert os.access(entry, os.X_OK)
    assert re.match(r"#!/usr/bin/env bash\n", entry.read_text(encoding="utf-8"))
