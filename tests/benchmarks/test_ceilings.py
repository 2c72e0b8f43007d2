"""The ceilings that measurements are compared with."""

import torch

from benchmarks.ceilings import matrix_rate


def test_a_cpu_has_a_rate_and_no_sheet() -> None:
    found = matrix_rate(torch.device("cpu"))
    assert found["dtype"] == "float32"
    assert found["measured_tflops"] > 0
    assert found["data_sheet_tflops"] is None
