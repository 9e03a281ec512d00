# SPDX-License-Identifier: BSD-2-Clause
"""Nodes: making and deleting them, the options that every node has, and what the queries tell about them."""
import errno
import fcntl
import os
import re
import struct
import subprocess

import nbd
import pytest

from weirtest import KiB, MiB, QmpError, daemon_command, file_bytes, fill, is_peer, nbd_connect, run, wait_until
from weirtest.chain import layer, make_chain
from weirtest.nodes import descriptors, node_info

SIZE = 4 * MiB


@pytest.fixture
def image(tmp):
    return fill(tmp / 'disk.img', SIZE)


def error_text(call, *args, **options):
    with pytest.raises(QmpError) as caught:
        call(*args, **options)
    assert caught.value.error_class == 'GenericError'
    return caught.value.text


def names(daemon):
    return {n['node-name'] for n in daemon.qmp('query-named-block-nodes')}


def is_writable(daemon, path):
    return any(f & os.O_ACCMODE == os.O_RDWR for f in descriptors(daemon, path))


def blocks(path):
    """Bytes that the file takes on the host."""
    return os.stat(path).st_blocks * 512


def file_node(path, node='f', **options):
    return dict({'driver': 'file', 'node-name': node, 'filename': str(path)},
                **{k.replace('_', '-'): v for k, v in options.items()})


# ---- making and deleting ----

def test_blockdev_add(daemon, image):
    """A node by itself, over another by name, with children of its own; each is served."""
    daemon.qmp('blockdev-add', file_node(image))
    daemon.qmp('blockdev-add', {'driver': 'raw', 'node-name': 'r', 'file': 'f'})
    assert nbd_connect(daemon.export('r')).pread(1000, 500) == file_bytes(image, 500, 1000)
    daemon.qmp('block-export-del', id='r', mode='hard')
    daemon.qmp('blockdev-del', node_name='r')
    assert 'f' in names(daemon)
    nested = {'driver': 'raw', 'node-name': 'top', 'file': {
        'driver': 'raw', 'node-name': 'middle', 'file': {'driver': 'raw', 'file': 'f'}}}
    daemon.qmp('blockdev-add', nested)
    before = names(daemon)
    assert {'top', 'middle', 'f'} < before and len(before) == 4
    # Children that were made with their parent go with it; those that were only named stay.
    daemon.qmp('blockdev-del', node_name='top')
    assert names(daemon) == {'f'}
    daemon.qmp('blockdev-del', node_name='f')
    assert not descriptors(daemon, image)


def test_failed_add_leaves_nothing(daemon, image):
    """Whatever fails in a nested definition, nothing of it is left and every name is free."""
    bad = {'driver': 'raw', 'node-name': 'top', 'size': 1 << 40, 'file': file_node(image, 'inner')}
    error_text(daemon.qmp, 'blockdev-add', bad)
    error_text(daemon.qmp, 'blockdev-add', dict(bad, file=file_node('/nonexistent/x', 'inner')))
    error_text(daemon.qmp, 'blockdev-add', {'driver': 'raw', 'node-name': 'top', 'file': 'nobody'})
    assert not names(daemon) and not descriptors(daemon, image)
    run('qemu-io', '-f', 'raw', image, '-c', 'write -P 5 0 512')  # no lock is left
    daemon.qmp('blockdev-add', {'driver': 'raw', 'node-name': 'top', 'file': file_node(image, 'inner')})
    assert names(daemon) == {'top', 'inner'}


