# SPDX-License-Identifier: BSD-2-Clause
"""Disks on another host, 20 ms away, whose cable is cut for ten seconds: served from there, and mirrored to there.

Needs root, for the network namespaces, and /dev/net/tun.
"""
import contextlib
import random
import subprocess
import threading
import time

import nbd
import pytest

from link import Link
from weirtest import KiB, MiB, Daemon, daemon_command, fill, file_bytes, nbd_connect, wait_until

SIZE = 64 * MiB
BLOCK = 4 * KiB
DELAY = 0.020  # one way
CUT_SECONDS = 10
PORT = 10809
SERVERS = ('nbdkit', 'qemu-nbd', 'weir')


@pytest.fixture
def link():
    cable = Link(DELAY)
    yield cable
    cable.close()


@pytest.fixture
def near(link, tmp):
    """The daemon under test, on this side."""
    daemon = Daemon(tmp, command=link.command('near', *daemon_command()))
    daemon.serve_nbd()
    yield daemon
    daemon.stop(60)
    daemon.assert_no_crash()


@contextlib.contextmanager
def far_server(link, tmp, kind, image):
    """A server of the image on the other side, as the export 'd'."""
    where = {'addr': {'type': 'inet', 'data': {'host': link.FAR, 'port': str(PORT)}}}
    if kind == 'weir':
        daemon = Daemon(tmp, command=link.command('far', *daemon_command()))
        daemon.qmp('nbd-server-start', where)
        daemon.add_file('d', image)
        daemon.qmp('block-export-add', {'type': 'nbd', 'id': 'd', 'node-name': 'd', 'writable': True})
        try:
            yield
        finally:
            daemon.stop(60)
            daemon.assert_no_crash()
        return
    command = {'nbdkit': ['nbdkit', '-f', '-i', link.FAR, '-p', str(PORT), 'file', image],
               'qemu-nbd': ['qemu-nbd', '-t', '-e', '16', '-b', link.FAR, '-p', str(PORT), '-x', 'd', '-f', 'raw',
                            image]}
    process = subprocess.Popen(link.command('far', *map(str, command[kind])))
    try:
        wait_until(lambda: f':{PORT} ' in subprocess.run(link.command('far', 'ss', '-ltn'), capture_output=True,
                                                         text=True, check=True).stdout, 20, 'the server listens')
        yield
    finally:
        process.terminate()
        process.wait(60)


def add_far(daemon, link, node, **options):
    daemon.qmp('blockdev-add', dict({'driver': 'nbd', 'node-name': node, 'export': 'd', 'server': {
        'type': 'inet', 'host': link.FAR, 'port': str(PORT)}}, **{k.replace('_', '-'): v for k, v in options.items()}))


