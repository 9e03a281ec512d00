# SPDX-License-Identifier: BSD-2-Clause
"""copy-on-read, row by row of its table: where it stands, what it copies, what it takes, and that it never copies
old data over new."""
import json
import os
import random
import threading

import nbd
import pytest

from weirtest import KiB, MiB, nbd_connect, run
from weirtest.chain import SIZE, depths, edge, layer, make_chain, open_chain, put, refused
from weirtest.qcow2 import sound

CLUSTER = 64 * KiB
READS = {'consistent-read', 'write-unchanged'}


def add_cor(daemon, file, node='c', **options):
    daemon.qmp('blockdev-add', dict({'driver': 'copy-on-read', 'node-name': node, 'file': file}, **options))


def read_all(daemon, node='c', step=MiB, size=SIZE, **options):
    """Reads all of the node as a guest that only reads."""
    guest = nbd_connect(daemon.export(node, writable=False, **options))
    data = b''.join(guest.pread(step, at) for at in range(0, size, step))
    guest.shutdown()
    return data


@pytest.fixture
def chain(daemon, tmp):
    """base and top; base has data at 0 (5) and 1 MiB (6), zeroes at 2 MiB; top has data at 1 MiB + 64 KiB (7)."""
    make_chain(tmp, 'base', 'top')
    put(tmp, 'base', 0, 128 * KiB, 5)
    put(tmp, 'base', MiB, 256 * KiB, 6)
    put(tmp, 'base', 2 * MiB, 256 * KiB, 0)
    put(tmp, 'top', MiB + CLUSTER, CLUSTER, 7)
    daemon.tmp = tmp
    return daemon


def guest_sees(data):
    return (data[:128 * KiB] == b'\5' * (128 * KiB) and data[MiB:MiB + CLUSTER] == b'\6' * CLUSTER
            and data[MiB + CLUSTER:MiB + 2 * CLUSTER] == b'\7' * CLUSTER
            and data[MiB + 2 * CLUSTER:MiB + 4 * CLUSTER] == b'\6' * (2 * CLUSTER)
            and not any(data[2 * MiB:]))


# ---- 1: anywhere ----

def test_001_1_anywhere(chain, tmp):
    """Above a format, above a filter, below a throttle, and as the backing file of another overlay."""
    make_chain(tmp, 'base2', 'top2')
    put(tmp, 'base2', 0, CLUSTER, 9)
    run('qemu-img', 'create', '-q', '-f', 'qcow2', '-F', 'qcow2', '-b', tmp / 'top2.qcow2', tmp / 'over.qcow2')
    open_chain(chain, tmp, 'base', 'top')
    chain.qmp('object-add', {'qom-type': 'throttle-group', 'id': 'g'})
    chain.qmp('blockdev-add', {'driver': 'throttle', 'node-name': 'below', 'throttle-group': 'g', 'file': 'top'})
    add_cor(chain, 'below')
    chain.qmp('blockdev-add', {'driver': 'throttle', 'node-name': 'above', 'throttle-group': 'g', 'file': 'c'})
    assert guest_sees(read_all(chain, 'above'))
    open_chain(chain, tmp, 'base2', 'top2')
    add_cor(chain, 'top2', 'c2')
    chain.qmp('blockdev-add', layer(tmp, 'over', backing='c2'))
    assert read_all(chain, 'over')[:CLUSTER] == b'\11' * CLUSTER
    chain.stop()
    assert depths(tmp, 'top')[0] == (0, SIZE, 0)
    assert depths(tmp, 'top2')[0] == (0, SIZE, 0)
    assert depths(tmp, 'over')[0] == (0, SIZE, 1)


# ---- 2, 5: through other filters ----

