# SPDX-License-Identifier: BSD-2-Clause
"""block-commit: layers of a chain are brought down into a lower one, those that nobody writes to and the head."""
import os
import subprocess

import pytest

from weirtest import KiB, MiB, QmpError, nbd_connect, run, wait_until
from weirtest.chain import (DATA, SIZE, children, depths, graph, header, layer, make_chain, open_chain, put,
                            refused)
from weirtest.qcow2 import sound

CLUSTER = 64 * KiB


def commit(daemon, **options):
    daemon.qmp('block-commit', dict({'job-id': 'j', 'device': 'top'}, **{
        k.replace('_', '-'): v for k, v in options.items()}))


def done(daemon):
    event = daemon.qmp.event('BLOCK_JOB_COMPLETED', 20, device='j')
    wait_until(lambda: not daemon.qmp('query-jobs'), 10, 'the job is gone')
    return event['data']


def nodes(daemon):
    return {node['node-name']: node for node in daemon.qmp('query-named-block-nodes')}


def test_commit_between(three, tmp):
    """A layer in the middle goes down into the base, under a guest; the base is read-only before and afterwards."""
    guest = nbd_connect(three.export('top', 'e'))
    commit(three, top_node='mid', filter_node_name='flt', auto_finalize=False, auto_dismiss=False)
    three.qmp.job_wait('j', 'pending')
    assert nodes(three)['flt']['drv'] == 'commit_top' and not nodes(three)['base']['ro']
    assert children(three, 'top')['backing'] == 'flt'
    three.qmp('job-finalize', id='j')
    three.qmp.job_wait('j', 'concluded')
    three.qmp('job-dismiss', id='j')
    assert children(three, 'top')['backing'] == 'base' and 'flt' not in nodes(three)
    assert nodes(three)['base']['ro']
    assert guest.pread(SIZE, 0) == DATA
    three.qmp('blockdev-del', {'node-name': 'mid'})
    three.stop()
    assert header(tmp) == (str(tmp / 'base.qcow2'), 'qcow2')
    assert depths(tmp, 'top') == [(0, 2 * MiB, 1), (2 * MiB, MiB, 0), (3 * MiB, MiB, 1)]
    run('qemu-io', '-f', 'qcow2', '-r', '-c', f'read -q -P 6 {MiB} {MiB}', tmp / 'base.qcow2')
    for name in 'base', 'top':
        sound(tmp / f'{name}.qcow2')


@pytest.mark.parametrize('options', [{}, {'backing-file': 'base.qcow2'}, {'backing-mask-protocol': True}])
def test_commit_by_file(three, tmp, options):
    """Layers are named by their files; the name that the layer above stores can be given."""
    commit(three, top=str(tmp / 'mid.qcow2'), base=str(tmp / 'base.qcow2'), **options)
    assert 'error' not in done(three)
    assert header(tmp) == (options.get('backing-file', str(tmp / 'base.qcow2')), 'qcow2')


def test_commit_head(three, tmp):
    """The head: guests' writes reach the base too, and at the end they are on it."""
    uri = three.export('top', 'e')
    fio = ['fio', '--name=g', '--ioengine=nbd', f'--uri={uri}', '--rw=randwrite', '--bs=4k', '--iodepth=16',
           f'--size={SIZE}', '--verify=crc32c', '--verify_backlog=64', '--time_based', '--runtime=3']
    with subprocess.Popen(fio, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=tmp) as guest:
        commit(three, speed=4 * MiB)
        three.qmp.event('BLOCK_JOB_READY', 20, device='j')
        assert three.qmp('query-block-jobs')[0]['type'] == 'commit'
        three.qmp('job-complete', id='j')
        assert 'error' not in done(three)
        output = guest.communicate(timeout=60)[0].decode()
    assert guest.returncode == 0, output
    assert three.qmp('query-block-exports')[0]['node-name'] == 'base'
    client = nbd_connect(three.uri('e'))
    seen = client.pread(SIZE, 0)
    client.shutdown()
    for node in 'top', 'mid':
        three.qmp('blockdev-del', {'node-name': node})
    three.stop()
    sound(tmp / 'base.qcow2')
    run('qemu-img', 'convert', '-O', 'raw', tmp / 'base.qcow2', tmp / 'base.raw')
    assert (tmp / 'base.raw').read_bytes() == seen


def test_commit_head_without_guest(three, tmp):
    """Nobody writes: still it gets ready, and is completed."""
    commit(three)
    three.qmp.event('BLOCK_JOB_READY', 20, device='j')
    three.qmp('job-complete', id='j')
    assert 'error' not in done(three)
    three.stop()
    sound(tmp / 'base.qcow2')
    run('qemu-img', 'convert', '-O', 'raw', tmp / 'base.qcow2', tmp / 'base.raw')
    assert (tmp / 'base.raw').read_bytes() == DATA


