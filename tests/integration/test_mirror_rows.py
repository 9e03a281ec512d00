# SPDX-License-Identifier: BSD-2-Clause
"""Behaviour of mirrors row by row; the rows are those of docs/compat.md, others are in test_mirror*.py."""
import contextlib
import pathlib
import random
import shutil
import statistics
import tempfile
import threading
import time

import nbd
import pytest

from weirtest import KiB, MiB, QmpError, file_bytes, fill, is_peer, nbd_connect, run, wait_until
from weirtest.mirror import (MODES, SIZE, add_blkdebug, any_write, bad_target, block_job, change, error_text, exported,
                             failure, fio, mirror, ready, same, soft_cancel, synced)

pytestmark = pytest.mark.skipif(is_peer(), reason='newer than the peer')


def wait_synced(daemon):
    wait_until(lambda: synced(daemon), 10, 'it is in sync')


def slow_target(daemon, tmp, **limits):
    """Node t, a throttle above t.img."""
    daemon.qmp('object-add', {'qom-type': 'throttle-group', 'id': 'g', 'limits': {k.replace('_', '-'): v
                                                                                  for k, v in limits.items()}})
    daemon.add_file('n', fill(tmp / 'n.img', SIZE, seed=1))
    daemon.add_file('slow', fill(tmp / 't.img', SIZE, seed=2))
    daemon.qmp('blockdev-add', {'driver': 'throttle', 'node-name': 't', 'throttle-group': 'g', 'file': 'slow'})
    return nbd_connect(daemon.export('n'))


def write_many(handle, count, seed=1, most=SIZE):
    """Requests of any kind and alignment, all of them in flight at once."""
    rnd = random.Random(seed)
    for _ in range(count):
        length = rnd.randrange(1, 100000)
        offset = rnd.randrange(0, most - length)
        if rnd.random() < .7:
            handle.aio_pwrite(nbd.Buffer.from_bytearray(bytearray(rnd.randbytes(1) * length)), offset)
        else:
            handle.aio_zero(length, offset)


def finish(handle, limit=60):
    end = time.monotonic() + limit
    while handle.aio_in_flight():
        assert time.monotonic() < end, 'requests do not end'
        handle.poll(1000)


def test_000_1_background_marks_and_copies(disks, tmp):
    """Without copy-mode writes are marked and copied later; faster than the speed they keep the job from ready."""
    mirror(disks, speed=MiB, granularity=64 * KiB)
    load = fio(disks.uri('n'), tmp, '--rw=randwrite', '--bs=64k', '--iodepth=4', '--runtime=60', '--rate=8m')
    try:
        wait_until(lambda: disks.qmp.job('j')['total-progress'] > 2 * SIZE, 40, 'what is to be copied grows')
        assert block_job(disks)['status'] == 'running' and not block_job(disks)['ready']
    finally:
        load.kill()
        load.wait()
    disks.qmp('block-job-set-speed', device='j', speed=0)
    ready(disks)
    soft_cancel(disks)
    same(tmp)


def test_000_4_no_difference_while_ready(disks, tmp):
    """From ready on, at each pause of the guest, both sides are alike, with no step of the job in between."""
    handle = disks.nbd('n')
    mirror(disks, copy_mode='write-blocking')
    ready(disks)
    wait_synced(disks)
    disks.qmp('job-pause', id='j')  # nothing but the guest's requests can do it
    for seed in range(20):
        write_many(handle, 16, seed)
        finish(handle)
        same(tmp)
    disks.qmp('job-resume', id='j')
    soft_cancel(disks)


def test_000_5_no_read_of_what_was_written(disks, tmp):
    """What a guest writes reaches the target without a read of the source."""
    handle = disks.nbd('n')
    mirror(disks, copy_mode='write-blocking')
    ready(disks)
    wait_synced(disks)

    def reads():
        return next(s for s in disks.qmp('query-blockstats', query_nodes=True)
                    if s.get('node-name') == 'n')['stats']['rd_operations']
    before = reads()
    for i in range(64):
        handle.pwrite(bytes([i]) * 65536, i * 65536)
    assert reads() == before
    same(tmp)
    soft_cancel(disks)
    assert reads() == before


