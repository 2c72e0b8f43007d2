"""Hugging Face's mixin on local folders; skipped where the optional extra `hub` is not installed."""

from pathlib import Path

import pytest
import torch
from training.tiny import run_tiny, tiny_tree

import soda_fast

pytest.importorskip("huggingface_hub")


def test_there_and_back(tmp_path: Path) -> None:
    from soda_fast.hub import HubSODA

    run_tiny(tiny_tree(tmp_path / "run", 1))
    model = soda_fast.load(tmp_path / "run")
    HubSODA.from_run(tmp_path / "run").save_pretrained(tmp_path / "folder")
    assert (tmp_path / "folder" / "README.md").is_file()
    again = HubSODA.from_pretrained(str(tmp_path / "folder"))
    images = torch.randn(2, 3, 8, 8)
    assert torch.equal(again.encode(images), model.encode(images))
    assert torch.equal(again.sample(model.encode(images), steps=2), model.sample(model.encode(images), steps=2))
    # The same folder is an exported one.
    encoder, _ = soda_fast.load_encoder(tmp_path / "folder")
    assert torch.equal(encoder(images), model.encode(images))
    # And a model that came from a folder can be saved again.
    again.save_pretrained(tmp_path / "copy")
    assert torch.equal(HubSODA.from_pretrained(str(tmp_path / "copy")).encode(images), model.encode(images))


def test_a_folder_that_holds_no_model(tmp_path: Path) -> None:
    from soda_fast.hub import HubSODA

    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="not a run directory"):
        HubSODA.from_pretrained(str(tmp_path / "empty"))
