"""Which build of a kernel is launched."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from soda_kernels.group_norm_modulate.launch import Launch


class SpillingKernel:
    """Its register limit of each launch; under a limit it spills."""

    def __init__(self, name: str) -> None:
        self.__name__ = name
        self.limits: list[int | None] = []

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        return self.launch

    def launch(self, maxnreg: int | None = None, **_: Any) -> Any:
        self.limits.append(maxnreg)
        return SimpleNamespace(n_spills=0 if maxnreg is None else 3)


@pytest.mark.parametrize(("deterministic", "limits"), [(False, [80, None, None]), (True, [80, 80, 80])])
def test_a_kernel_that_spills(deterministic: bool, limits: list[int | None]) -> None:
    """It is built again without the limit, unless all processes, however they began, must use the same build."""
    kernel = SpillingKernel(f"kernel {deterministic}")
    launch = Launch(kernel, 1, {"x_ptr": torch.zeros(1)}, {}, {}, 4, 80)
    torch.use_deterministic_algorithms(deterministic)
    try:
        for _ in range(3):
            launch.run()
    finally:
        torch.use_deterministic_algorithms(False)
    assert kernel.limits == limits


def test_a_build_from_before_is_not_used_under_deterministic_algorithms() -> None:
    kernel = SpillingKernel("kernel from before")
    launch = Launch(kernel, 1, {"x_ptr": torch.zeros(1)}, {}, {}, 4, 80)
    launch.run()
    launch.run()
    torch.use_deterministic_algorithms(True)
    try:
        launch.run()
    finally:
        torch.use_deterministic_algorithms(False)
    assert kernel.limits == [80, None, 80]
