# SPDX-License-Identifier: BSD-2-Clause
"""What a mirror begins with, how it treats writes, what may change while it runs, and what takes the target's place."""
import os
import random
import time

import nbd
import pytest

from weirtest import KiB, MiB, QmpError, file_bytes, fill, is_peer, nbd_connect, run, wait_until
from weirtest.mirror import (MODES, SIZE, block_job, change, error_text, exported, fio, mirror, ready, same,
                             soft_cancel, synced)

pytestmark = pytest.mark.skipif(is_peer(), reason='newer than the peer')


# ---- the beginning ----

def add_layers(daemon, tmp):
    """Node n: a qcow2 of two clusters over a base that is full. Node t: a raw file of other data."""
    base = fill(tmp / 'base.img', SIZE, seed=1)
    run('qemu-img', 'create', '-q', '-f', 'qcow2', '-b', base, '-F', 'raw', tmp / 'n.qcow2')
    for at in (1 * MiB, 5 * MiB):
        run('qemu-io', '-f', 'qcow2', '-c', f'write -P 7 {at} 64k', tmp / 'n.qcow2')
    run('qemu-io', '-f', 'qcow2', '-c', f'write -z {3 * MiB} 64k', tmp / 'n.qcow2')
    daemon.qmp('blockdev-add', {'driver': 'qcow2', 'node-name': 'n',
                                'file': {'driver': 'file', 'filename': str(tmp / 'n.qcow2')}})
    daemon.add_file('t', fill(tmp / 't.img', SIZE, seed=2))


@pytest.mark.parametrize('mode', MODES)
def test_mirror_sync_modes(daemon, tmp, mode):
    """top: what the overlay holds, zeroes among it, and new writes, and nothing else of the target is touched."""
    add_layers(daemon, tmp)
    handle = nbd_connect(daemon.export('n'))
    expected = bytearray(file_bytes(tmp / 't.img', 0, SIZE))
    mirror(daemon, sync='top', copy_mode=mode)
    assert ready(daemon)['len'] == 3 * 64 * KiB
    handle.pwrite(b'new' * 100, 6 * MiB + 100)
    soft_cancel(daemon)
    for at, data in ((1 * MiB, bytes([7]) * 64 * KiB), (5 * MiB, bytes([7]) * 64 * KiB), (3 * MiB, bytes(64 * KiB))):
        expected[at:at + len(data)] = data
    target = file_bytes(tmp / 't.img', 0, SIZE)
    assert target[6 * MiB + 100:6 * MiB + 400] == b'new' * 100
    # A granule that was written to in part is brought over whole in background mode.
    expected[6 * MiB:6 * MiB + 64 * KiB] = target[6 * MiB:6 * MiB + 64 * KiB]
    assert target == expected


@pytest.mark.parametrize('mode', MODES)
def test_mirror_sync_none(disks, tmp, mode):
    """Ready at once; only new writes reach the target."""
    handle = disks.nbd('n')
    before = file_bytes(tmp / 't.img', 0, SIZE)
    mirror(disks, sync='none', copy_mode=mode)
    assert ready(disks)['len'] == 0
    handle.pwrite(b'n' * 64 * KiB, 64 * KiB)
    soft_cancel(disks)
    assert file_bytes(tmp / 't.img', 0, SIZE) == before[:64 * KiB] + b'n' * 64 * KiB + before[128 * KiB:]


def test_mirror_sync_top_without_backing(disks, tmp):
    """A source without layers below holds everything that is stored in it."""
    mirror(disks, sync='top')
    ready(disks)
    soft_cancel(disks)
    same(tmp)


@pytest.mark.parametrize('mode', MODES)
def test_mirror_target_is_zero(daemon, tmp, mode):
    """Zeroes are not written to a target that has them already; later data and its zeroes are."""
    for node in 'nt':
        with open(tmp / f'{node}.img', 'wb') as file:
            file.truncate(SIZE)
            if node == 'n':
                os.pwrite(file.fileno(), b'd' * 64 * KiB, 3 * MiB)
                os.pwrite(file.fileno(), bytes(64 * KiB), 5 * MiB)
        daemon.add_file(node, tmp / f'{node}.img')
    handle = nbd_connect(daemon.export('n'))
    mirror(daemon, target_is_zero=True, copy_mode=mode)
    ready(daemon)
    handle.zero(256 * KiB, 0)
    change(daemon, 'write-blocking')
    wait_until(lambda: synced(daemon), 10, 'it is in sync')
    writes = next(s for s in daemon.qmp('query-blockstats', query_nodes=True) if s.get('node-name') == 't')['stats']
    assert writes['wr_bytes'] == 64 * KiB
    assert os.stat(tmp / 't.img').st_blocks * 512 <= 64 * KiB + 16 * KiB
    handle.pwrite(b'data' * 16 * KiB, 1 * MiB)
    handle.zero(64 * KiB, 1 * MiB)
    handle.zero(100, 3 * MiB + 50)
    handle.pwrite(b'more' * 100, 1 * MiB + 100)
    soft_cancel(daemon)
    same(tmp)


