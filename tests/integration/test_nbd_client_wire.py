# SPDX-License-Identifier: BSD-2-Clause
"""The driver nbd with servers that answer in unusual ways, and with ones that lie."""
import errno
import random
import struct
import threading
import time

import nbd
import pytest

from weirtest import KiB, MiB, nbd_connect, wait_until
from weirtest.nbdserver import (DATA, ERROR, ERROR_OFFSET, EXTENTS, FLUSH, HOLE, NONE, NbdServer, READ, STATUS, WRITE,
                                chunk, data, error, hole, simple)
from weirtest.remote import add, fails

SIZE = MiB


@pytest.fixture
def peer(tmp):
    """A server with random content, without a hook yet."""
    server = NbdServer(tmp / 'peer', SIZE)
    server.content[:] = random.Random(1).randbytes(SIZE)
    yield server
    server.close()


def opened(daemon, tmp, **options):
    add(daemon, tmp / 'peer', **options)
    return nbd_connect(daemon.export('n'), strict=False)


def works(handle, peer):
    try:
        return handle.pread(4096, 0) == peer.content[:4096]
    except nbd.Error:
        return False


def in_pieces(server, kind, cookie, offset, length):
    """A read in chunks of any order, with holes where there are zeroes, and the end on its own."""
    if kind != READ:
        return None
    cuts = list(range(offset, offset + length, 5000))
    random.Random(offset).shuffle(cuts)
    answer = b''
    for at in cuts:
        part = bytes(server.content[at:min(at + 5000, offset + length)])
        answer += data(cookie, at, part, False) if any(part) else hole(cookie, at, len(part), False)
    return answer + chunk(cookie, NONE)


def test_nbd_client_chunks_in_any_order(daemon, tmp, peer):
    peer.hook = lambda kind, cookie, offset, length, _: in_pieces(peer, kind, cookie, offset, length)
    peer.content[200 * KiB:400 * KiB] = bytes(200 * KiB)
    handle = opened(daemon, tmp)
    assert handle.pread(SIZE, 0) == peer.content
    assert handle.pread(300 * KiB, 123457) == peer.content[123457:123457 + 300 * KiB]


def test_nbd_client_answers_interleaved(daemon, tmp, peer):
    """Answers to eight reads come in the opposite order, their chunks among each other's."""
    asked = []

    def later(kind, cookie, offset, length, _):
        if kind != READ:
            return None
        asked.append((cookie, offset, length))
        if len(asked) < 8:
            return b''
        firsts, lasts = b'', b''
        for one, at, size in reversed(asked):
            half = size // 2
            lasts += data(one, at, bytes(peer.content[at:at + half]))
            firsts += data(one, at + half, bytes(peer.content[at + half:at + size]), False)
        asked.clear()
        return firsts + lasts
    handle = opened(daemon, tmp)
    peer.hook = later
    buffers = [nbd.Buffer(10000) for _ in range(8)]
    cookies = [handle.aio_pread(buffer, 100000 * i) for i, buffer in enumerate(buffers)]
    for cookie in cookies:
        while not handle.aio_command_completed(cookie):
            handle.poll(-1)
    for i, buffer in enumerate(buffers):
        assert buffer.to_bytearray() == peer.content[100000 * i:100000 * i + 10000]


@pytest.mark.parametrize('code, number', [(1, errno.EPERM), (5, errno.EIO), (12, errno.ENOMEM), (22, errno.EINVAL),
                                          (28, errno.ENOSPC), (77, errno.EINVAL)])
def test_nbd_client_error_codes(daemon, tmp, peer, code, number):
    """Errors keep their meaning; those that nobody knows become EINVAL. The connection stays."""
    handle = opened(daemon, tmp)
    peer.hook = lambda kind, cookie, *_: error(cookie, code) if kind == READ else simple(cookie, code)
    fails(number, handle.pread, 512, 0)
    fails(number, handle.pwrite, b'x' * 512, 0)
    peer.hook = lambda kind, cookie, offset, length, _: chunk(
        cookie, ERROR_OFFSET, struct.pack('>IH', code, 3) + b'bad' + struct.pack('>Q', offset), False) + \
        data(cookie, offset, b'y' * length)
    fails(number, handle.pread, 512, 0)
    peer.hook = lambda *_: None
    assert works(handle, peer)
    assert peer.connections == 1