def test_000_8_the_filter_has_two_children(disks):
    """The filter in the graph: the source below it as backing, the target as target; 000-16 with it."""
    mirror(disks, filter_node_name='f')
    ready(disks)
    graph = disks.qmp('x-debug-query-block-graph')
    names = {n['id']: n['name'] for n in graph['nodes']}
    children = {e['name']: names[e['child']] for e in graph['edges'] if names.get(e['parent']) == 'f'}
    assert children == {'backing': 'n', 'target': 't'}
    assert next(n for n in disks.qmp('query-named-block-nodes') if n['node-name'] == 'f')['drv'] == 'mirror_top'
    assert exported(disks) == 'f'
    soft_cancel(disks)
    assert exported(disks) == 'n'


@pytest.mark.parametrize('mode', MODES)
def test_000_10_deletion_while_requests_are_in_flight(disks, tmp, mode):
    """Nodes in use are not deleted, those that are free are, and requests end well, in the middle of it all."""
    load = fio(disks.uri('n'), tmp, '--rw=randwrite', '--bs=8k', '--iodepth=16', '--runtime=2', '--verify=crc32c',
               '--verify_fatal=1', '--verify_backlog=64')
    source, target = 'n', 't'
    try:
        while load.poll() is None:
            mirror(disks, device=source, target=target, copy_mode=mode, filter_node_name='f')
            for node in 'nft':
                assert node in error_text(disks.qmp, 'blockdev-del', node_name=node)
            ready(disks)
            disks.qmp('job-complete', id='j')
            disks.qmp.job_wait('j', 'null')
            disks.qmp.events.clear()
            disks.qmp('blockdev-del', node_name=source)
            disks.add_file(source, tmp / f'{source}.img', discard='unmap')
            source, target = target, source
        assert load.wait() == 0, load.stderr.read()
    finally:
        load.kill()
        load.wait()


def test_000_11_complete_while_the_target_is_slow(daemon, tmp):
    """Writes that are under way at the target keep what they need until they are done."""
    handle = slow_target(daemon, tmp, iops_write=200)
    mirror(daemon, copy_mode='write-blocking')
    ready(daemon)
    write_many(handle, 32)
    daemon.qmp('job-complete', id='j')
    finish(handle)
    assert 'error' not in daemon.qmp.event('BLOCK_JOB_COMPLETED', 60, device='j')['data']
    daemon.qmp.job_wait('j', 'null')
    assert exported(daemon) == 't'
    assert file_bytes(tmp / 't.img', 0, SIZE) == handle.pread(SIZE, 0)


@pytest.mark.parametrize('granularity', [512, 64 * KiB, MiB])
def test_000_12_areas_of_an_odd_disk(daemon, tmp, granularity):
    """The first and the last area, whole and in part, of a disk that no granule divides."""
    size = 3 * MiB + 3 * 512
    for node, seed in (('n', 1), ('t', 2)):
        daemon.add_file(node, fill(tmp / f'{node}.img', size, seed=seed))
    handle = nbd_connect(daemon.export('n'))
    mirror(daemon, granularity=granularity)
    ready(daemon)
    for at, length in ((0, 1), (size - 1, 1), (size - 513, 513), (granularity - 1, 2), (2 * MiB + 5, 1000)):
        handle.pwrite(b'x' * length, at)
    soft_cancel(daemon)
    same(tmp)


@pytest.mark.parametrize('mode', MODES)
def test_000_13_many_outstanding_requests(disks, tmp, mode):
    """The copy beside 128 requests at once, and at every step of their start."""
    handle = disks.nbd('n')
    for seed in range(5):
        write_many(handle, 64, seed)
        mirror(disks, copy_mode=mode)
        write_many(handle, 64, seed + 100)
        ready(disks)
        finish(handle)
        soft_cancel(disks)
        same(tmp)


def armed(daemon, tmp, once=True):
    """Node bad: from the first zeroes on a write of its sector 1000 fails, once or always."""
    daemon.add_file('n', fill(tmp / 'n.img', SIZE))
    handle = nbd_connect(daemon.export('n'))
    bad_target(daemon, tmp, {'event': 'pwritev_zero', 'iotype': 'write', 'sector': 1000, 'once': once})
    return handle


def fail_one(handle, tmp):
    handle.zero(4096, 4 * MiB)
    wait_until(lambda: file_bytes(tmp / 'bad.img', 4 * MiB, 4096) == bytes(4096), 10)
    handle.pwrite(b'again' * 100, 1000 * 512)


