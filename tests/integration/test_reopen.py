# SPDX-License-Identifier: BSD-2-Clause
"""blockdev-reopen: other options for nodes in use, all of them or none."""
import os
import struct
import subprocess

import pytest

from weirtest import KiB, MiB, file_bytes, fill, is_peer, nbd_connect, run
from weirtest.chain import SIZE, children, layer, make_chain, put, refused
from weirtest.nodes import descriptors, node_info
from weirtest.qcow2 import sound
from weirtest.writer import Writer

INCOMPATIBLE_DIRTY = 1


def reopen(daemon, *options):
    daemon.qmp('blockdev-reopen', options=list(options))


def error(daemon, *options):
    return refused(daemon.qmp, 'blockdev-reopen', options=list(options))


def file_node(path, node='f', **options):
    return dict({'driver': 'file', 'node-name': node, 'filename': str(path)},
                **{k.replace('_', '-'): v for k, v in options.items()})


def over(node='r', file='f', **options):
    return dict({'driver': 'raw', 'node-name': node, 'file': file},
                **{k.replace('_', '-'): v for k, v in options.items()})


def is_dirty(path):
    with open(path, 'rb') as image:
        return struct.unpack('>Q', image.read(80)[72:80])[0] & INCOMPATIBLE_DIRTY


@pytest.fixture
def disk(daemon, tmp):
    """A file node `f` and a raw node `r` on it."""
    daemon.qmp('blockdev-add', file_node(fill(tmp / 'f.img', 4 * MiB)))
    daemon.qmp('blockdev-add', over())
    return daemon


# ---- options that every node has ----

def test_reopen(disk, tmp):
    """Common options change under a guest; what is left out goes back to its default."""
    path = tmp / 'f.img'
    writer = Writer(disk.export('r', 'e'))
    for _ in range(5):
        reopen(disk, over(detect_zeroes='unmap', discard='unmap'), file_node(path, cache={'no-flush': True}))
        assert node_info(disk, 'r')['detect_zeroes'] == 'unmap'
        assert node_info(disk, 'f')['cache'] == {'writeback': True, 'direct': False, 'no-flush': True}
        reopen(disk, file_node(path, cache={'direct': True}), over())
        assert node_info(disk, 'r')['detect_zeroes'] == 'off'
        assert node_info(disk, 'f')['cache'] == {'writeback': True, 'direct': True, 'no-flush': False}
        assert all(flags & os.O_DIRECT for flags in descriptors(disk, path))
        reopen(disk, file_node(path))
        assert not any(flags & os.O_DIRECT for flags in descriptors(disk, path))
    assert writer.stop() > 0


def test_reopen_discard(disk, tmp):
    """A discard is passed on or not, as the node was told last."""
    guest = nbd_connect(disk.export('r', 'e'))
    guest.trim(MiB, 0)
    assert guest.pread(MiB, 0) == file_bytes(tmp / 'f.img', 0, MiB) != bytes(MiB)
    reopen(disk, over(discard='unmap'), file_node(tmp / 'f.img', discard='unmap'))
    guest.trim(MiB, 0)
    assert guest.pread(MiB, 0) == bytes(MiB)
    reopen(disk, over(), file_node(tmp / 'f.img'))
    guest.trim(MiB, MiB)
    assert guest.pread(MiB, MiB) != bytes(MiB)


def test_reopen_read_only(disk, tmp):
    """Writable, read-only, and back: the descriptors follow, and writers are refused while it is read-only."""
    path = tmp / 'f.img'
    reopen(disk, over(read_only=True), file_node(path, read_only=True))
    assert node_info(disk, 'f')['ro'] and node_info(disk, 'r')['ro']
    assert {flags & os.O_ACCMODE for flags in descriptors(disk, path)} == {os.O_RDONLY}
    refused(disk.qmp, 'block-export-add', type='nbd', id='e', node_name='r', writable=True)
    reopen(disk, over(), file_node(path))
    assert not node_info(disk, 'r')['ro']
    disk.qmp('block-export-add', type='nbd', id='e', node_name='r', writable=True)
    guest = nbd_connect(disk.uri('r'))
    guest.pwrite(b'w' * 4096, 0)
    assert guest.pread(4096, 0) == b'w' * 4096 == file_bytes(path, 0, 4096)
    assert error(disk, over(read_only=True)) == "Read-only block node 'r' cannot support read-write users"
    assert not node_info(disk, 'r')['ro']
    guest.pwrite(b'v' * 4096, 0)
    assert file_bytes(path, 0, 4096) == b'v' * 4096


