"""Ten ways to damage a file, as disks, networks and people do."""

import random
from collections.abc import Callable

from PIL import Image

from tests.data.pictures import encode

Damage = Callable[[bytes, random.Random], bytes]


def _flip(content: bytes, numbers: random.Random) -> bytes:
    flipped = bytearray(content)
    flipped[numbers.randrange(len(content))] ^= 1 << numbers.randrange(8)
    return bytes(flipped)


def _zeroed(content: bytes, numbers: random.Random) -> bytes:
    start = numbers.randrange(len(content) // 2)
    return content[:start] + bytes(512) + content[start + 512 :]


def _overwritten(content: bytes, numbers: random.Random) -> bytes:
    middle = len(content) // 2
    return content[:middle] + numbers.randbytes(64) + content[middle + 64 :]


def _page() -> bytes:
    return b"<!doctype html><title>404 Not Found</title>" * 20


DAMAGES: dict[str, Damage] = {
    "empty": lambda content, _: b"",
    "zero bytes": lambda content, _: bytes(len(content)),
    "cut in the middle": lambda content, _: content[: len(content) // 2],
    "cut near the end": lambda content, _: content[:-7],
    "header only": lambda content, _: content[:100],
    "a web page": lambda content, _: _page(),
    "another format": lambda content, _: encode(Image.new("RGB", (9, 9)), "GIF"),
    "one bit flipped": _flip,
    "512 bytes zeroed": _zeroed,
    "64 bytes overwritten": _overwritten,
}
CERTAIN = tuple(DAMAGES)[:7]
"""No decoder can make an image of these; of the others, it depends on where they strike."""
