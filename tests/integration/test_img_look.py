# SPDX-License-Identifier: BSD-2-Clause
"""weir img info, map, check and compare next to qemu-img."""
import json
import os
import struct

import pytest
from weirtest import MiB
from weirtest.img import Pair, call

KiB = 1024


@pytest.fixture
def pair(tmp):
    return Pair(tmp)


def image_raw(pair):
    pair.file('i.raw', 1000001, (0, b'\x11' * 65536), (524288, b'\x22' * 4096))
    return 'i.raw'


def image_empty(pair):
    pair.file('i.raw', 0)
    return 'i.raw'


def image_sparse(pair):
    """Many terabytes with a few bytes at places."""
    pair.file('i.raw', 8 << 40, (1 << 40, b'\x11' * 4096), ((5 << 40) + 512, b'\x22' * 4096))
    return 'i.raw'


def image_qcow2(pair, *options, size='16M'):
    pair.peer('create', '-q', '-f', 'qcow2', *options, 'i.qcow2', size)
    pair.qemu_io('i.qcow2', 'write -P 1 0 1M', 'write -P 2 3M 100k', 'write -z 5M 1M', 'write -P 3 8M 4k')
    return 'i.qcow2'


def image_v2(pair):
    pair.peer('create', '-q', '-f', 'qcow2', '-o', 'compat=0.10', 'i.qcow2', '16M')
    pair.qemu_io('i.qcow2', 'write -P 1 0 1M', 'write -P 2 3M 100k')
    return 'i.qcow2'


def image_small_clusters(pair):
    return image_qcow2(pair, '-o', 'cluster_size=4k')


def image_extended(pair):
    return image_qcow2(pair, '-o', 'extended_l2=on')


def image_options(pair):
    return image_qcow2(pair, '-o', 'lazy_refcounts=on,refcount_bits=64,compression_type=zstd')


def image_compressed(pair):
    pair.file('s.raw', 4 * MiB, (0, b'\x11' * MiB), (2 * MiB, b'\x22' * 300000))
    pair.peer('convert', '-c', '-f', 'raw', '-O', 'qcow2', 's.raw', 'i.qcow2')
    return 'i.qcow2'


def image_data_file(pair):
    return image_qcow2(pair, '-o', 'data_file=d.raw')


def image_preallocated(pair):
    pair.peer('create', '-q', '-f', 'qcow2', '-o', 'preallocation=metadata', 'i.qcow2', '600M')
    pair.qemu_io('i.qcow2', 'write -P 1 1M 1M')
    return 'i.qcow2'


def image_snapshot(pair):
    """Made once: the date of a snapshot is part of it."""
    image_qcow2(pair)
    call(pair.ours, ['snapshot', '-c', 'one', 'i.qcow2'])
    call(pair.ours, ['bitmap', '--add', 'i.qcow2', 'b0'])
    call(pair.ours, ['bitmap', '--add', '--disable', '-g', '4k', 'i.qcow2', 'b1'])
    (pair.theirs / 'i.qcow2').write_bytes((pair.ours / 'i.qcow2').read_bytes())
    return 'i.qcow2'


def image_chain(pair):
    """Three layers, the top larger than the middle, the bottom raw."""
    pair.file('base.raw', 8 * MiB, (0, b'\x11' * MiB), (7 * MiB, b'\x22' * MiB))
    pair.peer('create', '-q', '-f', 'qcow2', '-b', 'base.raw', '-F', 'raw', 'mid.qcow2', '10M')
    pair.qemu_io('mid.qcow2', 'write -P 4 512k 64k', 'write -z 7M 128k', 'write -P 5 9M 64k')
    pair.peer('create', '-q', '-f', 'qcow2', '-b', 'mid.qcow2', '-F', 'qcow2', 'i.qcow2', '16M')
    pair.qemu_io('i.qcow2', 'write -P 6 576k 64k', 'write -z 0 64k', 'write -P 7 15M 1000k')
    return 'i.qcow2'


def image_below_directory(pair):
    for directory in pair.each():
        (directory / 'sub').mkdir()
    pair.peer('create', '-q', '-f', 'qcow2', 'sub/base.qcow2', '2M')
    pair.peer('create', '-q', '-f', 'qcow2', '-b', 'base.qcow2', '-F', 'qcow2', 'sub/i.qcow2')
    return 'sub/i.qcow2'


IMAGES = [image_raw, image_empty, image_sparse, image_qcow2, image_v2, image_small_clusters, image_extended,
          image_options, image_compressed, image_data_file, image_preallocated, image_snapshot, image_chain,
          image_below_directory]


def named(make):
    return make.__name__[6:]


@pytest.mark.parametrize('make', IMAGES, ids=named)
def test_info(pair, make):
    name = make(pair)
    for args in (['info'], ['info', '--output=json'], ['info', '--backing-chain'],
                 ['info', '--backing-chain', '--output=json'], ['info', '-U']):
        pair.same(*args, name, status=0, lines='disk size|actual-size' if make is image_snapshot else None)