LIES = {
    'no magic': lambda cookie, offset, length: b'garbage garbage garbage garbage',
    'nobody asked': lambda cookie, offset, length: data(cookie + 1, offset, b'z' * length),
    'before the range': lambda cookie, offset, length: data(cookie, offset - 1, b'z' * length),
    'behind the range': lambda cookie, offset, length: data(cookie, offset + 1, b'z' * length),
    'far away': lambda cookie, offset, length: data(cookie, 2**64 - 1, b'z' * length),
    'too much': lambda cookie, offset, length: data(cookie, offset, b'z' * (length + 1)),
    'too little': lambda cookie, offset, length: data(cookie, offset, b'z' * (length - 1)),
    'twice': lambda cookie, offset, length: data(cookie, offset, b'z' * length, False) * 2,
    'nothing': lambda cookie, offset, length: chunk(cookie, NONE),
    'empty data': lambda cookie, offset, length: data(cookie, offset, b''),
    'none with content': lambda cookie, offset, length: chunk(cookie, NONE, b'z'),
    'none that is not last': lambda cookie, offset, length: chunk(cookie, NONE, b'', False),
    'short hole': lambda cookie, offset, length: chunk(cookie, HOLE, b'z' * 8),
    'huge hole': lambda cookie, offset, length: hole(cookie, offset, 2**32 - 1),
    'extents': lambda cookie, offset, length: chunk(cookie, EXTENTS, struct.pack('>III', 1, length, 0)),
    'unknown type': lambda cookie, offset, length: chunk(cookie, 9, b'z'),
    'no error': lambda cookie, offset, length: error(cookie, 0),
    'half an error': lambda cookie, offset, length: chunk(cookie, ERROR, b'\0\0'),
    'text beyond the end': lambda cookie, offset, length: chunk(cookie, ERROR, struct.pack('>IH', 5, 100)),
    'long content': lambda cookie, offset, length: struct.pack('>IHHQI', 0x668e33ef, 1, ERROR, cookie, 2**31),
    'simple': lambda cookie, offset, length: simple(cookie) + b'z' * length,
    'short data': lambda cookie, offset, length: chunk(cookie, DATA, b'zz'),
}


@pytest.mark.parametrize('lie', LIES)
def test_nbd_client_lies(daemon, tmp, peer, lie):
    """What the protocol does not allow fails the request and ends the connection; the next one is used."""
    handle = opened(daemon, tmp)
    peer.hook = lambda kind, cookie, offset, length, _: LIES[lie](cookie, offset, length) if kind == READ else None
    fails(errno.EIO, handle.pread, 4096, 4096)
    peer.hook = lambda *_: None
    wait_until(lambda: works(handle, peer), 10, 'connected again')
    assert peer.connections > 1


@pytest.mark.parametrize('content', [struct.pack('>III', 2, 4096, 0), struct.pack('>III', 1, 0, 0),
                                     struct.pack('>I', 1), struct.pack('>IIIH', 1, 4096, 0, 0)],
                         ids=['another context', 'no bytes', 'no extent', 'half an extent'])
def test_nbd_client_wrong_extents(daemon, tmp, peer, content):
    handle = opened(daemon, tmp)
    peer.hook = lambda kind, cookie, *_: chunk(cookie, EXTENTS, content) if kind == STATUS else None
    fails(errno.EIO, handle.block_status, 4096, 0, lambda *_: 0)
    wait_until(lambda: works(handle, peer), 10, 'connected again')


def test_nbd_client_long_extents(daemon, tmp, peer):
    """Some servers tell of more than was asked: the rest is not used."""
    peer.hook = lambda kind, cookie, *_: chunk(
        cookie, EXTENTS, struct.pack('>IIIII', 1, 2**31, 3, 512, 0)) if kind == STATUS else None
    found = []
    opened(daemon, tmp).block_status(8192, 0, lambda _c, _o, entries, _e: found.extend(entries) or 0)
    assert found == [8192, 3]


def test_nbd_client_lie_is_not_asked_again(daemon, tmp, peer):
    """A request that is answered wrongly fails at once; others that were in flight are sent again."""
    tries = []

    def hook(kind, cookie, offset, length, _):
        if kind == READ and offset == 0:
            tries.append(cookie)
            return b''
        if kind == READ and offset == 8192 and len(tries) == 1:
            return data(cookie, 0, b'z' * length)
        return None
    handle = opened(daemon, tmp, reconnect_delay=30)
    peer.hook = hook
    good, bad = nbd.Buffer(4096), nbd.Buffer(4096)
    cookies = [handle.aio_pread(good, 0)]
    wait_until(lambda: tries, 10, 'the first one is in flight')
    cookies.append(handle.aio_pread(bad, 8192))
    wait_until(lambda: len(tries) == 2 or (handle.poll(0) and False), 10, 'it was sent again')
    peer.hook = lambda *_: None
    peer.hang_up()
    for cookie, failed in zip(reversed(cookies), (True, False)):
        try:
            while not handle.aio_command_completed(cookie):
                handle.poll(-1)
            assert not failed
        except nbd.Error:
            assert failed
    assert good.to_bytearray() == peer.content[:4096]