def test_000_20_ready_is_told_once(daemon, tmp):
    """An ignored error after ready leaves the job ready, and is no second BLOCK_JOB_READY."""
    handle = armed(daemon, tmp)
    mirror(daemon, target='bad', copy_mode='write-blocking', on_target_error='ignore', granularity=512)
    ready(daemon)
    fail_one(handle, tmp)
    assert failure(daemon)['action'] == 'ignore'
    wait_synced(daemon)
    assert block_job(daemon)['status'] == 'ready'
    soft_cancel(daemon)
    assert not [e for e in daemon.qmp.events if e['event'] == 'BLOCK_JOB_READY']
    same(tmp, 'n.img', 'bad.img')


@pytest.mark.parametrize('early', [True, False])
def test_000_21_actively_synced(daemon, tmp, early):
    """True when the mode was changed before or after ready; false by a target error, true again after the retry."""
    handle = armed(daemon, tmp)
    mirror(daemon, target='bad', on_target_error='stop', granularity=512, speed=MiB)
    if early:
        change(daemon, 'write-blocking')
    daemon.qmp('block-job-set-speed', device='j', speed=0)
    ready(daemon)
    if not early:
        assert not synced(daemon)
        change(daemon, 'write-blocking')
    wait_synced(daemon)
    fail_one(handle, tmp)
    assert failure(daemon)['action'] == 'stop'
    daemon.qmp.job_wait('j', 'standby')
    assert not synced(daemon)
    daemon.qmp('job-resume', id='j')
    wait_synced(daemon)
    soft_cancel(daemon)
    same(tmp, 'n.img', 'bad.img')


def test_000_22_the_switch_alone_is_not_sync(disks, tmp):
    """After the change of the mode, with parts that are not copied yet, it is not in sync."""
    handle = disks.nbd('n')
    mirror(disks, speed=MiB)
    change(disks, 'write-blocking')
    handle.pwrite(b'x' * 65536, SIZE - 65536)
    assert not synced(disks)
    disks.qmp('block-job-set-speed', device='j', speed=0)
    ready(disks)
    wait_synced(disks)
    soft_cancel(disks)
    same(tmp)


def test_000_23_background_copy_beside_active_writes(disks, tmp):
    """A guest that never pauses does not keep a write-blocking mirror from getting ready."""
    load = fio(disks.uri('n'), tmp, '--rw=randwrite', '--bs=4k', '--iodepth=32', '--runtime=60')
    try:
        wait_until(lambda: any_write(tmp / 'n.img'), 10, 'fio writes')
        mirror(disks, copy_mode='write-blocking')
        ready(disks)
        assert load.poll() is None
    finally:
        load.kill()
        load.wait()
    soft_cancel(disks)
    same(tmp)


@pytest.mark.parametrize('mode', MODES)
def test_000_24_waits_end(daemon, tmp, mode):
    """Overlapping requests that wait for each other and for a slow copy all end."""
    handle = slow_target(daemon, tmp, iops_write=300)
    mirror(daemon, copy_mode=mode, granularity=64 * KiB)
    for seed in range(4):
        write_many(handle, 48, seed, most=300000)
        finish(handle)
    ready(daemon)
    soft_cancel(daemon)
    same(tmp)


@pytest.mark.parametrize('mode', MODES)
def test_000_25_one_granule_of_memory(disks, tmp, mode):
    """A copy that may hold one granule at a time gets ready beside a guest's requests."""
    handle = disks.nbd('n')
    mirror(disks, copy_mode=mode, buf_size=4096, granularity=4096)
    write_many(handle, 32)
    finish(handle)
    ready(disks)
    soft_cancel(disks)
    same(tmp)


@pytest.mark.parametrize('mode', MODES)
def test_000_26_force_cancel_of_a_stuck_target(start, tmp, fuse_disk, mode):
    """Nothing more reaches the target, the guest goes on, and the job is gone within a second."""
    daemon = start()
    daemon.serve_nbd()
    daemon.add_file('n', fill(tmp / 'n.img', SIZE, seed=1))
    daemon.add_file('t', fuse_disk.path)
    handle = nbd_connect(daemon.export('n'))
    mirror(daemon, copy_mode=mode, speed=MiB)
    wait_until(lambda: daemon.qmp.job('j')['current-progress'] > 0, 10, 'it has begun')
    fuse_disk.stop()
    daemon.qmp('block-job-set-speed', device='j', speed=0)
    fuse_disk.wait_stuck(daemon)
    writer = threading.Thread(target=lambda: handle.pwrite(b'guest' * 1000, 123456))
    writer.start()
    begin = time.monotonic()
    daemon.qmp('block-job-cancel', device='j', force=True)
    daemon.qmp.event('BLOCK_JOB_CANCELLED', 2, device='j')
    assert time.monotonic() - begin < 1
    writer.join(5)
    assert handle.pread(5000, 123456) == b'guest' * 1000
    fuse_disk.go_on()


