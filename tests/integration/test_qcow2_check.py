# SPDX-License-Identifier: BSD-2-Clause
"""The check of qcow2 images: clean ones of every kind are called clean, every planted fault is found, and what is
repaired is clean for us and for qemu-img."""
import json
import os
import pathlib
import shlex
import subprocess

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
WEIR = pathlib.Path(shlex.split(os.environ.get('WEIR_DAEMON', str(ROOT / 'build/weir')))[0])
PROGRAM = (WEIR.parent if WEIR.is_absolute() else ROOT / WEIR.parent) / 'tests/unit/qcow2_check'
COPIED, COMPRESSED, OFFSET = 1 << 63, 1 << 62, 0x00fffffffffffe00


def run(*command, status=0):
    done = subprocess.run([str(word) for word in command], stdin=subprocess.DEVNULL, capture_output=True, text=True,
                          check=False)
    assert status is None or done.returncode == status, (command, done.stdout, done.stderr)
    return done


class Result(dict):
    """What the check said: numbers by name, and the lines before them."""
    def __init__(self, output):
        *self.lines, last = output.splitlines()
        assert last.startswith('result: ')
        super().__init__((name, int(number)) for name, number in (word.split('=') for word in last.split()[1:]))

    @property
    def clean(self):
        return not self['corruptions'] and not self['leaks'] and not self['check-errors']


