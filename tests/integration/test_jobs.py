# SPDX-License-Identifier: BSD-2-Clause
"""Jobs: states and their events in their order, verbs and when they are allowed, queries, blockdev-create."""
import os
import re

import pytest

from weirtest import KiB, MiB, QmpError, file_bytes, fill, is_peer, nbd_connect, run, wait_until

SIZE = 4 * MiB


@pytest.fixture
def disks(daemon, tmp):
    """A daemon with the nodes n (exported, of random data) and t."""
    daemon.add_file('n', fill(tmp / 'n.img', SIZE, seed=1))
    daemon.add_file('t', fill(tmp / 't.img', SIZE, seed=2))
    daemon.export('n')
    return daemon


def mirror(daemon, **options):
    arguments = {'job-id': 'j', 'device': 'n', 'target': 't', 'sync': 'full'}
    arguments.update({key.replace('_', '-'): value for key, value in options.items()})
    daemon.qmp('blockdev-mirror', arguments)


def until(daemon, status, job='j'):
    """Names of the job's events (states as they are) up to that state, without the pauses of graph changes."""
    names = []
    while not names or names[-1] != status:
        event = daemon.qmp.next_event(30)
        data = event.get('data', {})
        if job not in (data.get('id'), data.get('device')):
            continue
        name = data['status'] if event['event'] == 'JOB_STATUS_CHANGE' else event['event']
        if name == 'BLOCK_JOB_ERROR' and names[-1] == name:
            continue  # several requests may have been under way
        names.append(name)
        if names[-2:] == ['paused', 'running']:
            del names[-2:]
        if names[-2:] == ['standby', 'ready']:
            del names[-2:]
    return names


def error_of(daemon, command, **arguments):
    with pytest.raises(QmpError) as caught:
        daemon.qmp(command, **arguments)
    return caught.value


def block_job(daemon, job='j'):
    return next((j for j in daemon.qmp('query-block-jobs') if j['device'] == job), None)


def failing(daemon, node, kind, **rule):
    """A node whose requests of that kind fail."""
    daemon.qmp('blockdev-add', {'driver': 'blkdebug', 'node-name': node, 'inject-error': [
        dict({'event': 'none', 'iotype': kind}, **rule)],
        'image': {'driver': 'null-co', 'size': SIZE, 'read-zeroes': True}})


# ---- states ----

START = ['created', 'running']
READY = START + ['ready', 'BLOCK_JOB_READY']
GOOD_END = ['waiting', 'pending', 'BLOCK_JOB_COMPLETED', 'concluded', 'null']
CANCELLED = ['aborting', 'BLOCK_JOB_CANCELLED', 'concluded', 'null']

ENDS = {
    'job-complete': ({'id': 'j'}, GOOD_END), 'block-job-complete': ({'device': 'j'}, GOOD_END),
    'block-job-cancel': ({'device': 'j'}, GOOD_END), 'job-cancel': ({'id': 'j'}, CANCELLED),
    'block-job-cancel force': ({'device': 'j', 'force': True}, CANCELLED),
}


@pytest.mark.parametrize('end', ENDS)
@pytest.mark.parametrize('mode', ['background', 'write-blocking'])
def test_job_transitions(disks, mode, end):
    """Every event of a mirror's life, in its order."""
    mirror(disks, copy_mode=mode)
    begin = until(disks, 'BLOCK_JOB_READY')
    assert [n for n in begin if n not in ('paused', 'running')] == [n for n in READY if n != 'running'], begin
    arguments, expected = ENDS[end]
    disks.qmp(end.split()[0], arguments)
    assert [n for n in until(disks, 'null') if n not in ('standby', 'ready')] == expected
    assert disks.qmp('query-jobs') == [] == disks.qmp('query-block-jobs')


@pytest.mark.parametrize('command, arguments', [('job-cancel', {'id': 'j'}), ('block-job-cancel', {'device': 'j'}),
                                                ('block-job-cancel', {'device': 'j', 'force': True})])
def test_transitions_of_a_cancel_while_running(disks, command, arguments):
    """Before it is ready any cancel is at once."""
    mirror(disks, speed=64 * KiB)
    disks.qmp.job_wait('j', 'running')
    disks.qmp(command, arguments)
    assert [n for n in until(disks, 'null') if n not in ('paused', 'running')] == CANCELLED


