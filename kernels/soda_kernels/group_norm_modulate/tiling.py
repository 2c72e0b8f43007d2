"""How a tensor is cut into programs: by its shape without N, so that a sample's result does not depend on its batch.

A program takes `groups` neighbouring groups of one sample, over all positions. Its tile has block_positions rows and
block_groups * block_channels columns ("slots": powers of two, as Triton asks; what lies beyond the data is masked).

Bytes that a pass over a tensor of B bytes moves, statistics and (N, C) vectors aside:

    whole    the tile stays in registers between the statistics and their use
             forward  reads x, writes y                   2 B
             backward reads x and dy, writes dx           3 B
    looped   the tile is too large and is read again, in the opposite order: what was read last is still in a cache
             forward  reads x twice, writes y             2 B, and up to B more as far as the L2 cache does not hold it
             backward reads x and dy twice, writes dx     3 B, and up to 2 B more

The rule, for each direction a `Budget`:

    aim        bytes of a whole tile. Several programs must share a multiprocessor, so that one loads while another
               computes or stores. At 64 bytes of bfloat16 per thread the compiler needs about 80 registers in forward
               and 128 in backward (x, du and xhat live at once): of programs of 16 KiB and 8 warps, three or two fit
               the 65,536 registers. It is told so; where it would spill, it is asked again without a limit (launch.py).
    limit      up to which a tile grows to hold one group, or to be `row` wide; beyond it: looped.
    row        bytes of the tile's row in channels_last. Memory moves sectors of 32 bytes; a program that takes 16
               leaves the other half to its neighbour, which runs at the same time and finds it in the L2 cache.
    loop_row   the same for a looped tile. Narrow, because what all resident programs read must stay in the L2 cache
               until they read it again.

`groups` divides the number of groups, hence every program has as many. The constants come from arithmetic and from
the compiler's register counts (benchmarks/kernel_resources.py); `python -m benchmarks.kernel_sweep` tries others.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Budget:
    """Bytes, see above. registers: the most that a thread may take, by its bytes of a whole tile; loop_registers."""

    aim: int
    limit: int
    row: int
    loop_tile: int
    loop_row: int
    max_warps: int
    registers: dict[int, int]
    loop_registers: int


KIB = 1024
BUDGETS = {
    "forward": Budget(16 * KIB, 32 * KIB, 16, 8 * KIB, 64, 8, {64: 80, 128: 128}, 80),
    "backward": Budget(16 * KIB, 32 * KIB, 16, 8 * KIB, 32, 16, {64: 128}, 128),
}
BYTES_PER_THREAD = 64  # of a whole tile, unless max_warps are too few
MAX_WARPS = 16
LOOP_BYTES_PER_THREAD = 32  # of a looped tile, beside its float32 accumulators


@dataclass(frozen=True)
class Tiling:
    """How one pass is cut; the launch has N * num_groups / groups programs of `warps` warps."""

    groups: int
    block_groups: int
    block_channels: int
    block_positions: int
    whole: bool
    warps: int
    registers: int


def next_power_of_two(n: int) -> int:
    """The smallest power of two that is at least n >= 1."""
    return 1 << (n - 1).bit_length()


def choose_tiling(
    budget: Budget, channels: int, positions: int, num_groups: int, itemsize: int, channels_last: bool
) -> Tiling:
    """The rule above.

    Args:
        budget: of the direction.
        channels, positions, num_groups: C, H*W and the number of groups.
        itemsize: bytes of an element of x.
        channels_last: whether channels, not positions, are neighbours in memory.
    """
    group_channels = channels // num_groups
    block_channels, block_positions = next_power_of_two(group_channels), next_power_of_two(positions)

    def tile(groups: int) -> int:
        return next_power_of_two(groups) * block_channels * block_positions * itemsize

    def is_wide(groups: int) -> bool:
        return not channels_last or groups == num_groups or groups * group_channels * itemsize >= budget.row

    divisors = [groups for groups in range(1, num_groups + 1) if num_groups % groups == 0]
    fitting = [groups for groups in divisors if tile(groups) <= budget.limit and is_wide(groups)]
    if not fitting:
        return _looped(budget, group_channels, positions, divisors, itemsize, channels_last)
    groups = max((groups for groups in fitting if tile(groups) <= budget.aim), default=fitting[0])
    max_warps = budget.max_warps if channels_last else MAX_WARPS
    warps = min(max_warps, max(1, tile(groups) // (32 * BYTES_PER_THREAD)))
    registers = budget.registers[max(BYTES_PER_THREAD, tile(groups) // (32 * warps))]
    return Tiling(groups, next_power_of_two(groups), block_channels, block_positions, True, warps, registers)


def _looped(
    budget: Budget, group_channels: int, positions: int, divisors: list[int], itemsize: int, channels_last: bool
) -> Tiling:
    """One group at a time, or as many as make a row of loop_row bytes; a wide group is cut into columns."""
    slots, row = budget.loop_tile // itemsize, budget.loop_row // itemsize
    groups = 1
    if channels_last:
        groups = next((groups for groups in divisors if groups * group_channels >= row), divisors[-1])
    block_groups = next_power_of_two(groups)
    longest_row = slots // 16 if channels_last else max(1, slots // next_power_of_two(positions))
    block_channels = min(next_power_of_two(group_channels), max(1, longest_row // block_groups))
    if block_channels < group_channels and groups > 1:
        return _looped(budget, group_channels, positions, [1], itemsize, channels_last)
    block_positions = min(next_power_of_two(positions), max(1, slots // (block_groups * block_channels)))
    tile = block_groups * block_channels * block_positions * itemsize
    warps = min(budget.max_warps, max(1, tile // (32 * LOOP_BYTES_PER_THREAD)))
    return Tiling(groups, block_groups, block_channels, block_positions, False, warps, budget.loop_registers)
