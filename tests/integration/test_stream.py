# SPDX-License-Identifier: BSD-2-Clause
"""block-stream: data of backing files is brought into a node while its guest writes, and the chain becomes shorter."""
import os
import subprocess

import pytest

from weirtest import KiB, MiB, nbd_connect, run, wait_until
from weirtest.chain import (DATA, SIZE, children, depths, graph, header, layer, make_chain, open_chain, put,
                            refused)
from weirtest.qcow2 import sound

CLUSTER = 64 * KiB


def stream(daemon, **options):
    daemon.qmp('block-stream', dict({'job-id': 'j', 'device': 'top'}, **{
        k.replace('_', '-'): v for k, v in options.items()}))


def done(daemon, job='j'):
    event = daemon.qmp.event('BLOCK_JOB_COMPLETED', 20, device=job)
    wait_until(lambda: not daemon.qmp('query-jobs'), 10, 'the job is gone')
    return event['data']


def names(daemon):
    return [node['node-name'] for node in daemon.qmp('query-named-block-nodes')]


def test_stream(three, tmp):
    """The whole chain: afterwards the image stands alone, and the guest has seen nothing of it."""
    guest = nbd_connect(three.export('top', 'e'))
    stream(three, filter_node_name='flt')
    data = done(three)
    assert 'error' not in data and data['type'] == 'stream' and data['len'] == data['offset'] == SIZE
    assert children(three, 'top').keys() == {'file'} and 'flt' not in names(three)
    assert guest.pread(SIZE, 0) == DATA
    for node in 'mid', 'base':
        three.qmp('blockdev-del', {'node-name': node})
    three.stop()
    assert header(tmp) == (None, None)
    assert depths(tmp, 'top') == [(0, SIZE, 0)]
    sound(tmp / 'top.qcow2')


@pytest.mark.parametrize('way', ['base', 'base-node', 'bottom', 'backing-file'])
def test_stream_to_base(three, tmp, way):
    """Down to a layer that stays: its own data is not copied."""
    options = {'base': {'base': str(tmp / 'base.qcow2')}, 'base-node': {'base-node': 'base'},
               'bottom': {'bottom': 'mid'}, 'backing-file': {'base-node': 'base', 'backing-file': 'base.qcow2'}}[way]
    guest = nbd_connect(three.export('top', 'e'))
    stream(three, **options)
    assert 'error' not in done(three)
    assert children(three, 'top')['backing'] == 'base'
    assert guest.pread(SIZE, 0) == DATA
    three.qmp('blockdev-del', {'node-name': 'mid'})
    three.stop()
    assert header(tmp) == ('base.qcow2' if way == 'backing-file' else str(tmp / 'base.qcow2'), 'qcow2')
    assert depths(tmp, 'top') == [(0, MiB, 1), (MiB, 2 * MiB, 0), (3 * MiB, MiB, 1)]
    sound(tmp / 'top.qcow2')


def test_stream_short_layer(daemon, tmp):
    """A layer in the middle that ends early shows zeroes there: so does the top without it, not the base's data."""
    make_chain(tmp, 'base')
    put(tmp, 'base', 0, SIZE, 5)
    run('qemu-img', 'create', '-q', '-f', 'qcow2', '-b', tmp / 'base.qcow2', '-F', 'qcow2', tmp / 'mid.qcow2', str(MiB))
    run('qemu-img', 'create', '-q', '-f', 'qcow2', '-b', tmp / 'mid.qcow2', '-F', 'qcow2', tmp / 'top.qcow2', str(SIZE))
    open_chain(daemon, tmp, 'base', 'mid', 'top')
    guest = nbd_connect(daemon.export('top', 'e'))
    expected = b'\5' * MiB + bytes(SIZE - MiB)
    assert guest.pread(SIZE, 0) == expected
    stream(daemon, base_node='base')
    assert 'error' not in done(daemon)
    assert guest.pread(SIZE, 0) == expected


def test_stream_refused(three, tmp):
    """In the words that managers know, and nothing is left."""
    three.qmp('blockdev-add', {'driver': 'null-co', 'node-name': 'n'})
    three.qmp('blockdev-add', {'driver': 'copy-on-read', 'node-name': 'c', 'file': 'top'})
    before = graph(three)

    def fails(**options):
        return refused(stream, three, **options)
    assert fails(device='nix') == "Cannot find device='nix' nor node-name='nix'"
    assert refused(three.qmp, 'block-stream', device='top') == "Invalid job ID ''"
    assert fails(base='nix') == "Can't find 'nix' in the backing chain"
    assert fails(base_node='nix') == "Cannot find device='' nor node-name='nix'"
    assert fails(base_node='n') == "Node 'n' is not a backing image of 'top'"
    assert fails(base_node='top') == "Node 'top' is not a backing image of 'top'"
    assert fails(bottom='nix') == "Cannot find device='' nor node-name='nix'"
    assert fails(bottom='n') == "Node 'n' is not in a chain starting from 'top'"
    assert fails(bottom='c') == "Node 'c' is a filter, use a non-filter node as 'bottom'"
    assert fails(bottom='base', base_node='base') == "'bottom' and 'base-node' cannot be specified at the same time"
    assert fails(base='x', base_node='base') == "'base' and 'base-node' cannot be specified at the same time"
    assert fails(speed=-1) == "Parameter 'speed' expects a non-negative value"
    assert fails(backing_file='x') == 'backing file specified, but streaming the entire chain'
    assert fails(filter_node_name='c') == 'Duplicate nodes with node-name=\'c\''
    assert graph(three) == before and three.qmp('query-jobs') == []