def test_node_name_rules(daemon):
    """Which names there may be, the names that are made up, and that each is there once."""
    for name in ('a', 'Z9', 'a-b.c_d', 'n' * 31):
        daemon.qmp('blockdev-add', {'driver': 'null-co', 'node-name': name})
        assert name in names(daemon)
    for name in ('', '9a', '-a', '.a', '_a', 'a/b', 'a b', 'é', '#block123', 'a\n'):
        assert error_text(daemon.qmp, 'blockdev-add', {'driver': 'null-co', 'node-name': name}).startswith(
            'Invalid node-name'), name
    assert error_text(daemon.qmp, 'blockdev-add', {'driver': 'null-co', 'node-name': 'n' * 32}) == 'Node name too long'
    error_text(daemon.qmp, 'blockdev-add', {'driver': 'null-co', 'node-name': 'a'})
    error_text(daemon.qmp, 'blockdev-add', {'driver': 'raw', 'node-name': 'x',
                                            'file': {'driver': 'null-co', 'node-name': 'x'}})
    before = names(daemon)
    daemon.qmp('blockdev-add', {'driver': 'raw', 'node-name': 'x', 'file': {'driver': 'null-co'}})
    automatic, = names(daemon) - before - {'x'}
    assert re.fullmatch(r'#block\d{3,}', automatic), automatic
    text = error_text(daemon.qmp, 'blockdev-del', node_name=automatic)
    assert automatic in text


def test_blockdev_del(daemon, image, tmp):
    """Only nodes that nobody uses; the file is closed and unlocked when the command has answered."""
    daemon.qmp('blockdev-add', file_node(image))
    daemon.qmp('blockdev-add', {'driver': 'raw', 'node-name': 'r', 'file': 'f'})
    assert error_text(daemon.qmp, 'blockdev-del', node_name='f') in ('Node f is in use', 'Block device f is in use')
    daemon.export('r')
    assert error_text(daemon.qmp, 'blockdev-del', node_name='r') == 'Node r is in use'
    daemon.qmp('block-export-del', id='r')
    daemon.add_file('t', fill(tmp / 'target.img', SIZE))
    daemon.qmp('blockdev-mirror', job_id='j', device='r', target='t', sync='full', speed=64 * KiB)
    for node in 'rt':
        text = error_text(daemon.qmp, 'blockdev-del', node_name=node)
        assert text.startswith((f'Node {node} is in use', f"Node '{node}' is busy")), text
    daemon.qmp('job-cancel', id='j')
    daemon.qmp.job_wait('j', 'null')
    for node in 'rtf':
        daemon.qmp('blockdev-del', node_name=node)
    assert not descriptors(daemon, image) and not names(daemon)
    assert error_text(daemon.qmp, 'blockdev-del', node_name='f') == "Failed to find node with node-name='f'"
    run('qemu-io', '-f', 'raw', image, '-c', 'write -P 5 0 512')


def test_inline_child_is_not_deletable(daemon, image):
    daemon.qmp('blockdev-add', {'driver': 'raw', 'node-name': 'r', 'file': file_node(image)})
    error_text(daemon.qmp, 'blockdev-del', node_name='f')
    assert names(daemon) == {'r', 'f'}


def test_many_nodes(daemon):
    """Hundreds of nodes, in chains and side by side, made and deleted."""
    for i in range(200):
        daemon.qmp('blockdev-add', {'driver': 'null-co', 'node-name': f'n{i}', 'size': MiB})
        daemon.qmp('blockdev-add', {'driver': 'raw', 'node-name': f'r{i}', 'file': f'n{i}'})
    assert len(names(daemon)) == 400
    for i in range(200):
        daemon.qmp('blockdev-del', node_name=f'r{i}')
        daemon.qmp('blockdev-del', node_name=f'n{i}')
    assert not names(daemon)


def test_deep_chain(daemon, image):
    """A chain either works or is refused with a text: nothing in between."""
    daemon.qmp('blockdev-add', file_node(image, 'n0'))
    depth = 0
    for depth in range(1, 40):
        try:
            daemon.qmp('blockdev-add', {'driver': 'raw', 'node-name': f'n{depth}', 'file': f'n{depth - 1}'})
        except QmpError as error:
            assert 'deep' in error.text, error.text
            depth -= 1
            break
    assert depth >= 8
    assert nbd_connect(daemon.export(f'n{depth}')).pread(512, 512) == file_bytes(image, 512, 512)


def test_no_loops(daemon):
    error_text(daemon.qmp, 'blockdev-add', {'driver': 'raw', 'node-name': 'r', 'file': 'r'})
    assert not names(daemon)


