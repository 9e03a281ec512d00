# SPDX-License-Identifier: BSD-2-Clause
"""blockdev-mirror: every option by its effect, under load, with errors on both sides, at every alignment."""
import errno
import os
import random
import subprocess
import time

import nbd
import pytest

from weirtest import KiB, MiB, file_bytes, fill, is_peer, nbd_connect, run, wait_until
from weirtest.mirror import (MODES, SIZE, add_blkdebug, any_write, bad_target, block_job, error_text, exported, failure,
                             fio, mirror, ready, same, soft_cancel)

# What a loaded machine may add to a time that is measured from above.
SLACK = 1.5


@pytest.fixture
def disks(daemon, tmp):
    """A daemon with the nodes n (exported) and t, of different random data."""
    daemon.add_file('n', fill(tmp / 'n.img', SIZE, seed=1))
    daemon.add_file('t', fill(tmp / 't.img', SIZE, seed=2))
    daemon.export('n')
    return daemon


# ---- the job ----

@pytest.mark.parametrize('mode', MODES)
def test_mirror(disks, tmp, mode):
    """Copies everything, keeps up with writes, and gives the target to the source's users."""
    handle = disks.nbd('n')
    mirror(disks, copy_mode=mode, speed=100 * MiB)
    data = ready(disks)
    assert data == {'type': 'mirror', 'device': 'j', 'len': data['len'], 'offset': data['len'], 'speed': 100 * MiB}
    assert data['len'] == SIZE
    for i in range(100):
        handle.pwrite(bytes([i]) * 3000, i * 50001)
    handle.zero(100000, 12345)
    disks.qmp('job-complete', id='j')
    data = disks.qmp.event('BLOCK_JOB_COMPLETED')['data']
    assert data == {'type': 'mirror', 'device': 'j', 'len': data['len'], 'offset': data['len'], 'speed': 100 * MiB}
    disks.qmp.job_wait('j', 'null')
    same(tmp)
    assert exported(disks) == 't'
    assert handle.pread(3000, 50 * 50001) == bytes([50]) * 3000


def test_mirror_sync_full(disks, tmp):
    """The target's old data is gone altogether; other kinds of beginning are refused by name."""
    mirror(disks, sync='full')
    ready(disks)
    soft_cancel(disks)
    same(tmp)
    for sync in ('incremental', 'bitmap', 'half'):
        text = error_text(mirror, disks, sync=sync)
        assert text in (f"Parameter 'sync' does not accept value '{sync}'", f"Sync mode '{sync}' not supported"), text


def test_mirror_job_id(disks):
    """The id is the job's name everywhere, and has rules."""
    mirror(disks, job_id='a-b.c_D1')
    disks.qmp.event('BLOCK_JOB_READY', device='a-b.c_D1')
    disks.qmp('job-cancel', id='a-b.c_D1')
    disks.qmp.job_wait('a-b.c_D1', 'null')
    for wrong in ('', '1', '#x', 'a b', '-', 'ä'):
        assert error_text(mirror, disks, job_id=wrong) == f"Invalid job ID '{wrong}'"


def test_mirror_filter_node_name(disks):
    """The filter above the source has the name, for as long as the job lives; without one it is made up."""
    mirror(disks, filter_node_name='top')
    ready(disks)
    nodes = {n['node-name']: n['drv'] for n in disks.qmp('query-named-block-nodes')}
    assert nodes['top'] == 'mirror_top' and exported(disks) == 'top'
    error_text(disks.qmp, 'blockdev-del', node_name='top')
    error_text(disks.qmp, 'blockdev-add', {'driver': 'null-co', 'node-name': 'top'})
    soft_cancel(disks)
    assert 'top' not in {n['node-name'] for n in disks.qmp('query-named-block-nodes')} and exported(disks) == 'n'
    for wrong in ('n', '1x', 'x' * 32):
        error_text(mirror, disks, filter_node_name=wrong)
    mirror(disks)
    ready(disks)
    assert exported(disks).startswith('#block')
    disks.qmp('job-cancel', id='j')


# ---- speed, granularity ----