def test_target_is_zero_is_a_promise(disks, tmp):
    """As documented: where the target was not zero, the source's holes do not reach it. Only with sync=full."""
    handle = disks.nbd('n')
    handle.trim(MiB, 0)
    before = file_bytes(tmp / 't.img', 0, MiB)
    mirror(disks, target_is_zero=True)
    ready(disks)
    soft_cancel(disks)
    assert file_bytes(tmp / 't.img', 0, MiB) == before
    run('cmp', '-i', MiB, tmp / 'n.img', tmp / 't.img')
    mirror(disks, sync='top', target_is_zero=True)
    ready(disks)
    soft_cancel(disks)
    same(tmp)


@pytest.mark.parametrize('size', [1, 64 * KiB, 100 * KiB, 1 * MiB])
def test_mirror_buf_size(disks, tmp, size):
    """Any size is enough to get on, also less than a granule; 0 is the default; a negative one is refused."""
    mirror(disks, buf_size=size)
    ready(disks)
    soft_cancel(disks)
    same(tmp)
    assert error_text(mirror, disks, buf_size=-1) == "Invalid parameter 'buf-size'"
    mirror(disks, buf_size=0)
    ready(disks)
    soft_cancel(disks)


def copy_beside_a_waiting_guest(daemon, tmp, share):
    """Seconds until ready, while a guest waits for a write that the source holds back all the time."""
    def hmp(command):
        return daemon.qmp('human-monitor-command', {'command-line': f'qemu-io n "{command}"'})

    daemon.qmp('blockdev-add', {'driver': 'blkdebug', 'node-name': 'n', 'image': {
        'driver': 'file', 'filename': str(fill(tmp / 'n.img', SIZE, seed=1))}})
    daemon.add_file('t', fill(tmp / 't.img', SIZE, seed=2))
    handle = nbd_connect(daemon.export('n'))
    mirror(daemon, speed=1, x_minimum_share=share)
    assert hmp('break write_aio A') == ''
    handle.aio_pwrite(nbd.Buffer.from_bytearray(bytearray(b'x' * 4096)), 0)
    assert hmp('wait_break A') == ''
    begin = time.monotonic()
    daemon.qmp('block-job-set-speed', device='j', speed=0)
    ready(daemon)
    seconds = time.monotonic() - begin
    assert hmp('resume A') == '' and hmp('remove_break A')
    wait_until(lambda: handle.poll(0) or not handle.aio_in_flight(), 10, 'the write is answered')
    return seconds


def test_mirror_minimum_share(start, tmp):
    """A copy beside guests that wait works for that part of the time, and never less."""
    seconds = {}
    for share in (2, 100):
        daemon = start()
        daemon.serve_nbd()
        seconds[share] = copy_beside_a_waiting_guest(daemon, tmp, share)
        daemon.kill()
    assert seconds[2] > 5 * seconds[100], seconds
    text = "Parameter 'x-minimum-share' expects a value in range [1, 100]"
    daemon = start()
    daemon.add_file('n', fill(tmp / 'n.img', SIZE, seed=1))
    daemon.add_file('t', fill(tmp / 't.img', SIZE, seed=2))
    for share in (0, -1, 101):
        assert error_text(mirror, daemon, x_minimum_share=share) == text


# ---- changes ----

@pytest.mark.parametrize('first, second', [MODES, MODES[::-1]])
def test_block_job_change(disks, tmp, first, second):
    """In both directions: while it runs, while it is paused, and when it is ready."""
    handle = disks.nbd('n')
    mirror(disks, copy_mode=first, speed=MiB)
    for mode in (second, first, first):
        change(disks, mode)
        handle.pwrite(mode.encode() * 100, 4 * MiB)
    disks.qmp('job-pause', id='j')
    disks.qmp.job_wait('j', 'paused')
    change(disks, second)
    handle.pwrite(b'paused' * 100, 5 * MiB)
    disks.qmp('job-resume', id='j')
    disks.qmp('block-job-set-speed', device='j', speed=0)
    ready(disks)
    for mode in (first, second, first):
        change(disks, mode)
        handle.pwrite(mode.encode() * 100, 6 * MiB)
        if mode == 'write-blocking':
            wait_until(lambda: synced(disks), 10, 'it is in sync')
        else:
            assert not synced(disks)
    soft_cancel(disks)
    same(tmp)


