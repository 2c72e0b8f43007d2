"""What data sheets say of GPUs: peaks to compare with, and links to predict with. Nothing here is measured.

Sources: NVIDIA's data sheets "A100 80GB", "H100" (SXM, PCIe, NVL), "H200" (SXM), "L40S", that of the DGX B200 divided
by its eight GPUs, and the white paper of the Ada architecture for the RTX 4090 (bf16 with fp32 accumulation). Matrix
rates are dense: data sheets also print twice as much, for matrices that are half zeros.
"""

import re
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class DataSheet:
    """One GPU.

    bf16_tflops: dense matrix products, 1e12 operations a second. link_gbytes_s: GB/s in each direction to the other
    GPUs of its machine (half of NVLink's printed total; PCIe where there is none).
    """

    name: str
    bf16_tflops: float
    link_gbytes_s: float


# The more particular name first: "H100 PCIe" is also an "H100".
DATA_SHEETS = (
    DataSheet("B200", 2250, 900),
    DataSheet("H200", 989, 450),
    DataSheet("H100 PCIe", 756, 64),
    DataSheet("H100 NVL", 835, 300),
    DataSheet("H100", 989, 450),
    DataSheet("A100", 312, 300),
    DataSheet("L40S", 362, 32),
    DataSheet("RTX 4090", 165, 32),
)


def data_sheet(name: str) -> DataSheet | None:
    """The data sheet of a GPU as its driver names it ("NVIDIA H100 80GB HBM3"); None for one that is not listed."""
    words = set(re.findall(r"\w+", name))  # whole words: a GH200 is no H200
    return next((sheet for sheet in DATA_SHEETS if words.issuperset(sheet.name.split())), None)


def sheet_of(device: torch.device) -> DataSheet | None:
    """The data sheet of a device; None for a CPU and for a GPU that is not listed."""
    return data_sheet(torch.cuda.get_device_name(device)) if device.type == "cuda" else None