def test_mirror_speed(disks, tmp):
    """The rate is the limit's, also when the job is disturbed; another limit counts at once."""
    begin = time.monotonic()
    mirror(disks, speed=8 * MiB)
    assert block_job(disks)['speed'] == 8 * MiB
    while not [e for e in disks.qmp.events if e['event'] == 'BLOCK_JOB_READY']:
        disks.qmp('query-block-jobs')
        disks.qmp('blockdev-add', {'driver': 'null-co', 'node-name': 'x'})
        disks.qmp('blockdev-del', node_name='x')
        assert time.monotonic() - begin < 1 + 2 * SLACK
    # The first chunk goes at once: a second's worth takes nearly a second. The peer counts in coarse slices.
    assert time.monotonic() - begin >= (0.4 if is_peer() else 0.8)
    ready(disks)
    soft_cancel(disks)
    same(tmp)


def test_block_job_set_speed(disks, tmp):
    """From next to nothing to everything, while it runs."""
    mirror(disks, speed=64 * KiB, granularity=64 * KiB)
    disks.qmp.job_wait('j', 'running')
    assert disks.qmp.job('j')['status'] in ('running', 'paused')
    disks.qmp('block-job-set-speed', device='j', speed=0)
    begin = time.monotonic()
    assert block_job(disks)['speed'] == 0
    ready(disks)
    assert time.monotonic() - begin < SLACK
    soft_cancel(disks)
    same(tmp)


@pytest.mark.parametrize('granularity', [512, 4 * KiB, 64 * KiB, 1 * MiB, 64 * MiB])
def test_mirror_granularity(disks, tmp, granularity):
    """One byte that is written later makes so many to be copied again."""
    handle = disks.nbd('n')
    mirror(disks, granularity=granularity)
    before = ready(disks)['len']
    assert before == SIZE
    handle.pwrite(b'x', 5 * MiB + 12345)
    end = soft_cancel(disks)
    assert end['len'] - before == min(granularity, SIZE), end
    same(tmp)


def test_mirror_default_granularity(disks, tmp):
    handle = disks.nbd('n')
    mirror(disks)
    before = ready(disks)['len']
    handle.pwrite(b'x', 12345)
    assert soft_cancel(disks)['len'] - before == 64 * KiB


# ---- copy modes ----

def test_mirror_copy_mode(disks, tmp):
    """write-blocking: what is answered is on the target already, without any step of the job; background: not."""
    handle = disks.nbd('n')
    mirror(disks, copy_mode='write-blocking')
    ready(disks)
    disks.qmp('job-pause', id='j')
    disks.qmp.job_wait('j', 'standby')
    for offset, length in ((0, 512), (12345, 77), (SIZE - 1, 1), (64 * KiB - 1, 2), (MiB, MiB)):
        handle.pwrite(b'#' * length, offset)
        assert file_bytes(tmp / 't.img', offset, length) == b'#' * length
    handle.zero(100001, 3 * MiB + 1)
    assert file_bytes(tmp / 't.img', 3 * MiB + 1, 100001) == bytes(100001)
    same(tmp)
    disks.qmp('job-cancel', id='j')
    disks.qmp.job_wait('j', 'null')
    mirror(disks)
    ready(disks)
    disks.qmp('job-pause', id='j')
    disks.qmp.job_wait('j', 'standby')
    handle.pwrite(b'later' * 100, 4 * MiB)
    assert file_bytes(tmp / 't.img', 4 * MiB, 500) != b'later' * 100
    disks.qmp('job-resume', id='j')
    wait_until(lambda: file_bytes(tmp / 't.img', 4 * MiB, 500) == b'later' * 100, 10, 'the job copies it')


def test_000_2_write_blocking_survives_kill(start, tmp):
    """Whatever was answered before SIGKILL is on the target, too."""
    daemon = start()
    daemon.serve_nbd()
    for node in 'nt':
        daemon.add_file(node, fill(tmp / f'{node}.img', SIZE, seed=3))
    handle = nbd_connect(daemon.export('n'))
    mirror(daemon, copy_mode='write-blocking')
    ready(daemon)
    done = {}
    for i in range(200):
        offset = i * 37777 % (SIZE - 5000)
        handle.pwrite(bytes([i]) * 5000, offset)
        done[offset] = i
    daemon.kill()
    same(tmp)
    assert file_bytes(tmp / 't.img', 199 * 37777 % (SIZE - 5000), 5000) == bytes([199]) * 5000