@pytest.mark.parametrize('name', ['throttle', 'raw', 'blkdebug', 'blkdebug-align', 'mirror_top'])
def test_001_2_through_filters(chain, tmp, name):
    """cor -> filter -> qcow2 -> backing: what is read appears in the qcow2 overlay."""
    open_chain(chain, tmp, 'base', 'top')
    chain.qmp('object-add', {'qom-type': 'throttle-group', 'id': 'g', 'limits': {'iops-total': 100000}})
    below = 'f'
    if name == 'throttle':
        chain.qmp('blockdev-add', {'driver': 'throttle', 'node-name': 'f', 'throttle-group': 'g', 'file': 'top'})
    elif name == 'raw':
        chain.qmp('blockdev-add', {'driver': 'raw', 'node-name': 'f', 'file': 'top'})
    elif name.startswith('blkdebug'):
        align = {'align': 4096} if 'align' in name else {}
        chain.qmp('blockdev-add', dict({'driver': 'blkdebug', 'node-name': 'f', 'image': 'top', 'inject-error': [
            {'event': 'flush_to_disk', 'iotype': 'read', 'sector': 0}]}, **align))
    else:
        chain.qmp('blockdev-add', {'driver': 'null-co', 'node-name': 'n', 'size': SIZE})
        chain.qmp('blockdev-mirror', {'job-id': 'j', 'device': 'top', 'target': 'n', 'sync': 'none',
                                      'filter-node-name': 'f', 'copy-mode': 'write-blocking'})
        chain.qmp.event('BLOCK_JOB_READY', 10, device='j')
    add_cor(chain, below)
    assert guest_sees(read_all(chain, step=256 * KiB))
    chain.stop()
    assert depths(tmp, 'top')[0] == (0, SIZE, 0)
    sound(tmp / 'top.qcow2')


# ---- 3: write-unchanged is enough ----

def test_001_3_write_unchanged_only(chain, tmp):
    """Readers and the filter live beside a user that does not share writing: the filter of a mirror. A guest that
    would write through it does not."""
    open_chain(chain, tmp, 'base', 'top')
    chain.qmp('blockdev-add', {'driver': 'null-co', 'node-name': 'n', 'size': SIZE})
    chain.qmp('blockdev-mirror', {'job-id': 'j', 'device': 'top', 'target': 'n', 'sync': 'none',
                                  'filter-node-name': 'm'})
    chain.qmp.event('BLOCK_JOB_READY', 10, device='j')
    assert 'write' not in edge(chain, 'top', 'backing', 'm')[1]
    add_cor(chain, 'top')
    assert edge(chain, 'top', 'file', 'c') == (READS, READS | {'write'})
    for export in 'a', 'b':
        chain.export('c', export, writable=False)
    assert edge(chain, 'top', 'file', 'c')[0] == READS
    assert guest_sees(nbd_connect(chain.uri('a')).pread(SIZE, 0))
    assert "permissions 'write'" in refused(chain.export, 'c', 'w')
    chain.qmp('block-job-cancel', device='j', force=True)
    chain.qmp.job_wait('j', 'null')
    chain.export('c', 'w')
    assert edge(chain, 'top', 'file', 'c')[0] == READS | {'write'}
    chain.stop()
    assert depths(tmp, 'top') == [(0, SIZE, 0)]


# ---- 4, 15: conflicts are errors ----

def test_001_4_conflicts_are_errors(chain, tmp):
    """Whatever stands against it is said, and nothing is left behind."""
    open_chain(chain, tmp, 'base', 'top')
    chain.qmp('blockdev-add', layer(tmp, 'base', **{'node-name': 'base-rw', 'backing': None, 'force-share': True,
                                                    'read-only': True}))
    before = chain.qmp('query-named-block-nodes')
    assert refused(add_cor, chain, 'base-rw') == 'Block node is read-only'
    assert refused(add_cor, chain, 'nix') == "Cannot find device='nix' nor node-name='nix'"
    assert chain.qmp('query-named-block-nodes') == before


