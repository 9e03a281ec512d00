# SPDX-License-Identifier: BSD-2-Clause
"""quorum: votes, failures and their events, children that come and go, hang or have missed something."""
import errno
import os
import shutil

import nbd
import pytest

from weirtest import KiB, MiB, FuseDisk, QmpError, file_bytes, fill, is_peer, nbd_connect, run, wait_until

SIZE = 8 * MiB
NAMES = 'abc'


@pytest.fixture
def images(tmp):
    """Three files that hold the same."""
    first = fill(tmp / 'a.img', SIZE)
    for name in NAMES[1:]:
        shutil.copy(first, tmp / f'{name}.img')
    return {name: str(tmp / f'{name}.img') for name in NAMES}


def child(images, name, *errors, **options):
    """The options of a child named @name: a file, below a blkdebug node where errors are to be injected."""
    file = dict({'driver': 'file', 'filename': images[name], 'discard': 'unmap'}, **options)
    if not errors:
        return dict(file, **{'node-name': name})
    rules = [{'event': 'none', 'iotype': e} for e in errors]
    return {'driver': 'blkdebug', 'node-name': name, 'image': file, 'inject-error': rules, 'discard': 'unmap'}


def add(daemon, *children, threshold=2, **options):
    daemon.qmp('blockdev-add', dict({'driver': 'quorum', 'node-name': 'q', 'children': list(children),
                                     'vote-threshold': threshold, 'discard': 'unmap'},
                                    **{k.replace('_', '-'): v for k, v in options.items()}))


def opened(daemon, *children, writable=True, **options):
    add(daemon, *children, **options)
    # The peer drops clients when a structured read fails.
    return nbd_connect(daemon.export('q', writable=writable), structured=not is_peer(), strict=False)


def overwrite(path, offset, data):
    with open(path, 'r+b') as file:
        os.pwrite(file.fileno(), data, offset)


def fails(number, call, *args):
    with pytest.raises(nbd.Error) as caught:
        call(*args)
    assert caught.value.errnum == number, caught.value


def error_text(call, *args, **options):
    with pytest.raises(QmpError) as caught:
        call(*args, **options)
    assert caught.value.error_class == 'GenericError'
    return caught.value.text


def change(daemon, **options):
    return daemon.qmp('x-blockdev-change', dict({'parent': 'q'}, **options))


def children_of(daemon, node='q'):
    graph = daemon.qmp('x-debug-query-block-graph')
    number = next(n['id'] for n in graph['nodes'] if n['name'] == node)
    return [e['name'] for e in graph['edges'] if e['parent'] == number]


# ---- together ----

def test_quorum(daemon, images):
    """Everything that a guest changes is the same on all children, and what it reads is what it wrote."""
    handle = opened(daemon, *(child(images, n) for n in NAMES))
    assert handle.get_size() == SIZE and handle.pread(MiB, 0) == file_bytes(images['a'], 0, MiB)
    handle.pwrite(b'w' * 5000, 777)
    handle.zero(64 * KiB, MiB)
    handle.zero(64 * KiB, 2 * MiB, nbd.CMD_FLAG_NO_HOLE)
    handle.pwrite(b'f' * 512, 3 * MiB, nbd.CMD_FLAG_FUA)
    handle.trim(64 * KiB, 4 * MiB)
    handle.flush()
    assert handle.pread(5000, 777) == b'w' * 5000
    assert handle.pread(64 * KiB, MiB) == handle.pread(64 * KiB, 2 * MiB) == bytes(64 * KiB)
    contents = [file_bytes(path, 0, SIZE) for path in images.values()]
    assert contents[0] == contents[1] == contents[2] == handle.pread(SIZE, 0)
    assert contents[0][777:5777] == b'w' * 5000
    drivers = {n['node-name']: n['drv'] for n in daemon.qmp('query-named-block-nodes')}
    assert drivers == {'q': 'quorum', 'a': 'file', 'b': 'file', 'c': 'file'}


