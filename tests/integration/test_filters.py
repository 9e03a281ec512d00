# SPDX-License-Identifier: BSD-2-Clause
"""Filters: compress, preallocate, blkverify, blklogwrites, and raw as one."""
import errno
import json
import os
import random
import struct

import nbd
import pytest

from weirtest import KiB, MiB, QmpError, file_bytes, fill, is_peer, nbd_connect, run, wait_until

SIZE = 8 * MiB


def add(daemon, driver, node='n', **options):
    daemon.qmp('blockdev-add', dict({'driver': driver, 'node-name': node},
                                    **{k.replace('_', '-'): v for k, v in options.items()}))


def opened(daemon, driver, node='n', **options):
    add(daemon, driver, node, **options)
    return nbd_connect(daemon.export(node), structured=not is_peer(), strict=False)


def file(path, **options):
    return dict({'driver': 'file', 'filename': str(path), 'discard': 'unmap'}, **options)


def closed(daemon, node='n', export=True):
    """Takes an export and its node away."""
    if export:
        daemon.qmp('block-export-del', id=node, mode='hard')
        daemon.qmp.event('BLOCK_EXPORT_DELETED', id=node)
    daemon.qmp('blockdev-del', node_name=node)


def error_text(call, *args, **options):
    with pytest.raises(QmpError) as caught:
        call(*args, **options)
    assert caught.value.error_class == 'GenericError'
    return caught.value.text


def fails(number, call, *args):
    with pytest.raises(nbd.Error) as caught:
        call(*args)
    assert caught.value.errnum == number, caught.value


def verify_with_fio(daemon, node, *more):
    """Random writes of random sizes that are read back and checked."""
    run('fio', '--name=v', '--ioengine=nbd', f'--uri={daemon.uri(node)}', '--rw=randwrite', '--bsrange=4k-96k',
        '--iodepth=8', f'--size={SIZE}', '--verify=crc32c', '--do_verify=1', '--verify_fatal=1',
        '--output-format=terse', *more, timeout=120, cwd=daemon.directory)


# ---- compress ----

@pytest.fixture
def qcow2(tmp):
    path = tmp / 'i.qcow2'
    run('qemu-img', 'create', '-q', '-f', 'qcow2', path, str(SIZE))
    return path


def compressed(path):
    """For each extent that is stored, whether it is nowhere plainly."""
    return ['offset' not in e for e in json.loads(run('qemu-img', 'map', '--output=json', path)) if e['data']]


def test_compress(daemon, qcow2):
    """What is written is stored compressed, whole clusters or less, and can be written again."""
    handle = opened(daemon, 'compress', file={'driver': 'qcow2', 'file': file(qcow2)})
    handle.pwrite(b'a' * 192 * KiB, 0)
    handle.pwrite(b'b' * 4096, 4 * MiB + 512)
    if not is_peer():
        handle.pwrite(b'c' * 512, 100 * KiB)
        handle.zero(512, 300)
    handle.flush()
    assert handle.pread(4096 + 512, 4 * MiB) == bytes(512) + b'b' * 4096
    if not is_peer():
        expected = b'a' * 300 + bytes(512) + b'a' * (100 * KiB - 812) + b'c' * 512 + b'a' * 1536
        assert handle.pread(102 * KiB, 0) == expected
    handle.shutdown()
    closed(daemon)
    assert compressed(qcow2) and all(compressed(qcow2))
    assert os.path.getsize(qcow2) < 512 * KiB
    run('qemu-img', 'check', qcow2)


def test_compress_through_filters(daemon, qcow2):
    """Filters below do not matter, what they filter does; the text names it."""
    daemon.qmp('object-add', {'qom-type': 'throttle-group', 'id': 'g'})
    throttled = {'driver': 'throttle', 'throttle-group': 'g', 'file': {'driver': 'qcow2', 'file': file(qcow2)}}
    handle = opened(daemon, 'compress', file=throttled)
    handle.pwrite(b'a' * 64 * KiB, 0)
    handle.shutdown()
    closed(daemon)
    assert compressed(qcow2) == [True]
    if is_peer():  # looks only at the first node
        return
    throttled['file'] = {'driver': 'null-co'}
    for options, name in ((throttled, 'null-co'), (file(qcow2), 'file')):
        text = error_text(add, daemon, 'compress', 'x', file=options)
        assert text == f'Compression is not supported for underlying format: {name}'


