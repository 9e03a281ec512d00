# SPDX-License-Identifier: BSD-2-Clause
"""Errors of a mirror: every policy, either side, what fails, and when; the graph and the data afterwards.

While it copies the fault is there from the start; later a guest's zeroes arm it, so that it comes when it is meant to.
"""
import errno

import nbd
import pytest

from weirtest import MiB, file_bytes, fill, is_peer, nbd_connect, wait_until
from weirtest.mirror import SIZE, add_blkdebug, block_job, exported, failure, mirror, ready, same

pytestmark = pytest.mark.skipif(is_peer(), reason='its blkdebug sees no zeroes here')

SECTOR = 1000
BAD = SECTOR * 512
POLICIES = ['report', 'ignore', 'enospc', 'stop']
ERRORS = {'EIO once': (errno.EIO, True), 'EIO for ever': (errno.EIO, False), 'ENOSPC once': (errno.ENOSPC, True)}
MOMENTS = ['copy', 'ready', 'completing']


def action_of(policy, number):
    if policy == 'enospc':
        return 'stop' if number == errno.ENOSPC else 'report'
    return policy


def begin(daemon, tmp, side, number, once, policy, moment):
    """Nodes n and t, of which one fails, and a mirror between them."""
    for node, seed in (('n', 1), ('t', 2)):
        fill(tmp / f'{node}.img', SIZE, seed=seed)
        rule = {'event': 'none' if moment == 'copy' else 'pwritev_zero', 'sector': SECTOR, 'errno': number,
                'iotype': 'read' if side == 'source' else 'write', 'once': once}
        bad = node == ('n' if side == 'source' else 't')
        add_blkdebug(daemon, node, tmp / f'{node}.img', *[rule] * bad)
    handle = nbd_connect(daemon.export('n'))
    mirror(daemon, granularity=512, on_source_error=policy, on_target_error=policy,
           auto_dismiss=False)
    return handle


def arm(handle, tmp, side):
    """After it the fault is there. The zeroes are behind everything that is written later."""
    handle.zero(512, SIZE - 512)
    wait_until(lambda: file_bytes(tmp / 'n.img', SIZE - 512, 512) == bytes(512), 10)
    if side == 'target':
        wait_until(lambda: file_bytes(tmp / 't.img', SIZE - 512, 512) == bytes(512), 10)


def provoke(daemon, handle, tmp, side, moment):
    """Brings the copy to the bad sector while the job is where it is meant to be."""
    if moment == 'copy':
        return
    ready(daemon)
    arm(handle, tmp, side)
    if moment == 'completing':
        daemon.qmp('job-pause', id='j')
    handle.pwrite(b'late' * 128, BAD)
    if moment == 'completing':
        daemon.qmp('job-complete', id='j')
        daemon.qmp('job-resume', id='j')


def check_failed(daemon, side):
    data = daemon.qmp.event('BLOCK_JOB_COMPLETED', 20, device='j')['data']
    assert data['error'].startswith('Could not ' + ('read' if side == 'source' else 'write to')), data
    daemon.qmp.job_wait('j', 'concluded')
    assert exported(daemon) == 'n'
    daemon.qmp('job-dismiss', id='j')


def check_good_end(daemon, tmp, moment):
    if moment != 'completing':
        if moment == 'copy':
            ready(daemon)
        daemon.qmp('job-complete', id='j')
    data = daemon.qmp.event('BLOCK_JOB_COMPLETED', 20, device='j')['data']
    assert 'error' not in data
    daemon.qmp.job_wait('j', 'concluded')
    assert exported(daemon) == 't'
    daemon.qmp('job-dismiss', id='j')
    same(tmp)


@pytest.mark.parametrize('moment', MOMENTS)
@pytest.mark.parametrize('error', ERRORS)
@pytest.mark.parametrize('side', ['source', 'target'])
@pytest.mark.parametrize('policy', POLICIES)
def test_error_table(daemon, tmp, policy, side, error, moment):
    """The action that is told, the states, the guest's view, and both ends that are left."""
    number, once = ERRORS[error]
    handle = begin(daemon, tmp, side, number, once, policy, moment)
    provoke(daemon, handle, tmp, side, moment)
    action = action_of(policy, number)
    assert failure(daemon) == {'device': 'j', 'operation': 'read' if side == 'source' else 'write', 'action': action}
    if action == 'report':
        check_failed(daemon, side)
    elif action == 'stop':
        wait_until(lambda: block_job(daemon)['status'] == ('paused' if moment == 'copy' else 'standby'), 10, 'it stops')
        info = block_job(daemon)
        assert info['io-status'] == ('nospace' if number == errno.ENOSPC else 'failed') and info['paused']
        daemon.qmp('job-resume', id='j')
        if not once:
            assert failure(daemon)['action'] == 'stop'
            daemon.qmp('job-cancel', id='j')
            daemon.qmp.event('BLOCK_JOB_CANCELLED', 10, device='j')
            assert exported(daemon) == 'n'
        else:
            check_good_end(daemon, tmp, moment)
    elif once:
        check_good_end(daemon, tmp, moment)
    else:
        assert failure(daemon)['action'] == 'ignore'
        assert block_job(daemon)['status'] == ('running' if moment == 'copy' else 'ready')
        daemon.qmp('block-job-cancel', device='j', force=True)
        daemon.qmp.event('BLOCK_JOB_CANCELLED', 10, device='j')
        assert exported(daemon) == 'n'
    # The guest noticed nothing, and goes on.
    if side == 'target' and moment != 'copy':
        assert handle.pread(512, BAD) == b'late' * 128
    handle.pwrite(b'on' * 256, 2 * MiB)
    assert handle.pread(512, 2 * MiB) == b'on' * 256


@pytest.mark.parametrize('mode', ['background', 'write-blocking'])
@pytest.mark.parametrize('moment', ['copy', 'ready', 'completing'])
def test_target_that_never_returns(start, tmp, fuse_disk, mode, moment):
    """The job waits, a forced cancel ends it at once at any moment, and the guest goes on."""
    daemon = start()
    daemon.serve_nbd()
    daemon.add_file('n', fill(tmp / 'n.img', SIZE, seed=1))
    daemon.add_file('t', fuse_disk.path)
    handle = nbd_connect(daemon.export('n'))
    mirror(daemon, copy_mode=mode, speed=MiB if moment == 'copy' else 0)
    if moment == 'copy':
        wait_until(lambda: daemon.qmp.job('j')['current-progress'] > 0, 10, 'it has begun')
    else:
        ready(daemon)
    fuse_disk.stop()
    if moment == 'copy':
        daemon.qmp('block-job-set-speed', device='j', speed=0)
    else:
        handle.aio_pwrite(nbd.Buffer.from_bytearray(bytearray(b'x' * 4096)), BAD)
        handle.poll(100)
    fuse_disk.wait_stuck(daemon)
    if moment == 'completing':
        daemon.qmp('job-complete', id='j')
    daemon.qmp('block-job-cancel', device='j', force=True)
    daemon.qmp.event('BLOCK_JOB_CANCELLED', 2, device='j')
    daemon.qmp.job_wait('j', 'null', 2)
    while handle.aio_in_flight():
        assert handle.poll(5000) > 0
    handle.pwrite(b'on' * 256, 2 * MiB)
    assert exported(daemon) == 'n' and handle.pread(512, 2 * MiB) == b'on' * 256
    fuse_disk.go_on()