def test_001_15_read_only_child(chain, tmp):
    """What cannot be written to cannot be copied to."""
    open_chain(chain, tmp, 'base')
    chain.qmp('blockdev-add', layer(tmp, 'top', backing='base', **{'read-only': True}))
    assert refused(add_cor, chain, 'top') == 'Block node is read-only'
    chain.qmp('blockdev-del', {'node-name': 'top'})
    chain.qmp('blockdev-add', layer(tmp, 'top', backing='base'))
    add_cor(chain, 'top')


# ---- 6: what reading does ----

@pytest.mark.parametrize('options', [{}, {'cluster_size': 4096}, {'cluster_size': 2 * MiB},
                                     {'extended_l2': 'on', 'cluster_size': 128 * KiB}, {'compat': '0.10'}])
def test_001_6_unallocated_read_is_copied(daemon, tmp, options):
    """Odd places and lengths; afterwards the overlay does without its backing file."""
    make_chain(tmp, 'base', 'top', **options)
    put(tmp, 'base', 0, SIZE, 5)
    open_chain(daemon, tmp, 'base', 'top')
    add_cor(daemon, 'top')
    guest = nbd_connect(daemon.export('c', writable=False), strict=False)
    chance = random.Random(1)
    for _ in range(200):
        offset = chance.randrange(SIZE)
        length = chance.randrange(1, min(SIZE - offset, 300 * KiB) + 1)
        assert guest.pread(length, offset) == b'\5' * length
    assert guest.pread(SIZE, 0) == b'\5' * SIZE
    daemon.stop()
    assert depths(tmp, 'top') == [(0, SIZE, 0)]
    sound(tmp / 'top.qcow2')
    run('qemu-img', 'rebase', '-u', '-f', 'qcow2', '-b', '', tmp / 'top.qcow2')
    run('qemu-io', '-f', 'qcow2', '-r', '-c', f'read -q -P 5 0 {SIZE}', tmp / 'top.qcow2')


def test_001_6_compressed_base(daemon, tmp):
    """What the base has compressed is copied as plain data."""
    make_chain(tmp, 'base', 'top')
    run('qemu-io', '-f', 'qcow2', '-c', f'write -q -c -P 5 0 {SIZE}', tmp / 'base.qcow2')
    open_chain(daemon, tmp, 'base', 'top')
    add_cor(daemon, 'top')
    assert read_all(daemon) == b'\5' * SIZE
    daemon.stop()
    assert depths(tmp, 'top') == [(0, SIZE, 0)]


def test_001_6_short_backing(daemon, tmp):
    """Behind the end of a shorter backing file there are zeroes, and nothing to copy."""
    make_chain(tmp, 'base', size=MiB + 512)
    run('qemu-img', 'create', '-q', '-f', 'qcow2', '-b', tmp / 'base.qcow2', '-F', 'qcow2', tmp / 'top.qcow2',
        str(SIZE))
    put(tmp, 'base', 0, MiB + 512, 5)
    open_chain(daemon, tmp, 'base', 'top')
    add_cor(daemon, 'top')
    assert read_all(daemon) == b'\5' * (MiB + 512) + bytes(SIZE - MiB - 512)
    daemon.stop()
    assert depths(tmp, 'top')[0] == (0, MiB + CLUSTER, 0)
    sound(tmp / 'top.qcow2')


def test_001_6_huge_request(daemon, tmp):
    """A request of more than 2 GiB through the library's own way in: a mirror's look at zeroes, and a copy of all."""
    size = 5 * 1024 * MiB
    make_chain(tmp, 'base', 'top', size=size)
    put(tmp, 'base', 3 * 1024 * MiB, MiB, 5)
    open_chain(daemon, tmp, 'base', 'top')
    add_cor(daemon, 'top')
    daemon.qmp('blockdev-add', {'driver': 'null-co', 'node-name': 'n', 'size': size})
    guest = nbd_connect(daemon.export('c', writable=False))
    assert guest.pread(32 * MiB, 3 * 1024 * MiB)[:MiB] == b'\5' * MiB
    daemon.stop()
    assert depths(tmp, 'top')[0] == (3 * 1024 * MiB, 32 * MiB, 0)