def test_transitions_of_a_failure(disks):
    failing(disks, 'bad', 'write')
    mirror(disks, target='bad')
    assert [n for n in until(disks, 'null') if n not in ('paused', 'running')] == [
        'created', 'BLOCK_JOB_ERROR', 'aborting', 'BLOCK_JOB_COMPLETED', 'concluded', 'null']


def test_transitions_of_a_create(daemon, tmp):
    create(daemon, tmp / 'new.img')
    names = until(daemon, 'concluded')
    assert names == ['created', 'running', 'waiting', 'pending', 'concluded']
    daemon.qmp('job-dismiss', id='j')
    assert until(daemon, 'null') == ['null']


def test_transitions_of_a_paused_job(disks):
    """Complete while standby acts after the resume."""
    mirror(disks)
    disks.qmp.event('BLOCK_JOB_READY')
    disks.qmp('job-pause', id='j')
    disks.qmp.job_wait('j', 'standby')
    disks.qmp('job-complete', id='j')
    assert block_job(disks)['status'] == 'standby'
    disks.qmp('job-resume', id='j')
    names = until(disks, 'null')
    assert [n for n in names if n not in ('ready', 'standby')] == GOOD_END and names[0] == 'ready'


# ---- verbs ----

def progress(daemon):
    job = daemon.qmp.job('j')
    return job['current-progress'], job['total-progress']


def test_job_pause_resume(disks):
    """A paused job does not go on; once each is enough."""
    mirror(disks, speed=256 * KiB)
    wait_until(lambda: progress(disks)[0] > 0, 10)
    disks.qmp('job-pause', id='j')
    disks.qmp.job_wait('j', 'paused')
    before = progress(disks)
    info = block_job(disks)
    assert info['paused'] and info['status'] == 'paused' and not info['busy']
    assert disks.qmp.job('j')['status'] == 'paused'
    assert error_of(disks, 'job-pause', id='j').text == 'Job is already paused'
    disks.qmp('block-job-set-speed', device='j', speed=0)
    for _ in range(50):
        assert progress(disks) == before
    disks.qmp('job-resume', id='j')
    disks.qmp.event('BLOCK_JOB_READY')
    assert error_of(disks, 'job-resume', id='j').text == "Can't resume a job that was not paused"
    disks.qmp('job-pause', id='j')
    disks.qmp.job_wait('j', 'standby')
    assert not disks.qmp.job('j')['status'] == 'ready'
    disks.qmp('job-resume', id='j')
    disks.qmp.job_wait('j', 'ready')


def test_guest_goes_on_while_a_mirror_is_paused(disks, tmp):
    """What is written meanwhile is copied afterwards."""
    handle = disks.nbd('n')
    mirror(disks)
    disks.qmp.event('BLOCK_JOB_READY')
    disks.qmp('job-pause', id='j')
    disks.qmp.job_wait('j', 'standby')
    for i in range(64):
        handle.pwrite(bytes([i + 1]) * 512, i * 64 * KiB)
    disks.qmp('job-resume', id='j')
    disks.qmp('block-job-cancel', device='j')
    disks.qmp.job_wait('j', 'null')
    run('cmp', tmp / 'n.img', tmp / 't.img')


def test_job_cancel(disks, tmp):
    """Drops the job at once, in any state; the source stays, the target is free."""
    for state in ('running', 'paused', 'ready', 'standby', 'pending'):
        mirror(disks, speed=64 * KiB if state in ('running', 'paused') else 0, auto_finalize=state != 'pending')
        disks.qmp.job_wait('j', 'running' if state in ('running', 'paused') else 'ready')
        if state == 'pending':
            disks.qmp('job-complete', id='j')
        elif state in ('paused', 'standby'):
            disks.qmp('job-pause', id='j')
        if state != 'running' and state != 'ready':
            disks.qmp.job_wait('j', state)
        disks.qmp('job-cancel', id='j')
        disks.qmp.event('BLOCK_JOB_CANCELLED', device='j')
        disks.qmp.job_wait('j', 'null')
        assert disks.qmp('query-block-exports')[0]['node-name'] == 'n'
    disks.qmp('blockdev-del', node_name='t')
    run('qemu-io', '-f', 'raw', tmp / 't.img', '-c', 'write 0 512')


