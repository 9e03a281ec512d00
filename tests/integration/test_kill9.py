# SPDX-License-Identifier: BSD-2-Clause
"""kill -9 at random moments under write load: every acknowledged write is in the file.

The page cache survives the process, so what was acknowledged must be readable, with or without a flush; a write
that was in flight may be there, or not, block by block. WEIR_KILLS says how many times (default 6).
"""
import os
import random
import struct
import threading
import time

import nbd
import pytest

from weirtest import MiB, nbd_connect

KILLS = int(os.environ.get('WEIR_KILLS', '6'))
SEED = int(os.environ.get('WEIR_SEED', str(random.SystemRandom().getrandbits(32))))
SIZE = 16 * MiB
BLOCK = 4096
CLIENTS = 2
DEPTH = 16


def block_content(number, version):
    """4 KiB that say which block and which write they are."""
    return struct.pack('<QQ', number, version) * (BLOCK // 16)


class Writer(threading.Thread):
    """Writes whole blocks of its own half at random, many at once, and notes what was acknowledged."""

    def __init__(self, uri, index, rnd):
        super().__init__()
        self.handle = nbd_connect(uri)
        self.first, self.count = index * (SIZE // BLOCK // CLIENTS), SIZE // BLOCK // CLIENTS
        self.rnd = rnd
        self.version = 0
        self.acknowledged = {}  # block -> version
        self.in_flight = {}     # cookie -> [(block, version)]
        self.busy = set()
        self.failure = None

    def submit(self):
        while len(self.in_flight) < DEPTH:
            length = self.rnd.choice((1, 1, 1, 2, 8, 32))
            start = self.first + self.rnd.randrange(self.count - length)
            blocks = range(start, start + length)
            if self.busy.intersection(blocks):
                continue
            self.version += 1
            data = b''.join(block_content(b, self.version) for b in blocks)
            cookie = self.handle.aio_pwrite(nbd.Buffer.from_bytearray(bytearray(data)), start * BLOCK)
            self.in_flight[cookie] = [(b, self.version) for b in blocks]
            self.busy.update(blocks)

    def run(self):
        try:
            while True:
                self.submit()
                self.handle.poll(1000)
                for cookie in [c for c in self.in_flight if self.handle.aio_command_completed(c)]:
                    for block, version in self.in_flight.pop(cookie):
                        self.acknowledged[block] = version
                        self.busy.discard(block)
        except nbd.Error as error:  # the server is dead
            self.failure = error


def verify(path, writers, history):
    """Each block holds what was acknowledged last, or a write that was in flight."""
    with open(path, 'rb') as f:
        for writer in writers:
            pending = {block: version for pieces in writer.in_flight.values() for block, version in pieces}
            history.update(writer.acknowledged)
            for block in range(writer.first, writer.first + writer.count):
                data = os.pread(f.fileno(), BLOCK, block * BLOCK)
                allowed = [block_content(block, history[block]) if block in history else bytes(BLOCK)]
                if block in pending:
                    allowed.append(block_content(block, pending[block]))
                assert data in allowed, (f'block {block}: {struct.unpack("<QQ", data[:16])}, acknowledged '
                                         f'{history.get(block)}, in flight {pending.get(block)}')
                if block in pending and data == allowed[-1]:
                    history[block] = pending[block]


@pytest.mark.parametrize('round_number', range(KILLS))
def test_kill9(start, tmp, round_number):
    rnd = random.Random(SEED + round_number)
    print(f'WEIR_SEED={SEED + round_number}')
    path = tmp / 'disk.img'
    with open(path, 'wb') as f:
        f.truncate(SIZE)
    history = {}
    daemon = start()
    daemon.serve_nbd()
    daemon.add_file('disk', path)
    uri = daemon.export('disk')
    writers = [Writer(uri, i, random.Random(rnd.random())) for i in range(CLIENTS)]
    for writer in writers:
        writer.start()
    # The moment is the point of this test: any will do, so that it is drawn and not waited for.
    time.sleep(rnd.uniform(0.005, 0.3))
    daemon.kill()
    for writer in writers:
        writer.join(20)
        assert not writer.is_alive() and writer.failure
    verify(path, writers, history)
    # The image is usable at once: no lock and nothing else is left behind.
    again = start()
    again.serve_nbd()
    again.add_file('disk', path)
    handle = nbd_connect(again.export('disk'))
    assert handle.pread(BLOCK, 0) == open(path, 'rb').read(BLOCK)
    handle.shutdown()