# ---- 9: everything by a copy to nowhere ----

def test_001_9_mirror_to_nowhere(chain, tmp):
    """A copy of the filter's node to null-co fills the overlay."""
    open_chain(chain, tmp, 'base', 'top')
    add_cor(chain, 'top')
    chain.qmp('blockdev-add', {'driver': 'null-co', 'node-name': 'n', 'size': SIZE})
    chain.qmp('blockdev-mirror', {'job-id': 'j', 'device': 'c', 'target': 'n', 'sync': 'full'})
    chain.qmp.event('BLOCK_JOB_READY', 10, device='j')
    chain.qmp('block-job-cancel', device='j')
    chain.qmp.job_wait('j', 'null')
    chain.stop()
    assert all(depth == 0 for _, _, depth in depths(tmp, 'top'))
    assert (0, 128 * KiB, 0) == depths(tmp, 'top')[0]


# ---- 11: bottom ----

def test_001_11_bottom(three, tmp):
    """Data of mid is copied, that of base is read only; bottom=top copies nothing."""
    add_cor(three, 'top', bottom='mid')
    expected = b'\5' * MiB + b'\6' * MiB + b'\7' * MiB + b'\5' * MiB
    assert read_all(three) == expected
    three.stop()
    assert depths(tmp, 'top') == [(0, MiB, 2), (MiB, 2 * MiB, 0), (3 * MiB, MiB, 2)]


def test_001_11_bottom_top(three, tmp):
    """Nothing lies between the top and itself."""
    add_cor(three, 'top', bottom='top')
    read_all(three)
    three.stop()
    assert depths(tmp, 'top') == [(0, MiB, 2), (MiB, MiB, 1), (2 * MiB, MiB, 0), (3 * MiB, MiB, 2)]


def test_001_11_bottom_refused(three):
    """It names a layer of the chain, not a filter, nor something else."""
    three.qmp('blockdev-add', {'driver': 'null-co', 'node-name': 'n'})
    assert refused(add_cor, three, 'top', bottom='nix') == "Bottom node 'nix' not found"
    assert refused(add_cor, three, 'top', bottom='n') == "Bottom node 'n' is not in the backing chain of 'top'"
    add_cor(three, 'top', 'c1')
    assert refused(add_cor, three, 'c1', 'c2', bottom='c1') == "Bottom node 'c1' is a filter"


# ---- 12: whole clusters ----

def test_001_12_whole_clusters(daemon, tmp):
    """A read of 512 bytes copies the cluster."""
    make_chain(tmp, 'base', 'top')
    put(tmp, 'base', 0, SIZE, 5)
    open_chain(daemon, tmp, 'base', 'top')
    add_cor(daemon, 'top')
    assert nbd_connect(daemon.export('c', writable=False)).pread(512, MiB + 5 * 512) == b'\5' * 512
    daemon.stop()
    assert [d for d in depths(tmp, 'top') if d[2] == 0] == [(MiB, CLUSTER, 0)]


# ---- 17: zeroes ----

def test_001_17_zeroes_stay_small(daemon, tmp):
    """Zeroes of the base become zero clusters, not data."""
    make_chain(tmp, 'base', 'top')
    put(tmp, 'base', 0, SIZE, 0)
    open_chain(daemon, tmp, 'base', 'top')
    add_cor(daemon, 'top')
    assert read_all(daemon) == bytes(SIZE)
    daemon.stop()
    entries = json.loads(run('qemu-img', 'map', '--output=json', tmp / 'top.qcow2'))
    assert entries == [{'start': 0, 'length': SIZE, 'depth': 0, 'present': True, 'zero': True, 'data': False}
                       ] or all(e['zero'] and not e['data'] and not e['depth'] for e in entries)
    assert os.stat(tmp / 'top.qcow2').st_blocks * 512 < MiB


# ---- 18: never old data over new ----

