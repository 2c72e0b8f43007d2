"""The data sheets are found by the names that drivers give."""

import pytest
import torch

from soda_fast.gpus import DATA_SHEETS, data_sheet, sheet_of

NAMES = {
    "NVIDIA A100-SXM4-80GB": ("A100", 312),
    "NVIDIA H100 80GB HBM3": ("H100", 989),
    "NVIDIA H100 PCIe": ("H100 PCIe", 756),
    "NVIDIA H200": ("H200", 989),
    "NVIDIA B200": ("B200", 2250),
    "NVIDIA GeForce RTX 4090": ("RTX 4090", 165),
    "NVIDIA GeForce RTX 4090 D": ("RTX 4090", 165),
    "NVIDIA L40S": ("L40S", 362),
}


@pytest.mark.parametrize(("name", "expected"), NAMES.items())
def test_names(name: str, expected: tuple[str, float]) -> None:
    sheet = data_sheet(name)
    assert sheet is not None
    assert (sheet.name, sheet.bf16_tflops) == expected


def test_unknown_ones_have_none() -> None:
    assert data_sheet("NVIDIA GH200 480GB") is None
    assert data_sheet("NVIDIA GeForce RTX 3090") is None
    assert data_sheet("Tesla V100-SXM2-16GB") is None
    assert sheet_of(torch.device("cpu")) is None


def test_each_name_finds_itself() -> None:
    assert [data_sheet(sheet.name) for sheet in DATA_SHEETS] == list(DATA_SHEETS)