@pytest.mark.skipif(is_peer(), reason='came with 8.2')
def test_mirror_actively_synced(disks):
    """Never in background mode; in write-blocking mode from the end of the copy on, and once it is, it stays."""
    handle = disks.nbd('n')
    mirror(disks, speed=MiB, copy_mode='write-blocking')
    disks.qmp.job_wait('j', 'running')
    assert block_job(disks)['actively-synced'] is False
    disks.qmp('block-job-set-speed', device='j', speed=0)
    ready(disks)
    wait_until(lambda: block_job(disks)['actively-synced'], 5)
    for i in range(50):
        handle.pwrite(b'w' * 777, i * 7777)
        assert block_job(disks)['actively-synced'] is True
    disks.qmp('job-cancel', id='j')
    disks.qmp.job_wait('j', 'null')
    mirror(disks)
    ready(disks)
    assert block_job(disks)['actively-synced'] is False


@pytest.mark.parametrize('mode', MODES)
def test_000_3_convergence(daemon, tmp, mode):
    """A target that is slower than the writer: write-blocking gets in sync all the same, background does not."""
    daemon.qmp('object-add', {'qom-type': 'throttle-group', 'id': 'g', 'limits': {'bps-write': 16 * MiB}})
    daemon.add_file('n', fill(tmp / 'n.img', SIZE, seed=1))
    daemon.add_file('slow', fill(tmp / 't.img', SIZE, seed=2))
    daemon.qmp('blockdev-add', {'driver': 'throttle', 'node-name': 't', 'throttle-group': 'g', 'file': 'slow'})
    load = fio(daemon.export('n'), tmp, '--rw=randwrite', '--bs=64k', '--iodepth=16', '--runtime=60')
    try:
        wait_until(lambda: any_write(tmp / 'n.img'), 10, 'fio writes')
        mirror(daemon, copy_mode=mode, granularity=64 * KiB)
        if mode == 'write-blocking':
            ready(daemon)
            assert load.poll() is None
            assert is_peer() or block_job(daemon)['x-converges'] is True
        else:
            wait_until(lambda: daemon.qmp.job('j')['current-progress'] > 2 * SIZE, 20, 'it copies again and again')
            assert daemon.qmp.job('j')['status'] == 'running'
            assert is_peer() or wait_until(lambda: block_job(daemon)['x-converges'] is False, 20, 'it says so')
    finally:
        load.kill()
        load.wait()
    daemon.qmp('block-export-del', id='n', mode='hard')  # what the client left in flight has ended, too
    daemon.qmp.event('BLOCK_EXPORT_DELETED', 30, id='n')
    if mode == 'background':
        ready(daemon)
    soft_cancel(daemon)
    same(tmp)


# ---- under load ----

@pytest.mark.parametrize('mode', MODES)
@pytest.mark.parametrize('end', ['job-complete', 'soft cancel', 'force cancel', 'job-cancel'])
def test_mirror_under_load(disks, tmp, mode, end):
    """fio writes and verifies all the time, across the start and any end of the mirror."""
    load = fio(disks.uri('n'), tmp, '--rw=randwrite', '--bs=8k', '--iodepth=8', '--runtime=1', '--verify=crc32c',
               '--verify_fatal=1', '--verify_backlog=64')
    try:
        wait_until(lambda: any_write(tmp / 'n.img'), 10, 'fio writes')
        mirror(disks, copy_mode=mode)
        ready(disks)
        if end == 'soft cancel':
            soft_cancel(disks)
        else:
            name, *force = end.split()[::-1]
            if end == 'force cancel':
                disks.qmp('block-job-cancel', device='j', force=True)
            else:
                disks.qmp(name, id='j')
            disks.qmp.job_wait('j', 'null')
        assert load.wait(30) == 0, load.stderr.read()
    finally:
        load.kill()
        load.wait()
    assert exported(disks) == ('t' if end == 'job-complete' else 'n')
    assert disks.process.poll() is None and not disks.qmp('query-jobs')


@pytest.mark.parametrize('mode', MODES)
def test_soft_cancel_is_a_point_in_time(disks, tmp, mode):
    """After the load has ended, but while the mirror may lag: the copy is the source."""
    mirror(disks, copy_mode=mode)
    ready(disks)
    load = fio(disks.uri('n'), tmp, '--rw=randrw', '--bs=4k', '--iodepth=32', '--runtime=1')
    assert load.wait(30) == 0
    soft_cancel(disks)
    same(tmp)