def test_reopen_keeps_locks(daemon, tmp):
    """While descriptors change, other processes are kept out as before, and let in again at the end."""
    make_chain(tmp, 'a')
    path = tmp / 'a.qcow2'

    def other_writes():
        return subprocess.run(['qemu-io', '-f', 'qcow2', '-c', 'write -q 0 512', str(path)], capture_output=True,
                              text=True, check=False)
    daemon.qmp('blockdev-add', file_node(path))
    daemon.qmp('blockdev-add', driver='qcow2', node_name='q', file='f')
    for direct in True, False, True:
        reopen(daemon, file_node(path, cache={'direct': direct}))
        assert 'Failed to get "write" lock' in other_writes().stderr
    error(daemon, file_node(path), {'driver': 'qcow2', 'node-name': 'q', 'file': 'nix'})
    error(daemon, file_node(path, read_only=True), {'driver': 'qcow2', 'node-name': 'q', 'file': 'f'})
    assert 'Failed to get "write" lock' in other_writes().stderr
    daemon.qmp('blockdev-del', node_name='q')
    reopen(daemon, file_node(path, read_only=True))
    reopen(daemon, file_node(path, read_only=True, cache={'direct': True}))
    assert other_writes().returncode == 0


def test_reopen_inherited(daemon, tmp):
    """Children that were defined inside a node inherit its new options; their own stay."""
    path = fill(tmp / 'f.img', MiB)
    inline = {'driver': 'raw', 'node-name': 'r', 'file': {'driver': 'file', 'node-name': 'f', 'filename': str(path)}}
    daemon.qmp('blockdev-add', inline)
    reopen(daemon, dict(over(), cache={'direct': True}, **{'read-only': True}))
    assert node_info(daemon, 'f')['cache']['direct'] and node_info(daemon, 'f')['ro']
    assert {f & (os.O_ACCMODE | os.O_DIRECT) for f in descriptors(daemon, path)} == {os.O_RDONLY | os.O_DIRECT}
    own = dict(inline['file'], cache={'direct': False, 'no-flush': True})
    del own['node-name']
    reopen(daemon, dict(over(), cache={'direct': True}, file=own))
    assert node_info(daemon, 'f')['cache'] == {'writeback': True, 'direct': False, 'no-flush': True}
    assert not node_info(daemon, 'f')['ro'] and node_info(daemon, 'r')['cache']['direct']
    reopen(daemon, over())
    assert node_info(daemon, 'f')['cache']['no-flush'], 'its own options are left as they are'


# ---- what is refused ----

def test_reopen_refused(disk, tmp):
    """Each with its reason, and nothing changes."""
    path = tmp / 'f.img'
    before = disk.qmp('query-named-block-nodes'), disk.qmp('x-debug-query-block-graph')
    other = fill(tmp / 'other.img', 4 * MiB)
    for options, text in (
            ({}, "Parameter 'options[0].driver' is missing"),
            ({'driver': 'file'}, "Parameter 'options[0].filename' is missing"),
            (file_node(path, 'nix'), "Failed to find node with node-name='nix'"),
            (file_node(other), "Cannot change the option 'filename'"),
            (file_node(path, aio='io_uring'), "Cannot change the option 'aio'"),
            (file_node(path, locking='off'), "Cannot change the option 'locking'"),
            (file_node(path, force_share=True, read_only=True), "Cannot change the option 'force-share'"),
            (file_node(path, nope=1), "Parameter 'options[0].nope' is unexpected"),
            (over(file=None), None), ({'driver': 'raw', 'node-name': 'r'}, "Parameter 'options[0].file' is missing"),
            (over(file='nix'), "Cannot find device='' nor node-name='nix'"),
            (over(file=file_node(path)), "Cannot change the option 'file.driver'"),
            (over(file='r'), None), (dict(over(), driver='compress'), "Cannot change the option 'driver'")):
        said = error(disk, options)
        assert text is None or said == text, (options, said)
    assert (disk.qmp('query-named-block-nodes'), disk.qmp('x-debug-query-block-graph')) == before


