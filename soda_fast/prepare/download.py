"""Downloads that continue where they stopped, and are used only when their checksum is the official one."""

import errno
import hashlib
import http.client
import time
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

from tqdm import tqdm

from soda_fast.prepare.official import Archive
from soda_fast.store.build import require_space

_ATTEMPTS = 5
_PAUSE_S = 1.0
_TIMEOUT_S = 60
_CHUNK = 1 << 20
_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


def download(archive: Archive, folder: Path, url: str | None = None) -> Path:
    """Fetch an archive into `folder`, unless it is there; returns its path.

    What has arrived is kept as NAME.part, and the next attempt goes on behind it.

    Args:
        archive: what to fetch.
        folder: where to.
        url: another address with the same file; None: the official one.

    Raises:
        ValueError: no address, an answer that is no file, the disk is full, or another checksum.
    """
    url = url or archive.url
    if url is None:
        raise ValueError(f"{archive.file} has no public address; download it by hand and give --source")
    if urlsplit(url).scheme not in ("http", "https"):
        raise ValueError(f"--url {url}: is no http or https address")
    final, part = folder / archive.file, folder / f"{archive.file}.part"
    if not final.exists():
        _fetch(url, part, archive)
        _require_checksum(part, archive, url)
        part.replace(final)
    return final


def _fetch(url: str, part: Path, archive: Archive) -> None:
    """Ask again, from where the last answer ended, as long as there is progress."""
    failures = 0
    while True:
        before = _size(part)
        try:
            _continue(url, part, archive)
            return
        except urllib.error.HTTPError as error:
            raise ValueError(f"{url}: the server answers {error.code} {error.reason}; try later, or --url") from error
        except (OSError, http.client.HTTPException) as error:
            if isinstance(error, OSError) and error.errno in _DISK_ERRORS:
                raise ValueError(
                    f"{part}: cannot be written ({error.strerror}); make room, and the same command goes on"
                ) from error
            failures = 0 if _size(part) > before else failures + 1
            if failures == _ATTEMPTS:
                reason = getattr(error, "reason", None) or error
                raise ValueError(f"{url}: cannot be reached ({reason}); the same command goes on later") from error
            time.sleep(_PAUSE_S * failures)


def _continue(url: str, part: Path, archive: Archive) -> None:
    have = _size(part)
    if archive.bytes is not None and have == archive.bytes:
        return
    request = urllib.request.Request(url, headers={"User-Agent": "soda-fast", "Range": f"bytes={have}-"})
    try:
        answer = urllib.request.urlopen(request, timeout=_TIMEOUT_S)
    except urllib.error.HTTPError as error:
        if error.code == 416 and have:  # nothing is left, or the file is a shorter one: the checksum will tell
            return
        raise
    with answer:
        goes_on = answer.status == 206
        if goes_on and not str(answer.headers.get("Content-Range", "")).startswith(f"bytes {have}-"):
            raise ValueError(f"{url}: the server answers with another part than was asked for; give --url")
        have = have if goes_on else 0
        length = answer.headers.get("Content-Length")
        total = None if length is None else have + int(length)
        most = archive.bytes if archive.bytes is not None else total
        if total is not None:
            _require_size(total, archive, url)
            require_space(part.parent, total - have)
        with part.open("ab" if goes_on else "wb") as file, _bar(archive.file, have, total) as bar:
            while chunk := answer.read(_CHUNK):
                have += len(chunk)
                if most is not None and have > most:
                    _require_size(have, archive, url)
                file.write(chunk)
                bar.update(len(chunk))
        if total is not None and have < total:
            raise http.client.IncompleteRead(b"", total - have)


def _bar(name: str, have: int, total: int | None) -> tqdm:
    return tqdm(total=total, initial=have, desc=f"downloading {name}", unit="B", unit_scale=True, disable=None)


def _require_size(size: int, archive: Archive, url: str) -> None:
    if archive.bytes is not None and size != archive.bytes:
        raise ValueError(f"{url}: is a file of {size:,} bytes or more, the official one has {archive.bytes:,}")


def _require_checksum(part: Path, archive: Archive, url: str) -> None:
    with part.open("rb") as file:
        found = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    if found != archive.md5:
        part.unlink()
        raise ValueError(f"{url}: MD5 is {found}, the official file's is {archive.md5}; what was downloaded is removed")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
