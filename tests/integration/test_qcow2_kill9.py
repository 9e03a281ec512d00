# SPDX-License-Identifier: BSD-2-Clause
"""kill -9 at random moments under allocating load on a qcow2 image.

qemu-img is the judge: no errors (leaks are allowed), and every write that was acknowledged as durable - with FUA, or by
a flush that was issued after it - is there. Tables live in the process until a flush, as the cache of a disk does: a
write that was acknowledged and not flushed may be there or not. WEIR_KILLS says how many times (default 6).
"""
import os
import random
import struct
import subprocess
import threading
import time

import nbd
import pytest

from weirtest import MiB, nbd_connect, run, wait_until

KILLS = int(os.environ.get('WEIR_KILLS', '6'))
SEED = int(os.environ.get('WEIR_SEED', str(random.SystemRandom().getrandbits(32))))
SIZE = 64 * MiB
BLOCK = 4096
CLIENTS = 2
DEPTH = 16
OPTIONS = ['cluster_size=64k', 'cluster_size=512', 'cluster_size=64k,extended_l2=on', 'cluster_size=4k,refcount_bits=1']


def block_content(number, version):
    return struct.pack('<QQ', number, version) * (BLOCK // 16)


class Writer(threading.Thread):
    """Writes blocks of its own half, flushes now and then, and notes what must, and what may, be there."""

    def __init__(self, uri, index, rnd):
        super().__init__()
        self.handle = nbd_connect(uri)
        self.first, self.count = index * (SIZE // BLOCK // CLIENTS), SIZE // BLOCK // CLIENTS
        self.rnd = rnd
        self.version = 0
        self.acknowledged = {}  # block -> version
        self.durable = {}       # block -> version
        self.in_flight = {}     # cookie -> (blocks, version, fua), or what a flush will make durable
        self.busy = set()
        self.flushes = self.durable_writes = 0
        self.failure = None

    def submit(self):
        while len(self.in_flight) < DEPTH:
            if self.rnd.random() < 0.03:
                self.in_flight[self.handle.aio_flush()] = dict(self.acknowledged)
                continue
            length = self.rnd.choice((1, 1, 1, 2, 8, 32))
            start = self.first + self.rnd.randrange(self.count - length)
            blocks = range(start, start + length)
            if self.busy.intersection(blocks):
                continue
            self.version += 1
            fua = self.rnd.random() < 0.05
            data = b''.join(block_content(b, self.version) for b in blocks)
            cookie = self.handle.aio_pwrite(nbd.Buffer.from_bytearray(bytearray(data)), start * BLOCK,
                                            flags=nbd.CMD_FLAG_FUA if fua else 0)
            self.in_flight[cookie] = (blocks, self.version, fua)
            self.busy.update(blocks)

    def completed(self, what):
        if isinstance(what, dict):
            self.flushes += 1
            for block, version in what.items():
                self.durable[block] = max(version, self.durable.get(block, 0))
            return
        blocks, version, fua = what
        for block in blocks:
            self.acknowledged[block] = version
            if fua:
                self.durable[block] = version
        self.durable_writes += fua
        self.busy.difference_update(blocks)

    def run(self):
        try:
            while True:
                self.submit()
                self.handle.poll(1000)
                for cookie in [c for c in self.in_flight if self.handle.aio_command_completed(c)]:
                    self.completed(self.in_flight.pop(cookie))
        except nbd.Error as error:  # the server is dead
            self.failure = error


def verify(raw, writers):
    """Each block holds a write that is not older than the last durable one."""
    with open(raw, 'rb') as f:
        for writer in writers:
            for block in range(writer.first, writer.first + writer.count):
                data = os.pread(f.fileno(), BLOCK, block * BLOCK)
                number, version = struct.unpack('<QQ', data[:16])
                least = writer.durable.get(block, 0)
                if not version:
                    assert not least and data == bytes(BLOCK), f'block {block}: nothing, {least} was durable'
                    continue
                assert data == block_content(block, version) and number == block, f'block {block} is torn'
                assert least <= version <= writer.version, f'block {block}: {version}, {least} was durable'


def unlocked_check(path):
    """What qemu-img check says, or None as long as the file is locked: the kernel ends the requests of a killed
    process' ring, which hold the file open, in its own time."""
    check = subprocess.run(['qemu-img', 'check', '-f', 'qcow2', str(path)], capture_output=True, text=True, check=False)
    return None if 'lock' in check.stderr and check.returncode == 1 else check


@pytest.mark.parametrize('round_number', range(KILLS))
def test_qcow2_kill9(start, tmp, round_number):
    rnd = random.Random(SEED + round_number)
    print(f'WEIR_SEED={SEED + round_number}')
    path, raw = tmp / 'disk.qcow2', tmp / 'disk.raw'
    run('qemu-img', 'create', '-q', '-f', 'qcow2', '-o', OPTIONS[round_number % len(OPTIONS)], str(path), str(SIZE))
    daemon = start()
    daemon.serve_nbd()
    daemon.qmp('blockdev-add', {'driver': 'qcow2', 'node-name': 'disk',
                                'file': {'driver': 'file', 'filename': str(path)}})
    uri = daemon.export('disk')
    writers = [Writer(uri, i, random.Random(rnd.random())) for i in range(CLIENTS)]
    for writer in writers:
        writer.start()
    # The moment is the point of this test: any will do, so that it is drawn and not waited for.
    time.sleep(rnd.uniform(0.02, 0.4))
    daemon.kill()
    for writer in writers:
        writer.join(20)
        assert not writer.is_alive() and writer.failure
    check = wait_until(lambda: unlocked_check(path), 20, 'the lock is gone')
    assert check.returncode in (0, 3), check.stdout + check.stderr  # 3: leaks only
    run('qemu-img', 'convert', '-f', 'qcow2', '-O', 'raw', str(path), str(raw))
    verify(raw, writers)