def test_000_27_start_and_cancel_under_load(disks, tmp):
    """A mirror is started and dropped again and again: no write is lost or held up for long."""
    handles = [disks.nbd('n') for _ in range(2)]
    load = fio(disks.uri('n'), tmp, '--rw=randwrite', '--bs=4k', '--iodepth=16', '--runtime=60')
    try:
        wait_until(lambda: any_write(tmp / 'n.img'), 10, 'fio writes')
        for i in range(40):
            mirror(disks, copy_mode=MODES[i % 2], granularity=512 << i % 4)
            handles[0].pwrite(bytes([i + 1]) * 512, 0)
            if i % 3 == 0:
                ready(disks)
            disks.qmp('job-cancel', id='j')
            disks.qmp.job_wait('j', 'null')
            disks.qmp.events.clear()
            assert load.poll() is None
    finally:
        load.kill()
        load.wait()
    assert len(handles[1].pread(512, 0)) == 512


@pytest.mark.parametrize('mode', MODES)
@pytest.mark.parametrize('size', [SIZE, SIZE - 512, 4 * MiB + 12 * KiB + 512])
def test_000_30_unaligned_active_write(daemon, tmp, mode, size):
    """Writes, zeroes and discards of any alignment while the copy runs: nothing is lost around their edges."""
    rnd = random.Random(size)
    for node, seed in (('n', 5), ('t', 6)):
        daemon.add_file(node, fill(tmp / f'{node}.img', size, seed=seed), discard='unmap')
    handle = nbd_connect(daemon.export('n'))
    expected = bytearray(file_bytes(tmp / 'n.img', 0, size))
    mirror(daemon, copy_mode=mode, speed=16 * MiB)
    for i in range(400):
        length = rnd.choice([1, 2, 511, 512, 513, 4096, 65535, 65536, 65537, 200001])
        offset = rnd.randrange(size - length + 1)
        if rnd.random() < 0.2:
            offset = offset // 65536 * 65536
        if rnd.random() < 0.7:
            data = rnd.randbytes(1) * length
            handle.pwrite(data, offset)
        else:
            data = bytes(length)
            handle.zero(length, offset)
        expected[offset:offset + length] = data
        if i == 200:
            disk = handle.pread(200000, 0)
            assert disk == expected[:200000]
    ready(daemon)
    soft_cancel(daemon)
    assert file_bytes(tmp / 'n.img', 0, size) == expected
    same(tmp)


@pytest.mark.parametrize('mode', MODES)
def test_000_9_overlapping_requests(disks, tmp, mode):
    """Many requests at once on the same few blocks, with the copy among them."""
    handle = disks.nbd('n')
    mirror(disks, copy_mode=mode)
    rnd = random.Random(1)
    for _ in range(30):
        for _ in range(32):
            offset, length = rnd.randrange(0, 300000), rnd.randrange(1, 100000)
            if rnd.random() < 0.7:
                handle.aio_pwrite(nbd.Buffer.from_bytearray(bytearray(rnd.randbytes(1) * length)), offset)
            else:
                handle.aio_zero(length, offset)
        while handle.aio_in_flight():
            handle.poll(1000)
    ready(disks)
    soft_cancel(disks)
    same(tmp)


@pytest.mark.parametrize('detect', ['off', 'unmap'])
def test_000_31_small_zeroes(daemon, tmp, detect):
    """Zeroes of less than a granule in write-blocking mode, at every kind of offset."""
    for node in 'nt':
        fill(tmp / f'{node}.img', SIZE)
        daemon.qmp('blockdev-add', {
            'driver': 'raw', 'node-name': node, 'discard': 'unmap', 'detect-zeroes': detect if node == 't' else 'off',
            'file': {'driver': 'file', 'filename': str(tmp / f'{node}.img'), 'discard': 'unmap'}})
    handle = nbd_connect(daemon.export('n'))
    mirror(daemon, copy_mode='write-blocking')
    ready(daemon)
    for i, length in enumerate((1, 511, 512, 4095, 4096, 65535, 65536, 65537)):
        for offset in (i * MiB, i * MiB + 200001, i * MiB + 65536 * 8 - 1):
            handle.zero(length, offset)
            handle.trim(length, offset + 100000)
    soft_cancel(daemon)
    same(tmp)


# ---- sparse ----

