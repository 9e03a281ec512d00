# SPDX-License-Identifier: BSD-2-Clause
"""qcow2 where it hurts: full devices, long searches for space, tables on top of each other, discards and what is
written behind them, crashes in the middle of a resize."""
import struct

import nbd
import pytest

from weirtest import KiB, MiB, QmpError, file_bytes, nbd_connect, run
from weirtest.qcow2 import number, patch, sound

COPIED = 1 << 63


def create(path, *options, size=8 * MiB):
    run('qemu-img', 'create', '-q', '-f', 'qcow2', *options, path.name, str(size), cwd=path.parent)
    return path


def file(path, **options):
    return dict({'driver': 'file', 'filename': str(path)}, **options)


def opened(daemon, path, **options):
    daemon.qmp('blockdev-add', dict({'driver': 'qcow2', 'node-name': 'n', 'file': file(path)},
                                    **{k.replace('_', '-'): v for k, v in options.items()}))
    return nbd_connect(daemon.export('n'), strict=False)


def io(path, *commands):
    return run('qemu-io', '-f', 'qcow2', *[word for c in commands for word in ('-c', c)], str(path))


def test_qcow2_full_place(daemon, tmp):
    """A place that cannot grow is filled to its last cluster; then a write fails, and reads go on."""
    path = create(tmp / 'a.qcow2', size=4 * MiB)
    patch(path, MiB - 1, b'\0')
    client = opened(daemon, path, file={'driver': 'raw', 'size': MiB, 'file': file(path)})
    written = 0
    with pytest.raises(nbd.Error) as caught:
        while written < 4 * MiB:
            client.pwrite(b'\x5a' * (64 * KiB), written)
            written += 64 * KiB
    assert caught.value.errno == 'ENOSPC'
    assert written == 11 * 64 * KiB
    assert client.pread(written, 0) == b'\x5a' * written
    client.trim(64 * KiB, 0)
    client.flush()
    client.shutdown()
    daemon.stop()
    sound(path)