@pytest.mark.skipif(is_peer(), reason='cannot write compressed data twice')
@pytest.mark.parametrize('size', [SIZE, SIZE - 30 * KiB])
def test_compress_load(daemon, tmp, size):
    """Random writes of any size: the data is right, the image sound, also where the disk ends within a cluster."""
    path = tmp / 'odd.qcow2'
    run('qemu-img', 'create', '-q', '-f', 'qcow2', path, str(size))
    handle = opened(daemon, 'compress', file={'driver': 'qcow2', 'file': file(path)})
    rnd, disk = random.Random(7), bytearray(size)
    for _ in range(150):
        offset = rnd.randrange(size)
        length = min(rnd.choice([512, 4096, 70000, 200000]), size - offset)
        data = bytes([rnd.randrange(4)]) * length
        if rnd.random() < 0.2:
            handle.zero(length, offset)
            data = bytes(length)
        else:
            handle.pwrite(data, offset)
        disk[offset:offset + length] = data
    handle.pwrite(b'e' * 100, size - 100)
    disk[-100:] = b'e' * 100
    assert handle.pread(size, 0) == disk
    handle.shutdown()
    closed(daemon)
    run('qemu-img', 'check', path)
    assert True in compressed(path)


# ---- preallocate ----

def test_preallocate(daemon, qcow2):
    """The file goes ahead of the writes, the format does not see it, and what is not used is given back."""
    image = {'driver': 'preallocate', 'node-name': 'p', 'file': file(qcow2, **{'node-name': 'f'})}
    handle = opened(daemon, 'qcow2', file=image)
    handle.pwrite(b'a' * 64 * KiB, 0)
    sizes = {n['node-name']: n['image']['virtual-size'] for n in daemon.qmp('query-named-block-nodes')}
    assert sizes['f'] == os.path.getsize(qcow2) >= 128 * MiB > 2 * MiB > sizes['p']
    assert sizes['f'] % MiB == 0 and os.stat(qcow2).st_blocks * 512 >= 128 * MiB
    for number in range(16):
        handle.pwrite(bytes([number + 1]) * 64 * KiB, number * 512 * KiB)
    handle.flush()
    assert os.path.getsize(qcow2) == sizes['f']
    assert handle.pread(64 * KiB, 512 * KiB) == b'\x02' * 64 * KiB
    handle.shutdown()
    closed(daemon)
    wait_until(lambda: os.path.getsize(qcow2) < 2 * MiB, 10, 'the file is cut')
    assert os.stat(qcow2).st_blocks * 512 < 2 * MiB
    run('qemu-img', 'check', qcow2)


def test_preallocate_last_writer(daemon, tmp):
    """What is ahead is given back when the last writer goes, though the node stays and may have readers."""
    run('qemu-img', 'create', '-q', '-f', 'qcow2', tmp / 'q.qcow2', str(SIZE))
    add(daemon, 'preallocate', 'q', file=file(tmp / 'q.qcow2'), prealloc_size=4 * MiB)
    add(daemon, 'qcow2', 'i', file='q')
    handle = nbd_connect(daemon.export('i'))
    handle.pwrite(b'a' * 64 * KiB, 0)
    assert os.path.getsize(tmp / 'q.qcow2') >= 4 * MiB
    handle.shutdown()
    closed(daemon, 'i')
    wait_until(lambda: os.path.getsize(tmp / 'q.qcow2') < MiB, 10, 'the file is cut')
    assert nbd_connect(daemon.export('q', writable=False)).pread(4, 0) == b'QFI\xfb'