def test_000_32_sparse_stays_sparse(daemon, tmp):
    """Holes of the source become none of the target's data."""
    for node in 'nt':
        with open(tmp / f'{node}.img', 'wb') as file:
            file.truncate(64 * MiB)
            if node == 'n':
                os.pwrite(file.fileno(), b'd' * 64 * KiB, 33 * MiB)
        daemon.add_file(node, tmp / f'{node}.img', discard='unmap')
    mirror(daemon)
    ready(daemon)
    soft_cancel(daemon)
    same(tmp)
    if not is_peer():  # came with 10.1
        assert os.stat(tmp / 't.img').st_blocks * 512 <= 64 * KiB + 16 * KiB


def test_zeroes_over_old_data(daemon, tmp):
    """Where the source has holes, the target's old data goes."""
    with open(tmp / 'n.img', 'wb') as file:
        file.truncate(SIZE)
    daemon.add_file('n', tmp / 'n.img')
    daemon.add_file('t', fill(tmp / 't.img', SIZE))
    mirror(daemon)
    ready(daemon)
    soft_cancel(daemon)
    same(tmp)


# ---- errors ----

@pytest.mark.parametrize('side', ['source', 'target'])
@pytest.mark.parametrize('mode', MODES)
def test_mirror_error_report(daemon, tmp, side, mode):
    """The job fails, says which direction and why; guests of the source notice nothing of the target's errors."""
    operation = {'source': 'read', 'target': 'write'}[side]
    for node in 'nt':
        fill(tmp / f'{node}.img', SIZE, seed=ord(node))
        bad = node == {'source': 'n', 'target': 't'}[side]
        add_blkdebug(daemon, node, tmp / f'{node}.img', *[{'iotype': operation, 'sector': 10000}] * bad)
    daemon.export('n')
    mirror(daemon, copy_mode=mode, auto_dismiss=False, **{f'on-{side}-error': 'report'})
    assert failure(daemon) == {'device': 'j', 'operation': operation, 'action': 'report'}
    data = daemon.qmp.event('BLOCK_JOB_COMPLETED')['data']
    assert 'Input/output error' in data['error'] and data['offset'] < data['len']
    daemon.qmp.job_wait('j', 'concluded')
    assert 'Input/output error' in daemon.qmp.job('j')['error']
    daemon.qmp('job-dismiss', id='j')
    assert exported(daemon) == 'n'
    nbd_connect(daemon.uri('n')).pwrite(b'goes on' * 100, 5120000)


POLICIES = [  # policy, errno, what is done about it, io-status
    ('report', errno.EIO, 'report', None), ('ignore', errno.EIO, 'ignore', 'ok'), ('stop', errno.EIO, 'stop', 'failed'),
    ('enospc', errno.EIO, 'report', None), ('enospc', errno.ENOSPC, 'stop', 'nospace'),
    ('stop', errno.ENOSPC, 'stop', 'nospace'), ('ignore', errno.ENOSPC, 'ignore', 'ok'),
    ('report', errno.ENOSPC, 'report', None), ('auto', errno.EIO, 'report', None),
]


@pytest.mark.parametrize('policy, number, action, status', POLICIES)
@pytest.mark.parametrize('side', ['source', 'target'])
def test_mirror_on_error(daemon, tmp, side, policy, number, action, status):
    """One error in the first copy, by policy: the end, a retry, or a pause that a resume ends well."""
    operation = {'source': 'read', 'target': 'write'}[side]
    for node in 'nt':
        fill(tmp / f'{node}.img', SIZE, seed=ord(node))
        bad = node == {'source': 'n', 'target': 't'}[side]
        add_blkdebug(daemon, node, tmp / f'{node}.img', *[{'iotype': operation, 'once': True, 'errno': number}] * bad)
    mirror(daemon, **{f'on-{side}-error': policy})
    assert failure(daemon) == {'device': 'j', 'operation': operation, 'action': action}
    if action == 'report':
        assert os.strerror(number) in daemon.qmp.event('BLOCK_JOB_COMPLETED')['data']['error']
        daemon.qmp.job_wait('j', 'null')
        return
    if action == 'stop':
        daemon.qmp.job_wait('j', 'paused')
        info = wait_until(lambda: (j := block_job(daemon))['status'] == 'paused' and j, 5)
        assert info['io-status'] == status and info['paused']
        daemon.qmp('job-resume', id='j')
    ready(daemon)
    assert block_job(daemon)['io-status'] == 'ok'
    soft_cancel(daemon)
    same(tmp)