@pytest.mark.parametrize('driver, options', [
    ('copy-on-read', {'file': 'f'}), ('quorum', {'vote-threshold': 1, 'children': ['f', 'g']}),
    ('blkverify', {'test': 'f', 'raw': 'g'}), ('blklogwrites', {'file': 'f', 'log': 'g'})])
def test_001_16_reopen_of_filters_that_cannot(daemon, tmp, driver, options):
    """Drivers without reopening say so, also when nothing would change."""
    for node in 'f', 'g':
        daemon.qmp('blockdev-add', file_node(fill(tmp / f'{node}.img', MiB), node))
    node = dict(options, driver=driver, **{'node-name': 'x'})
    daemon.qmp('blockdev-add', node)
    assert error(daemon, node) == f"Block format '{driver}' used by node 'x' does not support reopening files"


def test_reopen_all_or_nothing(disk, tmp):
    """The second node of the list cannot: the first is as it was, its descriptors too, and the guest goes on."""
    path = tmp / 'f.img'
    writer = Writer(disk.export('r', 'e'))
    before = disk.qmp('query-named-block-nodes')
    for _ in range(10):
        error(disk, file_node(path, cache={'direct': True}), over(read_only=True))
        error(disk, over(offset=512, size=MiB), file_node(path, cache={'direct': True}), over('nix'))
        assert not any(flags & os.O_DIRECT for flags in descriptors(disk, path))
    after = disk.qmp('query-named-block-nodes')
    assert [(n['node-name'], n['cache'], n['ro'], n['image']['virtual-size']) for n in before] == \
        [(n['node-name'], n['cache'], n['ro'], n['image']['virtual-size']) for n in after]
    assert writer.stop() > 0


# ---- options of drivers ----

def test_reopen_raw_window(disk, tmp):
    """The window moves, and changes its size where nobody relies on that."""
    data = file_bytes(tmp / 'f.img', 0, 4 * MiB)
    reopen(disk, over(offset=MiB, size=2 * MiB))
    guest = nbd_connect(disk.export('r', 'e'))
    assert guest.get_size() == 2 * MiB and guest.pread(MiB, MiB) == data[2 * MiB:3 * MiB]
    guest.pwrite(b'x' * 512, 0)
    reopen(disk, over(offset=2 * MiB, size=2 * MiB))
    assert guest.pread(512, 0) == data[2 * MiB:2 * MiB + 512]
    assert error(disk, over()) == "Node 'r' has users that do not share the permission 'resize'"
    disk.qmp('block-export-del', id='e', mode='hard')
    reopen(disk, over())
    guest = nbd_connect(disk.export('r', 'e'))
    assert guest.pread(512, MiB) == b'x' * 512 and guest.pread(512, 3 * MiB) == data[3 * MiB:3 * MiB + 512]
    assert 'Offset' in error(disk, over(offset=5 * MiB))
    assert guest.pread(512, 0) == data[:512]


def test_reopen_throttle_group(disk, tmp):
    for group in 'slow', 'fast':
        disk.qmp('object-add', {'qom-type': 'throttle-group', 'id': group,
                                'limits': {'iops-total': 1 if group == 'slow' else 1000000}})
    node = {'driver': 'throttle', 'node-name': 't', 'throttle-group': 'slow', 'file': 'r'}
    disk.qmp('blockdev-add', node)
    guest = nbd_connect(disk.export('t', 'e'))
    reopen(disk, dict(node, **{'throttle-group': 'fast'}))
    for _ in range(200):  # would take minutes
        guest.pread(512, 0)
    disk.qmp('object-del', id='slow')
    assert error(disk, dict(node, **{'throttle-group': 'slow'})) == "Throttle group 'slow' does not exist"
    reopen(disk, dict(node, **{'throttle-group': 'fast'}, file='f'))
    assert children(disk, 't') == {'file': 'f'}