@pytest.mark.parametrize('make', [m for m in IMAGES if m not in (image_preallocated, image_extended)], ids=named)
def test_map(pair, make):
    name = make(pair)
    for args in (['map'], ['map', '--output=json'], ['map', '--output=json', '--start-offset=1M'],
                 ['map', '--start-offset', '100k', '--max-length', '3M'],
                 ['map', '-s', '513', '-l', '1', '--output=json'],
                 ['map', '--max-length=0', '--output=json'], ['map', '--start-offset=100T', '--output=json']):
        pair.same(*args, name)


def test_map_preallocated(pair):
    """Where the file has holes, the image is zero there although it has the space."""
    name = image_preallocated(pair)
    pair.same('map', name, status=0)
    pair.same('map', '--output=json', name, status=0)


def test_map_subclusters(pair):
    """qemu-img tells where space is that nothing is stored in yet, and cuts there; what is stored is told alike."""
    name = image_extended(pair)
    pair.same('map', name, status=0)
    ours, theirs = ([entry for entry in json.loads(side[1]) if not entry['zero']]
                    for side in pair.both('map', '--output=json', name))
    assert ours == theirs and ours


@pytest.mark.parametrize('make', IMAGES, ids=named)
def test_check(pair, make):
    name = make(pair)
    for args in (['check'], ['check', '--output=json'], ['check', '-q'], ['check', '-T', 'none'], ['check', '-U']):
        pair.same(*args, name)
    if name.endswith('qcow2') and make is not image_snapshot:
        for args in (['check', '-r', 'leaks'], ['check', '-r', 'all'], ['check', '-r', 'all', '--output=json']):
            pair.same(*args, name, status=0)


def test_repair_leaves_snapshots_alone(pair):
    """qemu-img 7.2 takes what only a snapshot uses for leaked."""
    image_qcow2(pair)
    call(pair.ours, ['snapshot', '-c', 'one', 'i.qcow2'])
    pair.qemu_io('i.qcow2', 'write -P 9 0 64k')
    for fix in ('leaks', 'all'):
        status, out, err = pair.run('check', '-r', fix, 'i.qcow2')
        assert status == 0 and not err and out.startswith('No errors were found on the image.\n')
    pair.sound('i.qcow2')


@pytest.mark.parametrize('sub', [['info', '--backing-chain'], ['map'], ['check'], ['compare', 'i.qcow2']],
                         ids=' '.join)
def test_missing_backing_image(pair, sub):
    pair.peer('create', '-q', '-u', '-f', 'qcow2', '-b', 'none', '-F', 'raw', 'i.qcow2', '1M')
    pair.same('info', 'i.qcow2', status=0)
    pair.same(*sub, 'i.qcow2', status=2 if sub[0] == 'compare' else 1)


def test_chain_that_never_ends(pair):
    pair.peer('create', '-q', '-u', '-f', 'qcow2', '-b', 'b.qcow2', '-F', 'qcow2', 'a.qcow2', '1M')
    pair.peer('create', '-q', '-u', '-f', 'qcow2', '-b', 'a.qcow2', '-F', 'qcow2', 'b.qcow2', '1M')
    pair.same('info', '--backing-chain', 'a.qcow2', status=1)


# ---- images with faults ----

def refcount_block(path):
    with open(path, 'rb') as f:
        f.seek(48)
        table, = struct.unpack('>Q', f.read(8))
        f.seek(table)
        return struct.unpack('>Q', f.read(8))[0]


def fault(pair, *counts):
    """An image whose reference counts of some clusters are others: (cluster, count)."""
    image_qcow2(pair)
    for directory in pair.each():
        os.truncate(directory / 'i.qcow2', 300 * 65536)
    block = refcount_block(pair.ours / 'i.qcow2')
    for cluster, count in counts:
        pair.patch('i.qcow2', block + 2 * cluster, struct.pack('>H', count))


def test_check_leak(pair):
    fault(pair, (200, 1), (201, 1))
    for args in (['check'], ['check', '-q'], ['check', '--output=json']):
        ours, theirs = pair.both(*args, 'i.qcow2')
        assert ours[:2] == theirs[:2] and ours[0] == 3
        assert len(ours[2].splitlines()) == len(theirs[2].splitlines())
    ours, theirs = pair.both('check', '-r', 'leaks', 'i.qcow2')
    assert ours[:2] == theirs[:2] and ours[0] == 0
    pair.sound('i.qcow2')


def test_check_leak_repaired_json(pair):
    fault(pair, (200, 1))
    ours, theirs = pair.both('check', '--output=json', '-r', 'leaks', 'i.qcow2')
    assert ours[:2] == theirs[:2] and ours[0] == 0


def test_check_corruption(pair):
    fault(pair, (8, 0))
    for args in (['check'], ['check', '-q'], ['check', '--output=json']):
        ours, theirs = pair.both(*args, 'i.qcow2')
        assert ours[0] == theirs[0] == 2
    assert pair.run('check', '-r', 'leaks', 'i.qcow2')[0] == 2
    status, out, _ = pair.run('check', '-r', 'all', 'i.qcow2')
    assert status == 0 and 'inconsistencies were found and repaired' in out
    pair.sound('i.qcow2')


