# SPDX-License-Identifier: BSD-2-Clause
"""Everybody's NBD clients work with our server: other people's programs, and a script that makes every call."""
import contextlib
import errno
import json
import os
import socket
import struct
import threading

import nbd
import pytest

from weirtest import KiB, MiB, file_bytes, fill, is_peer, nbd_connect, run

SIZE = 16 * MiB


@pytest.fixture
def disk(daemon, tmp):
    """(daemon, path of the image, URI) of a writable export of 16 MiB of data."""
    path = fill(tmp / 'disk.img', SIZE)
    daemon.add_file('disk', path, discard='unmap')
    return daemon, path, daemon.export('disk')


# ---- programs ----

def test_nbdinfo(disk):
    info = json.loads(run('nbdinfo', '--json', '--no-content', disk[2]))
    export = info['exports'][0]
    assert info['protocol'] == 'newstyle-fixed' and info['structured']
    assert export['export-size'] == SIZE and not export['is_read_only']
    for can in ('flush', 'fua', 'trim', 'zero', 'multi_conn', 'cache', 'df', 'fast_zero'):
        assert export[f'can_{can}'], can
    assert 'base:allocation' in export['contexts']
    assert export['block_size_minimum'] in (1, 512, 4096) and export['block_size_maximum'] == 32 * MiB


def test_nbdinfo_list(disk, tmp):
    daemon = disk[0]
    fill(tmp / 'second.img', MiB)
    daemon.add_file('second', tmp / 'second.img', read_only=True)
    daemon.export('second', writable=False, description='the other one')
    listed = json.loads(run('nbdinfo', '--list', '--json', '--no-content', daemon.uri()))
    exports = {e['export-name']: e for e in listed['exports']}
    assert set(exports) == {'disk', 'second'}
    assert exports['second']['description'] == 'the other one' and exports['second']['is_read_only']


def test_nbdinfo_map(daemon, tmp):
    with open(tmp / 'sparse.img', 'wb') as f:
        f.truncate(4 * MiB)
        os.pwrite(f.fileno(), b'x' * MiB, 2 * MiB)
    daemon.add_file('sparse', tmp / 'sparse.img')
    entries = json.loads(run('nbdinfo', '--map', '--json', daemon.export('sparse')))
    assert [(e['offset'], e['length'], e['type']) for e in entries] == [
        (0, 2 * MiB, 3), (2 * MiB, MiB, 0), (3 * MiB, MiB, 3)]


@pytest.mark.parametrize('connections', [1, 4])
def test_nbdcopy_from(disk, tmp, connections):
    _, path, uri = disk
    run('nbdcopy', f'--connections={connections}', uri, tmp / 'copy.img')
    run('cmp', path, tmp / 'copy.img')


@pytest.mark.parametrize('connections', [1, 4])
def test_nbdcopy_to(disk, tmp, connections):
    _, path, uri = disk
    fill(tmp / 'new.img', SIZE, seed=2)
    run('nbdcopy', '--flush', f'--connections={connections}', tmp / 'new.img', uri)
    run('cmp', path, tmp / 'new.img')


def test_nbdcopy_between_exports(disk, tmp):
    daemon, path, uri = disk
    with open(tmp / 'empty.img', 'wb') as f:
        f.truncate(SIZE)
    daemon.add_file('empty', tmp / 'empty.img')
    run('nbdcopy', '--flush', uri, daemon.export('empty'))
    run('cmp', path, tmp / 'empty.img')


@pytest.mark.parametrize('rw', ['randwrite', 'write', 'randrw', 'randtrim'])
def test_fio(disk, tmp, rw):
    argv = ['fio', '--name=j', '--ioengine=nbd', f'--uri={disk[2]}', f'--rw={rw}', '--bs=4k', '--iodepth=16',
            '--size=8M', '--output-format=json']
    if rw != 'randtrim':
        argv += ['--verify=crc32c', '--do_verify=1', '--verify_fatal=1']
    output = run(*argv, cwd=tmp)
    job = json.loads(output[output.index('{'):])['jobs'][0]
    assert job['error'] == 0
    assert all(job[kind]['total_ios'] for kind in (['trim'] if rw == 'randtrim' else ['write', 'read'])), job