def test_block_job_change_errors(disks, tmp):
    """Unknown jobs, wrong types, wrong states, and a job that is completing."""
    def text(**options):
        with pytest.raises(QmpError) as caught:
            disks.qmp('block-job-change', {k.replace('_', '-'): v for k, v in options.items()})
        return caught.value.text

    active = {'type': 'mirror', 'copy_mode': 'write-blocking'}
    assert text(id='nope', **active) == 'Job not found'
    mirror(disks, auto_finalize=False, auto_dismiss=False)
    ready(disks)
    assert 'copy-mode' in text(id='j', type='mirror', copy_mode='fast')
    assert 'copy-mode' in text(id='j', type='mirror')
    assert 'type' in text(id='j', type='nope', copy_mode='background')
    assert text(id='j', type='create') == 'Jobs of this type have nothing that can be changed'
    change(disks, 'background')
    disks.qmp('job-pause', id='j')
    disks.qmp('job-complete', id='j')
    change(disks, 'write-blocking')
    assert "'j' is completing" in text(id='j', type='mirror', copy_mode='background')
    disks.qmp('job-resume', id='j')
    disks.qmp.job_wait('j', 'pending')
    assert text(id='j', **active) == "Job 'j' in state 'pending' cannot accept command verb 'change'"
    disks.qmp('job-finalize', id='j')
    disks.qmp.job_wait('j', 'concluded')
    assert text(id='j', **active) == "Job 'j' in state 'concluded' cannot accept command verb 'change'"
    disks.qmp('job-dismiss', id='j')
    disks.qmp('blockdev-create', {'job-id': 'c', 'options': {'driver': 'file', 'filename': str(tmp / 'c'),
                                                             'size': 512}})
    assert text(id='c', **active) == "Job 'c' is of type 'create', not 'mirror'"


def test_000_14_modes_change_under_load(disks, tmp):
    """A writer that verifies, and a mode that changes all the time: nothing is lost on either side."""
    load = fio(disks.uri('n'), tmp, '--rw=randrw', '--bs=4k', '--iodepth=8', '--runtime=3', '--verify=crc32c',
               '--verify_fatal=1', '--verify_backlog=64')
    try:
        mirror(disks)
        changes = 0
        while load.poll() is None:
            change(disks, MODES[changes % 2])
            changes += 1
        assert load.wait() == 0, load.stderr.read()
    finally:
        load.kill()
        load.wait()
    assert changes > 100
    ready(disks)
    change(disks, 'write-blocking')
    wait_until(lambda: synced(disks), 10, 'it is in sync')
    same(tmp)
    soft_cancel(disks)


def test_000_40_synced_stays_synced(disks, tmp):
    """Once it is, unaligned writes, zeroes, fast zeroes and discards leave it so, and both sides alike."""
    handle = disks.nbd('n')
    mirror(disks, copy_mode='write-blocking')
    ready(disks)
    wait_until(lambda: synced(disks), 10, 'it is in sync')
    rnd = random.Random(5)
    for _ in range(200):
        length = rnd.choice([1, 511, 4096, 65536, 200000, MiB])
        offset = rnd.randrange(SIZE - length + 1)
        if rnd.random() < .3:
            offset = offset // 65536 * 65536
        what = rnd.choice(['write', 'zero', 'fast', 'trim'])
        if what == 'write':
            handle.pwrite(rnd.randbytes(1) * length, offset)
        elif what == 'zero':
            handle.zero(length, offset)
        elif what == 'trim':
            handle.trim(length, offset)
        else:
            try:
                handle.zero(length, offset, 1 << 4)  # FAST_ZERO: may be refused
            except OSError as error:
                assert error
            except Exception as error:  # nbd.Error
                assert 'Operation not supported' in str(error) or 'ENOTSUP' in str(error), error
        assert synced(disks)
    same(tmp)
    soft_cancel(disks)


def test_ignored_discards(daemon, tmp):
    """A source that ignores discards stays as it is, and so does a mirror of it."""
    for node, seed in (('n', 1), ('t', 2)):
        daemon.add_file(node, fill(tmp / f'{node}.img', SIZE, seed=seed))
    handle = nbd_connect(daemon.export('n'))
    mirror(daemon, copy_mode='write-blocking')
    ready(daemon)
    wait_until(lambda: synced(daemon), 10, 'it is in sync')
    copied = daemon.qmp.job('j')['current-progress']
    handle.trim(SIZE, 0)
    assert synced(daemon) and daemon.qmp.job('j')['current-progress'] == copied
    same(tmp)
    soft_cancel(daemon)