def test_quorum_discard(daemon, images):
    """What is discarded is given up by every child, and reads the same on all of them."""
    if is_peer():
        pytest.skip('ignores discards')
    handle = opened(daemon, *(child(images, n) for n in NAMES))
    before = [os.stat(path).st_blocks for path in images.values()]
    handle.trim(MiB, MiB)
    handle.flush()
    for path, blocks in zip(images.values(), before):
        assert os.stat(path).st_blocks <= blocks - 1500
    assert handle.pread(MiB, MiB) == bytes(MiB)


def test_quorum_discard_that_one_ignores(daemon, images):
    """A child that ignores discards would hold something else: then all of them ignore it."""
    handle = opened(daemon, child(images, 'a'), child(images, 'b', discard='ignore'))
    before = file_bytes(images['a'], 0, SIZE)
    handle.trim(MiB, MiB)
    handle.flush()
    assert all(file_bytes(images[n], 0, SIZE) == before for n in 'ab')


@pytest.mark.parametrize('options, text', [
    ({'children': []}, 'Number of provided children must be 1 or more'),
    ({'threshold': 0}, "Parameter 'vote-threshold' expects a value >= 1"),
    ({'threshold': -1}, "Parameter 'vote-threshold' expects a value >= 1"),
    ({'threshold': 4}, 'threshold may not exceed children count'),
    ({'blkverify': True},
     'blkverify=on can only be set if there are exactly two files and vote-threshold is 2'),
    ({'children': 'ab', 'threshold': 1, 'blkverify': True},
     'blkverify=on can only be set if there are exactly two files and vote-threshold is 2'),
    ({'children': 'ab', 'blkverify': True, 'rewrite_corrupted': True},
     'rewrite-corrupted=on cannot be used with blkverify=on'),
    ({'read_pattern': 'lottery'}, "Parameter 'read-pattern' does not accept value 'lottery'"),
    ({'children': 'a?'}, "Cannot find device='?' nor node-name='?'"),
])
def test_quorum_options(daemon, images, options, text):
    """Wrong options are refused with the texts that are known, and nothing stays open."""
    options = dict(options)
    names = options.pop('children', NAMES)
    assert error_text(add, daemon, *(child(images, n) if n in images else n for n in names), **options) == text
    assert daemon.qmp('query-named-block-nodes') == []


def test_quorum_sizes(daemon, images):
    """Children of different sizes are refused, and the text says which."""
    os.truncate(images['b'], SIZE - 512)
    text = error_text(add, daemon, *(child(images, n) for n in NAMES))
    if not is_peer():
        assert text == (f"Children of a quorum must have the same size: node 'a' has {SIZE} bytes, "
                        f"node 'b' has {SIZE - 512}")


def test_quorum_permissions(daemon, images):
    """Nobody else may write to a child; with rewrite-corrupted the quorum writes itself."""
    add(daemon, *(child(images, n) for n in 'ab'), rewrite_corrupted=True)
    graph = daemon.qmp('x-debug-query-block-graph')
    assert len(graph['edges']) == 2
    for edge in graph['edges']:
        assert edge['perm'] == ['write'] and set(edge['shared-perm']) == {'write-unchanged', 'consistent-read'}
    assert 'Permission conflict' in error_text(daemon.export, 'a')


# ---- votes ----

def test_quorum_vote(daemon, images):
    """Who holds something else is outvoted, wherever it is and whoever it is."""
    expected = file_bytes(images['a'], 0, SIZE)
    handle = opened(daemon, *(child(images, n) for n in NAMES))
    for number, name in enumerate(NAMES):
        overwrite(images[name], number * MiB + 4321, b'!' * 100)
    if is_peer():  # one vote for the whole of a request
        assert b''.join(handle.pread(MiB, at) for at in range(0, SIZE, MiB)) == expected
    else:
        assert handle.pread(SIZE, 0) == expected
    assert {daemon.qmp.event('QUORUM_REPORT_BAD')['data']['node-name'] for _ in NAMES} == set(NAMES)


