# SPDX-License-Identifier: BSD-2-Clause
"""Exports and the NBD server: every option and command, and the limits that keep clients from harming others."""
import errno
import os
import socket
import struct
import subprocess
import time

import nbd
import pytest

from weirtest import MiB, QmpError, file_bytes, fill, is_peer, nbd_connect, nbd_uri, run, wait_until

SIZE = 4 * MiB


@pytest.fixture
def node(daemon, tmp):
    """A daemon with an NBD server and the writable node 'n' on tmp/disk.img."""
    daemon.add_file('n', fill(tmp / 'disk.img', SIZE), discard='unmap')
    return daemon


def exports(daemon):
    return {e['id']: e for e in daemon.qmp('query-block-exports')}


def add(daemon, **options):
    arguments = {'type': 'nbd', 'id': 'e', 'node-name': 'n'}
    arguments.update({key.replace('_', '-'): value for key, value in options.items()})
    return daemon.qmp('block-export-add', arguments)


def error_text(call, *args, **options):
    with pytest.raises(QmpError) as caught:
        call(*args, **options)
    return caught.value.text


def connections_gone(daemon, export='e'):
    """Waits until nobody uses the export: only then does a safe removal work."""
    def attempt():
        try:
            daemon.qmp('block-export-del', id=export)
        except QmpError as error:
            assert 'still in use' in error.text
            return False
        return True
    wait_until(attempt, 10, 'the clients have gone')


# ---- block-export-add ----

def test_export_add(node):
    add(node)
    assert error_text(add, node) == "Block export id 'e' is already in use"
    assert error_text(add, node, id='f') == "NBD server already has export named 'n'"
    assert error_text(add, node, id='f', node_name='x') == "Cannot find device='' nor node-name='x'"
    for wrong in ('', '1e', 'e/', 'e f'):
        assert error_text(add, node, id=wrong) == 'Invalid block export id'
    assert list(exports(node)) == ['e']
    assert error_text(node.qmp, 'blockdev-del', node_name='n') == 'Node n is in use'
    add(node, id='f', name='other')
    assert nbd_connect(node.uri('other')).get_size() == SIZE


def test_export_nbd(node):
    add(node)
    handle = nbd_connect(node.uri('n'))
    assert handle.get_size() == SIZE and handle.is_read_only()


def test_export_nbd_name(node):
    add(node, name='a name with spaces, ünïcode')
    assert nbd_connect(node.uri('a name with spaces, ünïcode')).get_size() == SIZE
    with pytest.raises(nbd.Error):
        nbd_connect(node.uri('n'))
    add(node, id='longest', name='x' * 4096)
    assert nbd_connect(node.uri('x' * 4096)).get_size() == SIZE
    assert 'too long' in error_text(add, node, id='f', name='x' * 4097)


def test_export_nbd_description(node):
    add(node, description='what it is')
    handle = nbd.NBD()
    handle.set_full_info(True)
    handle.connect_uri(node.uri('n'))
    assert handle.get_export_description() == 'what it is'
    add(node, id='f', name='f', description='d' * 4096)
    assert 'too long' in error_text(add, node, id='g', name='g', description='d' * 4097)


def test_export_writable(node, tmp):
    add(node)
    add(node, id='f', name='f', writable=True)
    reader, writer = nbd_connect(node.uri('n'), strict=False), nbd_connect(node.uri('f'))
    with pytest.raises(nbd.Error) as caught:
        reader.pwrite(b'x' * 512, 0)
    assert caught.value.errnum == errno.EPERM or is_peer()
    writer.pwrite(b'x' * 512, 0)
    assert reader.pread(512, 0) == b'x' * 512 == file_bytes(tmp / 'disk.img', 0, 512)


def test_export_writable_needs_a_writable_node(node, tmp):
    node.add_file('ro', tmp / 'disk.img', read_only=True)
    assert error_text(add, node, node_name='ro', writable=True) == 'Cannot export read-only node as writable'


@pytest.mark.skipif(is_peer(), reason='its blkdebug counts other events')
def test_export_writethrough(daemon, tmp):
    """With writethrough a change is answered after it was made durable, so it fails where the flush fails."""
    fill(tmp / 'disk.img', SIZE)
    daemon.qmp('blockdev-add', {
        'driver': 'blkdebug', 'node-name': 'n', 'inject-error': [{'event': 'none', 'iotype': 'flush'}],
        'discard': 'unmap', 'image': {'driver': 'file', 'filename': str(tmp / 'disk.img'), 'discard': 'unmap'}})
    add(daemon, id='later', name='later', writable=True)
    add(daemon, id='through', name='through', writable=True, writethrough=True)
    handle = nbd_connect(daemon.uri('later'))
    handle.trim(4096, 0)
    for call in (handle.flush, lambda: handle.trim(4096, 0, nbd.CMD_FLAG_FUA)):
        with pytest.raises(nbd.Error) as caught:
            call()
        assert caught.value.errnum == errno.EIO
    handle = nbd_connect(daemon.uri('through'))
    for call in (lambda: handle.trim(4096, 0), lambda: handle.pwrite(b'y' * 512, 0)):
        with pytest.raises(nbd.Error) as caught:
            call()
        assert caught.value.errnum == errno.EIO
    assert file_bytes(tmp / 'disk.img', 0, 512) == b'y' * 512  # what failed is that it is durable