class Guest(threading.Thread):
    """Writes blocks with rising numbers, 16 at a time, none of them twice at once; knows what the disk must hold."""

    def __init__(self, uri, seed):
        super().__init__(daemon=True)
        self.handle, self.rnd, self.stopped = nbd_connect(uri), random.Random(seed), False
        self.expected, self.written, self.longest, self.errors = {}, 0, 0.0, []
        self.busy = {}

    def issue(self):
        block = self.rnd.randrange(SIZE // BLOCK)
        if block in self.busy:
            return
        self.written += 1
        number, begin = self.written, time.monotonic()
        buffer = nbd.Buffer.from_bytearray(bytearray(number.to_bytes(8, 'big') * (BLOCK // 8)))

        def done(error):
            self.longest = max(self.longest, time.monotonic() - begin)
            value = error if isinstance(error, int) else error.value
            del self.busy[block]
            if value:
                self.errors.append((block, value))
            else:
                self.expected[block] = number
            return 1
        self.busy[block] = buffer
        self.handle.aio_pwrite(buffer, block * BLOCK, completion=done)

    def run(self):
        while not self.stopped:
            while len(self.busy) < 16:
                self.issue()
            self.handle.poll(100)
        while self.busy:
            self.handle.poll(100)
        self.handle.flush()

    def finish(self, seconds=120):
        self.stopped = True
        self.join(seconds)
        assert not self.is_alive(), f'{len(self.busy)} writes are not answered'

    def check(self, path):
        """The newest of each block that was answered, in the file; a block without a write is what it was."""
        data = file_bytes(path, 0, SIZE)
        wrong = [block for block, number in self.expected.items()
                 if data[block * BLOCK:(block + 1) * BLOCK] != number.to_bytes(8, 'big') * (BLOCK // 8)]
        assert not wrong, f'{len(wrong)} of {len(self.expected)} blocks are not what was written last: {wrong[:5]}'


@pytest.mark.parametrize('options', [{'reconnect_delay': 60}, {}, {'reconnect_delay': 60, 'x_connections': 4}],
                         ids=['waits', 'fails', 'waits-4'])
@pytest.mark.parametrize('kind', SERVERS)
def test_serve_from_afar(link, near, tmp, kind, options):
    """A guest of a disk over there: each of its writes is done once, and ends; without an error where it is to wait."""
    image = fill(tmp / 'far.img', SIZE, seed=1)
    with far_server(link, tmp, kind, image):
        add_far(near, link, 'n', **options)
        guest = Guest(near.export('n'), seed=1)
        guest.start()
        wait_until(lambda: guest.written > 200, 60, 'it writes')
        before = guest.written
        link.cut(CUT_SECONDS)
        wait_until(lambda: guest.written > before + 500, 120, 'it writes again')
        guest.finish()
        assert not guest.errors or 'reconnect_delay' not in options, guest.errors[:5]
        print(f'figure: served from {kind}, {options or "no delay"}: {guest.written} writes, '
              f'{len(guest.errors)} errors, longest {guest.longest:.1f} s, link cut for {CUT_SECONDS} s')
        near.qmp('block-export-del', id='n', mode='hard')
        near.qmp.event('BLOCK_EXPORT_DELETED', 30, id='n')
        near.qmp('blockdev-del', node_name='n')
    guest.check(image)


@pytest.mark.parametrize('mode', ['background', 'write-blocking'])
@pytest.mark.parametrize('kind', SERVERS)
def test_mirror_to_afar(link, near, tmp, kind, mode):
    """A disk is moved over there while its guest writes; the cable is cut in the copy, and again once it is ready."""
    source, target = fill(tmp / 'near.img', SIZE, seed=1), tmp / 'far.img'
    with open(target, 'wb') as file:
        file.truncate(SIZE)
    with far_server(link, tmp, kind, target):
        near.add_file('n', source)
        add_far(near, link, 't', reconnect_delay=120)
        guest = Guest(near.export('n'), seed=2)
        guest.start()
        near.qmp('blockdev-mirror', {'job-id': 'j', 'device': 'n', 'target': 't', 'sync': 'full', 'copy-mode': mode})
        link.cut(CUT_SECONDS)
        if mode == 'background':
            guest.finish()  # it writes faster than the cable carries
        near.qmp.event('BLOCK_JOB_READY', 300, device='j')
        link.cut(CUT_SECONDS)
        if mode != 'background':
            guest.finish()
        near.qmp('job-complete', id='j')
        near.qmp.event('BLOCK_JOB_COMPLETED', 120, device='j')
        assert not guest.errors, guest.errors[:5]
        last = nbd_connect(near.uri('n'))
        last.pwrite(b'after the pivot' * 10, 1000)
        last.flush()
        last.shutdown()
        near.qmp('block-export-del', id='n', mode='hard')
        near.qmp.event('BLOCK_EXPORT_DELETED', 30, id='n')
        near.qmp('blockdev-del', node_name='t')
        print(f'figure: mirrored to {kind}, {mode}: {guest.written} writes of the guest, longest {guest.longest:.1f} s')
    expected = bytearray(file_bytes(source, 0, SIZE))
    expected[1000:1150] = b'after the pivot' * 10
    assert file_bytes(target, 0, SIZE) == expected