def test_000_28_speed_holds_under_graph_changes(disks, tmp):
    """Drains and queries that wake the job early make it no faster."""
    speed = 2 * MiB
    begin = time.monotonic()
    mirror(disks, speed=speed)
    count = 0
    while disks.qmp.job('j')['status'] != 'ready':
        disks.qmp('blockdev-add', {'driver': 'null-co', 'node-name': 'x'})
        disks.qmp('block-export-add', {'type': 'nbd', 'id': 'second', 'node-name': 'x'})
        disks.qmp('block-export-del', id='second')
        wait_until(lambda: len(disks.qmp('query-block-exports')) == 1, 5, 'the export is gone')
        disks.qmp('blockdev-del', node_name='x')
        disks.qmp('job-pause', id='j')
        disks.qmp('job-resume', id='j')
        count += 1
    seconds = time.monotonic() - begin
    assert count > 20
    # The first MiB need not wait for its turn.
    assert seconds > (SIZE - MiB) / speed * .95, seconds
    soft_cancel(disks)
    same(tmp)


def test_000_33_top_without_backing_is_no_full_copy(daemon, tmp):
    """What the source does not hold is not zeroed on the target either; and 000-34: nor with sync=none."""
    run('qemu-img', 'create', '-q', '-f', 'qcow2', tmp / 'n.qcow2', SIZE)
    run('qemu-io', '-f', 'qcow2', '-c', f'write -P 7 {MiB} 64k', tmp / 'n.qcow2')
    daemon.qmp('blockdev-add', {'driver': 'qcow2', 'node-name': 'n',
                                'file': {'driver': 'file', 'filename': str(tmp / 'n.qcow2')}})
    daemon.add_file('t', fill(tmp / 't.img', SIZE, seed=2))
    before = file_bytes(tmp / 't.img', 0, SIZE)
    mirror(daemon, sync='top')
    ready(daemon)
    soft_cancel(daemon)
    assert file_bytes(tmp / 't.img', 0, SIZE) == before[:MiB] + bytes([7]) * 65536 + before[MiB + 65536:]


def test_000_34_zeroes_only_where_the_source_has_them(daemon, tmp):
    """sync=none leaves the target alone; sync=full clears what the source does not hold."""
    with open(tmp / 'n.img', 'wb') as file:
        file.truncate(SIZE)
    daemon.add_file('n', tmp / 'n.img')
    daemon.add_file('t', fill(tmp / 't.img', SIZE, seed=2))
    before = file_bytes(tmp / 't.img', 0, SIZE)
    mirror(daemon, sync='none')
    ready(daemon)
    soft_cancel(daemon)
    assert file_bytes(tmp / 't.img', 0, SIZE) == before
    mirror(daemon, sync='full')
    ready(daemon)
    soft_cancel(daemon)
    assert file_bytes(tmp / 't.img', 0, SIZE) == bytes(SIZE)


@pytest.mark.parametrize('mode', MODES)
@pytest.mark.parametrize('policy', ['report', 'ignore', 'stop'])
def test_000_35_target_errors_are_not_the_guests(daemon, tmp, policy, mode):
    """A write that fails at the target succeeds for the guest; the policy says what becomes of the job."""
    handle = armed(daemon, tmp)
    mirror(daemon, target='bad', copy_mode=mode, on_target_error=policy, granularity=512)
    ready(daemon)
    fail_one(handle, tmp)
    assert handle.pread(500, 1000 * 512) == b'again' * 100
    assert failure(daemon)['action'] == policy
    if policy == 'report':
        assert 'error' in daemon.qmp.event('BLOCK_JOB_COMPLETED', 10, device='j')['data']
        daemon.qmp.job_wait('j', 'null')
        handle.pwrite(b'on' * 100, 0)
        assert exported(daemon) == 'n'
        return
    if policy == 'stop':
        daemon.qmp.job_wait('j', 'standby')
        assert block_job(daemon)['io-status'] == 'failed'
        daemon.qmp('job-resume', id='j')
        daemon.qmp.job_wait('j', 'ready')
    soft_cancel(daemon)
    same(tmp, 'n.img', 'bad.img')