def test_deletion_under_load(daemon, image):
    """Commands on one node while another one that shares its file node is busy."""
    daemon.qmp('blockdev-add', file_node(image))
    daemon.qmp('blockdev-add', {'driver': 'raw', 'node-name': 'busy', 'file': 'f'})
    load = subprocess.Popen(['fio', '--name=j', '--ioengine=nbd', f"--uri={daemon.export('busy')}", '--rw=randread',
                             '--bs=4k', '--iodepth=32', '--size=4M', '--time_based', '--runtime=20'],
                            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_until(lambda: is_peer() or requests(daemon, 'busy') > 100, 10, 'requests flow')
        for _ in range(50):
            daemon.qmp('blockdev-add', {'driver': 'raw', 'node-name': 'r', 'file': 'f', 'read-only': True})
            error_text(daemon.qmp, 'blockdev-del', node_name='f')
            error_text(daemon.qmp, 'blockdev-del', node_name='busy')
            uri = daemon.export('r', writable=False)
            assert nbd_connect(uri).pread(4096, 0)
            daemon.qmp('block-export-del', id='r', mode='hard')
            daemon.qmp.event('BLOCK_EXPORT_DELETED', id='r')
            daemon.qmp('blockdev-del', node_name='r')
        assert load.poll() is None
        daemon.qmp('block-export-del', id='busy', mode='hard')
        daemon.qmp.event('BLOCK_EXPORT_DELETED', id='busy')
        daemon.qmp('blockdev-del', node_name='busy')
        daemon.qmp('blockdev-del', node_name='f')
        assert not descriptors(daemon, image)
    finally:
        load.kill()
        load.wait()


def requests(daemon, node):
    stats = {s['node-name']: s['stats'] for s in daemon.qmp('query-blockstats', query_nodes=True)}
    return stats[node]['rd_operations']


# ---- read-only, auto-read-only, force-share ----

def test_read_only(daemon, image):
    """The file is open for reading only, nobody gets to write, and the query says so."""
    daemon.qmp('blockdev-add', file_node(image, read_only=True))
    daemon.qmp('blockdev-add', {'driver': 'raw', 'node-name': 'r', 'file': 'f', 'read-only': True})
    assert not is_writable(daemon, image) and descriptors(daemon, image)
    assert node_info(daemon, 'f')['ro'] and node_info(daemon, 'r')['ro']
    assert error_text(daemon.export, 'r') == 'Cannot export read-only node as writable'
    assert nbd_connect(daemon.export('r', writable=False)).is_read_only()
    daemon.qmp('blockdev-add', file_node(image, 'again', read_only=True))
    run('qemu-io', '-r', '-f', 'raw', image, '-c', 'read 0 512')


def test_read_only_child_of_a_writer(daemon, image):
    """Who would write through a read-only node is refused, as soon as there is somebody who would."""
    daemon.qmp('blockdev-add', file_node(image, read_only=True))
    daemon.qmp('blockdev-add', {'driver': 'raw', 'node-name': 'r', 'file': 'f', 'offset': 512})
    assert 'read-only' in error_text(daemon.export, 'r')
    assert nbd_connect(daemon.export('r', writable=False)).pread(512, 0) == file_bytes(image, 512, 512)
    daemon.qmp('blockdev-add', {'driver': 'null-co', 'node-name': 'n', 'size': SIZE, 'read-zeroes': True})
    error_text(daemon.qmp, 'blockdev-mirror', job_id='j', device='n', target='f', sync='full')


def test_read_only_is_inherited_by_inline_children(daemon, image):
    daemon.qmp('blockdev-add', {'driver': 'raw', 'node-name': 'r', 'read-only': True, 'file': file_node(image)})
    assert not is_writable(daemon, image) and node_info(daemon, 'f')['ro']


def test_auto_read_only(daemon, image):
    """Open for writing exactly as long as somebody may write."""
    daemon.qmp('blockdev-add', file_node(image, auto_read_only=True))
    assert not is_writable(daemon, image)
    daemon.export('f', 'reader', writable=False)
    assert not is_writable(daemon, image)
    handle = nbd_connect(daemon.export('f', 'writer'))
    assert is_writable(daemon, image)
    handle.pwrite(b'w' * 512, 512)
    handle.shutdown()
    daemon.qmp('block-export-del', id='writer', mode='hard')
    daemon.qmp.event('BLOCK_EXPORT_DELETED', id='writer')
    wait_until(lambda: not is_writable(daemon, image), 5, 'the last writer has gone')
    assert nbd_connect(daemon.uri('reader')).pread(512, 512) == b'w' * 512
    run('qemu-io', '-r', '-f', 'raw', image, '-c', 'read 0 512')


def test_auto_read_only_of_a_read_only_file(start, image, tmp):
    """Where writing is impossible the node is read-only by itself."""
    os.chmod(image, 0o444)
    os.chmod(tmp, 0o777)
    command = daemon_command()
    if os.getuid() == 0:
        command = ['setpriv', '--reuid=65534', '--regid=65534', '--clear-groups', '--'] + command
    daemon = start(command=command)
    daemon.serve_nbd()
    error_text(daemon.qmp, 'blockdev-add', file_node(image))
    daemon.qmp('blockdev-add', file_node(image, auto_read_only=True))
    assert nbd_connect(daemon.export('f', 'e', writable=False)).pread(512, 0) == file_bytes(image, 0, 512)
    error_text(daemon.export, 'f', 'w')
    assert nbd_connect(daemon.uri('e')).pread(512, 512) == file_bytes(image, 512, 512)


def locked_bytes(path):
    """Which of the bytes of the lock protocol somebody holds."""
    held = []
    with open(path, 'r+b') as file:
        for byte in [*range(100, 104), *range(200, 204)]:
            request = struct.pack('hhqqi4x', fcntl.F_WRLCK, os.SEEK_SET, byte, 1, 0)
            answer = fcntl.fcntl(file, fcntl.F_OFD_GETLK, request)
            if struct.unpack('hhqqi4x', answer)[0] != fcntl.F_UNLCK:
                held.append(byte)
    return held


@pytest.mark.parametrize('at', ['raw', 'file'])
def test_force_share(start, image, at):
    """With it another process may do to the image what it likes while we read; without, it may not."""
    daemon = start()
    daemon.serve_nbd()
    other = start()

    def reader(**options):
        options = {key.replace('_', '-'): value for key, value in options.items()}
        raw, file = (options, {}) if at == 'raw' else ({}, options)
        daemon.qmp('blockdev-add', dict(raw, **{
            'driver': 'raw', 'node-name': 'r', 'read-only': True,
            'file': dict({'driver': 'file', 'filename': image, 'read-only': True}, **file)}))
        return nbd_connect(daemon.export('r', writable=False))

    def resize(size):
        other.qmp('blockdev-add', file_node(image))
        try:
            other.qmp('block_resize', node_name='f', size=size)
        finally:
            other.qmp('blockdev-del', node_name='f')
    handle = reader()
    assert locked_bytes(image) == [100, 203]
    assert re.search('Failed to get "resize" lock', error_text(resize, 2 * SIZE))
    handle.shutdown()
    daemon.qmp('block-export-del', id='r', mode='hard')
    daemon.qmp('blockdev-del', node_name='r')
    handle = reader(force_share=True)
    assert locked_bytes(image) == [100]
    resize(2 * SIZE)
    assert os.path.getsize(image) == 2 * SIZE
    run('qemu-io', '-f', 'raw', image, '-c', 'write -P 5 0 512')
    assert handle.pread(512, 0) == b'\5' * 512


def locked_bytes(path):
    """Which of the bytes of the lock protocol somebody holds."""
    held = []
    with open(path, 'r+b') as file:
        for byte in [*range(100, 104), *range(200, 204)]:
            request = struct.pack('hhqqi4x', fcntl.F_WRLCK, os.SEEK_SET, byte, 1, 0)
            answer = fcntl.fcntl(file, fcntl.F_OFD_GETLK, request)
            if struct.unpack('hhqqi4x', answer)[0] != fcntl.F_UNLCK:
                held.append(byte)
    return held


def test_force_share_needs_a_reader(daemon, image):
    text = error_text(daemon.qmp, 'blockdev-add', file_node(image, force_share=True))
    assert text == 'force-share=on can only be used with read-only images'


# ---- cache ----

def test_cache_direct(daemon, image):
    """The file is open with O_DIRECT, the query says so, and requests of any alignment work."""
    daemon.qmp('blockdev-add', {'driver': 'raw', 'node-name': 'r', 'cache': {'direct': True},
                                'file': file_node(image)})
    assert all(f & os.O_DIRECT for f in descriptors(daemon, image)) and descriptors(daemon, image)
    for node in 'rf':
        assert node_info(daemon, node)['cache'] == {'direct': True, 'no-flush': False, 'writeback': True}
    handle = nbd_connect(daemon.export('r'))
    with open(image, 'rb') as file:
        expected = bytearray(file.read())
    for offset, length in ((0, 4096), (1, 1), (511, 2), (4095, 8194), (SIZE - 1, 1), (513, 100000)):
        assert handle.pread(length, offset) == expected[offset:offset + length]
        handle.pwrite(b'%' * length, offset)
        expected[offset:offset + length] = b'%' * length
    handle.flush()
    with open(image, 'rb') as file:
        assert file.read() == expected


def test_cache_is_off_by_default(daemon, image):
    daemon.qmp('blockdev-add', file_node(image))
    assert not any(f & os.O_DIRECT for f in descriptors(daemon, image))
    assert node_info(daemon, 'f')['cache'] == {'direct': False, 'no-flush': False, 'writeback': True}


def failing_flush(**options):
    return dict({'driver': 'blkdebug', 'node-name': 'd', 'image': {'driver': 'null-co'},
                 'inject-error': [{'event': 'none', 'iotype': 'flush'}]}, **options)


def test_cache_no_flush(daemon):
    """A flush does not get below the node, so it cannot fail there."""
    daemon.qmp('blockdev-add', failing_flush())
    handle = nbd_connect(daemon.export('d'))
    handle.pwrite(b'x' * 512, 0)
    with pytest.raises(nbd.Error) as caught:
        handle.flush()
    assert caught.value.errnum == errno.EIO
    daemon.qmp('block-export-del', id='d', mode='hard')
    daemon.qmp.event('BLOCK_EXPORT_DELETED', id='d')
    daemon.qmp('blockdev-del', node_name='d')
    daemon.qmp('blockdev-add', failing_flush(cache={'no-flush': True}))
    assert node_info(daemon, 'd')['cache'] == {'direct': False, 'no-flush': True, 'writeback': True}
    handle = nbd_connect(daemon.export('d'))
    handle.pwrite(b'x' * 512, 0)
    handle.flush()
    handle.pwrite(b'x' * 512, 0, nbd.CMD_FLAG_FUA)


def test_cache_is_inherited_by_inline_children(daemon, image):
    daemon.qmp('blockdev-add', {'driver': 'raw', 'node-name': 'r', 'cache': {'no-flush': True},
                                'file': file_node(image)})
    assert node_info(daemon, 'f')['cache']['no-flush']
    daemon.qmp('blockdev-del', node_name='r')
    daemon.qmp('blockdev-add', {'driver': 'raw', 'node-name': 'r', 'cache': {'no-flush': True},
                                'file': file_node(image, cache={'no-flush': False})})
    assert not node_info(daemon, 'f')['cache']['no-flush']


# ---- discard, detect-zeroes ----

@pytest.mark.parametrize('upper', ['unmap', 'ignore'])
@pytest.mark.parametrize('lower', ['unmap', 'ignore'])
def test_discard_option(daemon, image, upper, lower):
    """A discard frees host space where every node on its way allows it; otherwise it succeeds and does nothing."""
    daemon.qmp('blockdev-add', {'driver': 'raw', 'node-name': 'r', 'discard': upper,
                                'file': file_node(image, discard=lower)})
    before = blocks(image)
    old = file_bytes(image, MiB, MiB)
    handle = nbd_connect(daemon.export('r'))
    handle.trim(MiB, MiB)
    handle.flush()
    if upper == lower == 'unmap':
        assert blocks(image) <= before - MiB
        assert handle.pread(MiB, MiB) == bytes(MiB)
    else:
        assert blocks(image) >= before
        assert handle.pread(MiB, MiB) == old
    assert os.path.getsize(image) == SIZE


def test_write_zeroes_and_discard(daemon, image):
    """Zeroes that may be holes free host space only where discard=unmap; zeroes that may not never do."""
    daemon.qmp('blockdev-add', file_node(image, discard='unmap'))
    handle = nbd_connect(daemon.export('f'))
    before = blocks(image)
    handle.zero(MiB, 0, nbd.CMD_FLAG_NO_HOLE)
    handle.flush()
    assert blocks(image) >= before and handle.pread(MiB, 0) == bytes(MiB)
    handle.zero(MiB, MiB)
    handle.flush()
    assert blocks(image) <= before - MiB and handle.pread(MiB, MiB) == bytes(MiB)


def failing_zeroes(detect, discard='unmap'):
    """A node whose write-zeroes requests fail, so that one sees which they are."""
    return {'driver': 'raw', 'node-name': 'r', 'detect-zeroes': detect, 'discard': discard, 'file': {
        'driver': 'blkdebug', 'image': {'driver': 'null-co'}, 'discard': 'unmap',
        'inject-error': [{'event': 'none', 'iotype': 'write-zeroes'}]}}


@pytest.mark.parametrize('mode', ['off', 'on', 'unmap'])
def test_detect_zeroes(daemon, image, tmp, mode):
    """Zeroes that are written become a write-zeroes request; with unmap one that frees host space."""
    daemon.qmp('blockdev-add', failing_zeroes(mode))
    assert node_info(daemon, 'r')['detect_zeroes'] == mode
    handle = nbd_connect(daemon.export('r'))
    handle.pwrite(b'data' * 1024, 0)
    handle.pwrite(bytes(4095) + b'x', 4096)
    if mode == 'off':
        handle.pwrite(bytes(4096), 4096)
    else:
        with pytest.raises(nbd.Error) as caught:
            handle.pwrite(bytes(4096), 4096)
        assert caught.value.errnum == errno.EIO
    daemon.qmp('blockdev-add', file_node(image, 'file', discard='unmap', detect_zeroes=mode))
    handle = nbd_connect(daemon.export('file'))
    before = blocks(image)
    handle.pwrite(bytes(MiB), MiB)
    handle.flush()
    assert handle.pread(MiB, MiB) == bytes(MiB) and handle.pread(512, 0) == file_bytes(image, 0, 512) != bytes(512)
    assert (blocks(image) <= before - MiB) == (mode == 'unmap')


def test_detect_zeroes_unmap_needs_discard(daemon):
    text = error_text(daemon.qmp, 'blockdev-add', failing_zeroes('unmap', 'ignore'))
    assert text == 'setting detect-zeroes to unmap is not allowed without setting discard operation to unmap'


def test_common_options(daemon, image):
    """All of them together, at a node with a child of its own."""
    daemon.qmp('blockdev-add', {
        'driver': 'raw', 'node-name': 'r', 'discard': 'unmap', 'detect-zeroes': 'unmap', 'auto-read-only': True,
        'cache': {'direct': True, 'no-flush': True}, 'read-only': False, 'force-share': False,
        'file': file_node(image, discard='unmap')})
    info = node_info(daemon, 'r')
    assert info['detect_zeroes'] == 'unmap' and info['cache'] == {'direct': True, 'no-flush': True, 'writeback': True}
    assert nbd_connect(daemon.export('r')).pread(512, 0) == file_bytes(image, 0, 512)


# ---- children ----

def test_children(daemon, image):
    """A child is a name or a definition; anything else is an error."""
    daemon.qmp('blockdev-add', file_node(image))
    for node, child in (('a', 'f'), ('b', {'driver': 'null-co'})):
        daemon.qmp('blockdev-add', {'driver': 'raw', 'node-name': node, 'file': child})
    for child in (5, None, ['f'], True, {}, {'driver': 'raw'}, ''):
        error_text(daemon.qmp, 'blockdev-add', {'driver': 'raw', 'node-name': 'x', 'file': child})
    text = error_text(daemon.qmp, 'blockdev-add', {'driver': 'raw', 'node-name': 'x', 'file': 'nobody'})
    assert text == "Cannot find device='' nor node-name='nobody'" or 'nobody' in text
    assert 'x' not in names(daemon)


@pytest.mark.skipif(is_peer(), reason='came with 10.1')
def test_query_children(daemon, image):
    daemon.qmp('object-add', {'qom-type': 'throttle-group', 'id': 'g'})
    daemon.qmp('blockdev-add', {'driver': 'throttle', 'node-name': 't', 'throttle-group': 'g', 'file': {
        'driver': 'blkdebug', 'node-name': 'd', 'image': file_node(image)}})
    assert node_info(daemon, 't')['children'] == [{'child': 'file', 'node-name': 'd'}]
    assert node_info(daemon, 'd')['children'] == [{'child': 'image', 'node-name': 'f'}]
    assert node_info(daemon, 'f')['children'] == []


# ---- queries ----

def test_query_named_block_nodes(daemon, tmp):
    """Every member that a manager may look at."""
    path = tmp / 'sparse.img'
    with open(path, 'wb') as file:
        file.truncate(SIZE)
        os.pwrite(file.fileno(), b'x' * 64 * KiB, 0)
    os.sync()
    daemon.qmp('blockdev-add', {'driver': 'raw', 'node-name': 'r', 'file': file_node(path), 'read-only': True})
    for flat in ({}, {'flat': True}, {'flat': False}):
        infos = {n['node-name']: n for n in daemon.qmp('query-named-block-nodes', flat)}
        assert set(infos) == {'r', 'f'}
        for node, driver in (('r', 'raw'), ('f', 'file')):
            info = infos[node]
            assert info['drv'] == info['image']['format'] == driver and info['ro'] is True
            assert info['file'] == info['image']['filename'] == str(path)
            assert info['image']['virtual-size'] == SIZE
            assert info['image']['actual-size'] == blocks(path)
            assert info['encrypted'] is False and info['detect_zeroes'] == 'off'
            assert info['backing_file_depth'] == 0 and info['write_threshold'] == 0
            assert info['cache'] == {'writeback': True, 'direct': False, 'no-flush': False}
            assert all(info[key] == 0 for key in ('bps', 'bps_rd', 'bps_wr', 'iops', 'iops_rd', 'iops_wr'))
            assert 'backing_file' not in info and 'dirty-bitmaps' not in info


@pytest.mark.skipif(is_peer(), reason='an addition of ours')
def test_query_names_the_throttle_group(daemon):
    daemon.qmp('object-add', {'qom-type': 'throttle-group', 'id': 'g', 'limits': {'iops-read': 7, 'bps-total': 9}})
    daemon.qmp('blockdev-add', {'driver': 'throttle', 'node-name': 't', 'throttle-group': 'g',
                                'file': {'driver': 'null-co', 'node-name': 'n'}})
    info = node_info(daemon, 't')
    assert info['group'] == 'g' and info['iops_rd'] == 7 and info['bps'] == 9
    assert 'group' not in node_info(daemon, 'n')


# ---- size ----

def test_block_resize(daemon, image):
    """The file grows and shrinks, every node above follows, and so does a client that comes later."""
    daemon.qmp('blockdev-add', {'driver': 'raw', 'node-name': 'r', 'file': file_node(image)})
    old = file_bytes(image, 0, 2 * MiB)
    for size in (2 * SIZE, MiB, 2 * MiB, SIZE + 512):
        assert daemon.qmp('block_resize', node_name='r', size=size) == {}
        assert os.path.getsize(image) == size
        sizes = [node_info(daemon, node)['image']['virtual-size'] for node in 'rf']
        assert sizes == [size, size]
    assert file_bytes(image, 0, 2 * MiB) == old[:MiB] + bytes(MiB)
    handle = nbd_connect(daemon.export('r'))
    assert handle.get_size() == SIZE + 512 and handle.pread(512, SIZE) == bytes(512)


def test_block_resize_below(daemon, image):
    """Through the lower node: its parents follow."""
    daemon.qmp('blockdev-add', {'driver': 'raw', 'node-name': 'r', 'read-only': True,
                                'file': file_node(image, read_only=False)})
    try:
        daemon.qmp('block_resize', node_name='f', size=2 * SIZE)
    except QmpError as error:
        assert 'permission' in error.text.lower(), error.text
        assert os.path.getsize(image) == SIZE
    assert node_info(daemon, 'r')['image']['virtual-size'] == os.path.getsize(image)


def test_block_resize_errors(daemon, image):
    daemon.add_file('n', image)
    daemon.qmp('blockdev-add', file_node(image, 'ro', read_only=True, force_share=True))
    assert error_text(daemon.qmp, 'block_resize', node_name='x', size=0) == "Cannot find device='' nor node-name='x'"
    assert error_text(daemon.qmp, 'block_resize', device='x', size=0) == "Cannot find device='x' nor node-name=''"
    for arguments in ({'node-name': 'n', 'size': -1}, {'node-name': 'ro', 'size': MiB}, {'size': MiB},
                      {'node-name': 'n', 'size': 1 << 62}):
        error_text(daemon.qmp, 'block_resize', arguments)
    handle = nbd_connect(daemon.export('n'))
    text = error_text(daemon.qmp, 'block_resize', node_name='n', size=MiB)
    assert 'resize' in text and "'n'" in text, text
    assert handle.pread(512, SIZE - 512) and os.path.getsize(image) == SIZE
    daemon.qmp('block-export-del', id='n', mode='hard')
    daemon.qmp.event('BLOCK_EXPORT_DELETED', id='n')
    daemon.qmp('block_resize', node_name='n', size=MiB)


def test_query_nested(daemon, tmp):
    """Images nest in what stands on them, filters too; flat leaves that out."""
    make_chain(tmp, 'a', 'b')
    daemon.qmp('object-add', {'qom-type': 'throttle-group', 'id': 'g'})
    daemon.qmp('blockdev-add', layer(tmp, 'a', **{'read-only': True}))
    daemon.qmp('blockdev-add', {'driver': 'throttle', 'node-name': 't', 'throttle-group': 'g', 'file': 'a',
                                'read-only': True})
    daemon.qmp('blockdev-add', layer(tmp, 'b', backing='t'))
    info = node_info(daemon, 'b')
    filters = info['image']['backing-image']
    assert (filters['format'], filters['backing-image']['format']) == ('throttle', 'qcow2')
    assert filters['backing-image']['filename'].endswith('a.qcow2')
    assert 'backing-image' not in filters['backing-image'] and info['backing_file_depth'] == 2
    assert 'backing_file' in info and 'backing_file' not in node_info(daemon, 'a')
    flat = next(n for n in daemon.qmp('query-named-block-nodes', flat=True) if n['node-name'] == 'b')
    assert 'backing-image' not in flat['image']


@pytest.mark.skipif(is_peer(), reason='newer than the peer')
def test_query_limits(daemon, image):
    """What a file takes with and without O_DIRECT."""
    daemon.qmp('blockdev-add', file_node(image))
    limits = node_info(daemon, 'f')['limits']
    assert limits['request-alignment'] == limits['min-mem-alignment'] == 1 and limits['max-iov'] == 1024
    daemon.qmp('blockdev-reopen', options=[file_node(image, cache={'direct': True})])
    assert node_info(daemon, 'f')['limits']['request-alignment'] >= 512