def test_nbd_client_server_shuts_down(daemon, tmp, peer):
    """ESHUTDOWN is taken as what it announces: the request waits for the next server."""
    handle = opened(daemon, tmp, reconnect_delay=30)
    left = [3]

    def hook(kind, cookie, *_):
        left[0] -= 1
        return None if left[0] < 0 else error(cookie, 108) if kind == READ else simple(cookie, 108)
    peer.hook = hook
    assert handle.pread(512, 0) == peer.content[:512]
    left[0] = 1
    handle.pwrite(b'w' * 512, 0)
    assert peer.content[:512] == b'w' * 512


def test_nbd_client_write_is_sent_again(daemon, tmp, peer):
    """A write that was done but not answered is done once more before its caller hears of it."""
    handle = opened(daemon, tmp, reconnect_delay=30)
    seen = []

    def hook(kind, _cookie, offset, length, payload):
        if kind == WRITE:
            seen.append(payload)
            peer.content[offset:offset + length] = payload
            if len(seen) == 1:
                raise EOFError
    peer.hook = hook
    handle.pwrite(b'once or twice' * 100, 1000)
    assert seen == [b'once or twice' * 100] * 2
    assert handle.pread(1300, 1000) == b'once or twice' * 100


def test_nbd_client_every_write_twice(daemon, tmp, peer):
    """Each write loses the connection once, also one that was made a moment ago; the next one serves it."""
    handle = opened(daemon, tmp, reconnect_delay=60, x_connections=2)
    seen = set()

    def hook(kind, _cookie, offset, *_):
        if kind == WRITE and offset not in seen:
            seen.add(offset)
            raise EOFError
    peer.hook = hook
    began = time.monotonic()
    for i in range(20):
        handle.pwrite(bytes([i + 1]) * 512, i * 1024)
    assert time.monotonic() - began < 50
    assert [peer.content[i * 1024] for i in range(20)] == list(range(1, 21))


def test_nbd_client_flush_after_a_failure(daemon, tmp, peer):
    """A flush that failed for want of a server does not fail the later ones."""
    handle = opened(daemon, tmp)
    flushes = []
    handle.pwrite(b'x' * 512, 0)

    def hook(kind, cookie, *_):
        if kind == FLUSH:
            flushes.append(cookie)
            return simple(cookie, 5) if len(flushes) < 3 else None
    peer.hook = hook
    fails(errno.EIO, handle.flush)
    fails(errno.EIO, handle.flush)
    handle.flush()
    handle.flush()
    assert len(flushes) == 3


def test_nbd_client_lesser_flags(tmp, daemon):
    """Without flush, FUA, trim and write-zeroes: zeroes are written, the rest is left out."""
    peer = NbdServer(tmp / 'peer', SIZE, flags=1)
    peer.content[:] = b'o' * SIZE
    kinds = []
    peer.hook = lambda kind, *_: kinds.append(kind)
    handle = opened(daemon, tmp)
    handle.zero(100000, 5)
    handle.pwrite(b'f' * 512, 0, nbd.CMD_FLAG_FUA)
    handle.trim(4096, 0)
    handle.flush()
    assert peer.content[:100005] == b'f' * 512 + bytes(100005 - 512)
    assert set(kinds) == {WRITE}
    peer.close()


def test_nbd_client_slow_reader(daemon, tmp, peer):
    """A server that does not read for a while: writes of more than the socket takes wait and then go on."""
    handle = opened(daemon, tmp)
    gate = threading.Event()

    def hook(kind, *_):
        if kind == READ:
            gate.wait(20)
    peer.hook = hook
    payload = random.Random(5).randbytes(700 * KiB)
    buffer = nbd.Buffer(512)
    cookies = [handle.aio_pread(buffer, 0)]
    cookies += [handle.aio_pwrite(nbd.Buffer.from_bytearray(bytearray(payload)), 1000) for _ in range(8)]
    gate.set()
    for cookie in cookies:
        while not handle.aio_command_completed(cookie):
            handle.poll(-1)
    assert handle.pread(len(payload), 1000) == payload == peer.content[1000:1000 + len(payload)]
