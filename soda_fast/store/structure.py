"""Whether a file's structure is so ordinary that every decoder must give the same pixels.

Decoders differ in what they forgive: a missing end, a marker in the middle of the data, 16 bits a channel. A file that
passes here is either decoded alike by Pillow and DALI or refused by both (tried with thousands of damaged files, see
tests/data/test_bad_images.py); one that does not is decoded by Pillow, whatever the backend.
"""

import zlib

import numpy as np

_PNG = b"\x89PNG\r\n\x1a\n"
_START, _END, _SCAN = 0xD8, 0xD9, 0xDA
_ADOBE = 0xEE
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # the others are tables
_PLAIN_FRAMES = frozenset({0xC0, 0xC1, 0xC2})
_TEMPORARY, _RESTARTS = 0x01, range(0xD0, 0xD8)


def is_plain(content: bytes) -> bool:
    """True for a JPEG whose markers are in order up to an end at the very end, and for a PNG of up to 8 bits a channel
    whose chunks are all there with their checksums."""
    if content.startswith(_PNG):
        return _plain_png(content)
    return _plain_jpeg(content)


def bit_depth(content: bytes) -> int:
    """Bits of a channel: a PNG's as its header says, 8 for everything else."""
    return content[24] if content.startswith(_PNG) and len(content) > 24 else 8


def _plain_png(content: bytes) -> bool:
    if bit_depth(content) > 8:
        return False
    at = len(_PNG)
    view = memoryview(content)
    while at + 12 <= len(content):
        end = at + 8 + int.from_bytes(view[at : at + 4], "big")
        if end + 4 > len(content) or zlib.crc32(view[at + 4 : end]) != int.from_bytes(view[end : end + 4], "big"):
            return False
        if view[at + 4 : at + 8] == b"IEND":
            return True
        at = end + 4
    return False


def _plain_jpeg(content: bytes) -> bool:
    if content[:2] != bytes((0xFF, _START)):
        return False
    at, scanned, adobe_rgb = 2, False, False
    while at + 2 <= len(content) and content[at] == 0xFF:
        marker = content[at + 1]
        if marker == 0xFF:  # padding
            at += 1
            continue
        if marker == _END:
            return scanned and at + 2 == len(content)
        if marker in (0, _START, _TEMPORARY) or marker in _RESTARTS:
            return False
        end = at + 2 + int.from_bytes(content[at + 2 : at + 4], "big")
        segment = content[at + 4 : end]
        if marker == _ADOBE and segment[:5] == b"Adobe":
            adobe_rgb = segment[11:12] == b"\0"
        if marker in _FRAMES and not _plain_frame(marker, segment, adobe_rgb):
            return False
        at = end
        if marker == _SCAN:
            at, scanned = _end_of_scan(content, at), True
    return False


def _plain_frame(marker: int, segment: bytes, adobe_rgb: bool) -> bool:
    """Baseline, extended or progressive; 8 bits; grey, or three channels that are YCbCr. GPUs decode these alike."""
    if marker not in _PLAIN_FRAMES or len(segment) < 6 or segment[0] != 8:
        return False
    channels = segment[5]
    identifiers = segment[6 : 6 + 3 * channels : 3]
    return channels == 1 or (channels == 3 and not adobe_rgb and identifiers != b"RGB")


def _end_of_scan(content: bytes, start: int) -> int:
    """Where the first marker stands that does not belong to compressed data; the file's length if there is none."""
    if start + 1 >= len(content):
        return len(content)
    data = np.frombuffer(content, np.uint8, offset=start)
    places = np.flatnonzero(data[:-1] == 0xFF)
    after = data[places + 1]
    markers = np.flatnonzero((after != 0) & ((after < _RESTARTS.start) | (after >= _RESTARTS.stop)))
    return start + int(places[markers[0]]) if len(markers) else len(content)
