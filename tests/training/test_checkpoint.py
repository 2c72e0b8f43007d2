"""Checkpoints beside the training: written while it goes on, complete, and read without running anything."""

import copy
import json
import os
import pickle
import threading
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from forked import PATIENCE_S
from spawn import run_in_processes
from torch.distributed.checkpoint import filesystem
from torch.distributed.checkpoint.metadata import BytesStorageMetadata, TensorStorageMetadata
from torch.distributed.checkpoint.staging import DefaultStager
from training.tiny import BATCH, make_trainer, run_tiny, tiny_tree

from soda_fast.checkpoint_reader import SafeReader, read_tensors
from soda_fast.cli import main
from soda_fast.config import config_from_tree
from soda_fast.parallel import start_processes
from soda_fast.training import checkpoint_files
from soda_fast.training import trainer as trainer_module
from soda_fast.training.checkpoint import save_tensors
from soda_fast.training.checkpoint_files import checkpoints, find_damage, fingerprint, latest, read_manifest, sealed
from soda_fast.training.clock import SaveTimer
from soda_fast.training.signals import StopRequest


@pytest.fixture
def slow_disk(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Checkpoints reach the disk, and become valid, only after the event."""
    arrived, real = threading.Event(), checkpoint_files.fingerprint

    def fingerprint_later(path: Path) -> dict[str, Any]:
        assert arrived.wait(PATIENCE_S)
        return real(path)

    monkeypatch.setattr(checkpoint_files, "fingerprint", fingerprint_later)
    return arrived


class Waited(Future[str | None]):
    """In place of a save's outcome: the disk becomes fast only when somebody waits for it."""

    def __init__(self, outcome: Future[str | None], disk: threading.Event) -> None:
        super().__init__()
        self._outcome, self._disk, self.found_undone = outcome, disk, False

    def done(self) -> bool:
        return self._outcome.done()

    def result(self, timeout: float | None = None) -> str | None:
        self.found_undone = not self._outcome.done()
        self._disk.set()
        return self._outcome.result(timeout)


def test_training_goes_on_while_a_checkpoint_is_written(tmp_path: Path, slow_disk: threading.Event) -> None:
    with start_processes("cpu") as processes:
        trainer = make_trainer(tmp_path, processes)
        root = trainer.run.checkpoints

        trainer.step(trainer.global_batch(0))
        before = {name: tensor.full_tensor().clone() for name, tensor in trainer.step.model.named_parameters()}
        trainer._save()
        for step in range(1, 4):
            trainer.step(trainer.global_batch(step * BATCH))
        assert checkpoints(root) == []
        assert trainer.checkpoints.take_notices() == []
        # A second one waits for the first, and says so.
        pending = trainer.checkpoints._pending
        assert pending is not None
        waiting = Waited(pending.outcome, slow_disk)
        pending.outcome = waiting
        trainer.checkpoints.save(trainer.step.progress, trainer.step.state)
        assert waiting.found_undone
        (notice,) = trainer.checkpoints.take_notices()
        assert f"the checkpoint of {BATCH} images is still being written" in notice
        trainer._save_and_wait()
        trainer.checkpoints.close()
        assert [path.name for path in checkpoints(root)] == [f"images-{n * BATCH:012d}" for n in (1, 4)]
        # It holds the state of the moment at which it was asked for.
        saved = {name: torch.empty_like(tensor) for name, tensor in before.items()}
        read_tensors(checkpoints(root)[0], "model.", saved)
        assert all(torch.equal(saved[name], before[name]) for name in before)


class ClosingStager(DefaultStager):
    """As of torch 2.11.0: it copies once."""

    def stage(self, state_dict: Any, **kwargs: Any) -> Any:
        staged = super().stage(state_dict, **kwargs)
        self.close()
        return staged


def test_a_run_saves_again_with_stagers_that_copy_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("soda_fast.training.checkpoint.DefaultStager", ClosingStager)
    run_tiny(tiny_tree(tmp_path / "run", 2, save_every_images=BATCH))
    assert len(checkpoints(tmp_path / "run" / "checkpoints")) == 2


def test_writing_uses_no_stream_of_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even where there is one: in the background it would be one of GPU 0."""

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a loader with a stream")

    monkeypatch.setattr(filesystem, "_OverlappingCpuLoader", refuse)
    with start_processes("cpu"):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        save_tensors(tmp_path / "tensors", {"weight": torch.arange(3.0)})
        monkeypatch.undo()
    read: dict[str, torch.Tensor] = {"weight": torch.zeros(3)}
    read_tensors(tmp_path / "tensors", "", read)
    assert read["weight"].tolist() == [0, 1, 2]


class AtOnce:
    """In place of the background: written before the next step, so that the clock alone decides."""

    def __init__(self) -> None:
        self.thread = ThreadPoolExecutor(1)

    def submit(self, function: Any, *arguments: Any) -> Any:
        future = self.thread.submit(function, *arguments)
        wait([future])
        return future

    def shutdown(self) -> None:
        self.thread.shutdown()


def saved_by_the_clock(folder: str, every: Any, steps_apart: int = 0) -> list[int]:
    """Twelve steps, after every few of which ten minutes have passed on process 0; they never pass on the others."""
    with start_processes("cpu") as processes:
        trainer_module.AUTO_SAVE_S = float(steps_apart * BATCH) if processes.is_main else 1e9
        trainer = make_trainer(Path(folder), processes, save_every_images=every, keep_checkpoints=100)
        if steps_apart:  # a clock that tells images
            trainer.save_timer = SaveTimer(trainer_module.AUTO_SAVE_S, lambda: float(trainer.images_seen))
            trainer.checkpoints._thread = AtOnce()  # type: ignore[assignment]
        trainer.train(StopRequest())
        trainer.checkpoints.close()
    return [int(path.name[-12:]) // BATCH for path in checkpoints(Path(folder) / "checkpoints")]


def test_checkpoints_come_by_the_main_process_clock(tmp_path: Path) -> None:
    first, second = run_in_processes(saved_by_the_clock, 2, str(tmp_path), "auto")
    assert first == second
    assert first[-1] == 12
    # Its word reaches the others a step later, and the step after that saves.
    assert first[0] == 3


def test_what_is_saved_once_is_not_asked_for_again(tmp_path: Path) -> None:
    """The word that reaches the others late is of the same wish."""
    for saved in run_in_processes(saved_by_the_clock, 2, str(tmp_path), "auto", 3):
        assert saved == [5, 10, 12]


@pytest.mark.parametrize(("every", "saved"), [(0, [12]), (5 * BATCH, [5, 10, 12])])
def test_an_interval_in_images_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, every: int, saved: list[int]
) -> None:
    monkeypatch.setattr(trainer_module, "AUTO_SAVE_S", 0.0)
    assert saved_by_the_clock(str(tmp_path), every) == saved


def test_a_checkpoint_is_complete(tmp_path: Path) -> None:
    run_tiny(tiny_tree(tmp_path / "run", 2))
    (path,) = checkpoints(tmp_path / "run" / "checkpoints")
    manifest = read_manifest(path)
    assert manifest["images_seen"] == 2 * BATCH
    assert manifest["steps"] == 2
    assert config_from_tree(manifest["config"]).run.seed == 3
    assert torch.__version__.startswith(manifest["versions"]["torch"].split("+")[0])
    names = set(SafeReader(path).read_metadata().state_dict_metadata)
    assert {name.split(".")[0] for name in names} == {"model", "ema", "optimizer"}
    assert {entry["name"] for entry in manifest["files"]} == {".metadata", "__0_0.distcp"}
    assert {file.name for file in path.iterdir()} == {".metadata", "__0_0.distcp", "manifest.json"}


class Bomb:
    """Runs a command where it is unpickled."""

    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.witness}",)


@pytest.mark.parametrize("where", [".metadata", "__0_0.distcp"])
@pytest.mark.parametrize("repaired_checksum", [False, True])
def test_loading_runs_nothing(
    tmp_path: Path, where: str, repaired_checksum: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whether or not the attacker has made the checksums fit. Nor does a message say how to run it."""
    run = tmp_path / "run"
    run_tiny(tiny_tree(run, 2))
    (path,) = checkpoints(run / "checkpoints")
    witness = tmp_path / "ran"
    if where == ".metadata":
        (path / where).write_bytes(pickle.dumps(Bomb(witness)))
    else:
        # Every tensor's bytes become a zip archive whose pickle runs the command.
        data = path / where
        metadata = SafeReader(path).read_metadata()
        torch.save(Bomb(witness), tmp_path / "bomb.pt")
        bomb = (tmp_path / "bomb.pt").read_bytes()
        content = bytearray(data.read_bytes())
        for entry in metadata.storage_data.values():
            if entry.length >= len(bomb):
                content[entry.offset : entry.offset + len(bomb)] = bomb
                entry.length = len(bomb)
        data.write_bytes(content)
        (path / ".metadata").write_bytes(pickle.dumps(metadata))
    if repaired_checksum:
        manifest = read_manifest(path)
        manifest["files"] = [fingerprint(path / entry["name"]) for entry in manifest["files"]]
        (path / "manifest.json").write_text(json.dumps(sealed(manifest)))
    arguments = [["export", str(run), str(tmp_path / "out")], ["evaluate", str(run)]]
    for words in arguments:
        assert main(words) == 2
    config = tmp_path / "config.yaml"
    config.write_text(str(tiny_tree(run, 4)))
    assert main(["train", str(config)]) == 2
    assert not witness.exists()
    assert "weights_only" not in capsys.readouterr().err


def test_the_bombs_are_live(tmp_path: Path) -> None:
    """What the test above refuses does run where torch's own reader meets it."""
    run = tmp_path / "run"
    run_tiny(tiny_tree(run, 1))
    (path,) = checkpoints(run / "checkpoints")
    (path / ".metadata").write_bytes(pickle.dumps(Bomb(tmp_path / "ran")))
    with pytest.raises(AttributeError):
        dcp.FileSystemReader(path).read_metadata()
    assert (tmp_path / "ran").exists()


def test_what_is_no_tensor_is_refused(tmp_path: Path) -> None:
    """torch unpickles it without asking."""
    run = tmp_path / "run"
    run_tiny(tiny_tree(run, 1))
    (path,) = checkpoints(run / "checkpoints")
    metadata = SafeReader(path).read_metadata()
    name = next(name for name in metadata.state_dict_metadata if name.startswith("model."))
    metadata.state_dict_metadata[name] = BytesStorageMetadata()
    (path / ".metadata").write_bytes(pickle.dumps(metadata))
    with pytest.raises(ValueError, match=f"{name} is absent"):
        read_tensors(path, "", {name: torch.empty(3)})


def test_a_tensor_of_which_nothing_is_kept_is_refused(tmp_path: Path) -> None:
    """torch leaves it as it was, and says nothing."""
    run = tmp_path / "run"
    run_tiny(tiny_tree(run, 1))
    (path,) = checkpoints(run / "checkpoints")
    metadata = SafeReader(path).read_metadata()
    name = "model.encoder.fc.weight"
    entry = metadata.state_dict_metadata[name]
    assert isinstance(entry, TensorStorageMetadata)
    entry.chunks.clear()
    (path / ".metadata").write_bytes(pickle.dumps(metadata))
    with pytest.raises(ValueError, match=rf"it holds 0 of the \d+ numbers of {name}; remove it"):
        read_tensors(path, "", {name: torch.empty(entry.size)})


def test_a_modules_attribute_is_not_a_way_out(tmp_path: Path) -> None:
    """Since protocol 4 a pickle may ask for a.b of a module, and so for all that the module has imported."""
    module, name, command = (
        text.encode() for text in ("torch.distributed.checkpoint.filesystem", "os.system", f"touch {tmp_path / 'ran'}")
    )
    words = b"".join(b"\x8c" + bytes([len(word)]) + word for word in (module, name))
    bomb = b"\x80\x04" + words + b"\x93\x8c" + bytes([len(command)]) + command + b"\x85R."
    pickle.loads(bomb)
    (tmp_path / "ran").unlink()  # it is live
    (tmp_path / ".metadata").write_bytes(bomb)
    with pytest.raises(ValueError, match=r"asks for torch\.distributed\.checkpoint\.filesystem\.os\.system"):
        SafeReader(tmp_path).read_metadata()
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "content", [b"\x80\x04\x8e" + b"\xff" * 8, b"\x80\x04\x8e" + bytes(7) + b"\x10", b"\x80\x02K\x01r\xff\xff\xff\x7f."]
)
def test_absurd_lengths_in_the_metadata_are_damage(tmp_path: Path, content: bytes) -> None:
    (tmp_path / ".metadata").write_bytes(content)
    with pytest.raises(ValueError, match="is not the description of a checkpoint"):
        SafeReader(tmp_path).read_metadata()