def test_stream_verbs(three, tmp):
    """Speed, pause, finalize, dismiss; a cancel leaves the graph as it was."""
    before = graph(three)
    stream(three, speed=65536, auto_dismiss=False)
    three.qmp('job-pause', id='j')
    three.qmp.job_wait('j', 'paused')
    three.qmp('job-cancel', id='j')
    assert three.qmp.job_wait('j', 'concluded')
    three.qmp('job-dismiss', id='j')
    wait_until(lambda: graph(three) == before, 10, 'the graph is as it was')
    stream(three, speed=65536, auto_finalize=False, base_node='base')
    three.qmp('block-job-set-speed', device='j', speed=0)
    three.qmp.job_wait('j', 'pending')
    assert children(three, 'top')['backing'] == 'mid'
    three.qmp('job-finalize', id='j')
    assert 'error' not in done(three)
    assert children(three, 'top')['backing'] == 'base'


def test_stream_under_load(three, tmp):
    """The guest writes everywhere meanwhile: nothing of it is lost."""
    uri = three.export('top', 'e')
    fio = ['fio', '--name=g', '--ioengine=nbd', f'--uri={uri}', '--rw=randwrite', '--bs=4k', '--iodepth=16',
           f'--size={SIZE}', '--verify=crc32c', '--verify_backlog=64', '--time_based', '--runtime=3', '--loops=1']
    with subprocess.Popen(fio, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=tmp) as guest:
        stream(three, speed=2 * MiB)
        assert 'error' not in done(three)
        output = guest.communicate(timeout=60)[0].decode()
    assert guest.returncode == 0, output
    three.stop()
    sound(tmp / 'top.qcow2')
    assert all(depth == 0 for _, _, depth in depths(tmp, 'top'))


