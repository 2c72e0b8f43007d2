"""Archives built to escape, to overflow, to deceive: each is refused whole, and what it is refused for is named."""

import gzip
import io
import os
import stat
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from soda_fast.cli import main
from soda_fast.data.cifar import load_cifar
from soda_fast.prepare.archives import list_tar, list_tar_of_tars, list_zip
from soda_fast.prepare.unpack import uncompressed
from soda_fast.store.tar_index import rows_of


def info(name: str, size: int = 0, kind: bytes = tarfile.REGTYPE, target: str = "") -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.size, made.type, made.linkname = size, kind, target
    return made


def tar_of(path: Path, *members: tarfile.TarInfo) -> Path:
    with tarfile.open(path, "w:", format=tarfile.GNU_FORMAT) as archive:
        for member in members:
            archive.addfile(member, io.BytesIO(bytes(min(member.size, 1 << 20))) if member.isreg() else None)
    return path


def read_shard(path: Path) -> list:
    return rows_of((0, str(path)), lambda: None)


@pytest.mark.parametrize("damage", ["cut off between members", "a bit of a header"])
@pytest.mark.parametrize(
    "read", [list_tar, lambda path: rows_of((0, str(path)), lambda: None)], ids=["source", "shard"]
)
def test_a_tar_that_ends_too_soon_is_not_taken_as_whole(damage: str, read: Callable, tmp_path: Path) -> None:
    """Python takes either for the end of the archive."""
    path = tar_of(tmp_path / "x.tar", *(info(f"{n}.jpg", 1) for n in range(8)))
    content = bytearray(path.read_bytes())
    place = 4 * 1024  # a header and a block each
    if damage == "a bit of a header":
        content[place + 3] ^= 1
    path.write_bytes(content[: place if damage.startswith("cut") else None])
    with pytest.raises(ValueError, match=r"x.tar: is damaged or cut off at byte 4,096"):
        list(read(path))


HOSTILE_TARS = {
    "above": (info("train/../../escaped.jpg", 3), "leads out of the archive"),
    "absolute": (info("/tmp/escaped.jpg", 3), "leads out of the archive"),
    "backslashes": (info("train\\..\\..\\escaped.jpg", 3), "leads out of the archive"),
    "drive": (info("C:/escaped.jpg", 3), "leads out of the archive"),
    "symbolic link": (info("train/a/x.jpg", 0, tarfile.SYMTYPE, "/etc/passwd"), "is a link, a device"),
    "hard link": (info("train/a/x.jpg", 0, tarfile.LNKTYPE, "../../etc/passwd"), "is a link, a device"),
    "device": (info("train/a/x.jpg", 0, tarfile.CHRTYPE), "is a link, a device"),
    "pipe": (info("train/a/x.jpg", 0, tarfile.FIFOTYPE), "is a link, a device"),
    "absurd size": (info("train/a/x.jpg", 10**15), "claims 1,000,000,000,000,000 bytes"),
}