def test_no_whole_checkpoint_is_no_reason_to_start_anew(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    run_tiny(tiny_tree(run, 2))
    lines = (run / "metrics.jsonl").read_text()
    (path,) = checkpoints(run / "checkpoints")
    with (path / "manifest.json").open("a") as file:
        file.write("x")
    config = tmp_path / "config.yaml"
    config.write_text(str(tiny_tree(run, 4)))
    assert main(["train", str(config)]) == 2
    assert "is whole: restore one, or move this folder away" in capsys.readouterr().err
    assert (run / "metrics.jsonl").read_text() == lines
    assert checkpoints(run / "checkpoints") == [path]


def rename_steps(manifest: dict[str, Any]) -> None:
    manifest["steqs"] = manifest.pop("steps")


MANIFESTS = {
    "manifest.json is not what was written": lambda manifest: manifest.update(steps=3),
    "steps: Field required": rename_steps,
    "manifest_sha256: Field required": lambda manifest: manifest.pop("manifest_sha256"),
    "images_seen: Input should be a valid integer": lambda manifest: manifest.update(images_seen="24"),
}
RESEALED = {
    "is of 25 images": lambda manifest: manifest.update(images_seen=25),
    "files: List should have at least 1 item": lambda manifest: manifest.update(files=[]),
    "names no .metadata": lambda manifest: manifest["files"].pop(),
    "files.0.name: String should match": lambda manifest: manifest["files"][0].update(name="/dev/zero"),
    "config: Field required": lambda manifest: manifest.pop("config"),
    "images: Input should be": lambda manifest: manifest.update(images=[1437]),
}


def test_a_damaged_manifest_is_found(tmp_path: Path) -> None:
    """And the checkpoint before is used."""
    run_tiny(tiny_tree(tmp_path / "run", 2, save_every_images=BATCH))
    root = tmp_path / "run" / "checkpoints"
    before, path = checkpoints(root)
    good = read_manifest(path)
    assert find_damage(path) is None
    for damage, change in (MANIFESTS | RESEALED).items():
        manifest = copy.deepcopy(good)
        change(manifest)
        (path / "manifest.json").write_text(json.dumps(sealed(manifest) if damage in RESEALED else manifest))
        found, (complaint,) = latest(root)
        assert found == before
        assert damage in complaint


def test_a_copy_beside_the_checkpoints_is_none(tmp_path: Path) -> None:
    for name in ("images-000000000024", "images-000000000024-best"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "manifest.json").write_text("{}")
    assert [path.name for path in checkpoints(tmp_path)] == ["images-000000000024"]