@pytest.mark.parametrize('policy', ['report', 'ignore', 'stop'])
def test_stream_on_error(daemon, tmp, policy):
    """A base that cannot be read in one place: the job fails, passes it over and fails at the end, or waits."""
    make_chain(tmp, 'base', 'top')
    put(tmp, 'base', 0, SIZE, 5)
    once = policy == 'stop'
    daemon.qmp('blockdev-add', dict(layer(tmp, 'base', backing=None, **{'read-only': True}), file={
        'driver': 'blkdebug', 'node-name': 'bad', 'image': {'driver': 'file', 'filename': str(tmp / 'base.qcow2')},
        'inject-error': [{'event': 'none', 'iotype': 'read', 'sector': (MiB + 5 * CLUSTER) // 512 + 1, 'once': once}]}))
    daemon.qmp('blockdev-add', layer(tmp, 'top', backing='base'))
    before = graph(daemon)
    stream(daemon, on_error=policy)
    event = daemon.qmp.event('BLOCK_JOB_ERROR', 10, device='j')['data']
    assert event['operation'] == 'read' and event['action'] == policy
    if policy == 'stop':
        daemon.qmp.job_wait('j', 'paused')
        daemon.qmp('job-resume', id='j')
        assert 'error' not in done(daemon)
        assert 'backing' not in children(daemon, 'top')
        return
    assert 'Input/output error' in done(daemon)['error']
    wait_until(lambda: graph(daemon) == before, 10, 'the graph is as it was')
    daemon.stop()
    found = depths(tmp, 'top')
    assert any(depth == 1 for _, _, depth in found)
    if policy == 'ignore':
        assert sum(length for _, length, depth in found if depth == 0) >= SIZE // 2
    assert header(tmp) == (str(tmp / 'base.qcow2'), 'qcow2')


# ---- filters in the chain ----

def test_004_20_bottom_keeps_filters(daemon, tmp):
    """With bottom a filter above the layer that stays is kept; with base-node of the layer itself it goes."""
    make_chain(tmp, 'base', 'mid', 'top')
    put(tmp, 'base', 0, SIZE, 5)
    put(tmp, 'mid', MiB, MiB, 6)
    daemon.qmp('object-add', {'qom-type': 'throttle-group', 'id': 'g'})
    throttle = {'driver': 'throttle', 'throttle-group': 'g', 'read-only': True}
    open_chain(daemon, tmp, 'base', 'mid', 'top', between={'base': dict(throttle, **{'node-name': 'f'})})
    assert children(daemon, 'mid')['backing'] == 'f'
    stream(daemon, bottom='mid')
    assert 'error' not in done(daemon)
    assert children(daemon, 'top')['backing'] == 'f'


@pytest.mark.parametrize('base', ['base', 'f'])
def test_004_2_stream_passes_filters(daemon, tmp, base):
    """Filters above the node, between the layers, and above the base: named ones are never skipped."""
    make_chain(tmp, 'base', 'mid', 'top')
    put(tmp, 'base', 0, SIZE, 5)
    put(tmp, 'mid', MiB, MiB, 6)
    daemon.qmp('object-add', {'qom-type': 'throttle-group', 'id': 'g'})
    throttle = {'driver': 'throttle', 'throttle-group': 'g', 'read-only': True}
    open_chain(daemon, tmp, 'base', 'mid', 'top', between={'base': dict(throttle, **{'node-name': 'f'}),
                                                            'mid': dict(throttle, **{'node-name': 'g'})})
    daemon.qmp('blockdev-add', {'driver': 'throttle', 'throttle-group': 'g', 'node-name': 'above', 'file': 'top'})
    guest = nbd_connect(daemon.export('above', 'e'))
    stream(daemon, device='above', base_node=base)
    assert 'error' not in done(daemon)
    assert children(daemon, 'top')['backing'] == base
    assert guest.pread(SIZE, 0) == b'\5' * MiB + b'\6' * MiB + b'\5' * (2 * MiB)
    daemon.stop()
    assert header(tmp) == (str(tmp / 'base.qcow2'), 'qcow2')
    sound(tmp / 'top.qcow2')


@pytest.mark.parametrize('how', [{}, {'base-node': 'filter'}, {'bottom': 'base'}])
def test_stream_through_raw(daemon, tmp, how):
    """raw over an image is no layer of its own: what the image leaves to its backing file is not lost with it."""
    make_chain(tmp, 'base', 'mid', 'top')
    put(tmp, 'base', 0, SIZE, 5)
    put(tmp, 'mid', MiB, MiB, 6)
    open_chain(daemon, tmp, 'base', 'mid', between={'base': {'driver': 'raw', 'node-name': 'filter', 'read-only': True},
                                                    'mid': {'driver': 'raw', 'node-name': 'raw', 'read-only': True}})
    daemon.qmp('blockdev-add', layer(tmp, 'top', backing='raw'))
    guest = nbd_connect(daemon.export('top', 'e'))
    daemon.qmp('block-stream', {'job-id': 's', 'device': 'top'} | how)
    daemon.qmp.event('BLOCK_JOB_COMPLETED', 30, device='s')
    assert guest.pread(MiB, 0) == b'\5' * MiB and guest.pread(MiB, MiB) == b'\6' * MiB
    assert children(daemon, 'top').get('backing') == ('filter' if 'base-node' in how else None)
    guest.shutdown()
    daemon.stop()
    run('qemu-io', '-f', 'qcow2', '-r', '-c', f'read -q -P 5 0 {MiB}', '-c', f'read -q -P 6 {MiB} {MiB}',
        tmp / 'top.qcow2')


def test_004_22_mask_protocol(daemon, tmp):
    """A base without a format is called raw in the image, not by its protocol."""
    os.truncate(os.open(tmp / 'base.raw', os.O_CREAT | os.O_RDWR), SIZE)
    daemon.qmp('blockdev-add', {'driver': 'file', 'node-name': 'base', 'filename': str(tmp / 'base.raw'),
                                'read-only': True})
    run('qemu-img', 'create', '-q', '-f', 'qcow2', '-b', tmp / 'base.raw', '-F', 'raw', tmp / 'mid.qcow2', str(SIZE))
    run('qemu-img', 'create', '-q', '-f', 'qcow2', '-b', tmp / 'mid.qcow2', '-F', 'qcow2', tmp / 'top.qcow2', str(SIZE))
    daemon.qmp('blockdev-add', layer(tmp, 'mid', backing='base', **{'read-only': True}))
    daemon.qmp('blockdev-add', layer(tmp, 'top', backing='mid'))
    stream(daemon, base_node='base', backing_mask_protocol=True)
    assert 'error' not in done(daemon)
    assert header(tmp) == (str(tmp / 'base.raw'), 'raw')


def test_stream_while_frozen(three, tmp):
    """Links that a filter depends on are no job's to change."""
    three.qmp('blockdev-add', {'driver': 'copy-on-read', 'node-name': 'c', 'file': 'top', 'bottom': 'mid'})
    assert refused(stream, three, base_node='base') == "Cannot change 'backing' link from 'top' to 'mid'"
    three.qmp('blockdev-del', {'node-name': 'c'})
    stream(three, base_node='base')
    assert 'error' not in done(three)
