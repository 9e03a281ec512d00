# SPDX-License-Identifier: BSD-2-Clause
"""How large an image must become for its own tables to grow, and how it gets there.

What is asserted depends on what can be reached: the refcount table has to grow when its first cluster counts little
enough of the file, else another refcount block has to come, which all but no combination excludes. The file gets
near to that point by plain writes, or, where that would be gigabytes, by qemu-img resize --preallocation=metadata,
which maps the guest's disk onto a sparse file; the server under test then does the last step. With a data file
only tables are in the image, so that only images of small clusters get there.
"""
import dataclasses
import os

from image import Header
from weirtest import run

MiB, GiB, TiB = 1 << 20, 1 << 30, 1 << 40
SPARSE_MAX = 8 * TiB       # half of what a file of ext4 may have
RAW_MAX = 16 * GiB
WRITTEN_MAX = 32 * MiB     # by plain writes
UNITS_MAX = 16384          # clusters (with a data file: L2 tables) by plain writes
TABLES_MAX = 8192          # L2 tables made by qemu-img
TABLE_BYTES_MAX = 32 * MiB
MARGIN = 24                # clusters of the file that are left to the server under test


@dataclasses.dataclass
class Plan:
    size: int          # of the guest's disk as created
    prealloc: int      # 0, or about the size to which qemu-img resizes it with preallocation
    goal: str          # 'table', 'blocks' or 'none': what must grow
    goal_bytes: int    # for which the file must be longer than this
    unit: int          # bytes of the guest's disk that take one cluster of the file

    @property
    def text(self):
        how = 'by preallocation' if self.prealloc else 'by writes'
        return {'table': f'refcount table, refcount blocks ({how})', 'blocks': f'refcount blocks ({how})',
                'none': 'no refcount block'}[self.goal]


def sparse_max(case):
    """The guest's disk on a raw data file is data from end to end, and so is read from end to end by who compares."""
    return RAW_MAX if case.data == 'raw' else SPARSE_MAX


def make(case, rnd):
    size = min(max(48 * case.cluster, MiB), 24 * MiB) - 512 * rnd.choice((0, 1, 5))
    separate = case.data != 'none'
    unit = case.l2_covers if separate else case.cluster
    # qemu-img preallocates above a backing file only what can be marked as zero.
    can_preallocate = case.version == 3 or not case.depth
    for goal, target in (('table', case.table_covers), ('blocks', case.block_covers)):
        units = target // case.cluster
        fits = (units + 2) * unit <= sparse_max(case)
        if fits and units <= UNITS_MAX // (4 if separate else 1) and target <= WRITTEN_MAX:
            return Plan(size, 0, goal, target, unit)
        tables = units if separate else units // case.l2_entries
        if (fits and can_preallocate and tables <= TABLES_MAX and tables * case.cluster <= TABLE_BYTES_MAX
                and (units - MARGIN) * unit > size and target <= SPARSE_MAX):
            return Plan(size, units * unit, goal, target, unit)
    return Plan(size, 0, 'none', 0, unit)


def preallocate(case, plan, path):
    """In two steps, of which the second knows what the first one cost. Returns the new size."""
    def resize(size):
        run('qemu-img', 'resize', '-q', '--preallocation=metadata', path, size, timeout=300)
    size = max(plan.prealloc * 3 // 4, plan.size) // 512 * 512
    resize(size)
    left = plan.goal_bytes - MARGIN * case.cluster - os.stat(path).st_size
    each = case.cluster + (16 if case.data != 'none' else case.cluster // case.l2_entries + 1) + case.width // 8
    if left > each:
        size += left // each * plan.unit
        resize(size)
    assert os.stat(path).st_size <= plan.goal_bytes, 'the plan is wrong: nothing is left to grow'
    return size


def grown_size(case, plan, path, size):
    """The size after block_resize: past the L1 table's clusters where that is no monster, and room for the writes that
    reach the goal. Returns (size, 'moves', 'grows' or 'stays' for the L1 table, number of units to write)."""
    header = Header(path)
    clusters = -(-header.l1_size * 8 // case.cluster)
    past = (clusters * (case.cluster // 8) + 1) * case.l2_covers
    beside = header.l1_size * case.l2_covers + 20 * case.cluster
    if past <= sparse_max(case):
        l1, grown = 'moves', past
    elif beside <= sparse_max(case):
        l1, grown = 'grows', beside
    else:
        l1, grown = 'stays', size + 20 * case.cluster
    units = 0
    if plan.goal != 'none':
        units = max(0, plan.goal_bytes - os.stat(path).st_size) // case.cluster + 16
    return max(grown, size + (units + 2) * plan.unit if units else 0), l1, units


def expect(plan, l1, before, after):
    """What the header has to show."""
    if l1 != 'stays':
        assert after.l1_size > before.l1_size, f'the L1 table did not grow: {before.l1} -> {after.l1}'
    if l1 == 'moves':
        assert after.l1_offset != before.l1_offset, f'the L1 table did not move: {before.l1} -> {after.l1}'
    if plan.goal == 'table':
        assert after.table != before.table, f'the refcount table did not grow: {before.table}'
    if plan.goal != 'none':
        assert after.refcount_blocks > before.refcount_blocks, f'still {before.refcount_blocks} refcount blocks'