@pytest.mark.parametrize('way', ['through', 'beside'])
def test_001_18_never_stale(daemon, tmp, way):
    """Readers and writers of the same clusters; the writers come through the filter, or go to the format directly."""
    make_chain(tmp, 'base', 'top', size=SIZE)
    put(tmp, 'base', 0, SIZE, 255)
    open_chain(daemon, tmp, 'base', 'top')
    add_cor(daemon, 'top')
    readers = daemon.export('c', 'r', writable=False)
    writers = daemon.export('c' if way == 'through' else 'top', 'w')
    stop, wrong = threading.Event(), []
    newest = {}  # sector -> number of the newest write that was answered

    def write(number):
        """Sectors of its own in clusters of everybody, with rising numbers."""
        guest, chance = nbd_connect(writers), random.Random(number)
        for i in range(1, 250):
            sector = chance.randrange(SIZE // 512 // 4) * 4 + number
            guest.pwrite(bytes([i]) * 512, sector * 512)
            newest[sector] = i

    def read(number):
        guest, chance = nbd_connect(readers), random.Random(100 + number)
        while not stop.is_set():
            sector = chance.randrange(SIZE // 512)
            least = newest.get(sector, 0)
            data = guest.pread(512, sector * 512)
            if data != data[:1] * 512 or (data[0] == 255 and least) or (data[0] != 255 and data[0] < least):
                wrong.append((sector, least, data[0]))

    threads = [threading.Thread(target=read, args=(i,)) for i in range(4)]
    writing = [threading.Thread(target=write, args=(i,)) for i in range(4)]
    for thread in threads + writing:
        thread.start()
    for thread in writing:
        thread.join()
    stop.set()
    for thread in threads:
        thread.join()
    assert not wrong, wrong[:5]
    data = read_all(daemon)
    assert all(data[sector * 512] == i for sector, i in newest.items())
    daemon.stop()
    sound(tmp / 'top.qcow2')


# ---- 19: a copy that fails ----

def test_001_19_failed_copy_is_not_the_guests(chain, tmp):
    """Where the overlay takes no more, the guest still reads; the copy is tried again with the next read."""
    chain.qmp('blockdev-add', layer(tmp, 'base', **{'read-only': True, 'backing': None}))
    chain.qmp('blockdev-add', dict(layer(tmp, 'top', backing='base'), file={
        'driver': 'blkdebug', 'image': {'driver': 'file', 'filename': str(tmp / 'top.qcow2')},
        'inject-error': [{'event': 'none', 'iotype': 'write', 'errno': 28, 'once': True, 'immediately': True}]}))
    add_cor(chain, 'top')
    guest = nbd_connect(chain.export('c', writable=False))
    assert guest.pread(CLUSTER, 0) == b'\5' * CLUSTER
    assert guest.pread(CLUSTER, MiB) == b'\6' * CLUSTER
    assert guest.pread(CLUSTER, 0) == b'\5' * CLUSTER
    chain.stop()
    assert [d for d in depths(tmp, 'top') if d[2] == 0] == [(0, CLUSTER, 0), (MiB, 2 * CLUSTER, 0)]


def test_read_error_is_the_guests(chain, tmp):
    """A base that cannot be read fails the read, and nothing is copied."""
    chain.qmp('blockdev-add', dict(layer(tmp, 'base', backing=None, **{'read-only': True}), file={
        'driver': 'blkdebug', 'image': {'driver': 'file', 'filename': str(tmp / 'base.qcow2')},
        'inject-error': [{'event': 'none', 'iotype': 'read', 'sector': 5 * 128 + 1}]}))
    chain.qmp('blockdev-add', layer(tmp, 'top', backing='base'))
    add_cor(chain, 'top')
    guest = nbd_connect(chain.export('c', writable=False), strict=False)
    failed = 0
    for at in range(0, 2 * MiB, CLUSTER):
        try:
            guest.pread(CLUSTER, at)
        except nbd.Error:
            failed += 1
    assert failed == 1
    chain.stop()
    sound(tmp / 'top.qcow2')