@pytest.mark.skipif(is_peer(), reason='its blkdebug sees no zeroes here')
@pytest.mark.parametrize('mode', MODES)
def test_target_error_when_ready(daemon, tmp, mode):
    """stop: the job stands by, the guest goes on; after the resume the target is whole. Ready is told once only."""
    daemon.add_file('n', fill(tmp / 'n.img', SIZE))
    handle = nbd_connect(daemon.export('n'))
    # Armed by the first zeroes: what is written to sector 1000 after that fails once.
    bad_target(daemon, tmp, {'event': 'pwritev_zero', 'iotype': 'write', 'sector': 1000, 'once': True})
    mirror(daemon, target='bad', copy_mode=mode, on_target_error='stop', granularity=512)
    ready(daemon)
    handle.zero(4096, 4 * MiB)
    wait_until(lambda: file_bytes(tmp / 'bad.img', 4 * MiB, 4096) == bytes(4096), 10)
    handle.pwrite(b'again' * 100, 1000 * 512)
    assert failure(daemon) == {'device': 'j', 'operation': 'write', 'action': 'stop'}
    daemon.qmp.job_wait('j', 'standby')
    info = block_job(daemon)
    assert info['io-status'] == 'failed' and info['status'] == 'standby' and info['ready']
    assert is_peer() or info['actively-synced'] is False
    handle.pwrite(b'meanwhile' * 100, 2 * MiB)
    daemon.qmp('job-resume', id='j')
    daemon.qmp.job_wait('j', 'ready')
    if mode == 'write-blocking' and not is_peer():
        wait_until(lambda: block_job(daemon)['actively-synced'], 5, 'it is in sync again')
    soft_cancel(daemon)
    assert not [e for e in daemon.qmp.events if e['event'] == 'BLOCK_JOB_READY']
    same(tmp, 'n.img', 'bad.img')


def test_persistent_target_error_and_force_cancel(daemon, tmp):
    """A target that fails for ever, ignored for ever: the job can be dropped, and the guest goes on."""
    daemon.add_file('n', fill(tmp / 'n.img', SIZE))
    handle = nbd_connect(daemon.export('n'))
    bad_target(daemon, tmp, {'iotype': 'write'})
    mirror(daemon, target='bad', on_target_error='ignore')
    for _ in range(3):
        assert failure(daemon)['action'] == 'ignore'
    handle.pwrite(b'fine' * 100, 0)
    daemon.qmp('block-job-cancel', device='j', force=True)
    daemon.qmp.event('BLOCK_JOB_CANCELLED', 5)
    daemon.qmp.job_wait('j', 'null')
    assert handle.pread(400, 0) == b'fine' * 100


@pytest.mark.skipif(is_peer(), reason='never gets ready')
def test_flush_error_at_the_end(daemon, tmp):
    """The target is flushed before the pivot: where that fails, the source stays in use."""
    daemon.add_file('n', fill(tmp / 'n.img', SIZE))
    daemon.export('n')
    bad_target(daemon, tmp, {'iotype': 'flush'})
    mirror(daemon, target='bad')
    ready(daemon)
    daemon.qmp('job-complete', id='j')
    assert failure(daemon)['operation'] == 'write'
    assert 'error' in daemon.qmp.event('BLOCK_JOB_COMPLETED')['data']
    daemon.qmp.job_wait('j', 'null')
    assert exported(daemon) == 'n'


@pytest.fixture
def small_disk(tmp):
    """A file system that is too small, and can be made larger."""
    path = tmp / 'small'
    path.mkdir()
    run('mount', '-t', 'tmpfs', '-o', 'size=4m', 'weir-test', path)
    yield path
    run('umount', '-l', path)


@pytest.mark.parametrize('policy', ['enospc', 'stop'])
def test_full_target(start, small_disk, tmp, policy):
    """The file system of the target is full: the job waits until there is space."""
    daemon = start()
    daemon.serve_nbd()
    daemon.add_file('n', fill(tmp / 'n.img', SIZE))
    handle = nbd_connect(daemon.export('n'))
    with open(small_disk / 't.img', 'wb') as file:
        file.truncate(SIZE)
    daemon.add_file('t', small_disk / 't.img')
    mirror(daemon, on_target_error=policy)
    assert failure(daemon)['action'] == 'stop'
    info = wait_until(lambda: (j := block_job(daemon))['status'] == 'paused' and j, 10)
    assert info['io-status'] == 'nospace'
    handle.pwrite(b'meanwhile' * 100, 12345)
    run('mount', '-o', 'remount,size=32m', small_disk)
    daemon.qmp('job-resume', id='j')
    ready(daemon)
    soft_cancel(daemon)
    run('cmp', tmp / 'n.img', small_disk / 't.img')


