# SPDX-License-Identifier: BSD-2-Clause
"""The driver nbd: a node over an export of nbdkit, qemu-nbd, qemu-storage-daemon, or of another daemon of ours."""
import errno
import random
import threading
import time

import nbd
import pytest

from weirtest import KiB, MiB, QmpError, file_bytes, fill, nbd_connect, run, wait_until
from weirtest.remote import (SIZE, add, address, clients_of, exercise, extents, fails, finish, gone, many, opened,
                             refused)


# ---- servers ----

def test_nbd_client(daemon, tmp, serve):
    """Everything that a node can be asked, over qemu-nbd; the file has what was written."""
    image = fill(tmp / 'disk.img', SIZE)
    path = tmp / 'qemu'
    serve(path, 'qemu-nbd', '-t', '-e', '4', '-k', path, '-x', 'disk', '-f', 'raw', '--discard=unmap', image)
    handle = opened(daemon, path, export='disk')
    assert handle.get_size() == SIZE
    content = exercise(handle)
    handle.flush()
    assert file_bytes(image, 0, SIZE) == content
    node = daemon.qmp('query-named-block-nodes')[0]
    assert (node['drv'], node['ro'], node['file']) == ('nbd', False, f'nbd+unix:///disk?socket={path}')
    handle.zero(MiB, MiB)
    handle.trim(MiB, 3 * MiB)
    assert [e for e in extents(handle) if e[1] & 1], 'holes are told of'
    gone(daemon)


@pytest.mark.parametrize('arguments', [
    ('memory', '4M'),
    ('--filter=nozero', '--filter=fua', 'memory', '4M', 'fuamode=discard'),
    ('--filter=fua', 'memory', '4M', 'fuamode=emulate'),
    ('--filter=nozero', 'memory', '4M', 'zeromode=notrim'),
    ('--filter=noextents', 'memory', '4M'),
    ('--no-sr', 'memory', '4M'),
    ('--filter=noparallel', 'memory', '4M'),
], ids=lambda a: '-'.join(a))
def test_nbd_client_nbdkit(daemon, nbdkit, arguments):
    """Servers that can do more or less."""
    handle = opened(daemon, nbdkit(*arguments))
    exercise(handle)
    assert sum(e[0] for e in extents(handle)) == SIZE


def test_nbd_client_large_requests(daemon, nbdkit):
    """Reads and writes of more than a server takes at once, zeroes and discards of all that 32 bits can say."""
    handle = opened(daemon, nbdkit('memory', '20G'))
    data = random.Random(3).randbytes(32 * MiB)
    handle.pwrite(data, 5)
    assert handle.pread(32 * MiB, 5) == data
    handle.zero((1 << 32) - 1, 3)
    assert handle.pread(MiB, 0) == bytes(MiB)
    handle.pwrite(data, 5)
    handle.trim((1 << 32) - 1, 0)
    assert handle.pread(MiB, 0) == bytes(MiB)


def test_nbd_client_block_sizes(daemon, nbdkit):
    """A server that takes whole blocks only, and small transfers only."""
    handle = opened(daemon, nbdkit('--filter=blocksize-policy', 'memory', '4M', 'blocksize-minimum=4096',
                                   'blocksize-preferred=16384', 'blocksize-maximum=65536',
                                   'blocksize-error-policy=error'))
    exercise(handle)
    assert sum(e[0] for e in extents(handle, 512, SIZE - 512)) == SIZE - 512


def test_nbd_client_qemu_storage_daemon(daemon, start, tmp):
    """QEMU's daemon as the server, with a qcow2 image."""
    image = tmp / 'disk.qcow2'
    run('qemu-img', 'create', '-q', '-f', 'qcow2', image, str(SIZE))
    peer = start(command=['qemu-storage-daemon'])
    peer.serve_nbd()
    peer.qmp('blockdev-add', {'driver': 'qcow2', 'node-name': 'q', 'discard': 'unmap',
                              'file': {'driver': 'file', 'filename': str(image), 'discard': 'unmap'}})
    peer.export('q')
    handle = opened(daemon, peer.nbd_path, export='q')
    handle.pwrite(b'x' * 65536, MiB)
    assert extents(handle) == [(MiB, 3), (65536, 0), (3 * MiB - 65536, 3)]
    content = exercise(handle)
    handle.flush()
    gone(daemon)
    peer.stop()
    run('qemu-img', 'convert', '-f', 'qcow2', '-O', 'raw', image, tmp / 'flat')
    assert file_bytes(tmp / 'flat', 0, SIZE) == content


