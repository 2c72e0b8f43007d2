"""An encoder at 224 and a decoder at 64: what the dry run of ImageNet's configuration says, against numbers by hand."""

import re
from pathlib import Path

import pytest
import torch
from torchvision.models import resnet50

from soda_fast.cli import main

CONFIG = Path(__file__).parents[1] / "configs" / "imagenet64.yaml"


@pytest.mark.slow
def test_dry_run(capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--dry-run", "--processes", "64", "--gpu-memory-gib", "80"]
    assert main(["train", str(CONFIG), *options, "perf.compile=false"]) == 0
    said = capsys.readouterr().out
    for key in ("arch: resnet50", "stem: 7x7", "source_size: 224", "target_size: 64"):
        assert key in said
    with torch.device("meta"):
        encoder = sum(parameter.numel() for parameter in resnet50(num_classes=2048).parameters())
    assert f"encoder {encoder:,}, decoder" in said
    # Published: 4.09 billion multiply-adds at 224 with 1,000 outputs; the 1,048 others are small.
    forward, of_encoder, both = map(
        float, re.search(r"forward ([\d.]+) GFLOP.*encoder ([\d.]+)\).*backward ([\d.]+)", said).groups()
    )
    assert of_encoder == pytest.approx(2 * 4.09, rel=0.01)
    assert 50 < forward - of_encoder < 60, "that of the decoder at 64, as of Tiny-ImageNet's, but for a wider z"
    assert both == pytest.approx(3 * forward, rel=0.02)
    assert "of 1,281,167 images" in said
    images = 1024 // 64 * 3 * (224**2 + 64**2) * 4 / 2**30
    assert re.search(rf"images +{images:.3f} +{images:.3f} +the batch", said)
    assert "fits in 80.0 GiB" in said