@pytest.mark.skipif(is_peer(), reason='it dies when the export goes before the iothread')
def test_export_iothread(node):
    assert error_text(add, node, iothread='io0') == 'iothread "io0" not found'
    node.qmp('object-add', {'qom-type': 'iothread', 'id': 'io0'})
    add(node, iothread='io0', writable=True, fixed_iothread=True)
    handle = nbd_connect(node.uri('n'))
    names = [open(f'/proc/{node.pid}/task/{task}/comm', encoding='ascii').read().strip()
             for task in os.listdir(f'/proc/{node.pid}/task')]
    assert 'io0' in names
    for i in range(100):
        handle.pwrite(bytes([i]) * 4096, i * 4096)
        assert handle.pread(4096, i * 4096) == bytes([i]) * 4096
    handle.flush()
    assert 'in use' in error_text(node.qmp, 'object-del', id='io0')
    handle.shutdown()
    connections_gone(node)
    node.qmp('object-del', id='io0')


# ---- block-export-del, query-block-exports ----

def test_query_block_exports(node):
    assert node.qmp('query-block-exports') == []
    add(node)
    add(node, id='f', name='f')
    assert exports(node) == {i: {'id': i, 'type': 'nbd', 'node-name': 'n', 'shutting-down': False} for i in 'ef'}


def test_export_del_modes(node):
    add(node)
    assert error_text(node.qmp, 'block-export-del', id='x') == "Export 'x' is not found"
    handle = nbd_connect(node.uri('n'))
    assert error_text(node.qmp, 'block-export-del', id='e').startswith("export 'e' still in use")
    assert handle.pread(512, 0)
    node.qmp('block-export-del', id='e', mode='hard')
    node.qmp.event('BLOCK_EXPORT_DELETED', id='e')
    with pytest.raises(nbd.Error):
        handle.pread(512, 0)
    assert exports(node) == {}
    # An export without clients is gone when the command returns, and its event came before.
    add(node)
    node.qmp('block-export-del', id='e')
    assert any(e['event'] == 'BLOCK_EXPORT_DELETED' for e in node.qmp.events)
    node.qmp.event('BLOCK_EXPORT_DELETED', id='e')
    node.qmp('blockdev-del', node_name='n')


def test_hard_removal_leaves_the_node_free(daemon):
    """A client is sent away while a request of it takes its time; the next command finds the node free."""
    for _ in range(5):
        daemon.qmp('blockdev-add', driver='null-co', node_name='n', size=MiB, latency_ns=100_000_000)
        handle = nbd_connect(daemon.export('n', 'e'))
        handle.aio_pread(nbd.Buffer(512), 0)
        wait_until(lambda: handle.poll(0) >= 0 and not handle.aio_get_direction() & nbd.AIO_DIRECTION_WRITE, 10,
                   'the request is sent')
        daemon.qmp('block-export-del', id='e', mode='hard')
        daemon.qmp('blockdev-del', node_name='n')