def test_reopen_qcow2(daemon, tmp):
    """Lazy counts are said in the image as long as they are, the rest is accepted; the image is sound."""
    make_chain(tmp, 'a')
    path = tmp / 'a.qcow2'
    daemon.qmp('blockdev-add', layer(tmp, 'a'))
    writer = Writer(daemon.export('a', 'e'))
    for more in ({'lazy-refcounts': True}, {'overlap-check': 'all', 'cache-clean-interval': 1},
                 {'lazy-refcounts': True, 'pass-discard-request': True}, {'l2-cache-size': MiB},
                 {'refcount-cache-size': 256 * KiB, 'pass-discard-other': True},
                 {'lazy-refcounts': True, 'cache-size': 0 if not is_peer() else MiB}, {}):
        reopen(daemon, layer(tmp, 'a', **more))
        assert bool(is_dirty(path)) == more.get('lazy-refcounts', False)
    assert error(daemon, layer(tmp, 'a', **{'cache-size': 1, 'l2-cache-size': 2})) == \
        'l2-cache-size may not exceed cache-size'
    assert writer.stop() > 0
    daemon.qmp('block-export-del', id='e', mode='hard')
    reopen(daemon, layer(tmp, 'a', **{'lazy-refcounts': True}))
    reopen(daemon, layer(tmp, 'a', **{'lazy-refcounts': True, 'read-only': True}))
    assert not is_dirty(path)
    run('qemu-img', 'check', path)
    reopen(daemon, layer(tmp, 'a'))
    daemon.stop()
    sound(path)


# ---- children ----

def test_reopen_backing(daemon, tmp):
    """Exchanged, taken away and given, while a guest writes to the overlay."""
    make_chain(tmp, 'a', 'top')
    make_chain(tmp, 'b')
    put(tmp, 'a', 0, SIZE, 5)
    put(tmp, 'b', 0, SIZE, 6)
    for name in 'a', 'b':
        daemon.qmp('blockdev-add', layer(tmp, name))
    daemon.qmp('blockdev-add', layer(tmp, 'top', backing='a'))
    guest = nbd_connect(daemon.export('top', 'e'))
    assert guest.pread(512, MiB) == b'\5' * 512
    writer = Writer(daemon.uri('e'), 64 * KiB)
    for _ in range(10):
        for backing, byte in ('b', 6), (None, 0), ('a', 5):
            reopen(daemon, layer(tmp, 'top', backing=backing))
            assert children(daemon, 'top').get('backing') == backing
            assert guest.pread(512, MiB) == bytes([byte]) * 512
    assert error(daemon, layer(tmp, 'top')) == "backing is missing for 'top'"
    assert 'would create a cycle' in error(daemon, layer(tmp, 'a', backing='top'))
    assert 'would create a cycle' in error(daemon, layer(tmp, 'a', backing='b'), layer(tmp, 'b', backing='a'))
    assert error(daemon, layer(tmp, 'top', backing='nix')) == "Cannot find device='' nor node-name='nix'"
    reopen(daemon, layer(tmp, 'top', backing='b'), layer(tmp, 'a', backing=None, **{'read-only': True}))
    assert children(daemon, 'top')['backing'] == 'b' and node_info(daemon, 'a')['ro']
    assert writer.stop() > 0
    daemon.stop()
    sound(tmp / 'top.qcow2')


def test_reopen_filter_below(daemon, tmp):
    """A filter is put between an image and its file, and taken out."""
    make_chain(tmp, 'a')
    daemon.qmp('blockdev-add', {'driver': 'file', 'node-name': 'f', 'filename': str(tmp / 'a.qcow2')})
    daemon.qmp('blockdev-add', {'driver': 'qcow2', 'node-name': 'q', 'file': 'f'})
    daemon.qmp('object-add', {'qom-type': 'throttle-group', 'id': 'g', 'limits': {'iops-total': 100000}})
    writer = Writer(daemon.export('q', 'e'))
    for _ in range(10):
        daemon.qmp('blockdev-add', {'driver': 'throttle', 'node-name': 't', 'throttle-group': 'g', 'file': 'f'})
        reopen(daemon, {'driver': 'qcow2', 'node-name': 'q', 'file': 't'})
        assert children(daemon, 'q') == {'file': 't'}
        reopen(daemon, {'driver': 'qcow2', 'node-name': 'q', 'file': 'f'})
        daemon.qmp('blockdev-del', node_name='t')
    assert writer.stop() > 0
    daemon.stop()
    sound(tmp / 'a.qcow2')