# ---- the place that the target takes ----

def add_filter(daemon, tmp):
    """Node n: a throttle without limits above the node below; node t."""
    daemon.qmp('object-add', {'qom-type': 'throttle-group', 'id': 'g'})
    daemon.add_file('below', fill(tmp / 'n.img', SIZE, seed=1))
    daemon.add_file('t', fill(tmp / 't.img', SIZE, seed=2))
    daemon.qmp('blockdev-add', {'driver': 'throttle', 'node-name': 'n', 'throttle-group': 'g', 'file': 'below'})
    return nbd_connect(daemon.export('n'))


def child(daemon, node):
    """Name of the node's only child."""
    graph = daemon.qmp('x-debug-query-block-graph')
    names = {n['id']: n['name'] for n in graph['nodes'] if n['type'] == 'block-driver'}
    return [names[e['child']] for e in graph['edges'] if names.get(e['parent']) == node]


@pytest.mark.parametrize('mode', MODES)
def test_mirror_replaces(daemon, tmp, mode):
    """The filter stays, above the target; without it the target takes the source's place; or the source by name."""
    handle = add_filter(daemon, tmp)
    mirror(daemon, replaces='below', copy_mode=mode)
    ready(daemon)
    handle.pwrite(b'before' * 100, 1000)
    daemon.qmp('job-complete', id='j')
    daemon.qmp.job_wait('j', 'null')
    assert exported(daemon) == 'n' and child(daemon, 'n') == ['t']
    same(tmp)
    handle.pwrite(b'after' * 100, 1000)
    handle.flush()
    assert file_bytes(tmp / 't.img', 1000, 500) == b'after' * 100
    daemon.qmp('blockdev-del', node_name='below')
    daemon.add_file('back', tmp / 'n.img')
    mirror(daemon, target='back', replaces='n')
    ready(daemon)
    daemon.qmp('job-complete', id='j')
    daemon.qmp.job_wait('j', 'null')
    assert exported(daemon) == 'back'
    same(tmp)


def test_mirror_replaces_errors(daemon, tmp):
    """Nodes that do not exist, or whose readers would see other data; checked again right before the pivot."""
    add_filter(daemon, tmp)
    assert error_text(mirror, daemon, replaces='nope') == "Failed to find node with node-name='nope'"
    daemon.qmp('blockdev-add', {'driver': 'null-co', 'node-name': 'x', 'size': SIZE})
    for node in ('x', 't'):
        assert error_text(mirror, daemon, replaces=node) == (
            f"Cannot replace '{node}' by a node mirrored from 'n', because it cannot be guaranteed that doing so "
            'would not lead to an abrupt change of visible data')
    assert not daemon.qmp('query-jobs')
    assert exported(daemon) == 'n'


# ---- afterwards ----

def test_job_history(disks, tmp):
    """Results are there after a job has gone, the newest last, at most 64."""
    assert disks.qmp('x-query-job-history') == []
    mirror(disks)
    ready(disks)
    soft_cancel(disks)
    mirror(disks, speed=1)
    disks.qmp('job-cancel', id='j')
    disks.qmp.job_wait('j', 'null')
    disks.qmp('blockdev-create', {'job-id': 'c', 'options': {'driver': 'file', 'filename': str(tmp), 'size': 512}})
    disks.qmp.job_wait('c', 'concluded')
    disks.qmp('job-dismiss', id='c')
    good, cancelled, failed = disks.qmp('x-query-job-history')
    assert good.pop('end-time') <= cancelled.pop('end-time') <= failed.pop('end-time')
    assert good == {'id': 'j', 'type': 'mirror', 'result': 0}
    assert cancelled['result'] < 0 and 'error' not in cancelled
    assert failed['id'] == 'c' and failed['result'] < 0 and str(tmp) in failed['error']
    for i in range(70):
        disks.qmp('blockdev-create', {'job-id': f'c{i}', 'options': {'driver': 'file', 'filename': str(tmp / 'c'),
                                                                     'size': 512}})
        disks.qmp.job_wait(f'c{i}', 'concluded')
        disks.qmp('job-dismiss', id=f'c{i}')
    assert [r['id'] for r in disks.qmp('x-query-job-history')] == [f'c{i}' for i in range(6, 70)]