def test_qemu_io(disk):
    _, path, uri = disk
    output = run('qemu-io', '-f', 'raw', '-d', 'unmap', uri, '-c', 'write -P 0x5a 64k 128k', '-c', 'write -z 1M 1M',
                 '-c', 'discard 4M 1M', '-c', 'write -f -P 0x77 513 1000', '-c', 'flush', '-c', 'read -P 0x5a 64k 128k',
                 '-c', 'read -P 0 1M 1M', '-c', 'read -P 0 4M 1M', '-c', 'read -P 0x77 513 1000', '-c', 'length')
    assert 'failed' not in output and 'read 131072/131072 bytes at offset 65536' in output, output
    assert '16 MiB' in output
    assert file_bytes(path, 513, 1000) == b'\x77' * 1000
    assert file_bytes(path, 64 * KiB, 128 * KiB) == b'\x5a' * 128 * KiB


def test_qemu_img(disk, tmp):
    _, path, uri = disk
    run('qemu-img', 'convert', '-f', 'raw', '-O', 'qcow2', uri, tmp / 'copy.qcow2')
    run('qemu-img', 'compare', '-f', 'raw', '-F', 'qcow2', uri, tmp / 'copy.qcow2')
    fill(tmp / 'new.img', SIZE, seed=3)
    run('qemu-img', 'convert', '-n', '-W', '-m', '8', '-f', 'raw', '-O', 'raw', tmp / 'new.img', uri)
    run('cmp', path, tmp / 'new.img')
    entries = json.loads(run('qemu-img', 'map', '--output=json', '-f', 'raw', uri))
    assert sum(e['length'] for e in entries) == SIZE


def test_nbdkit_in_front(disk, tmp):
    """nbdkit's nbd plugin as a client of ours, and nbdcopy as a client of nbdkit."""
    _, path, uri = disk
    fill(tmp / 'new.img', SIZE, seed=4)
    run('nbdkit', '-U', '-', 'nbd', f'uri={uri}', '--run',
        f'nbdcopy --flush {tmp}/new.img "$uri" && nbdcopy "$uri" {tmp}/back.img && nbdinfo "$uri"')
    run('cmp', path, tmp / 'new.img')
    run('cmp', path, tmp / 'back.img')


# ---- every call of the protocol ----

def test_libnbd_flags(disk):
    h = nbd_connect(disk[2])
    assert h.get_protocol() == 'newstyle-fixed' and h.get_structured_replies_negotiated()
    assert h.get_size() == SIZE and not h.is_read_only() and not h.is_rotational()
    assert all((h.can_flush(), h.can_fua(), h.can_trim(), h.can_zero(), h.can_df(), h.can_cache(), h.can_multi_conn(),
                h.can_fast_zero(), h.can_meta_context('base:allocation')))
    assert h.get_block_size(nbd.SIZE_MAXIMUM) == 32 * MiB
    assert h.get_block_size(nbd.SIZE_PREFERRED) >= 4096
    h.shutdown()