# ---- what is refused ----

def test_000_29_sizes_differ(disks, tmp):
    """Found by the job, for a target that is smaller or larger; the source is as it was."""
    for size in (SIZE // 2, SIZE * 2, SIZE + 512):
        disks.qmp('blockdev-add', {'driver': 'null-co', 'node-name': 'x', 'size': size, 'read-zeroes': True})
        mirror(disks, target='x')
        assert disks.qmp.event('BLOCK_JOB_COMPLETED')['data']['error'] == 'Source and target image have different sizes'
        disks.qmp.job_wait('j', 'null')
        assert exported(disks) == 'n'
        disks.qmp('blockdev-del', node_name='x')


def test_wrong_nodes(disks):
    """To itself, to a node in use, from a node that is mirrored: refused at once, the graph as it was."""
    before = disks.qmp('x-debug-query-block-graph')
    error_text(mirror, disks, target='n')
    disks.export('t', 'user')
    assert 'Permission conflict' in error_text(mirror, disks)
    disks.qmp('block-export-del', id='user')
    assert disks.qmp('query-jobs') == []
    mirror(disks)
    ready(disks)
    disks.qmp('blockdev-add', {'driver': 'null-co', 'node-name': 'x', 'size': SIZE})
    text = error_text(mirror, disks, job_id='k', target='x')
    assert 'busy' in text or 'root block node' in text, text
    error_text(mirror, disks, job_id='k', device='x', target='n')
    error_text(mirror, disks, job_id='k', device='x', target='t')
    assert len(before['nodes']) == 5


def test_resize_while_mirrored(disks, tmp):
    """Neither side can change its size under the job."""
    mirror(disks)
    ready(disks)
    for node in 'nt':
        error_text(disks.qmp, 'block_resize', node_name=node, size=2 * SIZE)
    soft_cancel(disks)
    assert os.path.getsize(tmp / 'n.img') == os.path.getsize(tmp / 't.img') == SIZE


def test_hand_over(disks, tmp, start):
    """After the pivot and the removal of the nodes another daemon goes on with either image."""
    handle = disks.nbd('n')
    mirror(disks, copy_mode='write-blocking')
    ready(disks)
    handle.pwrite(b'mine' * 100, 0)
    disks.qmp('job-complete', id='j')
    disks.qmp.job_wait('j', 'null')
    disks.qmp('blockdev-del', node_name='n')
    second = start()
    second.serve_nbd()
    second.add_file('old', tmp / 'n.img')
    assert nbd_connect(second.export('old')).pread(400, 0) == b'mine' * 100
    second.qmp('block-export-del', id='old', mode='hard')
    second.qmp.event('BLOCK_EXPORT_DELETED', id='old')
    disks.qmp('block-export-del', id='n', mode='hard')
    disks.qmp.event('BLOCK_EXPORT_DELETED', id='n')
    disks.qmp('blockdev-del', node_name='t')
    second.add_file('new', tmp / 't.img')
    mirror(second, device='new', target='old')
    ready(second)
    soft_cancel(second)
    same(tmp)


def test_mirror_with_iothread(daemon, tmp):
    """An export of its own thread, with writes all the time: start, completion and the pivot back."""
    daemon.qmp('object-add', {'qom-type': 'iothread', 'id': 'io'})
    for node in 'nt':
        daemon.add_file(node, fill(tmp / f'{node}.img', SIZE, seed=ord(node)))
    uri = daemon.export('n', iothread='io')
    load = fio(uri, tmp, '--rw=randwrite', '--bs=4k', '--iodepth=8', '--runtime=1', '--verify=crc32c',
               '--verify_fatal=1', '--verify_backlog=64')
    try:
        source, target = 'n', 't'
        while load.poll() is None:
            mirror(daemon, device=source, target=target, copy_mode=MODES[source == 'n'])
            ready(daemon)
            daemon.qmp('job-complete', id='j')
            daemon.qmp.job_wait('j', 'null')
            daemon.qmp.events.clear()
            source, target = target, source
            assert exported(daemon) == source
        assert load.wait() == 0, load.stderr.read()
    finally:
        load.kill()
        load.wait()