@pytest.mark.parametrize('full', range(10, 34))
def test_qcow2_many_full_blocks(daemon, tmp, full):
    """However many full refcount blocks the search for a free cluster goes through first."""
    path = create(tmp / 'a.qcow2', '-o', 'cluster_size=512', size=16 * MiB)
    io(path, 'write -P 1 0 32k')
    table = number(path, 48)
    end = (path.stat().st_size + 511) // 512
    patch(path, end * 512, b'\xff')
    # Blocks of counts of which every cluster is in use: leaked ones.
    at = -(-end // 256) * 256
    first = number(path, table)
    patch(path, first, b'\0\1' * 256)
    for i in range(1, full):
        patch(path, i * 256 * 512, b'\0\1' * 256)
        patch(path, table + 8 * i, struct.pack('>Q', i * 256 * 512))
    assert at <= 256
    client = opened(daemon, path)
    client.pwrite(b'\x5a' * 512, 0x8000)
    client.pwrite(b'\x5b' * 512, 0)
    client.flush()
    client.shutdown()
    daemon.stop()
    io(path, 'read -P 0x5a 32k 512', 'read -P 0x5b 0 512', 'read -P 1 512 31k')


def test_qcow2_discard_then_write_data_file(daemon, tmp):
    """What is written to an external data file behind a discard is not thrown away by it."""
    path = create(tmp / 'a.qcow2', '-o', f'data_file={tmp}/a.data')
    client = opened(daemon, path, discard='unmap',
                    data_file=file(tmp / 'a.data', discard='unmap'))
    for i in range(8):
        client.pwrite(b'\x11' * (64 * KiB), i * 64 * KiB)
        client.flush()
        client.trim(64 * KiB, i * 64 * KiB)
        client.pwrite(b'\x5a' * (64 * KiB), i * 64 * KiB)
    client.flush()
    assert client.pread(512 * KiB, 0) == b'\x5a' * (512 * KiB)
    client.shutdown()
    daemon.stop()
    sound(path)


def test_qcow2_shrink_raw_data_file(daemon, tmp):
    """What was cut off does not come back, whoever holds the data."""
    path = create(tmp / 'a.qcow2', '-o', f'data_file={tmp}/a.data,data_file_raw=on')
    client = opened(daemon, path)
    client.pwrite(b'\x11' * MiB, 4 * MiB)
    client.shutdown()
    daemon.qmp('block-export-del', id='n', mode='hard')
    daemon.qmp.event('BLOCK_EXPORT_DELETED')
    daemon.qmp('block_resize', {'node-name': 'n', 'size': 2 * MiB})
    daemon.qmp('block_resize', {'node-name': 'n', 'size': 8 * MiB})
    client = nbd_connect(daemon.export('n'))
    assert client.pread(MiB, 4 * MiB) == bytes(MiB)
    client.shutdown()
    daemon.stop()


def test_qcow2_lazy_grow_crash(start, tmp):
    """Lazy counts, a larger L1 table, guest writes where the old one was, and a crash."""
    path = create(tmp / 'a.qcow2', '-o', 'cluster_size=512,lazy_refcounts=on', size=2 * MiB)
    one = start()
    one.serve_nbd()
    client = opened(one, path)
    client.pwrite(b'\x11' * MiB, 0)
    client.flush()
    client.shutdown()
    one.qmp('block-export-del', id='n', mode='hard')
    one.qmp.event('BLOCK_EXPORT_DELETED')
    one.qmp('block_resize', {'node-name': 'n', 'size': 64 * MiB})
    client = nbd_connect(one.export('n'))
    client.flush()
    client.flush()
    client.pwrite(b'\x22' * MiB, MiB)
    client.flush()
    one.kill()
    one.stop = lambda: None
    two = start()
    two.serve_nbd()
    client = opened(two, path)
    assert client.get_size() == 64 * MiB
    assert client.pread(MiB, 0) == b'\x11' * MiB
    assert client.pread(MiB, MiB) == b'\x22' * MiB
    client.shutdown()
    two.stop()
    sound(path)


def writes_fail_softly(daemon, path, **options):
    """Opens and hammers a damaged image; the daemon lives."""
    try:
        client = opened(daemon, path, **options)
    except Exception as e:
        print(e)
        return
    for offset in [0, 64 * KiB, MiB, 2 * MiB, 7 * MiB] * 2:
        for call in (lambda: client.pwrite(b'\x5a' * 4096, offset), lambda: client.pread(64 * KiB, offset),
                     lambda: client.trim(64 * KiB, offset), lambda: client.zero(64 * KiB, offset),
                     client.flush):
            try:
                call()
            except nbd.Error as e:
                print(e)
    client.shutdown()


@pytest.mark.parametrize('overlap', ['none', 'constant', 'cached', 'all'])
@pytest.mark.parametrize('kind', ['l1-is-refcount-table', 'l1-is-header', 'l2-is-l1', 'l2-is-refcount-table',
                                  'block-is-refcount-table', 'block-is-l1', 'l2-is-block', 'data-is-l2',
                                  'data-is-block', 'zero-is-l2', 'zero-is-l1', 'counts-zero', 'l1-is-block'])
@pytest.mark.parametrize('bits', [9, 16])
def test_qcow2_tables_in_one_place(daemon, tmp, kind, overlap, bits):
    path = create(tmp / 'a.qcow2', '-o', f'cluster_size={1 << bits}')
    io(path, 'write -P 1 0 64k', 'write -P 1 2M 64k')
    table, l1 = number(path, 48), number(path, 40)
    block, l2 = number(path, table), number(path, l1) & ~COPIED
    size = 1 << bits
    if kind == 'l1-is-refcount-table':
        patch(path, 40, struct.pack('>Q', table))
    elif kind == 'l1-is-header':
        patch(path, 40, struct.pack('>Q', 0))
    elif kind == 'l2-is-l1':
        patch(path, l1, struct.pack('>QQ', l1 | COPIED, 0))
    elif kind == 'l2-is-refcount-table':
        patch(path, l1, struct.pack('>QQ', table | COPIED, 0))
    elif kind == 'block-is-refcount-table':
        patch(path, table, struct.pack('>QQ', table, 0))
    elif kind == 'block-is-l1':
        patch(path, table, struct.pack('>QQ', l1, 0))
    elif kind == 'l2-is-block':
        patch(path, l1, struct.pack('>Q', block | COPIED))
    elif kind == 'l1-is-block':
        patch(path, 40, struct.pack('>Q', block))
    elif kind == 'data-is-l2':
        patch(path, l2, struct.pack('>QQ', l2 | COPIED, l2))
    elif kind == 'data-is-block':
        patch(path, l2, struct.pack('>QQ', block, block | COPIED))
    elif kind == 'zero-is-l2':
        patch(path, l2, struct.pack('>QQ', l2 | COPIED | 1, l2 | 1))
    elif kind == 'zero-is-l1':
        patch(path, l2, struct.pack('>QQ', l1 | COPIED | 1, l1 | 1))
    elif kind == 'counts-zero':
        patch(path, block, bytes(size))
    writes_fail_softly(daemon, path, overlap_check=overlap, discard='unmap', pass_discard_other=True)
    daemon.stop()


def test_qcow2_backing_format_bytes(daemon, tmp):
    base = create(tmp / 'base.qcow2')
    path = tmp / 'a.qcow2'
    run('qemu-img', 'create', '-q', '-f', 'qcow2', '-b', base.name, '-F', 'qcow2', str(path))
    at = file_bytes(path, 0, 1024).index(struct.pack('>I', 0xe2792aca))
    patch(path, at + 8, b'\xff\xfe\xfd\xfc\xfb')
    with pytest.raises(Exception) as caught:
        opened(daemon, path)
    print(caught.value)
    daemon.stop()


def test_qcow2_backing_itself(daemon, tmp):
    path = create(tmp / 'a.qcow2')
    run('qemu-img', 'rebase', '-u', '-b', 'a.qcow2', '-F', 'qcow2', str(path))
    with pytest.raises(Exception) as caught:
        opened(daemon, path, read_only=True)
    print(caught.value)
    daemon.stop()


@pytest.mark.parametrize('extended', ['off', 'on'])
@pytest.mark.parametrize('table', ['l1', 'l2', 'counts'])
def test_qcow2_reserved_place_is_a_table(daemon, tmp, table, extended):
    """Zeroes that say to have their place reserved where a table is: nothing is written there."""
    path = create(tmp / 'a.qcow2', '-o', f'extended_l2={extended}')
    io(path, 'write -P 1 0 64k')
    l1, counts = number(path, 40), number(path, number(path, 48))
    l2 = number(path, l1) & ~COPIED
    place = {'l1': l1, 'l2': l2, 'counts': counts}[table]
    entry = (place | COPIED, 0xffffffff00000000) if extended == 'on' else (place | COPIED | 1, 0)
    patch(path, l2, struct.pack('>QQ', *entry))
    before = file_bytes(path, place + 4 * KiB, 60 * KiB)
    client = opened(daemon, path)
    with pytest.raises(nbd.Error) as caught:
        client.pwrite(b'\x5a' * (64 * KiB), 0)
    assert caught.value.errno == 'EIO'
    client.shutdown()
    daemon.stop()
    assert file_bytes(path, place + 4 * KiB, 60 * KiB) == before


def test_qcow2_grow_without_room_to_hide(daemon, tmp):
    """A disk over a longer backing file, and no room for the table that would hide it: the disk stays as it is."""
    base = create(tmp / 'base.qcow2')
    io(base, 'write -P 7 0 8M')
    path = create(tmp / 'a.qcow2', '-b', base.name, '-F', 'qcow2', size=4 * MiB)
    size = -(-path.stat().st_size // (64 * KiB)) * 64 * KiB
    patch(path, size - 1, b'\0')
    daemon.qmp('blockdev-add', {'driver': 'qcow2', 'node-name': 'n',
                                'file': {'driver': 'raw', 'size': size, 'file': file(path)}})
    with pytest.raises(QmpError) as caught:
        daemon.qmp('block_resize', {'node-name': 'n', 'size': 8 * MiB})
    assert 'No space left on device' in caught.value.text
    client = nbd_connect(daemon.export('n', writable=False))
    assert client.get_size() == 4 * MiB
    client.shutdown()
    daemon.stop()
    assert number(path, 24) == 4 * MiB
    sound(path)


def test_qcow2_grow_over_longer_backing(daemon, tmp):
    """What the disk gains is zero, from the byte at its old end on."""
    base = create(tmp / 'base.qcow2')
    io(base, 'write -P 7 0 8M')
    path = create(tmp / 'a.qcow2', '-b', base.name, '-F', 'qcow2', size=4 * MiB + 512)
    daemon.qmp('blockdev-add', {'driver': 'qcow2', 'node-name': 'n', 'file': file(path)})
    daemon.qmp('block_resize', {'node-name': 'n', 'size': 9 * MiB})
    client = nbd_connect(daemon.export('n'))
    assert client.get_size() == 9 * MiB
    assert client.pread(512, 4 * MiB) == b'\7' * 512
    assert client.pread(MiB, 4 * MiB + 512) == bytes(MiB)
    assert client.pread(3 * MiB, 6 * MiB) == bytes(3 * MiB)
    client.shutdown()
    daemon.stop()
    sound(path)


def test_qcow2_one_block_for_all(daemon, tmp):
    """A refcount table of the greatest size whose entries are all the same full block: no long search for space."""
    path = create(tmp / 'a.qcow2', '-o', 'cluster_size=1M', size=64 * MiB)
    io(path, 'write -P 1 0 64k')
    end = -(-path.stat().st_size // MiB) * MiB
    block = number(path, number(path, 48))
    patch(path, block, b'\0\1' * (MiB // 2))
    patch(path, end, struct.pack('>Q', block) * MiB)
    patch(path, 48, struct.pack('>QI', end, 8))
    client = opened(daemon, path)
    with pytest.raises(nbd.Error) as caught:
        client.pwrite(b'\x5a' * (64 * KiB), 32 * MiB)
    assert caught.value.errno == 'EIO'
    assert client.pread(64 * KiB, 0) == b'\1' * (64 * KiB)
    client.shutdown()
    daemon.stop()