def test_reopen_of_a_frozen_link(daemon, tmp):
    """A stream needs the chain as it is: links that it froze stay, other options may change."""
    make_chain(tmp, 'a', 'top')
    put(tmp, 'a', 0, SIZE, 5)
    daemon.qmp('blockdev-add', layer(tmp, 'a'))
    daemon.qmp('blockdev-add', layer(tmp, 'top', backing='a'))
    daemon.qmp('block-stream', job_id='s', device='top', speed=65536, filter_node_name='c')
    assert error(daemon, layer(tmp, 'top', backing=None)) == "Cannot change 'backing' link from 'top' to 'a'"
    reopen(daemon, layer(tmp, 'top', backing='a', **{'detect-zeroes': 'on'}))
    assert 'does not support' in error(daemon, {'driver': 'copy-on-read', 'node-name': 'c', 'file': 'top'})
    daemon.qmp('job-cancel', id='s')
    daemon.qmp.event('BLOCK_JOB_CANCELLED')
    reopen(daemon, layer(tmp, 'top', backing=None))


def test_reopen_of_a_frozen_raw(daemon, tmp):
    """raw over an image that is streamed stays the link that the job has frozen."""
    make_chain(tmp, 'a', 'top')
    put(tmp, 'a', 0, SIZE, 5)
    daemon.qmp('blockdev-add', layer(tmp, 'a'))
    daemon.qmp('blockdev-add', layer(tmp, 'top', backing='a'))
    daemon.qmp('blockdev-add', over(file='top'))
    daemon.qmp('block-stream', job_id='s', device='r', speed=65536)
    assert error(daemon, over(file='top', offset=512)) == "Cannot change 'file' link from 'r' to 'top'"
    daemon.qmp('job-cancel', id='s')
    daemon.qmp.event('BLOCK_JOB_CANCELLED')
    reopen(daemon, over(file='top', offset=512))


def test_reopen_beside_a_commit(daemon, tmp):
    """A base that a commit has made writable stays so while that needs it, and is read-only again afterwards."""
    make_chain(tmp, 'a', 'top')
    put(tmp, 'top', 0, SIZE, 5)
    base = layer(tmp, 'a')
    daemon.qmp('blockdev-add', layer(tmp, 'top', backing=base))
    assert node_info(daemon, 'a')['ro']
    daemon.qmp('block-commit', job_id='c', device='top', base_node='a', speed=65536)
    assert not node_info(daemon, 'a')['ro']
    reopen(daemon, layer(tmp, 'top', backing='a', cache={'no-flush': True}))
    assert not node_info(daemon, 'a')['ro'] and node_info(daemon, 'a')['cache']['no-flush']
    daemon.qmp('job-cancel', id='c')
    daemon.qmp.event('BLOCK_JOB_CANCELLED')
    assert node_info(daemon, 'a')['ro']


# ---- steps of a transaction; failures ----

def test_reopen_in_a_transaction(disk, tmp):
    """Beside other steps, kept or undone with them."""
    path = tmp / 'f.img'
    step = {'type': 'blockdev-reopen', 'data': {'options': [file_node(path, cache={'direct': True})]}}
    add = {'type': 'blockdev-add', 'data': {'driver': 'raw', 'node-name': 'n', 'file': 'f'}}
    move = {'type': 'blockdev-replace', 'data': {'parent-type': 'export', 'export-id': 'e', 'new-child': 'n'}}
    writer = Writer(disk.export('r', 'e'))
    text = refused(disk.qmp, 'transaction', actions=[step, add, move, {'type': 'abort', 'data': {}}])
    assert text == 'Transaction aborted using Abort action'
    assert not node_info(disk, 'f')['cache']['direct'] and not node_info(disk, 'n')
    disk.qmp('transaction', actions=[step, add, move])
    assert node_info(disk, 'f')['cache']['direct'] and disk.qmp('query-block-exports')[0]['node-name'] == 'n'
    assert writer.stop() > 0


