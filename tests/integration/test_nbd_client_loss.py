# SPDX-License-Identifier: BSD-2-Clause
"""The driver nbd when its server goes: waiting, failing, connecting again."""
import contextlib
import errno
import os
import signal
import threading
import time

import nbd
import pytest

from weirtest import fill, file_bytes, nbd_connect, wait_until
from weirtest.remote import SIZE, add, clients_of, exercise, fails, gone, many, opened, refused


class Server:
    """qemu-nbd on an image, to be killed and started again."""

    def __init__(self, tmp, serve, size=SIZE):
        self.path, self.image, self.serve = tmp / 'sock', fill(tmp / 'disk.img', size), serve
        self.process = None
        self.start()

    def start(self):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path)
        self.process = self.serve(self.path, 'qemu-nbd', '-t', '-e', '16', '-k', self.path, '-f', 'raw',
                                  '--discard=unmap', self.image)

    def kill(self):
        self.process.kill()
        self.process.wait(20)


@pytest.fixture
def server(tmp, serve):
    return Server(tmp, serve)


def reads(handle):
    with contextlib.suppress(nbd.Error):
        return handle.pread(512, 0) and True
    return False


def test_nbd_client_no_delay(daemon, server):
    """Without reconnect-delay requests fail while there is no server, and work again once there is one."""
    handle = opened(daemon, server.path)
    assert reads(handle)
    server.kill()
    fails(errno.EIO, handle.pread, 512, 0)
    fails(errno.EIO, handle.pwrite, b'x' * 512, 0)
    fails(errno.EIO, handle.flush)
    server.start()
    wait_until(lambda: reads(handle), 20, 'connected again')
    handle.pwrite(b'x' * 512, 0)
    handle.flush()
    assert file_bytes(server.image, 0, 512) == b'x' * 512


def test_nbd_client_idle_restart(daemon, server):
    """A server that is restarted while nobody asks anything is connected to again, without a failure."""
    handle = opened(daemon, server.path)
    assert reads(handle)
    server.kill()
    server.start()
    wait_until(lambda: clients_of(server.process.pid, server.path), 20, 'connected again')
    assert reads(handle)


def test_nbd_client_delay_passes(daemon, server):
    """Requests wait for reconnect-delay and then fail, later ones at once."""
    handle = opened(daemon, server.path, reconnect_delay=1)
    server.kill()
    began = time.monotonic()
    fails(errno.EIO, handle.pread, 512, 0)
    assert time.monotonic() - began < 8
    began = time.monotonic()
    fails(errno.EIO, handle.pread, 512, 0)
    assert time.monotonic() - began < 0.9
    server.start()
    wait_until(lambda: reads(handle), 20, 'connected again')


@pytest.mark.parametrize('connections', [1, 4])
def test_nbd_client_reconnect_under_load(daemon, server, connections):
    """A server that is killed again and again: no request fails, and nothing that was written is lost."""
    handle = opened(daemon, server.path, reconnect_delay=60, x_connections=connections)
    stop = threading.Event()

    def restart():
        # Not for ever: on a machine with much else to do the server would do nothing but start.
        for _ in range(6):
            if not stop.wait(0.2):
                server.kill()
                server.start()
    thread = threading.Thread(target=restart)
    thread.start()
    try:
        for seed in range(3):
            exercise(handle, rounds=150, seed=seed)
            many(handle, 100)
            content = handle.pread(SIZE, 0)
    finally:
        stop.set()
        thread.join(30)
    handle.flush()
    assert file_bytes(server.image, 0, SIZE) == content


def test_nbd_client_mirror_under_loss(daemon, server, tmp):
    """A mirror to a server that is killed in between: neither the guest nor the job fails, and both sides are equal."""
    daemon.add_file('s', fill(tmp / 'source.img', SIZE, seed=7), discard='unmap')
    handle = nbd_connect(daemon.export('s'))
    add(daemon, server.path, 't', reconnect_delay=60)
    daemon.qmp('blockdev-mirror', {'job-id': 'm', 'device': 's', 'target': 't', 'sync': 'full',
                                   'copy-mode': 'write-blocking', 'speed': 8 * SIZE})
    for seed in range(3):
        server.kill()
        thread = threading.Thread(target=exercise, args=(handle,), kwargs={'rounds': 60, 'seed': seed})
        thread.start()
        server.start()
        thread.join(60)
        assert not thread.is_alive()
    content = exercise(handle, rounds=20)
    daemon.qmp.job_wait('m', 'ready')
    server.kill()
    server.start()
    daemon.qmp('job-complete', id='m')
    daemon.qmp.job_wait('m', 'concluded')
    assert handle.pread(SIZE, 0) == content == file_bytes(server.image, 0, SIZE)


def test_nbd_client_other_size(daemon, server):
    """A server that comes back with another disk is not taken for the old one."""
    handle = opened(daemon, server.path, reconnect_delay=1)
    server.kill()
    os.truncate(server.image, SIZE // 2)
    server.start()
    fails(errno.EIO, handle.pread, 512, 0)
    server.kill()
    os.truncate(server.image, SIZE)
    server.start()
    wait_until(lambda: reads(handle), 20, 'connected again')


def test_nbd_client_del_while_down(daemon, server):
    """A node without a server goes when it is told to, with what waits in it."""
    add(daemon, server.path, reconnect_delay=2)
    handle = nbd_connect(daemon.export('n'))
    server.kill()
    buffer = nbd.Buffer(512)
    handle.aio_pread(buffer, 0)
    began = time.monotonic()
    gone(daemon)
    assert time.monotonic() - began < 9
    wait_until(lambda: not daemon.qmp('query-named-block-nodes'), 15, 'the node is gone')


def test_nbd_client_stuck_server(start, server):
    """A server that stops without hanging up holds up neither blockdev-del nor quit."""
    daemon = start()
    daemon.serve_nbd()
    add(daemon, server.path)
    handle = nbd_connect(daemon.export('n'))
    server.process.send_signal(signal.SIGSTOP)
    handle.aio_pread(nbd.Buffer(512), 0)
    refused(daemon, server.path, node='m', open_timeout=0)  # no answer to the negotiation
    daemon.qmp('block-export-del', id='n', mode='hard')
    daemon.qmp.event('BLOCK_EXPORT_DELETED', timeout=20, id='n')
    daemon.qmp('blockdev-del', node_name='n')
    daemon.stop()
