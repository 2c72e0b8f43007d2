"""The rooms of the code and their doors: who may import whom, and a few habits that a reader can rely on.

Imports run downward: kernels <- model <- diffusion <- parallel, training <- cli; store <- data <- prepare; data and
evaluation meet the model only through tensors and callables. Everything here is read from the syntax trees; nothing is
imported. What stands under `if TYPE_CHECKING:` names types alone and is free.
"""

import ast
import re
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = {"soda_fast": ROOT / "soda_fast", "soda_kernels": ROOT / "kernels" / "soda_kernels"}
MAX_LINES = 400

# A folder or file of the packages, and what nothing in it imports.
MUST_NOT_IMPORT = {
    "soda_kernels": ["soda_fast", "torch.distributed"],
    "soda_fast/config": ["torch", "torchvision", "numpy", "triton", "nvidia", "soda_kernels"],
    "soda_fast/model": [
        "torch.distributed",
        *(f"soda_fast.{room}" for room in ("config", "data", "diffusion", "training", "parallel", "evaluation")),
    ],
    # Worker processes import it, one for each core: without torch they start in a tenth of a second.
    "soda_fast/store": [
        *("torch", "torchvision", "triton", "nvidia", "soda_kernels"),
        *(f"soda_fast.{room}" for room in ("config", "data", "prepare", "model", "diffusion", "training", "parallel")),
    ],
    "soda_fast/data": [
        "soda_kernels",
        *(f"soda_fast.{room}" for room in ("prepare", "model", "diffusion", "training", "parallel")),
    ],
    "soda_fast/prepare": [
        *("torch", "soda_kernels"),
        *(f"soda_fast.{room}" for room in ("config", "model", "diffusion", "training", "parallel", "evaluation")),
    ],
    "soda_fast/evaluation": [f"soda_fast.{room}" for room in ("model", "diffusion", "data", "training", "parallel")],
    "soda_fast/training": ["soda_fast.memory"],
    "soda_fast/synthesis": [f"soda_fast.{room}" for room in ("prepare", "training", "cli")],
    "soda_fast/parallel": [f"soda_fast.{room}" for room in ("model", "diffusion", "data", "training", "evaluation")],
}

# The whole list of what a room imports, where that list is short (the standard library aside).
MAY_IMPORT = {
    "soda_fast/profiling": ["soda_fast.profiling"],
    "soda_kernels": ["soda_kernels", "torch", "triton"],
    "soda_fast/diffusion": ["soda_fast.diffusion", "soda_fast.model", "soda_fast.counter_rng", "soda_kernels", "torch"],
    "soda_fast/counter_rng.py": ["numpy", "torch", "soda_kernels"],
    "soda_fast/cores.py": [],
}

# A module or name, and the only places that mention it.
ONLY_IN = {
    "nvidia.dali": ["soda_fast/data/dali*.py"],
    "triton": ["soda_kernels/**/*.py"],
    "torch.distributed.fsdp": [
        "soda_fast/parallel/*.py",
        "soda_fast/training/ema.py",
        "soda_fast/training/checkpoint.py",
    ],
    "torch._subclasses": ["soda_fast/memory/simulation.py"],
    "torch.testing": ["soda_fast/memory/simulation.py"],
    "soda_fast.cli": ["soda_fast/__main__.py"],
}


@cache
def sources() -> dict[str, Path]:
    """Every module of both packages by its place: 'soda_fast/model/unet.py', 'soda_kernels/__init__.py'."""
    return {
        f"{name}/{path.relative_to(folder).as_posix()}": path
        for name, folder in PACKAGES.items()
        for path in sorted(folder.rglob("*.py"))
    }


@cache
def tree(place: str) -> ast.Module:
    path = sources()[place]
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")


def walk_running_code(node: ast.AST) -> Iterator[ast.AST]:
    """All nodes but those under `if TYPE_CHECKING:`."""
    yield node
    children = node.orelse if isinstance(node, ast.If) and is_type_checking(node) else ast.iter_child_nodes(node)
    for child in children:
        yield from walk_running_code(child)


def imported_names(place: str, module: ast.Module) -> Iterator[tuple[str, int]]:
    """(dotted name, line) of what a module imports, `from a import b` as a.b; of what it reaches by attribute, as in
    `import torch; torch.distributed.all_reduce`; and of import_module("...") with a literal name."""
    package = place.removesuffix(".py").split("/")[:-1]
    for node in walk_running_code(module):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                yield base if alias.name == "*" else f"{base}.{alias.name}", node.lineno
        elif isinstance(node, ast.Attribute):
            dotted = ast.unparse(node)
            if dotted.startswith("torch.distributed."):
                yield dotted, node.lineno
        elif isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in ("import_module", "__import__"):
            for name in node.args[:1]:
                if isinstance(name, ast.Constant) and isinstance(name.value, str):
                    yield name.value, node.lineno