def test_export_deleted_under_load(node):
    """Removal while requests are in flight: the others go on, the node is free afterwards."""
    add(node, writable=True)
    add(node, id='f', name='f', writable=True)
    load = subprocess.Popen(['fio', '--name=j', '--ioengine=nbd', f"--uri={node.uri('n')}", '--rw=randrw', '--bs=4k',
                             '--iodepth=32', '--time_based', '--runtime=30', '--size=4M'],
                            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    handle = nbd_connect(node.uri('f'))
    wait_until(lambda: is_peer() or node.qmp('query-blockstats', query_nodes=True)[0]['stats']['rd_operations'] > 100,
               10, 'requests flow')
    node.qmp('block-export-del', id='e', mode='hard')
    node.qmp.event('BLOCK_EXPORT_DELETED', id='e')
    assert handle.pread(512, 0)
    assert load.wait(10) != 0
    handle.shutdown()
    connections_gone(node, 'f')
    node.qmp('blockdev-del', node_name='n')


# ---- the server ----

def start_server(daemon, kind, **data):
    options = {key: data.pop(key) for key in ('max-connections', 'handshake-max-seconds') if key in data}
    daemon.qmp('nbd-server-start', {'addr': {'type': kind, 'data': data}, **options})


def test_nbd_server_start_stop(node, tmp):
    path = str(tmp / 'other')
    assert error_text(start_server, node, 'unix', path=path) == 'NBD server already running'
    add(node)
    add(node, id='f', name='f')
    handle = nbd_connect(node.uri('n'))
    node.qmp('nbd-server-stop')
    assert {e['data']['id'] for e in node.qmp.events if e['event'] == 'BLOCK_EXPORT_DELETED'} == {'e', 'f'}
    with pytest.raises(nbd.Error):
        handle.pread(512, 0)
    assert exports(node) == {} and not os.path.exists(node.nbd_path)
    assert error_text(node.qmp, 'nbd-server-stop') == 'NBD server not running'
    assert error_text(add, node) == 'NBD server not running'
    start_server(node, 'unix', path=path)
    add(node)
    assert nbd_connect(nbd_uri(path, 'n')).get_size() == SIZE


def free_port():
    with socket.socket() as one:
        one.bind(('127.0.0.1', 0))
        return one.getsockname()[1]


def test_nbd_server_addresses(start, tmp):
    daemon = start()
    daemon.add_file('n', fill(tmp / 'disk.img', SIZE))
    port = free_port()
    start_server(daemon, 'inet', host='127.0.0.1', port=str(port))
    add(daemon)
    assert nbd_connect(f'nbd://127.0.0.1:{port}/n').pread(512, 512) == file_bytes(tmp / 'disk.img', 512, 512)
    daemon.qmp('nbd-server-stop')
    with socket.socket() as other:
        other.bind(('127.0.0.1', port))
        other.listen()
        assert 'Address already in use' in error_text(start_server, daemon, 'inet', host='127.0.0.1', port=str(port))
    path = tmp / 'nowhere' / 'socket'
    text = error_text(start_server, daemon, 'unix', path=str(path))
    assert text == f'Failed to bind socket to {path}: No such file or directory'
    assert 'too long' in error_text(start_server, daemon, 'unix', path='/tmp/' + 'x' * 200)
    text = error_text(start_server, daemon, 'inet', host='host.invalid', port='1')
    assert text.startswith('address resolution failed')
    start_server(daemon, 'unix', path=str(daemon.nbd_path))


@pytest.mark.skipif(is_peer(), reason='does not listen on descriptors without a monitor')
def test_nbd_server_passed_descriptor(start, tmp):
    path = str(tmp / 'passed')
    image = fill(tmp / 'disk.img', SIZE)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path)
        listening.listen()
        fd = listening.fileno()
        daemon = start('--blockdev', {'driver': 'file', 'filename': image, 'node-name': 'n'},
                       '--nbd-server', f'addr.type=fd,addr.str={fd}',
                       '--export', 'type=nbd,id=e,node-name=n', pass_fds=[fd])
    assert nbd_connect(nbd_uri(path, 'n')).get_size() == SIZE
    daemon.qmp('nbd-server-stop')
    for wrong in ('0', '99', 'fd'):
        assert f"File descriptor '{wrong}' is not" in error_text(start_server, daemon, 'fd', str=wrong)


def test_nbd_server_option(start, tmp):
    path, image = tmp / 's', fill(tmp / 'disk.img', SIZE)
    start('--blockdev', {'driver': 'file', 'filename': image, 'node-name': 'n'},
          '--nbd-server', f'addr.type=unix,addr.path={path},max-connections=1',
          '--export', 'type=nbd,id=e,node-name=n')
    handle = nbd_connect(nbd_uri(path, 'n'))
    assert handle.get_size() == SIZE and not handle.can_multi_conn()


def test_nbd_max_connections(start, tmp):
    """Who comes when the limit is reached waits, and is served when somebody leaves."""
    daemon = start()
    daemon.add_file('n', fill(tmp / 'disk.img', SIZE))
    start_server(daemon, 'unix', **{'path': str(daemon.nbd_path), 'max-connections': 2})
    add(daemon)
    first, second = daemon.nbd('n'), daemon.nbd('n')
    assert first.can_multi_conn()
    third = socket.socket(socket.AF_UNIX)
    third.settimeout(0.3)
    third.connect(str(daemon.nbd_path))
    with pytest.raises(socket.timeout):
        third.recv(1)
    assert second.pread(512, 0)
    first.shutdown()
    third.settimeout(10)
    assert third.recv(18) == b'NBDMAGICIHAVEOPT\0\3'
    third.close()