def test_nbd_client_own_server(daemon, start, tmp):
    """Our own export, in another process and in the same one."""
    image = fill(tmp / 'disk.img', SIZE)
    other = start()
    other.serve_nbd()
    other.add_file('d', image, discard='unmap')
    other.export('d')
    handle = opened(daemon, other.nbd_path, export='d')
    content = exercise(handle)
    handle.flush()
    assert file_bytes(image, 0, SIZE) == content
    again = opened(daemon, daemon.nbd_path, node='m', export='n', writable=False)
    assert again.pread(SIZE, 0) == content
    gone(daemon, 'm')
    gone(daemon)


def test_nbd_client_addresses(daemon, start):
    """TCP; what is no address is named."""
    other = start()
    other.qmp('nbd-server-start', {'addr': {'type': 'inet', 'data': {'host': '127.0.0.1', 'port': '0'}}})
    other.qmp('blockdev-add', {'driver': 'null-co', 'node-name': 'z', 'size': SIZE, 'read-zeroes': True})
    other.export('z')
    listens = run('ss', '-Hltnp')
    port = next(line.split()[3].rsplit(':', 1)[1] for line in listens.splitlines() if f'pid={other.pid},' in line)
    where = {'type': 'inet', 'host': '127.0.0.1', 'port': port}
    assert opened(daemon, where, export='z').pread(512, 0) == bytes(512)
    assert daemon.qmp('query-named-block-nodes')[0]['file'] == f'nbd://127.0.0.1:{port}/z'
    gone(daemon)
    other.stop()
    assert refused(daemon, where) == f"Failed to connect to '127.0.0.1:{port}': Connection refused"
    assert refused(daemon, '/none/at/all') == "Failed to connect to '/none/at/all': No such file or directory"
    assert refused(daemon, '/' + 'x' * 200) == f"UNIX socket path '/{'x' * 200}' is too long"
    assert 'descriptor' in refused(daemon, {'type': 'fd', 'str': '5'})
    assert 'nowhere.invalid' in refused(daemon, dict(where, host='nowhere.invalid'))


# ---- options ----

def test_nbd_client_wrong_export(daemon, tmp, serve, nbdkit):
    """What the server says is in the error."""
    path = tmp / 'qemu'
    serve(path, 'qemu-nbd', '-t', '-e', '4', '-k', path, '-x', 'disk', '-f', 'raw', fill(tmp / 'disk.img', SIZE))
    assert refused(daemon, path, export='dusk') == "Requested export not available: export 'dusk' not present"
    assert refused(daemon, path, export='x' * 5000) == 'export name too long to send to server'
    strict = nbdkit('--filter=exportname', 'memory', '1M', 'exportname=a', 'exportname-strict=true')
    assert 'export' in refused(daemon, strict, export='b').lower()


def test_nbd_client_tls(daemon, nbdkit):
    path = nbdkit('memory', '1M')
    assert refused(daemon, path, tls_creds='t') == \
        "Parameter 'tls-creds' cannot be used: TLS is not supported yet"
    assert refused(daemon, path, tls_hostname='t') == \
        "Parameter 'tls-hostname' cannot be used: TLS is not supported yet"


def test_nbd_client_read_only(daemon, nbdkit):
    """An export that is read-only opens so only; the error is QEMU's."""
    path = nbdkit('-r', 'memory', '1M')
    assert refused(daemon, path).startswith('Could not open image: Permission denied')
    handle = opened(daemon, path, writable=False, read_only=True)
    assert handle.pread(512, 0) == bytes(512)
    add(daemon, path, 'auto', auto_read_only=True)
    with pytest.raises(QmpError, match='read-only'):
        daemon.export('auto', writable=True)
    assert {n['node-name']: n['ro'] for n in daemon.qmp('query-named-block-nodes')} == {'n': True, 'auto': True}


