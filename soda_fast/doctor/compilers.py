"""The compilers for what is compiled while a machine trains: each caller looks for one in its own way."""

import os
import shlex
import shutil

from soda_kernels.cpu.library import find_compiler


def c_compiler() -> str | None:
    """The command that compiles this package's C on a CPU."""
    return _at_its_place(find_compiler() or [])


def triton_compiler() -> str | None:
    """The one that Triton calls: what CC names, as it stands, without arguments; where CC is not set, gcc or clang."""
    names = [os.environ["CC"]] if "CC" in os.environ else ["gcc", "clang"]
    return next((found for name in names if (found := shutil.which(name))), None)


def cxx_compiler() -> str | None:
    """The command that Inductor calls on CPUs: what CXX names, else g++."""
    try:
        return _at_its_place(shlex.split(os.environ.get("CXX", "g++")))
    except ValueError:
        return None


def _at_its_place(command: list[str]) -> str | None:
    """None where there is no such program."""
    program = shutil.which(command[0]) if command else None
    return program and shlex.join([program, *command[1:]])