def test_000_36_cancel(disks, tmp):
    """Soft ends well and keeps the source; a soft-cancelled job refuses complete, and may be forced after all."""
    handle = disks.nbd('n')
    mirror(disks)
    ready(disks)
    disks.qmp('job-pause', id='j')
    disks.qmp.job_wait('j', 'standby')
    text = error_text(disks.qmp, 'block-job-cancel', device='j')
    assert text == "The block job for device 'j' is currently paused"
    disks.qmp('job-resume', id='j')
    disks.qmp('block-job-set-speed', device='j', speed=1)
    write_many(handle, 4)
    finish(handle)
    disks.qmp('block-job-cancel', device='j')
    assert block_job(disks)['status'] == 'ready'
    text = error_text(disks.qmp, 'block-job-complete', device='j')
    assert text == "The active block job 'j' cannot be completed"
    disks.qmp('job-pause', id='j')
    disks.qmp('job-resume', id='j')
    disks.qmp('block-job-cancel', device='j', force=True)
    disks.qmp.event('BLOCK_JOB_CANCELLED', 5, device='j')
    disks.qmp.job_wait('j', 'null')
    mirror(disks)
    ready(disks)
    soft_cancel(disks)
    assert exported(disks) == 'n'
    same(tmp)


def test_000_37_complete_in_standby(disks, tmp):
    """It is accepted, and acts after the resume."""
    mirror(disks)
    ready(disks)
    disks.qmp('job-pause', id='j')
    disks.qmp.job_wait('j', 'standby')
    disks.qmp('job-complete', id='j')
    assert block_job(disks)['status'] == 'standby' and exported(disks) != 't'
    disks.qmp('job-resume', id='j')
    disks.qmp.job_wait('j', 'null')
    assert exported(disks) == 't'
    same(tmp)


def test_000_38_the_graph_changes_when_it_is_finalized(disks):
    """Complete alone moves nobody; nor does a job that is cancelled instead."""
    for end in ('job-cancel', 'job-finalize'):
        mirror(disks, auto_finalize=False, filter_node_name='f')
        ready(disks)
        before = disks.qmp('x-debug-query-block-graph')
        disks.qmp('job-complete', id='j')
        disks.qmp.job_wait('j', 'pending')
        assert disks.qmp('x-debug-query-block-graph') == before and exported(disks) == 'f'
        disks.qmp(end, id='j')
        disks.qmp.job_wait('j', 'null')
        assert exported(disks) == ('t' if end == 'job-finalize' else 'n')


@pytest.mark.parametrize('mode', MODES)
def test_000_39_flush(daemon, tmp, mode):
    """A guest's flush is the source's; the target is flushed before the pivot, and a failure of that ends the job."""
    daemon.add_file('n', fill(tmp / 'n.img', SIZE))
    handle = nbd_connect(daemon.export('n'))
    bad_target(daemon, tmp, {'iotype': 'flush'})
    mirror(daemon, target='bad', copy_mode=mode)
    ready(daemon)
    handle.pwrite(b'f' * 4096, 0, nbd.CMD_FLAG_FUA)
    handle.flush()
    assert not [e for e in daemon.qmp.events if e['event'] == 'BLOCK_JOB_ERROR']
    daemon.qmp('job-complete', id='j')
    assert failure(daemon) == {'device': 'j', 'operation': 'write', 'action': 'report'}
    assert 'error' in daemon.qmp.event('BLOCK_JOB_COMPLETED')['data']
    daemon.qmp.job_wait('j', 'null')
    assert exported(daemon) == 'n'
    assert handle.pread(4096, 0) == b'f' * 4096


@pytest.mark.parametrize('mode', MODES)
def test_000_41_discards_and_zeroes(disks, tmp, mode):
    """What was discarded reads the same on both sides."""
    handle = disks.nbd('n')
    rnd = random.Random(3)
    mirror(disks, copy_mode=mode, speed=8 * MiB)
    for i in range(300):
        length = rnd.choice([512, 4096, 65536, 70000, MiB])
        offset = rnd.randrange(SIZE - length + 1)
        if rnd.random() < .5:
            offset = offset // 65536 * 65536
        rnd.choice([handle.trim, handle.zero, lambda n, at: handle.pwrite(bytes([i % 256]) * n, at)])(length, offset)
    ready(disks)
    soft_cancel(disks)
    same(tmp)