def test_nbd_client_context(daemon, start, tmp):
    """x-dirty-bitmap: the bits of that context are shown as those of base:allocation; it has to be there."""
    image = tmp / 'disk.qcow2'
    run('qemu-img', 'create', '-q', '-f', 'qcow2', image, str(SIZE))
    peer = start(command=['qemu-storage-daemon'])
    peer.serve_nbd()
    peer.qmp('blockdev-add', {'driver': 'qcow2', 'node-name': 'q', 'file': {'driver': 'file', 'filename': str(image)}})
    peer.qmp('block-dirty-bitmap-add', {'node': 'q', 'name': 'b', 'granularity': 65536})
    writer = nbd_connect(peer.export('q', 'w'))
    writer.pwrite(b'x' * 65536, MiB)
    writer.shutdown()
    peer.qmp('block-dirty-bitmap-disable', {'node': 'q', 'name': 'b'})
    peer.export('q', bitmaps=['b'], writable=False)
    assert refused(daemon, peer.nbd_path, export='q', read_only=True, x_dirty_bitmap='qemu:dirty-bitmap:c') == \
        "The server does not have the metadata context 'qemu:dirty-bitmap:c'"
    handle = opened(daemon, peer.nbd_path, writable=False, export='q', read_only=True,
                    x_dirty_bitmap='qemu:dirty-bitmap:b')
    assert extents(handle) == [(MiB, 0), (65536, 1), (3 * MiB - 65536, 0)]


def test_nbd_client_open_timeout(daemon, tmp, serve):
    """Opening waits for a server that is not there yet, as long as it may."""
    path = tmp / 'late'
    began = time.monotonic()
    refused(daemon, path, open_timeout=1)
    assert 0.4 < time.monotonic() - began < 8
    monitor = daemon.connect()
    monitor.send({'execute': 'blockdev-add', 'arguments': {
        'driver': 'nbd', 'node-name': 'n', 'server': address(path), 'open-timeout': 60}})
    assert daemon.qmp('query-named-block-nodes') == []
    serve(path, 'nbdkit', '-f', '-U', path, 'memory', '1M')
    assert 'return' in monitor.reply(30)
    assert nbd_connect(daemon.export('n')).get_size() == MiB


def test_nbd_client_connections(daemon, tmp, serve):
    """x-connections: so many, if the server says that this is fine."""
    path = tmp / 'many'
    server = serve(path, 'nbdkit', '-f', '-U', path, 'memory', '4M')
    for wrong in (0, 17):
        assert refused(daemon, path, x_connections=wrong) == \
            "Parameter 'x-connections' expects a value from 1 to 16"
    handle = opened(daemon, path, x_connections=4)
    wait_until(lambda: clients_of(server.pid, path) == 4, 10, 'four connections')
    many(handle, 400)
    exercise(handle)
    gone(daemon)
    path = tmp / 'one'
    server = serve(path, 'nbdkit', '-f', '-U', path, '--filter=multi-conn', 'memory', '4M', 'multi-conn-mode=disable')
    handle = opened(daemon, path, x_connections=4)
    many(handle, 100)
    assert clients_of(server.pid, path) == 1


# ---- errors ----

def test_nbd_client_errors(daemon, tmp, nbdkit):
    """Errors of the server are those of the request, and the node goes on."""
    switch = tmp / 'bad'
    handle = opened(daemon, nbdkit('--filter=error', 'memory', '4M', 'error=ENOSPC', 'error-rate=100%',
                                   f'error-file={switch}'))
    handle.pwrite(b'a' * 512, 0)
    switch.touch()
    fails(errno.ENOSPC, handle.pwrite, b'b' * 512, 0)
    fails(errno.ENOSPC, handle.pread, 512, 0)
    switch.unlink()
    assert handle.pread(512, 0) == b'a' * 512
    exercise(handle)