class Image:
    """An image made by qemu-img, with its fields by name."""
    def __init__(self, directory, options='', size='4M', writes=('write -P 1 0 64k',), data_file=False):
        self.path = directory / 'image.qcow2'
        self.data = directory / 'data.raw' if data_file else None
        for path in (self.path, self.data):
            if path and path.exists():
                path.unlink()
        all_options = ','.join(filter(None, ['cluster_size=4096' if 'cluster_size' not in options else '', options,
                                             f'data_file={self.data}' if data_file else '']))
        run('qemu-img', 'create', '-q', '-f', 'qcow2', '-o', all_options, self.path, size)
        for write in writes:
            if write.startswith('snapshot ') or write.startswith('bitmap '):
                tool, *words = write.split()
                run('qemu-img', tool, *(self.path if word == '@' else word for word in words))
            else:
                run('qemu-io', '-f', 'qcow2', '-c', write, self.path)
        self.bits = self.get(20, 4)
        self.cluster = 1 << self.bits

    # ---- bytes ----
    def get(self, offset, length=8):
        with open(self.path, 'rb') as file:
            file.seek(offset)
            return int.from_bytes(file.read(length), 'big')

    def put(self, offset, value, length=8):
        with open(self.path, 'r+b') as file:
            file.seek(offset)
            file.write((value & (1 << 8 * length) - 1).to_bytes(length, 'big'))

    def change(self, offset, function, length=8):
        self.put(offset, function(self.get(offset, length)), length)

    @property
    def end(self):
        return -(-self.path.stat().st_size // self.cluster) * self.cluster

    # ---- places ----
    @property
    def l1(self):
        return self.get(40)

    @property
    def refcount_table(self):
        return self.get(48)

    @property
    def block(self):
        return self.get(self.refcount_table)

    @property
    def snapshots(self):
        return self.get(64)

    def l2(self, index=0):
        return self.get(self.l1 + 8 * index) & OFFSET

    @property
    def extended(self):
        return self.get(4, 4) == 3 and bool(self.get(72) & 16)

    def entry(self, index=0):
        """Where the L2 entry of a guest cluster is."""
        size = 16 if self.extended else 8
        per_table = self.cluster // size
        return self.l2(index // per_table) + size * (index % per_table)

    def host(self, index=0):
        return self.get(self.entry(index)) & OFFSET

    @property
    def refcount_bits(self):
        return 1 << self.get(96, 4) if self.get(4, 4) == 3 else 16

    def count(self, cluster, value=None):
        """The count of a cluster; sets it where there is a value."""
        bits = self.refcount_bits
        if bits >= 8:
            at = self.block + cluster * bits // 8
            if value is None:
                return self.get(at, bits // 8)
            return self.put(at, value, bits // 8)
        at, shift = self.block + cluster * bits // 8, cluster * bits % 8
        byte = self.get(at, 1)
        if value is None:
            return byte >> shift & (1 << bits) - 1
        return self.put(at, byte & ~(((1 << bits) - 1) << shift) | value << shift, 1)

    def extension(self, kind):
        """Where the data of a header extension is."""
        at = self.get(100, 4) if self.get(4, 4) == 3 else 72
        while self.get(at, 4) != kind:
            assert self.get(at, 4), 'no such extension'
            at += 8 + (self.get(at + 4, 4) + 7) // 8 * 8
        return at + 8

    @property
    def bitmaps(self):
        return self.extension(0x23852875)

    @property
    def directory(self):
        return self.get(self.extension(0x23852875) + 16)

    @property
    def bitmap_table(self):
        return self.get(self.directory)

    # ---- checks ----
    def check(self, *fix, status=0):
        done = run(PROGRAM, *fix, self.path, *([self.data] if self.data else []), status=status)
        return Result(done.stdout) if not status else done

    def qemu(self):
        done = run('qemu-img', 'check', '--output=json', self.path, status=None)
        return done, json.loads(done.stdout) if done.stdout.startswith('{') else {}

    def read(self):
        """What a guest reads, or nothing where qemu-io cannot."""
        done = run('qemu-io', '-r', '-f', 'qcow2', '-c', 'read -v 0 256k', '-c', 'read -v 1M 64k',
                   self.path, status=None)
        return '' if done.returncode else [line for line in done.stdout.splitlines() if line[:1] == '0']

    def assert_clean_for_qemu(self):
        done, found = self.qemu()
        assert not done.returncode and not found.get('corruptions') and not found.get('leaks'), done


SNAPSHOT = ('write -P 1 0 64k', 'snapshot -c one @', 'write -P 2 0 16k')
PACKED = ('write -P 1 0 64k', 'write -c -P 2 1M 64k')
BITMAP = ('write -P 1 0 64k', 'bitmap --add -g 512 @ zero', 'bitmap --add @ one', 'write -P 1 2M 512k')
EXTENDED = 'cluster_size=16k,extended_l2=on'
PARTS = ('write 0 512', 'write 1M 64k', 'write -z 512 512', 'write -z 2M 64k', 'write -c 3M 32k')

CLEAN = {
    'empty': {'writes': ()},
    'no size': {'size': '0', 'writes': ()},
    'no size, snapshot': {'size': '0', 'writes': ('snapshot -c one @',)},
    'odd size': {'size': '1000001', 'writes': ('write 0 1000001',)},
    'version 2': {'options': 'compat=0.10', 'writes': SNAPSHOT},
    'version 2, packed': {'options': 'compat=0.10', 'writes': PACKED},
    'lazy': {'options': 'lazy_refcounts=on'},
    'small clusters': {'options': 'cluster_size=512', 'writes': SNAPSHOT + PACKED},
    'large clusters': {'options': 'cluster_size=2M', 'size': '64M', 'writes': SNAPSHOT + ('write -c -P 2 4M 4M',)},
    'metadata': {'options': 'preallocation=metadata', 'size': '64M'},
    'full': {'options': 'preallocation=full', 'writes': ()},
    'falloc': {'options': 'preallocation=falloc', 'writes': ()},
    'zeroes': {'writes': ('write 0 64k', 'write -z 0 32k', 'write -zu 64k 64k', 'discard 48k 16k')},
    'many snapshots': {'writes': SNAPSHOT + tuple(f'snapshot -c s{i} @' for i in range(20)) + ('write 0 4k',)},
    'deleted snapshot': {'writes': SNAPSHOT + ('snapshot -c two @', 'snapshot -d one @')},
    'applied snapshot': {'writes': SNAPSHOT + ('snapshot -a one @',)},
    'packed': {'writes': PACKED},
    'packed with zstd': {'options': 'compression_type=zstd', 'writes': PACKED},
    'packed and overwritten': {'writes': PACKED + ('write 1M 12k', 'write -z 1060k 4k')},
    'packed snapshot': {'writes': PACKED + ('snapshot -c one @', 'write -P 3 1M 8k', 'write -c 2M 8k')},
    'extended': {'options': EXTENDED, 'writes': PARTS},
    'extended snapshot': {'options': EXTENDED, 'writes': PARTS + ('snapshot -c one @', 'write 1k 4k')},
    'bitmaps': {'writes': BITMAP},
    'bitmaps and snapshot': {'writes': BITMAP + ('snapshot -c one @', 'write 0 4k')},
    'data file': {'data_file': True, 'writes': ('write 0 64k', 'write -z 0 4k', 'write 2M 64k', 'discard 2M 4k')},
    'raw data file': {'options': 'data_file_raw=on', 'data_file': True, 'writes': ('write 0 64k', 'write -z 1M 64k')},
    'data file, metadata': {'options': 'preallocation=metadata', 'data_file': True, 'writes': ()},
    'extended data file': {'options': EXTENDED, 'data_file': True, 'writes': PARTS[:-1]},
    'many blocks': {'options': 'cluster_size=512,refcount_bits=64', 'writes': ('write 0 2M',)},
    **{f'{bits} bits': {'options': f'refcount_bits={bits}', 'writes': PACKED[:1] if bits == 1 else SNAPSHOT}
       for bits in (1, 2, 4, 8, 16, 32, 64)},
}


@pytest.mark.parametrize('name', CLEAN)
def test_clean(tmp, name):
    image = Image(tmp, **CLEAN[name])
    result = image.check()
    assert result.clean and not result.lines, result.lines
    # The same figures as qemu-img's, which leaves out those that are zero.
    done, found = image.qemu()
    for figure in ('image-end-offset', 'total-clusters', 'allocated-clusters', 'fragmented-clusters',
                   'compressed-clusters'):
        assert result[figure] == found.get(figure, 0), (figure, done.stdout)
    # Nothing is repaired, nothing is written.
    before = image.path.read_bytes()
    assert image.check('all').clean and image.path.read_bytes() == before


# ---- faults ----
# Each: how the image is made, what is planted, what a line must say, whether a repair makes it clean.

def cluster_of(image, index=0):
    return image.host(index) // image.cluster


def copied_off(at):
    return lambda i: i.change(at(i), lambda e: e & ~COPIED)


def set_bits(at, bits):
    return lambda i: i.change(at(i), lambda e: e | bits)


def put(at, value, length=8):
    return lambda i: i.put(at(i) if callable(at) else at, value(i) if callable(value) else value, length)


def l1_entry(i):
    return i.l1


def refcount_entry(i):
    return i.refcount_table


def snapshot_l1(i):
    return i.get(i.snapshots)


def packed_entry(i):
    return i.entry(256)


def extended_bitmap(i):
    return i.entry(0) + 8


def two_flags(i):
    i.put(i.entry(1), i.get(i.entry(0)))


def same_l2_twice(i):
    i.put(i.l1 + 8, i.get(i.l1))


def many_references(i):
    for index in range(1, 4):
        i.put(i.entry(index), i.get(i.entry(0)))


def snapshot_twice(i):
    i.put(36 + 24, 2, 4)  # the table holds one; what follows in its cluster is nothing


def beyond(i):
    return COPIED | i.end + (1 << 20)


def block_for_new(i):
    """Clusters that no block counts: behind what the first block covers."""
    size = i.cluster * 8 // i.refcount_bits * i.cluster
    with open(i.path, 'r+b') as file:
        file.truncate(size + i.cluster)
    i.put(i.entry(100), COPIED | size)


def dirty_and_wrong(i):
    i.put(72, 1)
    i.count(cluster_of(i), 3)


def corrupt_and_wrong(i):
    i.put(72, 2)
    i.count(cluster_of(i), 0)


PLAIN = {}
SNAPSHOTS, PACKS, BITMAPS = {'writes': SNAPSHOT}, {'writes': PACKED}, {'writes': BITMAP}
SUBCLUSTERS, EXTERNAL = {'options': EXTENDED, 'writes': PARTS}, {'data_file': True}
FAULTS = {
    # counts
    'count of data too low': (PLAIN, lambda i: i.count(cluster_of(i), 0), 'refcount=0 reference=1', True),
    'count of data too high': (PLAIN, lambda i: i.count(cluster_of(i), 2), 'Leaked cluster', True),
    'leak inside': (PLAIN, lambda i: i.put(i.entry(3), 0), 'refcount=1 reference=0', True),
    'leak behind the end': (PLAIN, lambda i: i.count(1000, 1), 'Leaked cluster 1000 refcount=1 reference=0', True),
    'count of header': (PLAIN, lambda i: i.count(0, 0), 'ERROR cluster 0 refcount=0 reference=1', True),
    'count of L1 table': (PLAIN, lambda i: i.count(i.l1 // i.cluster, 0), 'refcount=0 reference=1', True),
    'count of L2 table': (PLAIN, lambda i: i.count(i.l2() // i.cluster, 7), 'refcount=7 reference=1', True),
    'count of refcount table': (PLAIN, lambda i: i.count(1, 0), 'ERROR cluster 1 refcount=0 reference=1', True),
    'count of refcount block': (PLAIN, lambda i: i.count(2, 0), 'ERROR cluster 2 refcount=0 reference=1', True),
    'count of snapshot table': (SNAPSHOTS, lambda i: i.count(i.snapshots // i.cluster, 0),
                                'refcount=0 reference=1', True),
    'count of snapshot L1': (SNAPSHOTS, lambda i: i.count(snapshot_l1(i) // i.cluster, 2),
                             'refcount=2 reference=1', True),
    'count of shared data': (SNAPSHOTS, lambda i: i.count(cluster_of(i, 8), 1),
                             'refcount=1 reference=2', True),
    'count of packed': (PACKS, lambda i: i.count((i.get(packed_entry(i)) & (1 << 58) - 1) // i.cluster, 3),
                        'refcount=3 reference=16', True),
    'count of bitmap data': (BITMAPS, lambda i: i.count(i.get(i.bitmap_table + 8) // i.cluster or
                                                                  i.get(i.bitmap_table) // i.cluster, 0),
                             'refcount=0 reference=1', True),
    'count of bitmap directory': (BITMAPS, lambda i: i.count(i.directory // i.cluster, 0),
                                  'refcount=0 reference=1', True),
    'count of bitmap table': (BITMAPS, lambda i: i.count(i.bitmap_table // i.cluster, 9),
                              'refcount=9 reference=1', True),
    'bitmaps lost': (BITMAPS, put(88, 0), 'Leaked cluster', True),
    'no block': (PLAIN, block_for_new, 'refcount=0 reference=1', True),
    'dirty': ({'options': 'lazy_refcounts=on'}, dirty_and_wrong, 'Leaked cluster', True),
    'corrupt': (PLAIN, corrupt_and_wrong, 'refcount=0 reference=1', True),
    'data file: count of L2 table': (EXTERNAL, lambda i: i.count(i.l2() // i.cluster, 0),
                                     'refcount=0 reference=1', True),
    **{f'{bits} bits: too low': ({'options': f'refcount_bits={bits}'}, lambda i: i.count(cluster_of(i, 2), 0),
                                 'refcount=0 reference=1', True) for bits in (1, 2, 4, 8, 32, 64)},
    **{f'{bits} bits: too high': ({'options': f'refcount_bits={bits}'}, lambda i: i.count(cluster_of(i, 2), 3),
                                  'refcount=3 reference=1', True) for bits in (2, 4, 8, 32, 64)},
    '64 bits: far too high': ({'options': 'refcount_bits=64'}, lambda i: i.count(cluster_of(i, 2), 1 << 63),
                              f'refcount={1 << 63} reference=1', True),
    '1 bit: cannot be counted': ({'options': 'refcount_bits=1'}, two_flags, 'refcount=1 reference=2', False),
    # the refcount table
    'refcount table entry unaligned': (PLAIN, set_bits(refcount_entry, 512), 'is not aligned', True),
    'refcount table entry reserved': (PLAIN, set_bits(refcount_entry, 1), 'reserved bits', True),
    'refcount table entry beyond': (PLAIN, put(refcount_entry, 1 << 30), 'exceeds the end of the file', True),
    'refcount table entry absent': (PLAIN, put(refcount_entry, 0), 'ERROR cluster 0 refcount=0 reference=1', True),
    'refcount block twice': (PLAIN, lambda i: i.put(i.refcount_table + 8, i.block), 'is there twice', True),
    'refcount block is L1 table': (PLAIN, put(refcount_entry, lambda i: i.l1), 'is used for', True),
    'refcount table beyond': (PLAIN, put(48, 1 << 30), 'refcount table at offset', True),
    'refcount table is L1 table': (PLAIN, put(48, lambda i: i.l1), 'is used for', True),
    'data is refcount block': (PLAIN, put(lambda i: i.entry(100), lambda i: COPIED | i.block), 'is used for', True),
    '512, block absent': ({'options': 'cluster_size=512,refcount_bits=64', 'writes': ('write 0 64k',)},
                          lambda i: i.put(i.refcount_table + 8, 0), 'refcount=0 reference=1', True),
    'version 2: entry beyond': ({'options': 'compat=0.10', 'writes': SNAPSHOT}, put(refcount_entry, 1 << 30),
                                'exceeds the end of the file', True),
    'packed: table entry beyond': (PACKS, put(refcount_entry, 1 << 30), 'reference=16', True),
    # flags
    'data not copied': (PLAIN, copied_off(lambda i: i.entry(0)), 'copied flag', True),
    'L2 table not copied': (PLAIN, copied_off(l1_entry), 'copied flag', True),
    'shared data copied': (SNAPSHOTS, set_bits(lambda i: i.entry(8), COPIED), 'copied flag', True),
    'shared L2 table copied': ({'writes': SNAPSHOT[:2]}, set_bits(l1_entry, COPIED), 'copied flag', True),
    'nothing copied': (PLAIN, put(lambda i: i.entry(100), COPIED), 'copied flag', True),
    'packed copied': (PACKS, set_bits(packed_entry, COPIED), 'copied flag', True),
    'zero cluster not copied': ({'writes': ('write 0 64k', 'write -z 0 64k')}, copied_off(lambda i: i.entry(0)),
                                'copied flag', True),
    'extended not copied': (SUBCLUSTERS, copied_off(lambda i: i.entry(0)), 'copied flag', True),
    'data file not copied': (EXTERNAL, copied_off(lambda i: i.entry(1)), 'copied flag', True),
    # L1 entries
    'L1 entry reserved': (PLAIN, set_bits(l1_entry, 1 << 60 | 4), 'reserved bits', True),
    'L1 entry unaligned': (PLAIN, set_bits(l1_entry, 512), 'is not aligned', False),
    'L1 entry beyond': (PLAIN, put(l1_entry, beyond), 'exceeds the end', False),
    'L1 entry is header-like': (PLAIN, put(l1_entry, lambda i: COPIED | i.l1), 'is used for', False),
    'L2 table twice': ({'options': 'cluster_size=512'}, same_l2_twice, 'refcount=1 reference=2', True),
    'active L1 beyond': (PLAIN, put(40, lambda i: i.end + (1 << 20)), 'active L1 table', False),
    # L2 entries
    'L2 entry reserved high': (PLAIN, set_bits(lambda i: i.entry(0), 1 << 58), 'reserved bits', True),
    'L2 entry reserved low': (PLAIN, set_bits(lambda i: i.entry(0), 1 << 3), 'reserved bits', True),
    'L2 entry unaligned': (PLAIN, set_bits(lambda i: i.entry(0), 512), 'is not aligned', False),
    'L2 entry beyond': (PLAIN, put(lambda i: i.entry(0), beyond), 'exceeds the end', False),
    'L2 entry far beyond': (PLAIN, put(lambda i: i.entry(0), COPIED | 1 << 55), 'exceeds the end', False),
    'data twice': (PLAIN, two_flags, 'refcount=1 reference=2', True),
    'data four times': (PLAIN, many_references, 'refcount=1 reference=4', True),
    'data is L1 table': (PLAIN, put(lambda i: i.entry(100), lambda i: COPIED | i.l1), 'is used for', False),
    'data is L2 table': (PLAIN, put(lambda i: i.entry(100), lambda i: i.get(i.l1)), 'is used for', False),
    'data is bitmap table': (BITMAPS, put(lambda i: i.entry(100), lambda i: COPIED | i.bitmap_table),
                             'is used for', False),
    'version 2: zero flag': ({'options': 'compat=0.10'}, set_bits(lambda i: i.entry(0), 1), 'zero flag', False),
    'packed beyond': (PACKS, set_bits(packed_entry, 1 << 40), 'exceeds the end', False),
    'packed too long': ({'options': 'cluster_size=512', 'writes': ('write -c -P 2 0 512',)},
                        set_bits(lambda i: i.entry(0), 1 << 61), 'exceeds the end', False),
    'packed in data file': (EXTERNAL, put(lambda i: i.entry(4), COMPRESSED | 4096), 'external data file', False),
    # extended entries
    'subcluster both': (SUBCLUSTERS, set_bits(extended_bitmap, 1 << 32), 'both', False),
    'subcluster without cluster': (SUBCLUSTERS, put(lambda i: i.entry(10) + 8, 1),
                                   'without a cluster', False),
    'extended: zero flag': (SUBCLUSTERS, set_bits(lambda i: i.entry(0), 1), 'zero flag', False),
    'extended: reserved': (SUBCLUSTERS, set_bits(lambda i: i.entry(0), 1 << 57), 'reserved', True),
    'extended: packed with bitmap': (SUBCLUSTERS, put(lambda i: i.entry(192) + 8, 5),
                                     'has a subcluster bitmap', True),
    # external data
    'data file: elsewhere': (EXTERNAL, put(lambda i: i.entry(3), COPIED | 4096), 'should be at', False),
    'raw data file: elsewhere': ({'data_file': True, 'options': 'data_file_raw=on'},
                                 put(lambda i: i.entry(3), COPIED | 4096), 'should be at', False),
    'data file too short': (EXTERNAL, lambda i: os.truncate(i.data, 8192), 'end of the external file', False),
    'data file: unaligned': (EXTERNAL, set_bits(lambda i: i.entry(3), 512), 'is not aligned', False),
    # snapshots
    'snapshot L1 unaligned': (SNAPSHOTS, put(lambda i: i.snapshots, lambda i: snapshot_l1(i) + 512),
                              'is not aligned', False),
    'snapshot L1 beyond': (SNAPSHOTS, put(lambda i: i.snapshots, 1 << 40), 'exceeds the end', False),
    'snapshot L1 too large': (SNAPSHOTS, put(lambda i: i.snapshots + 8, 1 << 31, 4), 'too large', False),
    'snapshot L1 too small': (SNAPSHOTS, put(lambda i: i.snapshots + 8, 1, 4), 'too small', False),
    'snapshot L1 is the active one': (SNAPSHOTS, put(lambda i: i.snapshots, lambda i: i.l1), 'overlaps', False),
    'snapshot L1 entry beyond': (SNAPSHOTS, put(snapshot_l1, 1 << 40), 'L1 table of snapshot 1', False),
    'snapshot L1 entry reserved': (SNAPSHOTS, set_bits(snapshot_l1, 2), 'reserved bits', True),
    'snapshot extra data': (SNAPSHOTS, put(lambda i: i.snapshots + 36, 5000, 4), 'extra data', False),
    'snapshot incomplete': (SNAPSHOTS, put(lambda i: i.snapshots + 36, 8, 4), 'incomplete', False),
    'snapshot table beyond': (SNAPSHOTS, put(64, 1 << 40), 'snapshot table exceeds', False),
    'snapshot in data file': (EXTERNAL, lambda i: (i.put(64, i.block), i.put(60, 1, 4)), 'snapshots in', False),
    # bitmaps
    'bitmap directory unaligned': (BITMAPS, lambda i: i.change(i.bitmaps + 16, lambda o: o + 8),
                                   'bitmaps extension is broken', False),
    'bitmap directory beyond': (BITMAPS, lambda i: i.put(i.bitmaps + 16, 1 << 40),
                                'bitmap directory', False),
    'bitmap directory too short': (BITMAPS, lambda i: i.put(i.bitmaps + 8, 40),
                                   'exceeds the directory', False),
    'bitmap count': (BITMAPS, lambda i: i.put(i.bitmaps, 1, 4), 'behind its last entry', False),
    'bitmap extension reserved': (BITMAPS, lambda i: i.put(i.bitmaps + 4, 1, 4), 'reserved', False),
    'bitmap table unaligned': (BITMAPS, lambda i: i.change(i.directory, lambda o: o + 512), 'not aligned', False),
    'bitmap table beyond': (BITMAPS, lambda i: i.put(i.directory, 1 << 40), 'exceeds the end', False),
    'bitmap table size': (BITMAPS, lambda i: i.put(i.directory + 8, 3, 4), 'does not fit', False),
    'bitmap flags': (BITMAPS, lambda i: i.put(i.directory + 12, 1 << 9, 4), 'reserved flags', False),
    'bitmap type': (BITMAPS, lambda i: i.put(i.directory + 16, 7, 1), 'unknown type', False),
    'bitmap granularity': (BITMAPS, lambda i: i.put(i.directory + 17, 70, 1), 'granularity', False),
    'bitmap entry reserved': (BITMAPS, set_bits(lambda i: i.bitmap_table, 4), 'reserved bits', True),
    'bitmap entry ones': (BITMAPS, lambda i: i.put(i.bitmap_table, i.end - i.cluster | 1), 'reserved bits', False),
    'bitmap entry unaligned': (BITMAPS, lambda i: i.put(i.bitmap_table, i.l1 + 512), 'not aligned', False),
    'bitmap entry beyond': (BITMAPS, lambda i: i.put(i.bitmap_table, 1 << 40), 'bitmap data', False),
    'bitmap data is L1 table': (BITMAPS, lambda i: i.put(i.bitmap_table, i.l1), 'is used for', False),
    'extensions too long': (BITMAPS, lambda i: i.put(i.bitmaps - 4, 5000, 4), 'exceed their room',
                            False),
}


@pytest.mark.parametrize('name', FAULTS)
def test_fault(tmp, name):
    made, plant, text, repairable = FAULTS[name]
    image = Image(tmp, **made)
    plant(image)
    guest = image.read()
    found = image.check()
    assert not found.clean and any(text in line for line in found.lines), found.lines
    assert len(found.lines) == found['corruptions'] + found['leaks'] + found['check-errors']
    before = image.path.read_bytes()
    assert image.check().lines == found.lines and image.path.read_bytes() == before
    repaired = image.check('all')
    assert repaired.clean == repairable, repaired.lines
    again = image.check()
    assert not again['leaks'] or again['corruptions'], again.lines
    for number in ('corruptions', 'leaks', 'check-errors'):
        assert again[number] == repaired[number], (number, again.lines, repaired.lines)
    if not repairable:
        return
    assert repaired['corruptions-fixed'] + repaired['leaks-fixed'] and not again.lines
    image.assert_clean_for_qemu()
    assert not image.get(4, 4) == 3 or not image.get(72) & 3
    # Whoever could read the disk reads the same.
    assert not guest or image.read() == guest


@pytest.mark.parametrize('name', ['count of data too high', 'leak inside', 'bitmaps lost', 'leak behind the end'])
def test_leaks_only(tmp, name):
    made, plant, _, _ = FAULTS[name]
    image = Image(tmp, **made)
    plant(image)
    repaired = image.check('leaks')
    assert repaired.clean and repaired['leaks-fixed'], repaired.lines
    image.assert_clean_for_qemu()


@pytest.mark.parametrize('name', ['count of data too low', 'refcount table entry beyond', 'L2 entry beyond',
                                  'shared data copied', 'L2 entry reserved low', 'corrupt'])
def test_leaks_only_leaves_corruptions(tmp, name):
    made, plant, _, _ = FAULTS[name]
    image = Image(tmp, **made)
    plant(image)
    before = image.path.read_bytes()
    found, left = image.check(), image.check('leaks')
    assert left['corruptions'] == found['corruptions'] and not left['corruptions-fixed'], left.lines
    assert image.path.read_bytes() == before


def test_nothing_is_freed_while_an_entry_is_not_understood(tmp):
    image = Image(tmp)
    lost = image.host(0) // image.cluster
    image.put(image.entry(0), COPIED | 1 << 50)
    repaired = image.check('all')
    assert repaired['corruptions'] and repaired['leaks'] == 1 and not repaired['leaks-fixed']
    assert image.count(lost) == 1
    # Neither when all is counted anew.
    image.put(image.refcount_table, 1 << 50)
    image.check('all')
    assert image.count(lost) == 1 and image.count(0) == 1


CUT = ['count of data too low', 'count of shared data', 'refcount table entry beyond', 'refcount block twice',
       'data twice',
       'shared data copied', 'shared L2 table copied', 'no block', '512, block absent', 'L1 entry reserved', 'dirty',
       'bitmaps lost', 'extended not copied', 'data is refcount block']


@pytest.mark.parametrize('name', CUT)
def test_stopped_repair(tmp, name):
    """A repair that stops after any of its writes never makes it worse, and the next one repairs the rest."""
    made, plant, _, _ = FAULTS[name]
    image = Image(tmp, **made)
    plant(image)
    faulty, guest, before = image.path.read_bytes(), image.read(), image.check()
    for writes in range(1000):
        image.path.write_bytes(faulty)
        done = run(PROGRAM, 'all', f'writes={writes}', image.path, status=None)
        now = image.check()
        assert now['corruptions'] <= before['corruptions'] and not guest or image.read() == guest, (writes, now.lines)
        if not done.returncode:
            break
        assert image.check('all').clean
        image.assert_clean_for_qemu()
    assert writes and Result(done.stdout).clean


def test_windows(tmp):
    """A file of more clusters than are counted at once: data far behind, which no block counts; and a leak there."""
    image = Image(tmp, 'cluster_size=512', '64k', ('write -P 1 0 2k',))
    with open(image.path, 'r+b') as file:
        file.truncate(40 << 30)
        for index, place in ((50, 20 << 30), (51, 36 << 30)):
            file.seek(place)
            file.write(bytes([index]) * 512)
            image.put(image.entry(index), COPIED | place)
    found = image.check()
    assert found['corruptions'] == 4 and not found['leaks'], found.lines
    assert image.check('all').clean
    run('qemu-io', '-r', '-f', 'qcow2', '-c', 'read -P 1 0 2k', '-c', 'read -P 50 25k 512', '-c',
        'read -P 51 26112 512', image.path)
    # Now there are blocks: counts are corrected where they are.
    blocks = {first: image.get(image.refcount_table + 8 * (first // 256)) for first in (20 << 21, 36 << 21)}
    image.put(blocks[20 << 21], 0, 2)
    image.put(blocks[36 << 21] + 2, 5, 2)
    found = image.check()
    assert found['leaks'] == 1 and f'Leaked cluster {(36 << 21) + 1} refcount=5 reference=0' in found.lines
    assert f'ERROR cluster {20 << 21} refcount=0 reference=1' in found.lines
    repaired = image.check('all')
    assert repaired.clean and repaired['leaks-fixed'] == 1 and repaired['corruptions-fixed'] == 1, repaired.lines
    image.assert_clean_for_qemu()


def test_much_of_everything(tmp):
    """Faults in all tables at once, and a refcount table that must grow."""
    image = Image(tmp, 'cluster_size=512,refcount_bits=64', '8M',
                  ('write -P 5 0 4M', 'snapshot -c one @', 'write -P 6 0 1M'))
    entries = image.cluster * image.get(56, 4) // 8
    for index in range(0, entries, 3):
        image.put(image.refcount_table + 8 * index, 0)
    for index in range(0, 2000, 7):
        image.change(image.entry(index), lambda e: e ^ COPIED)
    repaired = image.check('all')
    assert repaired.clean and repaired['corruptions-fixed'] > 250, repaired
    image.assert_clean_for_qemu()
    run('qemu-io', '-r', '-f', 'qcow2', '-c', 'read -P 6 0 1M', '-c', 'read -P 5 1M 3M', '-c', 'read -P 0 4M 4M',
        image.path)
    run('qemu-img', 'snapshot', '-a', 'one', image.path)
    run('qemu-io', '-r', '-f', 'qcow2', '-c', 'read -P 5 0 4M', image.path)


UNREADABLE = {
    'L1 table': (PLAIN, lambda i: i.l1),
    'L2 table': (PLAIN, lambda i: i.l2()),
    'refcount table': (PLAIN, lambda i: i.refcount_table),
    'refcount block': (PLAIN, lambda i: i.block),
    'snapshot table': (SNAPSHOTS, lambda i: i.snapshots),
    'bitmap directory': (BITMAPS, lambda i: i.directory),
    'bitmap table': (BITMAPS, lambda i: i.bitmap_table),
}


@pytest.mark.parametrize('name', UNREADABLE)
def test_unreadable(tmp, name):
    """What cannot be read is an error of the check; nothing is repaired, as nobody knows what it would say."""
    made, place = UNREADABLE[name]
    image = Image(tmp, **made)
    image.count(cluster_of(image, 3), 2)
    image.count(1000, 1)
    before = image.path.read_bytes()
    result = Result(run(PROGRAM, 'all', f'bad={place(image)}', image.path).stdout)
    assert result['check-errors'] == 1 and not result['corruptions-fixed'] and not result['leaks-fixed'], result.lines
    assert any(name in line and 'could not be read' in line for line in result.lines), result.lines
    assert image.path.read_bytes() == before


def test_encrypted(tmp):
    """The key material of LUKS is in use too."""
    path = tmp / 'image.qcow2'
    secret = ('--object', 'secret,id=s,data=weir')
    create = ('qemu-img', 'create', '-q', *secret, '-f', 'qcow2', '-o',
              'encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10', path, '1M')
    # It measures the processor, and gives up on a busy machine.
    assert any('accurate CPU usage' not in run(*create, status=None).stderr for _ in range(50))
    assert Result(run(PROGRAM, path).stdout).clean
    image = Image.__new__(Image)
    image.path, image.data = path, None
    keys = image.extension(0x0537be77)
    place = image.get(keys)
    image.put(keys, place + 512)
    assert any('encryption header' in line and 'not aligned' in line for line in image.check().lines)
    image.put(keys, 1 << 50)
    assert any('encryption header' in line and 'exceeds' in line for line in image.check().lines)
    image.put(keys, place)
    assert image.check().clean


def test_header_in_use_twice(tmp):
    """Where the header's cluster is something else too, a repair would change that: nothing is written."""
    image = Image(tmp, 'cluster_size=512', '64k', ('write 0 2k',))
    image.count(image.host(0) // image.cluster, 0)
    image.put(60, 1, 4)  # one snapshot, in the header
    image.put(64, 0)
    before = image.path.read_bytes()
    left = image.check('all')
    assert left['corruptions'] and not left['corruptions-fixed'] and image.path.read_bytes() == before


def test_header_fields(tmp):
    image = Image(tmp)
    for offset, length, value in ((4, 4, 4), (20, 4, 30), (36, 4, 0), (40, 8, 512 + 1), (48, 8, 17), (56, 4, 0),
                                  (60, 4, 1 << 20), (96, 4, 9), (100, 4, 96)):
        old = image.get(offset, length)
        image.put(offset, value, length)
        assert image.check(status=1).stderr
        image.put(offset, old, length)
    assert image.check().clean


def test_large(tmp):
    """256 GiB with all of its metadata."""
    image = Image(tmp, 'cluster_size=64k,preallocation=metadata', '256G', ())
    result = image.check()
    assert result.clean and result['allocated-clusters'] == 1 << 22


def test_foreign_sizes(tmp):
    """Tables that seem endless cost neither time nor memory."""
    image = Image(tmp, 'cluster_size=512', '2M', ('write 0 2M', 'snapshot -c one @'))
    os.truncate(image.path, 1 << 38)
    image.put(image.snapshots + 8, 4 << 20, 4)  # 32 MiB of L1 table
    image.put(60, 65536, 4)
    before = os.times()
    # A sanitizer reserves more address space than that for itself.
    limit = '' if b'__asan_init' in PROGRAM.read_bytes() else 'ulimit -v 4000000; '
    done = run('/bin/sh', '-c', f'{limit}exec {PROGRAM} {image.path}')
    after = os.times()
    assert not Result(done.stdout).clean
    assert after.children_user + after.children_system - before.children_user - before.children_system < 10


def test_too_large(tmp):
    image = Image(tmp, 'cluster_size=512')
    os.truncate(image.path, (1 << 40) + 512)
    assert 'too large to be checked' in image.check(status=1).stderr
