"""Whether a tar archive was read to its end."""

import tarfile

_BLOCK = 512


def require_end(archive: tarfile.TarFile, path: object) -> None:
    """Call after the last member: Python takes a damaged header, and a missing end, for the end of the archive.

    Raises:
        ValueError: what follows the last member is not an archive's end; names file and byte.
    """
    assert archive.fileobj is not None
    archive.fileobj.seek(archive.offset)
    if archive.fileobj.read(_BLOCK) != bytes(_BLOCK):
        raise ValueError(f"{path}: is damaged or cut off at byte {archive.offset:,}; get or make the archive again")