@pytest.mark.parametrize('top', ['top', 'mid'])
def test_commit_cancelled(three, tmp, top):
    """The graph is what it was, the base is read-only again, and the disk reads as before."""
    before = graph(three)
    commit(three, top_node=top, speed=65536)
    wait_until(lambda: three.qmp.job('j')['status'] in ('running', 'ready'), 10, 'it runs')
    three.qmp('job-cancel', id='j')
    wait_until(lambda: not three.qmp('query-jobs'), 10, 'the job is gone')
    wait_until(lambda: graph(three) == before, 10, 'the graph is as it was')
    assert nodes(three)['base']['ro']
    assert nbd_connect(three.export('top', 'e', writable=False)).pread(SIZE, 0) == DATA
    three.stop()
    for name in 'base', 'mid', 'top':
        sound(tmp / f'{name}.qcow2')


@pytest.mark.parametrize('top', ['top', 'mid'])
def test_commit_short_layers(daemon, tmp, top):
    """A base that is shorter grows; a layer in the middle that ends early shows zeroes, not what the base has there."""
    make_chain(tmp, 'base', size=2 * MiB)
    put(tmp, 'base', 0, 2 * MiB, 5)
    for name, below, size in ('mid', 'base', MiB), ('top', 'mid', SIZE):
        run('qemu-img', 'create', '-q', '-f', 'qcow2', '-b', tmp / f'{below}.qcow2', '-F', 'qcow2',
            tmp / f'{name}.qcow2', str(size))
    put(tmp, 'top', 3 * MiB, MiB, 7)
    open_chain(daemon, tmp, 'base', 'mid', 'top')
    expected = b'\5' * MiB + bytes(2 * MiB) + b'\7' * MiB
    guest = nbd_connect(daemon.export('top', 'e'))
    assert guest.pread(SIZE, 0) == expected
    commit(daemon, top_node=top)
    if top == 'top':
        daemon.qmp.event('BLOCK_JOB_READY', 20, device='j')
        daemon.qmp('job-complete', id='j')
    assert 'error' not in done(daemon)
    assert guest.pread(SIZE, 0) == expected


def test_commit_refused(three, tmp):
    """In the words that managers know, and nothing is left."""
    three.qmp('blockdev-add', {'driver': 'null-co', 'node-name': 'n'})
    before = graph(three)

    def fails(**options):
        return refused(commit, three, **options)
    with pytest.raises(QmpError) as caught:
        commit(three, device='nix')
    assert caught.value.error_class == 'DeviceNotFound' and caught.value.text == "Device 'nix' not found"
    assert refused(three.qmp, 'block-commit', device='top') == "Invalid job ID ''"
    assert fails(base='nix') == "Can't find 'nix' in the backing chain"
    assert fails(base_node='nix') == "Cannot find device='' nor node-name='nix'"
    assert fails(base_node='n') == "'n' is not in this backing file chain"
    assert fails(top_node='nix') == "Cannot find device='' nor node-name='nix'"
    assert fails(top_node='n') == "'n' is not in this backing file chain"
    assert fails(top='nix') == 'Top image file nix not found'
    for options in {'base_node': 'top'}, {'top_node': 'base'}, {'top_node': 'mid', 'base_node': 'mid'}:
        assert fails(**options) == 'cannot commit an image into itself'
    assert fails(top_node='base', base_node='mid') == "'mid' is not in this backing file chain"
    assert fails(base='x', base_node='base') == "'base-node' and 'base' are mutually exclusive"
    assert fails(top='x', top_node='mid') == "'top-node' and 'top' are mutually exclusive"
    assert fails(backing_file='x') == "'backing-file' specified, but 'top' is the active layer"
    assert fails(device='base') == 'Need a root block node'
    assert fails(device='n') == 'cannot commit an image into itself'
    assert fails(speed=-1) == "Parameter 'speed' expects a non-negative value"
    assert fails(top_node='mid', filter_node_name='n') == "Duplicate nodes with node-name='n'"
    assert graph(three) == before and three.qmp('query-jobs') == []