def test_preallocate_options(daemon, qcow2):
    """How far and how round; wrong ones are refused by name."""
    image = {'driver': 'preallocate', 'file': file(qcow2), 'prealloc-align': 192 * KiB, 'prealloc-size': MiB}
    handle = opened(daemon, 'qcow2', file=image)
    handle.pwrite(b'a' * 64 * KiB, 0)
    size = os.path.getsize(qcow2)
    assert size % (192 * KiB) == 0 and MiB < size < 3 * MiB
    handle.pwrite(b'b' * 3 * MiB, MiB)
    assert os.path.getsize(qcow2) % (192 * KiB) == 0 and os.path.getsize(qcow2) > 4 * MiB
    handle.shutdown()
    closed(daemon)
    for options, text in (({'prealloc_align': 100},
                           'prealloc-align parameter of preallocate filter is not aligned to 512'),
                          ({'prealloc_size': -1},
                           "Parameter 'prealloc-size' expects a non-negative number below 2^64")):
        assert error_text(add, daemon, 'preallocate', file=file(qcow2), **options) == text


def test_preallocate_where_it_cannot(daemon, qcow2):
    """A storage that cannot reserve space: the file grows by what is written, and nobody gets an error."""
    bad = {'driver': 'blkdebug', 'image': file(qcow2), 'discard': 'unmap',
           'inject-error': [{'event': 'none', 'iotype': 'write-zeroes', 'errno': errno.ENOSPC}]}
    handle = opened(daemon, 'qcow2', file={'driver': 'preallocate', 'file': bad})
    for number in range(20):
        handle.pwrite(bytes([number + 1]) * 64 * KiB, number * 100 * KiB)
    handle.flush()
    assert os.path.getsize(qcow2) < 4 * MiB and handle.pread(64 * KiB, 300 * KiB) == b'\x04' * 64 * KiB
    handle.shutdown()
    closed(daemon)
    run('qemu-img', 'check', qcow2)


def test_preallocate_load(daemon, qcow2):
    image = {'driver': 'preallocate', 'file': file(qcow2), 'prealloc-size': 256 * KiB, 'prealloc-align': 512}
    add(daemon, 'qcow2', file=image)
    daemon.export('n')
    verify_with_fio(daemon, 'n')
    closed(daemon)
    run('qemu-img', 'check', qcow2)


def test_preallocate_resize(daemon, qcow2):
    """A format that is resized, and a file that is cut to what was asked for."""
    add(daemon, 'preallocate', 'p', file=file(qcow2), prealloc_size=MiB)
    before = os.path.getsize(qcow2)
    daemon.qmp('block_resize', node_name='p', size=before + 512 * 1024)
    assert os.path.getsize(qcow2) == before + 512 * 1024
    closed(daemon, 'p', export=False)


# ---- blkverify ----

def test_blkverify(daemon, tmp, qcow2):
    """Both sides hold the same; where they do not, the read fails and the operator is told where."""
    with open(tmp / 'raw.img', 'wb') as image:
        image.truncate(SIZE)
    handle = opened(daemon, 'blkverify', test={'driver': 'qcow2', 'file': file(qcow2)}, raw=file(tmp / 'raw.img'))
    handle.pwrite(b'a' * 10000, 777)
    if not is_peer():
        handle.zero(64 * KiB, 2000)
        handle.trim(64 * KiB, 0)
    handle.flush()
    assert handle.pread(MiB, 0) == file_bytes(tmp / 'raw.img', 0, MiB)
    if is_peer():
        return
    verify_with_fio(daemon, 'n')
    with open(tmp / 'raw.img', 'r+b') as image:
        os.pwrite(image.fileno(), bytes([handle.pread(1, MiB + 1000)[0] ^ 1]), MiB + 1000)
    fails(errno.EIO, handle.pread, 64 * KiB, MiB)
    line = f"blkverify: node 'n': read offset={MiB} bytes=65536 contents mismatch at offset {MiB + 1000}"
    wait_until(lambda: line in daemon.stderr, 5, 'the mismatch is in the log')
    assert handle.pread(1000, MiB) == file_bytes(tmp / 'raw.img', MiB, 1000)