def test_nbd_client_many_in_flight(daemon, nbdkit):
    """Requests do not wait for each other, nor do answers have to come in order."""
    handle = opened(daemon, nbdkit('--filter=delay', 'memory', '4M', 'rdelay=300ms', 'wdelay=10ms', '-t', '64'))
    many(handle, 64)
    began = time.monotonic()
    buffers = [nbd.Buffer(512) for _ in range(64)]
    finish(handle, [handle.aio_pread(buffer, i * 8192) for i, buffer in enumerate(buffers)])
    assert time.monotonic() - began < 64 * 0.3 / 4


def test_nbd_client_resize(daemon, nbdkit):
    """An export has its size; a node may show less of it."""
    add(daemon, nbdkit('memory', '4M'))
    with pytest.raises(QmpError, match='Cannot grow NBD nodes'):
        daemon.qmp('block_resize', node_name='n', size=8 * MiB)
    daemon.qmp('block_resize', node_name='n', size=MiB)
    assert nbd_connect(daemon.export('n')).get_size() == MiB


# ---- as a part of a graph ----

def test_nbd_client_mirror_to(daemon, tmp, serve):
    """A mirror whose target is at the other end of a connection, with a guest that writes; then it is the disk."""
    source, target = fill(tmp / 'a.img', SIZE, seed=1), fill(tmp / 'b.img', SIZE, seed=2)
    path = tmp / 'qemu'
    serve(path, 'qemu-nbd', '-t', '-e', '4', '-k', path, '-f', 'raw', '--discard=unmap', target)
    daemon.add_file('s', source, discard='unmap')
    handle = nbd_connect(daemon.export('s'))
    add(daemon, path, 't')
    daemon.qmp('blockdev-mirror', {'job-id': 'm', 'device': 's', 'target': 't', 'sync': 'full',
                                   'copy-mode': 'write-blocking'})
    exercise(handle, rounds=100)
    daemon.qmp.job_wait('m', 'ready')
    content = exercise(handle, rounds=100, seed=2)
    daemon.qmp('job-complete', id='m')
    daemon.qmp.job_wait('m', 'concluded')
    handle.pwrite(b'behind', 1000)
    handle.flush()
    assert file_bytes(target, 0, SIZE) == content[:1000] + b'behind' + content[1006:]


def test_nbd_client_backing(daemon, tmp, nbdkit):
    """A backing image on a server."""
    base = fill(tmp / 'base.img', SIZE)
    image = tmp / 'top.qcow2'
    run('qemu-img', 'create', '-q', '-f', 'qcow2', image, str(SIZE))
    add(daemon, nbdkit('-r', 'file', base), 'base', read_only=True)
    daemon.qmp('blockdev-add', {'driver': 'qcow2', 'node-name': 'top', 'backing': 'base',
                                'file': {'driver': 'file', 'filename': str(image)}})
    handle = nbd_connect(daemon.export('top'))
    assert handle.pread(SIZE, 0) == file_bytes(base, 0, SIZE)
    handle.pwrite(b'top' * 100, 70000)
    assert handle.pread(SIZE, 0) == file_bytes(base, 0, 70000) + b'top' * 100 + file_bytes(base, 70300, SIZE)


def test_nbd_client_iothread(daemon, nbdkit):
    """Exports on several loops use one connection."""
    path = nbdkit('memory', '4M')
    for i in range(2):
        daemon.qmp('object-add', {'qom-type': 'iothread', 'id': f't{i}'})
    add(daemon, path, 'n')
    handles = [nbd_connect(daemon.export('n', f'e{i}', iothread=f't{i}')) for i in range(2)]
    handles.append(nbd_connect(daemon.export('n', 'e2')))
    threads = [threading.Thread(target=half, args=(h, i)) for i, h in enumerate(handles)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    for i, handle in enumerate(handles):
        assert handle.pread(4096, i * MiB) == bytes([i + 1]) * 4096


def half(handle, index):
    """Works on one MiB of its own."""
    rnd = random.Random(index)
    for _ in range(300):
        offset = index * MiB + rnd.randrange(MiB - 65536)
        data = rnd.randbytes(rnd.randrange(1, 65536))
        handle.pwrite(data, offset)
        assert handle.pread(len(data), offset) == data
    handle.pwrite(bytes([index + 1]) * 4096, index * MiB)
