"""Layer modulation (SODA, section 3.2): which section of z steers which block of the decoder.

The paper splits z into m + 1 sections; each steers a layer on the UNet's way down and its mirror on the way up, and the
last one the middle. What a layer is, it leaves open. Here:

    by resolution  a section for all residual blocks of one resolution, down and up;
    by block       a section for each residual block on the way down; on the way up, where a resolution has one block
                   more, the blocks take them in reverse, and the last two share the first one's.

A residual block that changes the resolution goes with the finer one: by block, with the last block before the way down
and with the first block after the way up. Sections count from the finest resolution; the last is the coarsest.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Sections:
    """The section, counted from 0, of each part of a UNet.

    down, up: of each block and change of resolution on the way down and up, in the order in which they run. middle: of
    the lowest resolution's middle. count: m + 1.
    """

    down: tuple[int, ...]
    middle: int
    up: tuple[int, ...]

    @property
    def count(self) -> int:
        return self.middle + 1


def assign_sections(modulation: str, levels: int, blocks: int) -> Sections:
    """Which part of a UNet listens to which section.

    Args:
        modulation: "shared" (one section for all), "resolution" or "block".
        levels: resolutions of the UNet.
        blocks: residual blocks at each resolution on the way down; one more on the way up.
    """
    stages = {"shared": 0, "resolution": 1, "block": blocks}[modulation]

    def section(level: int, block: int) -> int:
        return level * stages + min(block, stages - 1) if stages else 0

    down: list[int] = []
    up: list[int] = []
    for level in range(levels):
        ways = [section(level, block) for block in range(blocks)]
        down += ways
        if level < levels - 1:
            down.append(ways[-1])
    for level in reversed(range(levels)):
        ways = [section(level, max(block, 0)) for block in range(blocks - 1, -2, -1)]
        up += ways
        if level > 0:
            up.append(section(level - 1, blocks - 1))
    return Sections(tuple(down), levels * stages, tuple(up))


def section_bounds(width: int, count: int) -> list[int]:
    """The first element of each of `count` sections of a vector of `width` elements, then `width`.

    Element d belongs to section d * count // width: widths differ by at most one. At least one element for each if
    width >= count.
    """
    return [-(-number * width // count) for number in range(count + 1)]
