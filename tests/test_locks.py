"""File systems without locks: what would take one is done all the same, and it is told."""

import errno
from pathlib import Path

import pytest

from soda_fast import locks
from soda_fast.data.cache import cached
from soda_fast.run_lock import RunLock
from soda_fast.store.build import construction_site

REFUSED = r"cannot lock \(Function not implemented\): "


@pytest.fixture(autouse=True)
def no_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(locks.fcntl, "flock", refuse)


def test_what_is_derived_first_is_kept(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match=REFUSED + "processes that start together"):
        final = cached(tmp_path, "thing", 1, lambda folder: (folder / "text").touch())
    elsewhere = final.rename(tmp_path / "elsewhere")

    def overtaken(folder: Path) -> None:
        """Another process is done before this one is."""
        (folder / "text").write_text("made in vain")
        elsewhere.rename(final)

    with pytest.warns(UserWarning, match=REFUSED):
        assert cached(tmp_path, "thing", 1, overtaken) == final
    assert (final / "text").read_text() == ""
    assert {path.name for path in tmp_path.iterdir()} == {final.name, ".soda-fast-thing.lock"}


def test_a_store_is_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with construction_site(tmp_path, "folder") as partial:
        assert partial.is_dir()
    assert "see that no second process makes this store" in capsys.readouterr().out


def test_a_training_goes_on_with_a_warning(tmp_path: Path) -> None:
    lock = RunLock(tmp_path)
    assert "nothing prevents a second training" in (lock.acquire() or "")
    lock.release()