def test_quorum_report_bad(daemon, images):
    """A child that fails or is outvoted is named, with the kind of request, the place and the reason."""
    handle = opened(daemon, child(images, 'a', 'write', 'flush'), child(images, 'b'), child(images, 'c'))
    handle.pwrite(b'x' * 4096, 4096)
    data = daemon.qmp.event('QUORUM_REPORT_BAD')['data']
    assert data == {'node-name': 'a', 'type': 'write', 'sector-num': 8, 'sectors-count': 8,
                    'error': 'Input/output error'}
    assert handle.pread(4096, 4096) == b'x' * 4096
    overwrite(images['c'], 64 * KiB, b'?')
    handle.pread(4096, 64 * KiB)
    data = daemon.qmp.event('QUORUM_REPORT_BAD', **{'node-name': 'c'})['data']
    assert data == {'node-name': 'c', 'type': 'read', 'sector-num': 128, 'sectors-count': 8}
    handle.flush()
    data = daemon.qmp.event('QUORUM_REPORT_BAD', type='flush')['data']
    assert data == {'node-name': 'a', 'type': 'flush', 'sector-num': 0, 'sectors-count': 0,
                    'error': 'Input/output error'}


@pytest.mark.skipif(is_peer(), reason='sends two at once')
def test_quorum_events_are_limited(daemon, images):
    """A child that fails with every request is told of once a second, with the last of what happened."""
    handle = opened(daemon, child(images, 'a', 'write'), child(images, 'b'), child(images, 'c'))
    for number in range(50):
        handle.pwrite(b'x' * 512, number * 512)
    first, last = (daemon.qmp.event('QUORUM_REPORT_BAD') for _ in range(2))
    assert first['data']['sector-num'] == 0 and last['data']['sector-num'] == 49
    times = [e['timestamp']['seconds'] + e['timestamp']['microseconds'] / 1e6 for e in (first, last)]
    assert times[1] - times[0] > 0.9