@pytest.mark.skipif(is_peer(), reason='ends')
def test_blkverify_results(daemon, tmp):
    """One side fails and the other does not: that is a difference, too."""
    paths = [fill(tmp / f'{n}.img', SIZE) for n in 'ab']
    bad = {'driver': 'blkdebug', 'image': file(paths[0]), 'inject-error': [{'event': 'none', 'iotype': 'write'}]}
    handle = opened(daemon, 'blkverify', test=bad, raw=file(paths[1]))
    fails(errno.EIO, handle.pwrite, b'x' * 512, 0)
    wait_until(lambda: 'write offset=0 bytes=512 return value mismatch' in daemon.stderr, 5, 'it is in the log')
    assert handle.pread(512, 512) == file_bytes(paths[0], 512, 512)
    short = fill(tmp / 'short.img', SIZE - 512)
    assert 'is too short to verify' in error_text(add, daemon, 'blkverify', 'm', test='n', raw=file(short))


# ---- blklogwrites ----

def read_log(path):
    """(sector size, [(sector, sectors, flags, data)]) of a log."""
    with open(path, 'rb') as log:
        data = log.read()
    magic, version, count, size = struct.unpack_from('<QQQI', data)
    assert (magic, version) == (0x6a736677736872, 1)
    entries, at = [], size
    for _ in range(count):
        sector, sectors, flags, length = struct.unpack_from('<QQQQ', data, at)
        assert length == 0
        at += size
        stored = b'' if flags & 4 else data[at:at + sectors * size].ljust(sectors * size, b'\0')
        at += len(stored)
        entries.append((sector, sectors, flags, stored))
    return size, entries


def replay(log, disk):
    """What the disk holds when the entries have been written to it."""
    size, entries = read_log(log)
    disk = bytearray(disk)
    for sector, _, flags, stored in entries:
        if not flags & 4:
            disk[sector * size:sector * size + len(stored)] = stored
    return bytes(disk)


@pytest.fixture
def logged(tmp):
    """A disk and an empty log."""
    (tmp / 'log').touch()
    return fill(tmp / 'disk.img', SIZE), str(tmp / 'log')


def test_blklogwrites(daemon, logged):
    """Each change is in the log, in the format of dm-log-writes, with its flags and data."""
    handle = opened(daemon, 'blklogwrites', file=file(logged[0]), log=file(logged[1]), discard='unmap')
    handle.pwrite(b'\3' * 1024, 4096)
    handle.flush()
    handle.zero(4096, 16384)
    handle.trim(4096, 20480)
    handle.pwrite(b'\x09' * 3, 1)
    handle.flush()
    size, entries = read_log(logged[1])
    assert size == 512
    changes = [e for e in entries if e[2] & 1 == 0]
    assert [e[:3] for e in changes] == [(8, 2, 0), (32, 8, 0), (40, 8, 4), (0, 1, 0)]
    assert [changes[0][3], changes[1][3], changes[3][3]] == [b'\3' * 1024, bytes(4096), file_bytes(logged[0], 0, 512)]
    assert entries[1][:3] == (0, 0, 1) == entries[-1][:3]
    if not is_peer():
        handle.pwrite(b'f' * 512, 8192, nbd.CMD_FLAG_FUA)
        assert read_log(logged[1])[1][-1] == (16, 1, 2, b'f' * 512)


def test_blklogwrites_replay(daemon, logged):
    """A replay of the log makes the disk what it is, under load."""
    before = file_bytes(logged[0], 0, SIZE)
    add(daemon, 'blklogwrites', file=file(logged[0]), log=file(logged[1]))
    daemon.export('n')
    verify_with_fio(daemon, 'n', '--fsync=20')
    closed(daemon)
    assert replay(logged[1], before) == file_bytes(logged[0], 0, SIZE)


def test_blklogwrites_sector_size(daemon, logged):
    """The unit of the log is the alignment of what is logged; wrong ones are refused."""
    handle = opened(daemon, 'blklogwrites', file=file(logged[0]), log=file(logged[1]), log_sector_size=4096)
    before = file_bytes(logged[0], 4096, 4096)
    handle.pwrite(b'\3' * 512, 5120)
    handle.flush()
    size, entries = read_log(logged[1])
    assert size == 4096 and entries[0] == (1, 1, 0, before[:1024] + b'\3' * 512 + before[1536:])
    for wrong in (0, 100, 513, 1 << 24):
        text = error_text(add, daemon, 'blklogwrites', 'x', file='n', log=file(logged[1], locking='off'),
                          log_sector_size=wrong)
        assert text == f'Invalid log sector size {wrong}'