def test_job_complete(disks, tmp):
    """Users of the source move to the target, which is the same; the source is free."""
    handle = disks.nbd('n')
    mirror(disks)
    disks.qmp.event('BLOCK_JOB_READY')
    disks.qmp('job-complete', id='j')
    disks.qmp.job_wait('j', 'null')
    assert disks.qmp('query-block-exports')[0]['node-name'] == 't'
    run('cmp', tmp / 'n.img', tmp / 't.img')
    handle.pwrite(b'after' * 100, 4096)
    handle.flush()
    assert file_bytes(tmp / 't.img', 4096, 500) == b'after' * 100 != file_bytes(tmp / 'n.img', 4096, 500)
    disks.qmp('blockdev-del', node_name='n')
    assert error_of(disks, 'blockdev-del', node_name='t').text in ('Node t is in use', 'Block device t is in use')


def test_job_auto_finalize(disks):
    """Without it the job waits before its last step, and the graph is what it was until then."""
    mirror(disks, auto_finalize=False)
    disks.qmp.event('BLOCK_JOB_READY')
    assert "cannot accept command verb 'finalize'" in error_of(disks, 'job-finalize', id='j').text
    disks.qmp('job-complete', id='j')
    assert disks.qmp.event('BLOCK_JOB_PENDING')['data'] == {'type': 'mirror', 'id': 'j'}
    assert disks.qmp.job('j')['status'] == 'pending'
    assert disks.qmp('query-block-exports')[0]['node-name'] != 't'
    if not is_peer():  # there guests stand still from here on
        handle = disks.nbd('n')
        handle.pwrite(b'pending' * 10, 0)
    disks.qmp('job-finalize', id='j')
    names = until(disks, 'null')
    assert names == ['BLOCK_JOB_COMPLETED', 'concluded', 'null'], names
    assert disks.qmp('query-block-exports')[0]['node-name'] == 't'
    assert is_peer() or handle.pread(70, 0) == b'pending' * 10


def test_job_auto_dismiss(disks):
    """Without it the job stays until it is dismissed, and its id is taken."""
    mirror(disks, auto_dismiss=False)
    disks.qmp.event('BLOCK_JOB_READY')
    assert "cannot accept command verb 'dismiss'" in error_of(disks, 'job-dismiss', id='j').text
    disks.qmp('job-cancel', id='j')
    disks.qmp.job_wait('j', 'concluded')
    assert disks.qmp.job('j')['status'] == 'concluded' == block_job(disks)['status']
    assert 'canceled' in disks.qmp.job('j')['error']
    with pytest.raises(QmpError) as caught:
        mirror(disks)
    assert caught.value.text == "Job ID 'j' already in use"
    for verb in ('job-cancel', 'job-pause', 'job-complete', 'job-finalize'):
        text = error_of(disks, verb, id='j').text
        assert text == f"Job 'j' in state 'concluded' cannot accept command verb '{verb[4:]}'"
    mirror(disks, job_id='other')  # the nodes are free
    disks.qmp.event('BLOCK_JOB_READY', device='other')
    disks.qmp('job-dismiss', id='j')
    disks.qmp.job_wait('j', 'null')
    assert disks.qmp.job('j') is None


def test_block_job_verbs(disks):
    """The same verbs by their older names; an unknown job is of another class there."""
    for verb in ('pause', 'resume', 'complete', 'dismiss', 'finalize', 'cancel'):
        argument = 'id' if verb in ('dismiss', 'finalize') else 'device'
        error = error_of(disks, f'block-job-{verb}', **{argument: 'nope'})
        assert (error.error_class, error.text) == ('DeviceNotActive', "Block job 'nope' not found")
        error = error_of(disks, f'job-{verb}', id='nope')
        assert (error.error_class, error.text) == ('GenericError', 'Job not found')
    mirror(disks, auto_finalize=False, auto_dismiss=False)
    disks.qmp.event('BLOCK_JOB_READY')
    disks.qmp('block-job-pause', device='j')
    disks.qmp.job_wait('j', 'standby')
    disks.qmp('block-job-resume', device='j')
    disks.qmp.job_wait('j', 'ready')
    disks.qmp('block-job-complete', device='j')
    disks.qmp.job_wait('j', 'pending')
    disks.qmp('block-job-finalize', id='j')
    disks.qmp.job_wait('j', 'concluded')
    disks.qmp('block-job-dismiss', id='j')
    disks.qmp.job_wait('j', 'null')
    assert disks.qmp('query-block-exports')[0]['node-name'] == 't'