def test_check_of_what_is_no_image(pair):
    pair.file('i.qcow2', 65536, (0, b'QFI\xfb' + b'\xff' * 100))
    assert pair.run('check', 'i.qcow2')[0] == 1
    assert pair.run('info', 'i.qcow2')[0] == 1


# ---- compare ----

@pytest.fixture
def sides(pair):
    pair.file('a.raw', 20 * MiB, (MiB, b'\x11' * MiB), (9 * MiB + 1000, b'\x22' * 5000))
    pair.peer('convert', '-f', 'raw', '-O', 'qcow2', 'a.raw', 'a.qcow2')
    pair.peer('convert', '-c', '-f', 'raw', '-O', 'qcow2', 'a.raw', 'c.qcow2')
    pair.file('long.raw', 40 * MiB, (MiB, b'\x11' * MiB), (9 * MiB + 1000, b'\x22' * 5000))
    pair.file('longer.raw', 40 * MiB, (MiB, b'\x11' * MiB), (9 * MiB + 1000, b'\x22' * 5000),
              (30 * MiB + 5000, b'\x01'))
    pair.file('zero.raw', 20 * MiB)
    pair.file('written.raw', 20 * MiB, (0, bytes(20 * MiB)))
    pair.file('other.raw', 20 * MiB, (MiB, b'\x11' * MiB), (9 * MiB + 1000, b'\x22' * 4999 + b'\x23'))
    pair.file('two.raw', 20 * MiB, (MiB, b'\x11' * MiB), (9 * MiB + 1000, b'\x22' * 4999), (19 * MiB, b'\x33'))
    pair.file('empty.raw', 0)
    pair.file('odd.raw', 1000001, (1000000, b'\x44'))
    return pair


NAMES = ['a.raw', 'a.qcow2', 'c.qcow2', 'long.raw', 'longer.raw', 'zero.raw', 'written.raw', 'other.raw', 'two.raw',
         'empty.raw', 'odd.raw']


@pytest.mark.parametrize('one', NAMES)
def test_compare(sides, one):
    for other in NAMES:
        sides.same('compare', one, other)
        sides.same('compare', '-q', one, other)


@pytest.mark.parametrize('one', NAMES)
def test_compare_strict(sides, one):
    for other in NAMES:
        sides.same('compare', '-s', one, other)


def test_compare_formats(sides):
    for args in (['-f', 'raw', 'a.qcow2', 'a.raw'], ['-F', 'raw', 'a.raw', 'a.qcow2'],
                 ['-f', 'raw', '-F', 'raw', 'a.raw', 'a.raw'], ['-f', 'qcow2', 'a.raw', 'a.raw'],
                 ['-F', 'nothing', 'a.raw', 'a.raw'], ['none', 'a.raw'], ['a.raw', 'none'],
                 ['-T', 'none', 'a.raw', 'a.qcow2']):
        sides.same('compare', *args)


def test_compare_progress(sides):
    status, out, _ = sides.run('compare', '-p', 'a.raw', 'a.qcow2')
    assert status == 0
    assert out.startswith('    (0.00/100%)\r') and out.endswith('    (100.00/100%)\rImages are identical.\n\n')
    assert sides.run('compare', '-p', '-q', 'a.raw', 'a.qcow2')[1] == ''


def test_compare_finds_the_first_of_many(pair):
    """Several reads are under way; the lowest offset is the answer, whichever comes back first."""
    size = 64 * MiB
    pair.file('a.raw', size, *((at, b'\x11' * MiB) for at in range(0, size, MiB)))
    pair.file('b.raw', size, *((at, b'\x11' * MiB) for at in range(0, size, MiB)),
              *((at + 7 * KiB, b'\x12') for at in range(5 * MiB, size, MiB)))
    for _ in range(20):
        assert pair.run('compare', 'a.raw', 'b.raw')[1] == f'Content mismatch at offset {5 * MiB + 7 * KiB}!\n'


def failing(name, what):
    return (f'driver=raw,file.driver=blkdebug,file.image.driver=file,file.image.filename={name},'
            f'file.inject-error.0.event=none,file.inject-error.0.{what}')


def test_compare_failures(sides):
    good = 'driver=raw,file.filename=a.raw'
    for bad, status in ((failing('a.raw', 'iotype=read'), 4), (failing('a.raw', 'iotype=block-status'), 3)):
        sides.same('compare', '--image-opts', good, bad, status=status)
        sides.same('compare', '--image-opts', bad, good, status=status)


def test_map_failure(sides):
    sides.same('map', '--image-opts', failing('a.raw', 'iotype=block-status'), status=1)


def test_big_sparse_images_take_no_time(pair):
    pair.file('a.raw', 8 << 40, (3 << 40, b'\x11' * 4096))
    pair.file('b.raw', 8 << 40, (3 << 40, b'\x11' * 4096))
    pair.same('compare', 'a.raw', 'b.raw', status=0)
    assert os.stat(pair.ours / 'a.raw').st_blocks * 512 < MiB
