"""Data sheets are found by the names that drivers give."""

import pytest
import torch

from benchmarks.ceilings import matrix_rate
from benchmarks.gpus import data_sheet


@pytest.mark.parametrize(
    ("name", "tflops"),
    [
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA H200", 989),
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA B200", 2250),
        ("NVIDIA GeForce RTX 4090", 165),
        ("NVIDIA GH200 480GB", None),
        ("NVIDIA GeForce RTX 4090 D", 165),
        ("Tesla V100-SXM2-16GB", None),
    ],
)
def test_by_name(name: str, tflops: float | None) -> None:
    sheet = data_sheet(name)
    assert (sheet and sheet.bf16_tflops) == tflops


def test_a_cpu_has_a_rate_and_no_sheet() -> None:
    found = matrix_rate(torch.device("cpu"))
    assert found["dtype"] == "float32"
    assert found["measured_tflops"] > 0
    assert found["data_sheet_tflops"] is None