@cache
def imports(place: str) -> list[tuple[str, int]]:
    return list(imported_names(place, tree(place)))


def inside(name: str, of: str) -> bool:
    return name == of or name.startswith(of + ".")


def places(room: str) -> list[str]:
    found = [place for place in sources() if place == room or place.startswith(room + "/")]
    assert found, f"no module in {room}: rename it here too"
    return found


@pytest.mark.parametrize("room", MUST_NOT_IMPORT)
def test_a_room_does_not_know(room: str) -> None:
    wrong = [
        f"{place}:{line} imports {name}"
        for place in places(room)
        for name, line in imports(place)
        if any(inside(name, forbidden) for forbidden in MUST_NOT_IMPORT[room])
    ]
    assert not wrong


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_a_room_knows_only(room: str) -> None:
    wrong = [
        f"{place}:{line} imports {name}"
        for place in places(room)
        for name, line in imports(place)
        if name.split(".")[0] not in sys.stdlib_module_names
        and not any(inside(name, allowed) for allowed in MAY_IMPORT[room])
    ]
    assert not wrong


@pytest.mark.parametrize("name", ONLY_IN)
def test_a_library_stays_behind_its_seam(name: str) -> None:
    allowed = {place for place in sources() for pattern in ONLY_IN[name] if matches(place, pattern)}
    wrong = [
        f"{place}:{line} imports {found}"
        for place in sources()
        if place not in allowed
        for found, line in imports(place)
        if inside(found, name)
    ]
    assert not wrong


def matches(place: str, pattern: str) -> bool:
    """`*` within a folder, `**/` any folders or none."""
    rule = re.escape(pattern).replace(r"\*\*/", "(?:.+/)?").replace(r"\*", "[^/]*")
    return re.fullmatch(rule, place) is not None


def test_nothing_but_parallel_shards() -> None:
    wrong = [
        f"{place}:{node.lineno}"
        for place in sources()
        if not any(matches(place, pattern) for pattern in ONLY_IN["torch.distributed.fsdp"])
        for node in walk_running_code(tree(place))
        if (isinstance(node, ast.Name) and node.id == "fully_shard")
        or (isinstance(node, ast.Attribute) and node.attr == "fully_shard")
    ]
    assert not wrong


def catches(handler: ast.ExceptHandler) -> set[str]:
    if handler.type is None:
        return {"everything"}
    kinds = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
    return {ast.unparse(kind).removeprefix("builtins.") for kind in kinds}


def hands_on(handler: ast.ExceptHandler) -> bool:
    """Whether the error goes on: raised again, or given away under its name."""
    nodes = [node for statement in handler.body for node in ast.walk(statement)]
    return any(
        (isinstance(node, ast.Raise) and node.exc is None) or (isinstance(node, ast.Name) and node.id == handler.name)
        for node in nodes
    )


def test_no_error_is_swallowed() -> None:
    """A handler names the errors it expects. `except BaseException` stands only where the error is passed on whole."""
    wrong = [
        f"{place}:{node.lineno} catches {', '.join(sorted(catches(node)))}"
        for place in sources()
        for node in ast.walk(tree(place))
        if isinstance(node, ast.ExceptHandler)
        and (catches(node) & {"everything", "Exception"} or ("BaseException" in catches(node) and not hands_on(node)))
    ]
    assert not wrong


def test_a_failed_compile_is_an_error() -> None:
    wrong = [place for place, path in sources().items() if "suppress_errors" in path.read_text(encoding="utf-8")]
    assert not wrong


def test_every_folder_is_a_package() -> None:
    """Without __init__.py a folder of modules is silently absent from the wheel."""
    wrong = {path.parent for path in sources().values() if not (path.parent / "__init__.py").is_file()}
    assert not wrong


def test_files_stay_short() -> None:
    files = [
        path for folder in ("soda_fast", "kernels", "benchmarks", "tests") for path in (ROOT / folder).rglob("*.py")
    ]
    lines = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in files}
    wrong = [f"{path.relative_to(ROOT)}: {count} lines" for path, count in lines.items() if count > MAX_LINES]
    assert not wrong


EXAMPLE = """
import a.b as c
from d import e, f
from . import g
from ..h import i
from j import *
from typing import TYPE_CHECKING
import importlib
if TYPE_CHECKING:
    import unseen
else:
    import k
def function():
    import torch
    torch.distributed.barrier()
    importlib.import_module("l.m")
"""


def test_the_reader_of_imports_sees_every_form() -> None:
    found = {name for name, _ in imported_names("p/q/module.py", ast.parse(EXAMPLE))}
    assert found >= {"a.b", "d.e", "d.f", "p.q.g", "p.h.i", "j", "k", "torch", "torch.distributed.barrier", "l.m"}
    assert "unseen" not in found