@pytest.mark.parametrize('side', ['read', 'write'])
def test_commit_on_error(daemon, tmp, side):
    """A layer that cannot be read, a base that takes no more: the job fails, and all is as it was."""
    make_chain(tmp, 'base', 'mid', 'top')
    put(tmp, 'mid', MiB, MiB, 6)
    bad = 'mid' if side == 'read' else 'base'

    def file(name):
        plain = {'driver': 'file', 'filename': str(tmp / f'{name}.qcow2')}
        if name != bad:
            return plain
        rule = {'event': 'none', 'iotype': side, 'immediately': True}
        return {'driver': 'blkdebug', 'image': plain, 'inject-error': [
            dict(rule, sector=MiB // 512) if side == 'read' else dict(rule, errno=28)]}
    for name, below in ('base', None), ('mid', 'base'), ('top', 'mid'):
        daemon.qmp('blockdev-add', dict(layer(tmp, name, backing=below, **{'read-only': name != 'top'}),
                                        file=file(name)))
    before = graph(daemon)
    commit(daemon, top_node='mid')
    event = daemon.qmp.event('BLOCK_JOB_ERROR', 10, device='j')['data']
    assert event['operation'] == side and event['action'] == 'report'
    assert 'error' in done(daemon)
    wait_until(lambda: graph(daemon) == before, 10, 'the graph is as it was')
    assert nodes(daemon)['base']['ro'] and header(tmp) == (str(tmp / 'mid.qcow2'), 'qcow2')


def test_commit_larger_base(daemon, tmp):
    """The disk would grow under its guest: refused before anything is changed."""
    make_chain(tmp, 'base', size=2 * SIZE)
    run('qemu-img', 'create', '-q', '-f', 'qcow2', '-b', tmp / 'base.qcow2', '-F', 'qcow2', tmp / 'top.qcow2',
        str(SIZE))
    open_chain(daemon, tmp, 'base', 'top')
    before = graph(daemon)
    assert refused(commit, daemon) == "Base 'base' is larger than 'top': the disk would grow with the commit"
    assert graph(daemon) == before


def test_commit_keeps_writers_out(three):
    """What a writer changed in a layer that goes would be lost: it is refused meanwhile."""
    commit(three, top_node='mid', auto_finalize=False)
    three.qmp.job_wait('j', 'pending')
    assert refused(three.export, 'mid', 'w') == 'Cannot export read-only node as writable'
    three.qmp('job-finalize', id='j')
    assert 'error' not in done(three)


def test_commit_beside_a_stream(three):
    """Two jobs do not work on one chain at a time."""
    three.qmp('block-stream', {'job-id': 's', 'device': 'top', 'speed': 65536, 'filter-node-name': 'f'})
    assert refused(commit, three, device='f') == "Cannot change 'file' link from 'f' to 'top'"
    three.qmp('job-cancel', id='s')
    wait_until(lambda: 'f' not in nodes(three), 20, 'the filter is gone')
    commit(three, speed=65536)
    text = refused(three.qmp, 'block-stream', {'job-id': 's', 'device': 'top', 'base-node': 'base'})
    assert text == "Cannot change 'backing' link from 'top' to 'mid'"


def test_004_10_commit_through_filters(daemon, tmp):
    """Filters between and above the layers; those between go with them."""
    make_chain(tmp, 'base', 'mid', 'top')
    put(tmp, 'base', 0, SIZE, 5)
    put(tmp, 'mid', MiB, MiB, 6)
    daemon.qmp('object-add', {'qom-type': 'throttle-group', 'id': 'g'})
    throttle = {'driver': 'throttle', 'throttle-group': 'g', 'read-only': True}
    open_chain(daemon, tmp, 'base', 'mid', 'top', between={'base': dict(throttle, **{'node-name': 'f'}),
                                                            'mid': dict(throttle, **{'node-name': 'g'})})
    guest = nbd_connect(daemon.export('top', 'e'))
    commit(daemon, top_node='mid')
    assert 'error' not in done(daemon)
    assert children(daemon, 'top')['backing'] == 'g' and children(daemon, 'g')['file'] == 'base'
    assert guest.pread(SIZE, 0) == b'\5' * MiB + b'\6' * MiB + b'\5' * (2 * MiB)
    daemon.stop()
    assert header(tmp) == (str(tmp / 'base.qcow2'), 'qcow2')


def test_004_24_base_is_read_only_again(three, tmp):
    """After a commit that was given up nothing holds the base open for writing."""
    commit(three, top_node='mid', speed=65536)
    three.qmp('job-cancel', id='j')
    wait_until(lambda: not three.qmp('query-jobs'), 10, 'the job is gone')
    flags = [os.readlink(f'/proc/{three.pid}/fd/{fd}') for fd in os.listdir(f'/proc/{three.pid}/fd')
             if 'base.qcow2' in os.readlink(f'/proc/{three.pid}/fd/{fd}')
             and int(open(f'/proc/{three.pid}/fdinfo/{fd}', encoding='utf-8').read().split('flags:')[1].split()[0], 8)
             & os.O_ACCMODE != os.O_RDONLY]
    assert not flags