@pytest.mark.parametrize("name", HOSTILE_TARS)
def test_hostile_tars_are_refused(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    member, reason = HOSTILE_TARS[name]
    path = tmp_path / "x.tar"
    with path.open("wb") as file:
        for one in (info("train/a/first.jpg", 3), member):
            file.write(one.tobuf(tarfile.GNU_FORMAT))
            file.write(bytes(512) if one.isreg() else b"")
        file.write(bytes(1024))
    with pytest.raises(ValueError, match=rf"x.tar: refused, because .* in it {reason}"):
        list_tar(path)
    assert main(["prepare", "folder", "--root", str(tmp_path / "root"), "--source", str(path)]) == 2
    assert "Traceback" not in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["root", "x.tar"]


def test_tars_that_lie_or_repeat_are_refused(tmp_path: Path) -> None:
    whole = tar_of(tmp_path / "x.tar", info("train/a/x.jpg", 600), info("train/a/y.jpg", 600)).read_bytes()
    (tmp_path / "short.tar").write_bytes(whole[: 512 + 1024 + 512 + 100])
    with pytest.raises(ValueError, match=r"short.tar: (ends inside train/a/y.jpg|is damaged)"):
        list_tar(tmp_path / "short.tar")
    tar_of(tmp_path / "twice.tar", info("train/a/x.jpg", 3), info("./train/a/x.jpg", 3))
    with pytest.raises(ValueError, match=r"twice.tar: refused, because train/a/x.jpg in it comes twice"):
        list_tar(tmp_path / "twice.tar")
    (tmp_path / "no.tar").write_bytes(b"no archive" * 100)
    with pytest.raises(ValueError, match=r"no.tar: is no uncompressed tar archive"):
        list_tar(tmp_path / "no.tar")


def test_a_hostile_tar_inside_a_tar_is_refused(tmp_path: Path) -> None:
    inner = tar_of(tmp_path / "inner.tar", info("../x.JPEG", 3)).read_bytes()
    with tarfile.open(tmp_path / "outer.tar", "w:") as outer:
        outer.addfile(info("n01.tar", len(inner)), io.BytesIO(inner))
    with pytest.raises(ValueError, match=r"outer.tar: refused, because '../x.JPEG' in it leads out"):
        list(list_tar_of_tars(tmp_path / "outer.tar"))


def zip_member(name: str, mode: int = stat.S_IFREG) -> zipfile.ZipInfo:
    made = zipfile.ZipInfo(name)
    made.external_attr = mode << 16
    return made


@pytest.mark.parametrize(
    ("member", "reason"),
    [
        (zip_member("../../escaped.JPEG"), "leads out of the archive"),
        (zip_member("/tmp/escaped.JPEG"), "leads out of the archive"),
        (zip_member("train/n01/x.JPEG", stat.S_IFLNK), "is a link or a device"),
    ],
)
def test_hostile_zips_are_refused(member: zipfile.ZipInfo, reason: str, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("train/n01/first.JPEG", b"123")
        archive.writestr(member, b"/etc/passwd")
    with pytest.raises(ValueError, match=rf"x.zip: refused, because .* in it {reason}"):
        list_zip(tmp_path / "x.zip")


def test_zip_bombs_and_damaged_zips_are_refused(tmp_path: Path) -> None:
    bomb = zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED)
    with bomb, bomb.open("train/n01/x.JPEG", "w") as member:
        for _ in range(300):
            member.write(bytes(1 << 20))
    assert (tmp_path / "bomb.zip").stat().st_size < 1 << 20
    with pytest.raises(ValueError, match=r"refused, because train/n01/x.JPEG in it claims 314,572,800 bytes"):
        list_zip(tmp_path / "bomb.zip")
    (tmp_path / "cut.zip").write_bytes((tmp_path / "bomb.zip").read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"cut.zip: is no whole zip archive"):
        list_zip(tmp_path / "cut.zip")


@pytest.mark.parametrize(
    ("offset", "value", "reason"),
    [
        (0x0A, 9, r"method that is not read here \(number 9 of the zip format\); unpack the archive, or pack it again"),
        (0x08, 0x01, "is encrypted"),
        (0x08, 0x40, "is encrypted"),
        (0x08, 0x20, "method that is not read here"),
        (0x06, 99, "is no whole zip archive .*zip file version 9.9"),
    ],
)
def test_zips_that_cannot_be_read_are_told(offset: int, value: int, reason: str, tmp_path: Path) -> None:
    """Method, flags and version as other packers write them, in the central directory."""
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("train/n01/x.JPEG", b"123")
    content = bytearray((tmp_path / "x.zip").read_bytes())
    content[content.index(b"PK\x01\x02") + offset] = value
    (tmp_path / "x.zip").write_bytes(content)
    with pytest.raises(ValueError, match=rf"x.zip: .*{reason}"):
        list_zip(tmp_path / "x.zip")


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_damage_of_any_method_is_a_sentence(method: int, tmp_path: Path) -> None:
    """Whatever byte of a member is another."""
    good = bytes(range(256)) * 4
    with zipfile.ZipFile(tmp_path / "good.zip", "w", method) as archive:
        archive.writestr("train/n01/x.JPEG", good)
    whole = (tmp_path / "good.zip").read_bytes()
    (member,) = list_zip(tmp_path / "good.zip")
    assert member.origin.read() == good
    told = []
    for place in range(whole.index(b"PK\x01\x02")):
        path = tmp_path / f"{place}.zip"
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        (member,) = list_zip(path)
        try:
            assert member.origin.read() == good
        except ValueError as error:
            told.append(str(error))
    assert len(told) > 40
    assert all("x.JPEG is damaged (" in text for text in told)


def test_a_compressed_bomb_is_refused(tmp_path: Path) -> None:
    with gzip.open(tmp_path / "x.tar.gz", "wb") as file:
        for _ in range(40):
            file.write(bytes(1 << 20))
    with pytest.raises(ValueError, match=r"x.tar.gz: refused, because it grows to more than 100 times its size"):
        uncompressed(tmp_path / "x.tar.gz", tmp_path)


def test_a_full_disk_is_no_fault_of_the_archive(tmp_path: Path) -> None:
    (tmp_path / "x.tar.gz").write_bytes(gzip.compress(os.urandom(100_000)))
    (tmp_path / "source.tar").symlink_to("/dev/full")
    with pytest.raises(ValueError, match=r"No space left on device\); see to it that files can be written to"):
        uncompressed(tmp_path / "x.tar.gz", tmp_path)


def test_a_damaged_compressed_tar_is_named(tmp_path: Path) -> None:
    content = gzip.compress(os.urandom(100_000))
    (tmp_path / "x.tar.gz").write_bytes(content[:50_000])
    with pytest.raises(ValueError, match=r"x.tar.gz: cannot be decompressed"):
        uncompressed(tmp_path / "x.tar.gz", tmp_path)


@pytest.mark.parametrize(
    "member",
    [
        info("../cifar-10-batches-py/data_batch_1", 3),
        info("cifar-10-batches-py/data_batch_1", 0, tarfile.SYMTYPE, "/etc/passwd"),
        info("cifar-10-batches-py/data_batch_1", 10**12),
    ],
)
def test_hostile_cifar_archives_are_refused(member: tarfile.TarInfo, tmp_path: Path) -> None:
    path = tmp_path / "cifar-10-python.tar.gz"
    path.write_bytes(gzip.compress(member.tobuf() + bytes(2048)))
    with pytest.raises(
        ValueError, match=r"cifar-10-python.tar.gz: refused, because .* is nothing the official archive"
    ):
        load_cifar("cifar10", tmp_path)