def test_000_42_latency_follows_the_slower_side(daemon, tmp):
    """In background mode a slow target costs the guest nothing; switched late, a write takes as long as the target."""
    handle = slow_target(daemon, tmp, iops_write=100)

    def latencies():
        for i in range(30):
            begin = time.monotonic()
            handle.pwrite(bytes([i]) * 4096, i * 65536)
            yield time.monotonic() - begin

    mirror(daemon)
    ready(daemon)
    assert statistics.median(latencies()) < .005
    change(daemon, 'write-blocking')
    wait_synced(daemon)
    # The throttle lets a tenth of a second's worth pass at once.
    assert sum(latencies()) > (30 - 10) / 100 * .9
    soft_cancel(daemon)
    same(tmp)


def test_000_43_a_target_that_fails_for_a_while(daemon, tmp):
    """The parts of the copy together: errors, waits and retries on the way, and in the end both sides are alike."""
    fill(tmp / 'bad.img', SIZE, seed=2)
    add_blkdebug(daemon, 'bad', tmp / 'bad.img', *[{'iotype': 'write', 'sector': s, 'once': True}
                                                   for s in range(0, SIZE // 512, 1024)])
    daemon.add_file('n', fill(tmp / 'n.img', SIZE, seed=1))
    handle = nbd_connect(daemon.export('n'))
    mirror(daemon, target='bad', on_target_error='ignore', copy_mode='write-blocking')
    write_many(handle, 32)
    finish(handle)
    ready(daemon)
    wait_synced(daemon)
    soft_cancel(daemon)
    same(tmp, 'n.img', 'bad.img')


def test_unknown_errors_are_named(disks):
    """A refused start leaves no job behind."""
    for options in ({'target': 'nope'}, {'device': 'nope'}, {'granularity': 1000}, {'sync': 'nope'}):
        with pytest.raises(QmpError):
            mirror(disks, **options)
    assert disks.qmp('query-jobs') == []


def any_change(path):
    with open(path, 'rb') as file:
        return any(chunk != b'x' * MiB for chunk in iter(lambda: file.read(MiB), b''))


@pytest.fixture
def memory(tmp):
    """A directory on a tmpfs, where every request is answered at once; or any, where there is none with room."""
    shm = pathlib.Path('/dev/shm')
    with contextlib.ExitStack() as stack:
        if shm.is_dir() and shutil.disk_usage(shm).free > 2048 * MiB:
            tmp = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory(prefix='weir-', dir=shm)))
        yield tmp


def test_mirrors_share_their_thread(daemon, tmp, memory):
    """A copy whose chunks are all answered at once lets another job's go on in between."""
    size = 512 * MiB
    for image in ('n', 't'):
        with open(memory / f'{image}.img', 'wb') as file:
            for _ in range(size // MiB):
                file.write(b'x' * MiB)
        daemon.add_file(image, memory / f'{image}.img')
    for image in ('small', 'copy'):
        daemon.add_file(image, fill(tmp / f'{image}.img', 256 * KiB, seed=1))
    load = fio(daemon.export('n'), tmp, '--rw=randwrite', '--bs=4k', '--iodepth=4', '--runtime=60')
    try:
        wait_until(lambda: any_change(memory / 'n.img'), 10, 'the guest writes')
        daemon.qmp('blockdev-mirror', {'job-id': 'large', 'device': 'n', 'target': 't', 'sync': 'full',
                                       'copy-mode': 'write-blocking', 'x-minimum-share': 100})
        wait_until(lambda: daemon.qmp.job('large')['current-progress'] > 16 * MiB, 10, 'the copy goes on')
        daemon.qmp('blockdev-mirror', {'job-id': 'small', 'device': 'small', 'target': 'copy', 'sync': 'full'})
        daemon.qmp.event('BLOCK_JOB_READY', 10, device='small')
        assert daemon.qmp.job('large')['current-progress'] < size / 2, 'the small copy has waited for the large one'
        for job in 'large', 'small':
            daemon.qmp('block-job-cancel', device=job, force=True)
            daemon.qmp.job_wait(job, 'null')
    finally:
        load.kill()
        load.wait()