def test_reopen_steps_that_meet(daemon, tmp):
    """Steps of one transaction that change the same child: each finds it as the one before has left it."""
    make_chain(tmp, 'a', 'top')
    make_chain(tmp, 'b')
    for name in 'a', 'b':
        daemon.qmp('blockdev-add', layer(tmp, name))
    daemon.qmp('blockdev-add', layer(tmp, 'top', backing='a'))

    def step(backing):
        return {'type': 'blockdev-reopen', 'data': {'options': [layer(tmp, 'top', backing=backing)]}}
    replace = {'type': 'blockdev-replace', 'data': {'parent-type': 'driver', 'node-name': 'top', 'child': 'backing',
                                                    'new-child': 'b'}}
    daemon.qmp('transaction', actions=[replace, step('b')])
    assert children(daemon, 'top')['backing'] == 'b'
    daemon.qmp('transaction', actions=[replace, step(None)])
    assert 'backing' not in children(daemon, 'top')
    reopen(daemon, layer(tmp, 'top', backing='a'))
    assert refused(daemon.qmp, 'transaction', actions=[step(None), replace]) == \
        "An earlier step has taken child 'backing' away"
    assert refused(daemon.qmp, 'transaction', actions=[step(None), step('b')]).endswith(
        'is reopened by an earlier step')
    assert error(daemon, layer(tmp, 'top', backing='a'), layer(tmp, 'top', backing='b')) == \
        "Node 'top' is to be reopened twice"
    assert children(daemon, 'top')['backing'] == 'a'


def test_reopen_leaves_what_heirs_have_become(daemon, tmp):
    """A parent's new options reach the child that it was defined with; what that has below stays as it is now."""
    for name in 'one', 'two':
        daemon.qmp('blockdev-add', file_node(fill(tmp / f'{name}.img', MiB, seed=1 if name == 'one' else 2), name))
    daemon.qmp('object-add', {'qom-type': 'throttle-group', 'id': 'g'})
    throttle = {'driver': 'throttle', 'node-name': 't', 'throttle-group': 'g', 'file': 'one'}
    daemon.qmp('blockdev-add', over(file=throttle))
    daemon.qmp('blockdev-replace', {'parent-type': 'driver', 'node-name': 't', 'child': 'file', 'new-child': 'two'})
    reopen(daemon, over(file='t', cache={'no-flush': True}))
    assert children(daemon, 't')['file'] == 'two' and node_info(daemon, 't')['cache']['no-flush']
    # What is said of the heir itself counts, wherever in the list it stands.
    own = dict(throttle, file='two', cache={'no-flush': False})
    for options in [own, over(file='t', cache={'no-flush': True})], [over(file='t', cache={'no-flush': True}), own]:
        reopen(daemon, *options)
        assert node_info(daemon, 'r')['cache']['no-flush'] and not node_info(daemon, 't')['cache']['no-flush']


def test_reopen_whose_last_write_fails(daemon, tmp):
    """An image that cannot write what it owes before it becomes read-only stays writable, and nothing is lost."""
    make_chain(tmp, 'a')
    path = tmp / 'a.qcow2'
    daemon.qmp('blockdev-add', {'driver': 'file', 'node-name': 'f', 'filename': str(path)})
    options = {'driver': 'qcow2', 'node-name': 'q', 'file': 'f', 'lazy-refcounts': True}
    daemon.qmp('blockdev-add', options)
    guest = nbd_connect(daemon.export('q', 'e'))
    guest.pwrite(b'1' * 65536, 0)
    guest.shutdown()
    daemon.qmp('block-export-del', id='e', mode='hard')
    daemon.qmp('blockdev-add', {'driver': 'blkdebug', 'node-name': 'd', 'image': 'f',
                                'inject-error': [{'event': 'flush_to_disk', 'once': True}]})
    reopen(daemon, dict(options, file='d'))
    error(daemon, dict(options, file='d', **{'read-only': True}))
    assert not node_info(daemon, 'q')['ro'] and is_dirty(path)
    guest = nbd_connect(daemon.export('q', 'e'))
    guest.pwrite(b'2' * 65536, MiB)
    guest.flush()
    guest.shutdown()
    daemon.qmp('block-export-del', id='e', mode='hard')
    reopen(daemon, dict(options, file='d', **{'read-only': True}))
    assert not is_dirty(path)
    daemon.stop()
    sound(path)
    run('qemu-io', '-f', 'qcow2', '-c', 'read -q -P 49 0 65536', '-c', 'read -q -P 50 1M 65536', path)