@pytest.mark.parametrize('structured', [True, False])
def test_libnbd_data(disk, structured):
    _, path, uri = disk
    h = nbd_connect(uri, structured=structured)
    assert h.pread(SIZE // 2, 4096 + 1) == file_bytes(path, 4097, SIZE // 2)
    h.pwrite(b'a' * 100, 4095)
    h.pwrite(b'b' * MiB, MiB, nbd.CMD_FLAG_FUA)
    h.flush()
    assert file_bytes(path, 4095, 100) == b'a' * 100 and h.pread(100, 4095) == b'a' * 100
    assert file_bytes(path, MiB, MiB) == b'b' * MiB
    h.cache(MiB, 0)
    h.shutdown()


def test_libnbd_structured_read(disk):
    _, path, uri = disk
    h = nbd_connect(uri)
    for flags in (0, nbd.CMD_FLAG_DF):
        chunks = []
        h.pread_structured(2 * MiB, MiB, lambda *chunk: chunks.append(chunk) or 0, flags)
        whole = bytearray(2 * MiB)
        for data, offset, status, _ in chunks:
            assert status in (nbd.READ_DATA, nbd.READ_HOLE)
            whole[offset - MiB:offset - MiB + len(data)] = data
        assert whole == file_bytes(path, MiB, 2 * MiB)
        assert not flags or len(chunks) == 1
    h.shutdown()


def test_libnbd_zero_and_trim(disk):
    _, path, uri = disk
    h = nbd_connect(uri)
    h.zero(MiB, MiB)
    h.zero(MiB, 2 * MiB, nbd.CMD_FLAG_NO_HOLE)
    h.zero(1000, 4 * MiB + 3, nbd.CMD_FLAG_FUA)
    for offset, length in ((MiB, 2 * MiB), (4 * MiB + 3, 1000)):
        assert file_bytes(path, offset, length) == bytes(length)
    assert file_bytes(path, 4 * MiB + 1003, 1) != b'\0' or file_bytes(path, 4 * MiB + 1004, 8) != bytes(8)
    try:
        h.zero(MiB, 6 * MiB, nbd.CMD_FLAG_FAST_ZERO)
        assert file_bytes(path, 6 * MiB, MiB) == bytes(MiB)
    except nbd.Error as error:
        assert error.errnum == errno.ENOTSUP
    before = os.stat(path).st_blocks
    h.trim(4 * MiB, 8 * MiB)
    h.trim(MiB, 12 * MiB, nbd.CMD_FLAG_FUA)
    assert os.stat(path).st_blocks < before
    h.shutdown()


def test_libnbd_block_status(daemon, tmp):
    with open(tmp / 'sparse.img', 'wb') as f:
        f.truncate(8 * MiB)
        os.pwrite(f.fileno(), b'x' * MiB, 2 * MiB)
    daemon.add_file('sparse', tmp / 'sparse.img')
    h = nbd_connect(daemon.export('sparse'))

    def status(offset, length, flags=0):
        answers = []

        def extent(context, start, entries, _):
            assert (context, start) == ('base:allocation', offset)
            answers.extend(entries)
            return 0
        h.block_status(length, offset, extent, flags)
        return list(zip(answers[::2], answers[1::2]))

    hole = nbd.STATE_HOLE | nbd.STATE_ZERO
    assert status(0, 8 * MiB) == [(2 * MiB, hole), (MiB, 0), (5 * MiB, hole)]
    assert status(MiB, MiB // 2) == [(MiB // 2, hole)]
    one = status(MiB, 3 * MiB, nbd.CMD_FLAG_REQ_ONE)
    assert len(one) == 1 and one[0][0] <= 3 * MiB and one[0] == (MiB, hole)
    with pytest.raises(nbd.Error):
        status(8 * MiB, 512)
    h.shutdown()


@pytest.mark.parametrize('call, number', [
    (lambda h: h.pread(512, SIZE), errno.EINVAL),
    (lambda h: h.pread(512, SIZE - 511), errno.EINVAL),
    (lambda h: h.pwrite(b'x' * 512, SIZE - 511), (errno.ENOSPC, errno.EINVAL)),
    (lambda h: h.zero(1024, SIZE - 512), (errno.ENOSPC, errno.EINVAL)),
    (lambda h: h.trim(1024, SIZE - 512), (errno.EINVAL, errno.ENOSPC)),
    (lambda h: h.cache(1024, SIZE - 512), errno.EINVAL),
    (lambda h: h.pread(512, 1 << 63), errno.EINVAL),
])
def test_libnbd_out_of_range(disk, call, number):
    """The status is right, and the connection and the disk go on."""
    h = nbd_connect(disk[2], strict=False)
    with pytest.raises(nbd.Error) as caught:
        call(h)
    assert caught.value.errnum in (number if isinstance(number, tuple) else (number,))
    assert h.pread(512, 0) == file_bytes(disk[1], 0, 512)
    h.shutdown()


def test_libnbd_read_only(daemon, tmp):
    path = fill(tmp / 'disk.img', SIZE)
    daemon.add_file('disk', path)
    uri = daemon.export('disk', writable=False)
    h = nbd_connect(uri, strict=False)
    assert h.is_read_only()
    for call in (lambda: h.pwrite(b'x' * 512, 0), lambda: h.zero(512, 0), lambda: h.trim(512, 0)):
        with pytest.raises(nbd.Error) as caught:
            call()
        assert caught.value.errnum == errno.EPERM or is_peer()
    assert h.pread(512, 0) == file_bytes(path, 0, 512)
    h.shutdown()


def test_libnbd_options(disk):
    h = nbd.NBD()
    h.set_opt_mode(True)
    h.connect_uri(disk[2])
    exports = []
    h.opt_list(lambda name, description: exports.append(name) or 0)
    assert exports == ['disk']
    contexts = []
    h.opt_list_meta_context(lambda name: contexts.append(name) or 0)
    assert 'base:allocation' in contexts
    h.set_export_name('nothing')
    with pytest.raises(nbd.Error) as caught:
        h.opt_info()
    assert caught.value.errnum == errno.ENOENT
    h.set_export_name('disk')
    h.opt_info()
    assert h.get_size() == SIZE
    h.add_meta_context('base:allocation')
    h.opt_go()
    assert h.can_meta_context('base:allocation')
    h.shutdown()


def test_libnbd_abort(disk):
    h = nbd.NBD()
    h.set_opt_mode(True)
    h.connect_uri(disk[2])
    h.opt_abort()
    assert nbd_connect(disk[2]).get_size() == SIZE


@pytest.mark.parametrize('flags', [0, nbd.HANDSHAKE_FLAG_FIXED_NEWSTYLE,
                                   nbd.HANDSHAKE_FLAG_FIXED_NEWSTYLE | nbd.HANDSHAKE_FLAG_NO_ZEROES])
def test_libnbd_old_handshakes(disk, flags):
    """Clients that know less: plain newstyle with EXPORT_NAME, with and without 124 zeroes."""
    h = nbd.NBD()
    h.set_handshake_flags(flags)
    h.connect_uri(disk[2])
    assert h.get_size() == SIZE and h.pread(512, 512) == file_bytes(disk[1], 512, 512)
    h.pwrite(b'o' * 512, 0)
    h.shutdown()
    assert file_bytes(disk[1], 0, 512) == b'o' * 512


def test_libnbd_many_in_flight(disk):
    """Hundreds of requests at once on one connection, answers in any order."""
    _, path, uri = disk
    h = nbd_connect(uri)
    buffers = {}
    for i in range(400):
        buffer = nbd.Buffer(4096)
        buffers[h.aio_pread(buffer, (i * 37 % 4096) * 4096)] = (buffer, (i * 37 % 4096) * 4096)
    while buffers:
        for cookie in [c for c in buffers if h.aio_command_completed(c)]:
            buffer, offset = buffers.pop(cookie)
            assert buffer.to_bytearray() == file_bytes(path, offset, 4096)
        if buffers:
            h.poll(1000)
    h.shutdown()


def test_libnbd_multi_conn(disk):
    """What one connection has written and flushed, another reads, and it is in the file."""
    _, path, uri = disk
    handles = [nbd_connect(uri) for _ in range(8)]

    def work(index):
        for i in range(64):
            handles[index].pwrite(bytes([index + 1]) * 4096, (i * 8 + index) * 4096)
        handles[index].flush()
    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i in range(512):
        assert handles[(i + 3) % 8].pread(4096, i * 4096) == bytes([i % 8 + 1]) * 4096
    assert file_bytes(path, 0, 4096) == b'\x01' * 4096


# ---- clients that die, stall or lie ----

IHAVEOPT, REPLY_MAGIC = 0x49484156454F5054, 0x3e889045565a9


class RawClient:
    """Bytes on the wire, for what no well-behaved client sends."""

    def __init__(self, path, flags=3):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(10)
        self.socket.connect(str(path))
        greeting = self.read(18)
        assert greeting[:8] == b'NBDMAGIC' and greeting[8:16] == b'IHAVEOPT'
        self.socket.sendall(struct.pack('>I', flags))

    def read(self, length):
        data = b''
        while len(data) < length:
            part = self.socket.recv(length - len(data))
            if not part:
                raise EOFError(data)
            data += part
        return data

    def option(self, number, data=b'', magic=IHAVEOPT, length=None):
        self.socket.sendall(struct.pack('>QII', magic, number, len(data) if length is None else length) + data)

    def option_reply(self):
        magic, option, kind, length = struct.unpack('>QIII', self.read(20))
        assert magic == REPLY_MAGIC
        return option, kind, self.read(length)

    def go(self, name):
        self.option(7, struct.pack('>I', len(name)) + name + struct.pack('>H', 0))
        while True:
            option, kind, _ = self.option_reply()
            assert option == 7 and not kind & 0x80000000, hex(kind)
            if kind == 1:
                return

    def request(self, kind, offset, length, flags=0, magic=0x25609513, cookie=7):
        self.socket.sendall(struct.pack('>IHHQQI', magic, flags, kind, cookie, offset, length))

    def simple_reply(self):
        magic, error, cookie = struct.unpack('>IIQ', self.read(16))
        assert magic == 0x67446698
        return error, cookie

    def closed(self):
        """Whether the server ends the connection (after whatever it still says)."""
        try:
            while self.socket.recv(1 << 16):
                pass
        except ConnectionResetError:
            pass
        except socket.timeout:
            return False
        return True


@pytest.mark.parametrize('number', [0, 4, 99, 0xffffffff])
def test_unknown_option(disk, number):
    client = RawClient(disk[0].nbd_path)
    client.option(number, b'whatever')
    assert client.option_reply()[:2] == (number, 0x80000001)
    client.go(b'disk')
    client.request(0, 0, 512)
    assert client.simple_reply() == (0, 7)
    assert client.read(512) == file_bytes(disk[1], 0, 512)


@pytest.mark.parametrize('data', [b'', b'\0', struct.pack('>I', 4000) + b'disk' + bytes(2),
                                  struct.pack('>I', 4) + b'disk' + struct.pack('>H', 7),
                                  struct.pack('>I', 4) + b'disk' + bytes(2) + b'more'])
def test_malformed_go(disk, data):
    client = RawClient(disk[0].nbd_path)
    client.option(7, data)
    assert client.option_reply()[:2] == (7, 0x80000003)
    client.go(b'disk')


def test_structured_twice_and_list_with_data(disk):
    client = RawClient(disk[0].nbd_path)
    client.option(8)
    assert client.option_reply()[:2] == (8, 1)
    client.option(8, b'x')
    assert client.option_reply()[1] & 0x80000000
    client.option(3, b'x')
    assert client.option_reply()[1] & 0x80000000


@pytest.mark.parametrize('lie', ['magic', 'huge option', 'request magic', 'huge write', 'unknown export'])
def test_liars_are_dropped(disk, lie):
    """A client that breaks the framing loses its connection; its neighbour notices nothing."""
    daemon, path, uri = disk
    neighbour = nbd_connect(uri)
    client = RawClient(daemon.nbd_path)
    if lie == 'magic':
        client.option(7, magic=1)
    elif lie == 'huge option':
        client.option(7, length=1 << 30)
    elif lie == 'unknown export':
        client.option(1, b'nothing')
    else:
        client.go(b'disk')
        if lie == 'request magic':
            client.request(0, 0, 512, magic=1)
        else:
            client.request(1, 0, 1 << 31)
    assert client.closed()
    assert neighbour.pread(512, 0) == file_bytes(path, 0, 512)


@pytest.mark.parametrize('depth', [16, 100])
def test_a_client_that_sends_before_it_reads(disk, depth):
    """The server, used to a client that reads and sends by turns, does not wait for ever until this one reads.

    The answers to 16 requests are all in the socket then, those to 100 are not."""
    client = RawClient(disk[0].nbd_path)
    client.go(b'disk')
    for _ in range(depth):
        client.request(0, 0, 4096)
    for _ in range(3000):
        assert client.simple_reply() == (0, 7)
        client.read(4096)
        client.request(0, 0, 4096)
    for number in range(20):  # more than the socket holds, fewer than may be in flight
        client.request(1, MiB, 65536)
        client.socket.sendall(bytes([number]) * 65536)
    for _ in range(depth):
        assert client.simple_reply() == (0, 7)
        client.read(4096)
    for _ in range(20):
        assert client.simple_reply() == (0, 7)
    client.request(0, MiB, 4096)
    assert client.simple_reply() == (0, 7) and client.read(4096) == bytes([19]) * 4096


@pytest.mark.parametrize('kind, flags', [(9, 0), (0xffff, 0), (0, 0x80), (1 << 8, 0)])
def test_unknown_requests(disk, kind, flags):
    client = RawClient(disk[0].nbd_path)
    client.go(b'disk')
    client.request(kind, 0, 512, flags)
    assert client.simple_reply() == (22, 7)
    client.request(0, 0, 512)
    assert client.simple_reply() == (0, 7)


@pytest.mark.parametrize('where', ['in the handshake', 'in an option', 'in a request', 'in the data of a write'])
def test_clients_that_die_or_stall(disk, where):
    """Half a message, then silence, then death: the others go on, and nothing of the half write is done."""
    daemon, path, uri = disk
    before = file_bytes(path, 0, MiB)
    clients = []
    for _ in range(10):
        client = RawClient(daemon.nbd_path)
        if where == 'in an option':
            client.socket.sendall(struct.pack('>QI', IHAVEOPT, 7))
        elif where != 'in the handshake':
            client.go(b'disk')
            client.request(1, 0, MiB)
            if where == 'in a request':
                client.socket.sendall(b'\x25\x60')
            else:
                client.socket.sendall(b'!' * 1000)
        clients.append(client)
    neighbour = nbd_connect(uri)
    assert neighbour.pread(MiB, 0) == before
    for client in clients:
        client.socket.close()
    assert neighbour.pread(MiB, 0) == before
    neighbour.pwrite(b'n' * 512, 0)
    neighbour.shutdown()


def test_client_that_does_not_read(disk):
    """Somebody asks for much and never takes the answers: others are served."""
    daemon, path, uri = disk
    greedy = RawClient(daemon.nbd_path)
    greedy.go(b'disk')
    greedy.socket.setblocking(False)
    with contextlib.suppress(BlockingIOError):  # the server may stop listening to it
        for i in range(200):
            greedy.request(0, 0, MiB, cookie=i)
    neighbour = nbd_connect(uri)
    for i in range(100):
        assert neighbour.pread(4096, i * 4096) == file_bytes(path, i * 4096, 4096)
    if is_peer():  # it waits for the client
        greedy.socket.close()
    daemon.qmp('block-export-del', id='disk', mode='hard')
    daemon.qmp.event('BLOCK_EXPORT_DELETED', id='disk')