def test_block_job_cancel(disks, tmp):
    """A ready mirror ends well, without pivot; by force it is dropped; a paused one only by force."""
    handle = disks.nbd('n')
    mirror(disks)
    ready = disks.qmp.event('BLOCK_JOB_READY')['data']
    handle.pwrite(b'last words', 12345)
    disks.qmp('block-job-cancel', device='j')
    data = disks.qmp.event('BLOCK_JOB_COMPLETED')['data']
    assert set(data) == {'type', 'device', 'len', 'offset', 'speed'} == set(ready) and data['len'] == data['offset']
    disks.qmp.job_wait('j', 'null')
    run('cmp', tmp / 'n.img', tmp / 't.img')
    assert disks.qmp('query-block-exports')[0]['node-name'] == 'n'
    mirror(disks, speed=3 * MiB)
    disks.qmp.event('BLOCK_JOB_READY')
    disks.qmp('job-pause', id='j')
    disks.qmp.job_wait('j', 'standby')
    assert 'paused' in error_of(disks, 'block-job-cancel', device='j').text
    disks.qmp('block-job-cancel', device='j', force=True)
    data = disks.qmp.event('BLOCK_JOB_CANCELLED')['data']
    assert set(data) == {'type', 'device', 'len', 'offset', 'speed'}
    assert (data['type'], data['device'], data['speed']) == ('mirror', 'j', 3 * MiB)
    disks.qmp.job_wait('j', 'null')
    assert disks.qmp('query-block-exports')[0]['node-name'] == 'n'


def test_verbs_in_wrong_states(disks):
    mirror(disks, speed=64 * KiB)
    disks.qmp.job_wait('j', 'running')
    for verb in ('complete', 'finalize', 'dismiss'):
        error = error_of(disks, f'job-{verb}', id='j')
        assert re.fullmatch(f"Job 'j' in state '(running|paused)' cannot accept command verb '{verb}'", error.text)
        assert error.error_class == 'GenericError'


def test_set_speed_errors(disks):
    mirror(disks, speed=64 * KiB)
    assert error_of(disks, 'block-job-set-speed', device='j', speed=-1)
    assert block_job(disks)['speed'] == 64 * KiB
    disks.qmp('job-cancel', id='j')
    disks.qmp.job_wait('j', 'null')
    with pytest.raises(QmpError):
        mirror(disks, speed=-1)


# ---- queries ----

def test_query_jobs(disks):
    assert disks.qmp('query-jobs') == []
    mirror(disks, speed=64 * KiB)
    disks.qmp.job_wait('j', 'running')
    job, = disks.qmp('query-jobs')
    assert set(job) == {'id', 'type', 'status', 'current-progress', 'total-progress'}
    assert (job['id'], job['type'], job['status']) == ('j', 'mirror', 'running')
    assert 0 <= job['current-progress'] <= job['total-progress'] <= SIZE
    assert job['current-progress'] < SIZE or is_peer()  # it counts what it has begun
    disks.qmp('block-job-set-speed', device='j', speed=0)
    disks.qmp.event('BLOCK_JOB_READY')
    job, = disks.qmp('query-jobs')
    assert job['status'] == 'ready' and job['current-progress'] == job['total-progress'] == SIZE


def test_query_block_jobs(disks, tmp):
    """Every member, in every state; jobs that move no data are not among them."""
    mirror(disks, speed=MiB, auto_finalize=False, auto_dismiss=False)
    disks.qmp.job_wait('j', 'running')
    info = block_job(disks)
    members = {'type', 'device', 'len', 'offset', 'busy', 'paused', 'speed', 'io-status', 'ready', 'status',
               'auto-finalize', 'auto-dismiss'} | (set() if is_peer() else {'actively-synced', 'x-converges'})
    assert set(info) == members
    assert (info['type'], info['device'], info['speed'], info['ready']) == ('mirror', 'j', MiB, False)
    assert info['io-status'] == 'ok' and not info['paused'] and info['offset'] <= info['len'] == SIZE
    assert info['offset'] < SIZE or is_peer()
    assert info['auto-finalize'] is False and info['auto-dismiss'] is False
    disks.qmp('block-job-set-speed', device='j', speed=0)
    disks.qmp.event('BLOCK_JOB_READY')
    info = block_job(disks)
    assert info['ready'] and info['status'] == 'ready' and info['offset'] == info['len'] and info['speed'] == 0
    create(disks, tmp / 'new.img', job_id='c')
    disks.qmp.job_wait('c', 'concluded')
    assert {j['device'] for j in disks.qmp('query-block-jobs')} == {'j'}
    assert {j['id'] for j in disks.qmp('query-jobs')} == {'j', 'c'}
    disks.qmp('job-cancel', id='j')
    disks.qmp.job_wait('j', 'concluded')
    info = block_job(disks)
    assert info['status'] == 'concluded' and info['error'] and not info['busy']