def test_quorum_failure(daemon, images):
    """No version with enough votes, or too few children that take a write: the guest gets an error, and it is told."""
    handle = opened(daemon, child(images, 'a'), child(images, 'b', 'write'), child(images, 'c', 'write'))
    overwrite(images['a'], MiB, b'!')
    overwrite(images['b'], MiB, b'?')
    assert len({file_bytes(p, MiB, 1) for p in images.values()}) == 3
    fails(errno.EIO, handle.pread, 4 * KiB, MiB)
    data = daemon.qmp.event('QUORUM_FAILURE')['data']
    assert data == {'reference': 'q', 'sector-num': MiB // 512, 'sectors-count': 8}
    handle = nbd_connect(daemon.uri('q'), structured=not is_peer(), strict=False)
    fails(errno.EIO, handle.pwrite, b'x' * 512, 0)
    data = daemon.qmp.event('QUORUM_FAILURE')['data']
    assert data == {'reference': 'q', 'sector-num': 0, 'sectors-count': 1}
    assert handle.pread(512, 2 * MiB) == file_bytes(images['a'], 2 * MiB, 512)


def test_quorum_blkverify(daemon, images):
    """Two that must hold the same: where they do not, the read fails, and the operator is told where."""
    if is_peer():
        pytest.skip('ends')
    handle = opened(daemon, *(child(images, n) for n in 'ab'), blkverify=True)
    assert handle.pread(SIZE, 0) == file_bytes(images['a'], 0, SIZE)
    overwrite(images['b'], MiB + 1000, bytes([file_bytes(images['b'], MiB + 1000, 1)[0] ^ 1]))
    fails(errno.EIO, handle.pread, 64 * KiB, MiB)
    line = f"read offset={MiB} bytes=65536 contents mismatch at offset {MiB + 1000}"
    wait_until(lambda: line in daemon.stderr, 5, 'the mismatch is in the log')
    assert handle.pread(1000, MiB) == file_bytes(images['a'], MiB, 1000)


@pytest.mark.skipif(is_peer(), reason='one vote for the whole of a request')
def test_quorum_rewrite(daemon, images):
    """What is outvoted is written anew when it is read, also where nobody may write."""
    expected = file_bytes(images['a'], 0, SIZE)
    handle = opened(daemon, *(child(images, n) for n in NAMES), rewrite_corrupted=True, writable=False)
    overwrite(images['c'], MiB + 1000, b'!' * 5000)
    overwrite(images['a'], 3 * MiB, b'!' * 512)
    assert handle.pread(SIZE, 0) == expected
    assert [file_bytes(p, 0, SIZE) == expected for p in images.values()] == [True] * 3


def test_quorum_fifo(daemon, images):
    """The first child answers; another one when it fails; without any the guest gets an error."""
    handle = opened(daemon, child(images, 'a'), child(images, 'b', 'read'), child(images, 'c'), threshold=1,
                    read_pattern='fifo')
    overwrite(images['c'], 0, b'!' * 512)
    assert handle.pread(512, 0) == file_bytes(images['a'], 0, 512) != file_bytes(images['c'], 0, 512)
    daemon.qmp('block-export-del', id='q', mode='hard')
    daemon.qmp.event('BLOCK_EXPORT_DELETED', id='q')
    daemon.qmp('blockdev-del', node_name='q')
    handle = opened(daemon, child(images, 'b', 'read'), child(images, 'c'), threshold=1, read_pattern='fifo')
    assert handle.pread(512, 0) == b'!' * 512
    assert daemon.qmp.event('QUORUM_REPORT_BAD')['data'] == {
        'node-name': 'b', 'type': 'read', 'sector-num': 0, 'sectors-count': 1, 'error': 'Input/output error'}


def test_quorum_fifo_reads_nothing_stale(daemon, images):
    """A child that has missed a write is not read where it has, until a write has made it good."""
    if is_peer():
        pytest.skip('reads what the child held before')
    once = {'driver': 'blkdebug', 'node-name': 'a', 'image': child(images, 'b'),
            'inject-error': [{'event': 'none', 'iotype': 'write', 'once': True}]}
    handle = opened(daemon, once, child(images, 'c'), threshold=1, read_pattern='fifo')
    handle.pwrite(b'n' * 4096, MiB)
    assert file_bytes(images['b'], MiB, 4096) != b'n' * 4096 == file_bytes(images['c'], MiB, 4096)
    assert handle.pread(4096, MiB) == b'n' * 4096
    overwrite(images['c'], 2 * MiB, b'!' * 512)
    assert handle.pread(512, 2 * MiB) == file_bytes(images['b'], 2 * MiB, 512)  # it has missed nothing here
    handle.pwrite(b'm' * 64 * KiB, MiB)
    overwrite(images['c'], MiB, b'!' * 512)
    assert handle.pread(512, MiB) == b'm' * 512


def test_quorum_block_status(daemon, tmp):
    """Zero is what all children say is zero."""
    paths = {}
    for name, at in (('a', MiB), ('b', 2 * MiB)):
        paths[name] = str(tmp / f'{name}.img')
        with open(paths[name], 'wb') as file:
            file.truncate(SIZE)
            os.pwrite(file.fileno(), b'x' * MiB, at)
    add(daemon, *(child(paths, n) for n in 'ab'))
    handle = nbd_connect(daemon.export('q'))
    entries, at = [], 0
    while at < SIZE:
        got = []
        handle.block_status(SIZE - at, at, lambda context, offset, extents, error, got=got: got.extend(extents) or 0)
        for length, flags in zip(got[::2], got[1::2]):
            if entries and entries[-1][1] == flags:
                entries[-1][0] += length
            else:
                entries.append([length, flags])
            at += length
    assert entries == [[MiB, 3], [2 * MiB, 0], [5 * MiB, 3]]


# ---- children that come and go ----

def test_quorum_change(daemon, images, tmp):
    """Children are added and removed while a guest reads and writes."""
    handle = opened(daemon, *(child(images, n) for n in NAMES))
    daemon.add_file('d', shutil.copy(images['a'], tmp / 'd.img'))
    change(daemon, node='d')
    handle.pwrite(b'4' * 4096, MiB)
    assert file_bytes(tmp / 'd.img', MiB, 4096) == b'4' * 4096
    assert children_of(daemon) == [f'children.{i}' for i in range(4)]
    change(daemon, child='children.1')
    handle.pwrite(b'3' * 4096, MiB)
    assert file_bytes(images['b'], MiB, 4096) == b'4' * 4096
    assert file_bytes(images['c'], MiB, 4096) == file_bytes(tmp / 'd.img', MiB, 4096) == b'3' * 4096
    assert children_of(daemon) == ['children.0', 'children.2', 'children.3']
    assert 'b' not in {n['node-name'] for n in daemon.qmp('query-named-block-nodes')}  # it was an inline child
    daemon.add_file('b2', shutil.copy(images['a'], images['b']))
    change(daemon, node='b2')
    assert children_of(daemon) == ['children.0', 'children.2', 'children.3', 'children.4']
    for name in ('children.0', 'children.3'):
        change(daemon, child=name)
    assert handle.pread(4096, MiB) == b'3' * 4096
    text = 'The number of children cannot be lower than the vote threshold 2'
    assert error_text(change, daemon, child='children.2') == text


def test_quorum_change_errors(daemon, images):
    opened(daemon, *(child(images, n) for n in NAMES))
    daemon.qmp('blockdev-add', {'driver': 'null-co', 'node-name': 'n', 'size': MiB})
    for options, text in (
            ({}, 'Either child or node must be specified'),
            ({'child': 'children.0', 'node': 'n'}, 'The parameters child and node are in conflict'),
            ({'parent': 'x', 'node': 'n'}, "Cannot find device='x' nor node-name='x'"),
            ({'node': 'x'}, "Node 'x' not found"),
            ({'child': 'children.9'}, "Node 'q' does not have child 'children.9'"),
            ({'parent': 'a', 'node': 'n'}, 'The node a does not support adding a child'),
            ({'parent': 'a', 'child': 'children.0'}, "Node 'a' does not have child 'children.0'"),
            ({'node': 'a'}, 'The node a already has a parent'),
            ({'node': 'q'}, 'The node q already has a parent')):
        assert error_text(change, daemon, **options) == text
    if not is_peer():
        assert 'must have the same size' in error_text(change, daemon, node='n')
    assert children_of(daemon) == ['children.0', 'children.1', 'children.2']


@pytest.mark.parametrize('pattern, threshold', [('quorum', 2), ('fifo', 1)])
def test_quorum_repair(daemon, images, tmp, pattern, threshold):
    """A mirror of the quorum takes the place of a child that is bad, and is as good as the others from then on."""
    bad = child(images, 'c', 'write')
    handle = opened(daemon, child(images, 'a'), child(images, 'b'), bad, threshold=threshold, read_pattern=pattern)
    handle.pwrite(b'n' * MiB, MiB)
    daemon.add_file('d', fill(tmp / 'd.img', SIZE, seed=5))
    options = {'job-id': 'm', 'device': 'q', 'target': 'd', 'sync': 'full', 'replaces': 'c'}
    if not is_peer():  # a reader of the bad child would see another disk all at once
        daemon.export('c', writable=False)
        assert 'abrupt change of visible data' in error_text(daemon.qmp, 'blockdev-mirror', options)
        daemon.qmp('block-export-del', id='c')
        daemon.qmp.event('BLOCK_EXPORT_DELETED', id='c')
    daemon.qmp('blockdev-mirror', options)
    daemon.qmp.event('BLOCK_JOB_READY')
    daemon.qmp('job-complete', id='m')
    daemon.qmp.event('BLOCK_JOB_COMPLETED')
    assert 'c' not in {n['node-name'] for n in daemon.qmp('query-named-block-nodes')}
    assert children_of(daemon) == ['children.0', 'children.1', 'children.2']
    assert daemon.qmp('query-block-exports')[0]['node-name'] == 'q'
    handle.pwrite(b'm' * 4096, 3 * MiB)
    assert file_bytes(tmp / 'd.img', 0, SIZE) == file_bytes(images['a'], 0, SIZE) == handle.pread(SIZE, 0)
    for name in ('children.0', 'children.1')[:3 - threshold]:  # it can do without the others
        change(daemon, child=name)
    assert handle.pread(4096, MiB) == b'n' * 4096 and handle.pread(4096, 3 * MiB) == b'm' * 4096


# ---- under load ----

@pytest.mark.skipif(is_peer(), reason='compares children in the middle of a write')
def test_quorum_load(daemon, images):
    """Many overlapping requests: the children stay equal, and no read is ever split."""
    opened(daemon, *(child(images, n) for n in NAMES))
    run('fio', '--name=q', '--ioengine=nbd', f'--uri={daemon.uri("q")}', '--rw=randrw', '--bsrange=512-64k',
        '--bs_unaligned=1', '--iodepth=16', '--norandommap', f'--size={SIZE}', '--io_size=48m', '--randrepeat=1',
        '--output-format=terse', timeout=120, cwd=daemon.directory)
    run('fio', '--name=v', '--ioengine=nbd', f'--uri={daemon.uri("q")}', '--rw=randwrite', '--bs=16k', '--iodepth=16',
        f'--size={SIZE}', '--verify=crc32c', '--do_verify=1', '--verify_fatal=1', '--output-format=terse', timeout=120,
        cwd=daemon.directory)
    contents = [file_bytes(path, 0, SIZE) for path in images.values()]
    assert contents[0] == contents[1] == contents[2]
    daemon.qmp('query-version')
    assert not [e for e in daemon.qmp.events if e['event'].startswith('QUORUM')]


def test_quorum_below_qcow2(daemon, tmp):
    """A format above makes all children grow, and the images are equal and sound."""
    paths = {n: str(tmp / f'{n}.qcow2') for n in 'ab'}
    run('qemu-img', 'create', '-q', '-f', 'qcow2', paths['a'], '64M')
    shutil.copy(paths['a'], paths['b'])
    daemon.qmp('blockdev-add', {'driver': 'qcow2', 'node-name': 'i', 'file': {
        'driver': 'quorum', 'children': [child(paths, n) for n in 'ab'], 'vote-threshold': 2}})
    handle = nbd_connect(daemon.export('i'))
    for number in range(8):
        handle.pwrite(bytes([number + 1]) * 100000, number * 7 * MiB)
    handle.flush()
    assert handle.pread(100000, 21 * MiB) == b'\x04' * 100000
    handle.shutdown()
    daemon.stop()
    assert open(paths['a'], 'rb').read() == open(paths['b'], 'rb').read()
    for path in paths.values():
        run('qemu-img', 'check', path)


# ---- children that hang ----

@pytest.mark.parametrize('pattern, threshold', [('quorum', 2), ('fifo', 1)])
def test_quorum_hanging_child(daemon, images, tmp, pattern, threshold):
    """A child that hangs costs one pause, not the guest; it may be removed, and what it missed is known."""
    if is_peer():
        pytest.skip('hangs with it')
    disk = FuseDisk(tmp)
    try:
        with open(images['b'], 'rb') as source, open(disk.path, 'r+b') as target:
            shutil.copyfileobj(source, target)
        handle = opened(daemon, {'driver': 'file', 'node-name': 's', 'filename': str(disk.path)}, child(images, 'a'),
                        child(images, 'b'), threshold=threshold, read_pattern=pattern)
        handle.pwrite(b'1' * 4096, 0)
        disk.stop()
        handle.pwrite(b'2' * 4096, 0)
        assert handle.pread(4096, 0) == b'2' * 4096
        assert daemon.qmp.event('QUORUM_REPORT_BAD')['data']['node-name'] == 's'
        for number in range(64):  # it is asked for nothing any more
            handle.pwrite(b'3' * 4096, number * 4096)
            assert handle.pread(4096, number * 4096) == b'3' * 4096
        change(daemon, child='children.0')
        assert children_of(daemon) == ['children.1', 'children.2']
        disk.go_on()
        assert handle.pread(4096, 0) == b'3' * 4096
        assert file_bytes(images['a'], 0, SIZE) == file_bytes(images['b'], 0, SIZE)
    finally:
        disk.close()