@pytest.mark.skipif(is_peer(), reason='has no limit')
@pytest.mark.parametrize('sent', [b'', b'\0\0\0\3', b'\0\0\0\3IHAVEOPT\0\0\0\7\0\0\1\0half'])
def test_nbd_handshake_limit(start, tmp, sent):
    """A client that does not get through the handshake is sent away in time; one that got through stays."""
    daemon = start()
    daemon.add_file('n', fill(tmp / 'disk.img', SIZE))
    start_server(daemon, 'unix', **{'path': str(daemon.nbd_path), 'handshake-max-seconds': 1})
    add(daemon)
    handle = daemon.nbd('n')
    slow = socket.socket(socket.AF_UNIX)
    slow.settimeout(10)
    slow.connect(str(daemon.nbd_path))
    begin = time.monotonic()
    slow.sendall(sent)
    while slow.recv(4096):
        pass
    assert 0.9 < time.monotonic() - begin < 5
    assert handle.pread(512, 0)
    wait_until(lambda: 'took too long for the handshake' in daemon.stderr, 5, 'the log says why')


# ---- nobody harms the others ----

def read_requests(sock, count, length):
    for i in range(count):
        sock.sendall(struct.pack('>IHHQQI', 0x25609513, 0, 0, i, 0, length))


def raw_client(daemon, name):
    """A socket behind the handshake."""
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(10)
    sock.connect(str(daemon.nbd_path))
    sock.recv(18)
    sock.sendall(struct.pack('>IQII', 3, 0x49484156454F5054, 1, len(name)) + name)
    assert len(sock.recv(10)) == 10
    return sock


def resident(daemon):
    with open(f'/proc/{daemon.pid}/status', encoding='ascii') as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith('VmRSS'))


@pytest.mark.skipif(is_peer(), reason='other limits')
def test_memory_of_clients_that_do_not_read(node):
    """Each holds at most 64 MiB and one request, whatever it asks for."""
    add(node)
    before = resident(node)
    greedy = [raw_client(node, b'n') for _ in range(3)]
    for sock in greedy:
        sock.setblocking(False)
        try:
            read_requests(sock, 1000, 2 * MiB)
        except BlockingIOError:
            pass
    handle = node.nbd('n')
    for _ in range(50):
        assert handle.pread(4096, 0)
    assert resident(node) - before < 3 * 70 * MiB
    for sock in greedy:
        sock.close()
    handle.shutdown()
    connections_gone(node)
    log = node.stderr
    assert log.count("left export 'e'") == 4, log


@pytest.mark.skipif(is_peer(), reason='says other things')
def test_log_of_clients(node):
    """One line for each thing that a person may want to know, also for the first failed request, and no more."""
    add(node)
    handle = nbd_connect(node.uri('n'), strict=False)
    for _ in range(5):
        with pytest.raises(nbd.Error):
            handle.pwrite(b'x' * 512, 0)
    handle.shutdown()
    connections_gone(node)
    lines = [line for line in node.stderr.splitlines() if 'nbd: ' in line and 'listening' not in line]
    assert len(lines) == 3, lines
    assert "uses export 'e'" in lines[0]
    assert 'write of 512 bytes at 0: the export is read-only' in lines[1]
    assert "left export 'e': disconnected" in lines[2] and '5 failed' in lines[2]


def test_export_follows_resize(node, tmp):
    """A client that comes after the node has grown sees the new size."""
    add(node)
    assert nbd_connect(node.uri('n')).get_size() == SIZE
    try:
        node.qmp('block_resize', node_name='n', size=2 * SIZE)
    except QmpError as error:
        assert "unshared by" in error.text  # an export does not share it
    assert nbd_connect(node.uri('n')).get_size() == os.path.getsize(tmp / 'disk.img')


@pytest.mark.skipif(is_peer(), reason='blockdev-mirror is tested elsewhere')
def test_export_follows_the_pivot(node, tmp):
    """After a pivot the same connection reads and writes the target, and the query says so."""
    with open(tmp / 'target.img', 'wb') as target:
        target.truncate(SIZE)
    node.add_file('t', tmp / 'target.img')
    add(node, writable=True)
    handle = nbd_connect(node.uri('n'))
    node.qmp('blockdev-mirror', job_id='m', device='n', target='t', sync='full')
    node.qmp.event('BLOCK_JOB_READY', device='m')
    node.qmp('job-complete', id='m')
    node.qmp.event('BLOCK_JOB_COMPLETED', device='m')
    assert exports(node)['e']['node-name'] == 't'
    handle.pwrite(b'after' * 100, 0)
    assert handle.pread(500, 0) == b'after' * 100 == file_bytes(tmp / 'target.img', 0, 500)
    assert file_bytes(tmp / 'disk.img', 0, 500) != b'after' * 100
    handle.shutdown()
    run('qemu-img', 'info', tmp / 'target.img', '-U')