def test_several_jobs(start, tmp):
    """Many mirrors at one time, each with its own events."""
    daemon = start()
    for i in range(8):
        for kind in 'nt':
            daemon.add_file(f'{kind}{i}', fill(tmp / f'{kind}{i}.img', MiB, seed=i if kind == 'n' else 99))
        mode = ('background', 'write-blocking')[i % 2]
        mirror(daemon, job_id=f'j{i}', device=f'n{i}', target=f't{i}', copy_mode=mode)
    wait_until(lambda: all(j['status'] == 'ready' for j in daemon.qmp('query-jobs')), 20)
    for i in range(8):
        daemon.qmp('job-complete', id=f'j{i}')
    wait_until(lambda: not daemon.qmp('query-jobs'), 20)
    for i in range(8):
        run('cmp', tmp / f'n{i}.img', tmp / f't{i}.img')


# ---- blockdev-create ----

def create(daemon, path, size=SIZE, job_id='j', **options):
    daemon.qmp('blockdev-create', job_id=job_id, options=dict(
        {'driver': 'file', 'filename': str(path), 'size': size}, **options))


def test_blockdev_create(daemon, tmp):
    """A file of the size, empty; one that is there already is cut first; the job stays until it is dismissed."""
    path = tmp / 'new.img'
    for size in (SIZE, 512, 0, MiB + 512):
        if size == 512:
            fill(path, MiB)
        create(daemon, path, size)
        daemon.qmp.job_wait('j', 'concluded')
        assert daemon.qmp.job('j')['type'] == 'create' and 'error' not in daemon.qmp.job('j')
        assert os.path.getsize(path) == size and os.stat(path).st_blocks <= 8
        daemon.qmp('job-dismiss', id='j')
    daemon.add_file('n', path)
    assert nbd_connect(daemon.export('n')).get_size() == MiB + 512


def test_blockdev_create_failures(daemon, tmp):
    """What is wrong with the file is found by the job, and says which file."""
    path = tmp / 'missing' / 'new.img'
    create(daemon, path)
    daemon.qmp.job_wait('j', 'concluded')
    error = daemon.qmp.job('j')['error']
    assert 'No such file or directory' in error and (str(path) in error or is_peer()), error
    daemon.qmp('job-dismiss', id='j')
    fill(tmp / 'used.img', MiB)
    daemon.add_file('n', tmp / 'used.img')
    daemon.export('n')
    create(daemon, tmp / 'used.img')
    daemon.qmp.job_wait('j', 'concluded')
    assert 'lock' in daemon.qmp.job('j')['error']
    assert os.path.getsize(tmp / 'used.img') == MiB and os.stat(tmp / 'used.img').st_blocks
    daemon.qmp('job-dismiss', id='j')
    for wrong in ({'driver': 'null-co'}, {'driver': 'file', 'filename': 'x'}, {'driver': 'file', 'size': 5},
                  {'driver': 'file', 'filename': str(tmp / 'x'), 'size': -1},
                  {'driver': 'file', 'filename': str(tmp / 'x'), 'size': 512, 'preallocation': 'some'}):
        try:
            daemon.qmp('blockdev-create', job_id='k', options=wrong)
        except QmpError as error:
            assert error.error_class == 'GenericError'
        else:
            daemon.qmp.job_wait('k', 'concluded')
            assert daemon.qmp.job('k')['error']
            daemon.qmp('job-dismiss', id='k')


@pytest.mark.parametrize('mode', ['off', 'falloc', 'full'])
def test_blockdev_create_preallocation(daemon, tmp, mode):
    """How much space the new file takes at once; it reads as zeroes."""
    path = tmp / 'new.img'
    create(daemon, path, preallocation=mode)
    daemon.qmp.job_wait('j', 'concluded')
    assert 'error' not in daemon.qmp.job('j')
    assert os.path.getsize(path) == SIZE and file_bytes(path, 0, SIZE) == bytes(SIZE)
    taken = os.stat(path).st_blocks * 512
    assert (taken >= SIZE) == (mode != 'off') and (taken <= 4096) == (mode == 'off')
    daemon.qmp('job-dismiss', id='j')


def test_create_is_not_a_block_job(daemon, tmp):
    create(daemon, tmp / 'new.img')
    daemon.qmp.job_wait('j', 'concluded')
    assert error_of(daemon, 'block-job-dismiss', id='j').error_class == 'DeviceNotActive'
    daemon.qmp('job-dismiss', id='j')
