"""What this machine's matrix units reach at best, measured: the ceiling that MFU is compared with."""

from typing import Any

import torch

from benchmarks.gpu_timing import time_calls
from soda_fast.gpus import sheet_of

GPU_SIZE, CPU_SIZE = 8192, 1024


def matrix_rate(device: torch.device) -> dict[str, Any]:
    """Operations a second of one large square matrix product: bf16 on a GPU, fp32 on a CPU (named in the result)."""
    if device.type == "cuda":
        dtype, size = torch.bfloat16, GPU_SIZE
    else:
        dtype, size = torch.float32, CPU_SIZE
    left, right = (torch.randn(size, size, dtype=dtype, device=device) for _ in range(2))
    seconds = time_calls([lambda: torch.mm(left, right)] * 4, device).median * 1e-6
    sheet = sheet_of(device)
    return {
        "dtype": str(dtype).removeprefix("torch."),
        "size": size,
        "measured_tflops": 2 * size**3 / seconds / 1e12,
        "data_sheet": sheet.name if sheet else None,
        "data_sheet_tflops": sheet.bf16_tflops if sheet else None,
    }