def test_blklogwrites_append(daemon, logged):
    """A log goes on where it ended, with its sector size; something else is no log."""
    before = file_bytes(logged[0], 0, SIZE)
    options = {'log-sector-size': 1024}
    for number in range(3):
        handle = opened(daemon, 'blklogwrites', file=file(logged[0]), log=file(logged[1]), **options)
        handle.pwrite(bytes([number + 1]) * 3000, 1000 * number)
        handle.shutdown()
        closed(daemon)
        options = {'log-append': True}
    size, entries = read_log(logged[1])
    assert size == 1024 and len([e for e in entries if not e[2]]) == 3
    assert replay(logged[1], before) == file_bytes(logged[0], 0, SIZE)
    text = error_text(add, daemon, 'blklogwrites', file=file(logged[0]), log=file(logged[1]), log_append=True,
                      log_sector_size=512)
    assert text == 'log-append and log-sector-size are mutually exclusive'
    with open(logged[1], 'r+b') as log:
        log.write(b'junk')
    text = error_text(add, daemon, 'blklogwrites', file=file(logged[0]), log=file(logged[1]), log_append=True)
    assert text == 'Invalid log superblock magic'


def test_blklogwrites_interval(daemon, logged):
    """The number of entries is written every so many entries, and on close, if no flush comes."""
    handle = opened(daemon, 'blklogwrites', file=file(logged[0]), log=file(logged[1]), log_super_update_interval=4)
    for number in range(6):
        handle.pwrite(b'x' * 512, number * 512)
    if not is_peer():
        assert len(read_log(logged[1])[1]) == 4
    handle.shutdown()
    closed(daemon)
    assert len([e for e in read_log(logged[1])[1] if not e[2]]) == 6
    text = error_text(add, daemon, 'blklogwrites', file=file(logged[0]), log=file(logged[1]),
                      log_super_update_interval=0)
    assert text == 'Invalid log superblock update interval 0'


def test_blklogwrites_below_qcow2(daemon, tmp, qcow2):
    """A format that makes its file grow: every flush in the log is a point at which the image is sound."""
    (tmp / 'log').touch()
    before = open(qcow2, 'rb').read()
    image = {'driver': 'blklogwrites', 'file': file(qcow2), 'log': file(tmp / 'log')}
    handle = opened(daemon, 'qcow2', file=image)
    for number in range(12):
        handle.pwrite(bytes([number + 1]) * 70000, number * 600 * KiB)
        if number % 3 == 2:
            handle.flush()
    handle.shutdown()
    closed(daemon)
    size, entries = read_log(tmp / 'log')
    disk, points = bytearray(before), 0
    for sector, _, flags, stored in entries:
        at = sector * size
        disk.extend(bytes(max(0, at + len(stored) - len(disk))))
        disk[at:at + len(stored)] = stored
        if flags & 1:
            (tmp / 'point.qcow2').write_bytes(disk)
            run('qemu-img', 'check', tmp / 'point.qcow2', ok=(0, 3))
            points += 1
    assert points >= 4 and bytes(disk) == open(qcow2, 'rb').read()


# ---- raw ----

def test_raw_is_a_filter(daemon, tmp):
    """Without a window raw is not in the way: it counts nothing twice, follows its child's size, hides nothing."""
    path = fill(tmp / 'r.img', SIZE)
    add(daemon, 'file', 'f', filename=path)
    handle = opened(daemon, 'raw', 'n', file='f')
    assert handle.get_size() == SIZE
    daemon.qmp('block-export-del', id='n', mode='hard')
    daemon.qmp.event('BLOCK_EXPORT_DELETED', id='n')
    daemon.qmp('block_resize', node_name='f', size=SIZE + MiB)
    sizes = {n['node-name']: n['image']['virtual-size'] for n in daemon.qmp('query-named-block-nodes')}
    assert sizes == {'f': SIZE + MiB, 'n': SIZE + MiB}
    daemon.qmp('block_resize', node_name='n', size=SIZE)
    assert os.path.getsize(path) == SIZE
