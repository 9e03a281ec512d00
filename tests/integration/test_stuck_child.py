# SPDX-License-Identifier: BSD-2-Clause
"""An image on a FUSE mount whose server is stopped: whoever touches it hangs in state D; nobody else may.

Limits: another monitor answers within 100 ms, guests of other nodes go on, a force cancel ends within a second,
a command that needs the file fails within its limit and names the file, quit ends within its limit.
"""
import contextlib
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from weirtest import MiB, QmpError, fill, is_peer, nbd_connect, wait_until

pytestmark = pytest.mark.skipif(is_peer(), reason='the peer hangs')

SIZE = 8 * MiB
MONITOR_LIMIT = 0.1
CANCEL_LIMIT = 1.0
# Of commands that need the file, and of quit: the daemon's own limit of 10 s, and a little for a busy machine.
COMMAND_LIMIT = 12.0


class Guest(threading.Thread):
    """Reads and writes another node all the time and notes the longest wait."""

    def __init__(self, uri):
        super().__init__()
        self.handle = nbd_connect(uri)
        self.ending = threading.Event()
        self.requests, self.worst = 0, 0.0

    def run(self):
        while not self.ending.is_set():
            begin = time.monotonic()
            self.handle.pwrite(b'g' * 4096, self.requests % 256 * 4096)
            self.handle.pread(4096, self.requests % 256 * 4096)
            self.worst = max(self.worst, time.monotonic() - begin)
            self.requests += 1
        self.handle.shutdown()


@pytest.fixture
def world(start, fuse_disk, tmp):
    """(daemon, FUSE disk, guest at work on a node of its own)."""
    daemon = start()
    daemon.serve_nbd()
    daemon.add_file('other', fill(tmp / 'other.img', SIZE))
    guest = Guest(daemon.export('other'))
    guest.start()
    yield daemon, fuse_disk, guest
    fuse_disk.go_on()
    guest.ending.set()
    guest.join(10)


def answers_quickly(daemon, guest):
    """A second monitor answers, and the guest of the other node goes on."""
    second = daemon.connect()
    before = guest.requests
    for _ in range(20):
        begin = time.monotonic()
        second('query-named-block-nodes')
        second('query-block-exports')
        second('query-jobs')
        assert time.monotonic() - begin < 3 * MONITOR_LIMIT
        begin = time.monotonic()
        second('query-version')
        assert time.monotonic() - begin < MONITOR_LIMIT
    second.close()
    wait_until(lambda: guest.requests > before + 20, 5, 'the guest goes on')
    assert guest.worst < 1.0


def test_add_of_a_stuck_file(world):
    daemon, fuse, guest = world
    fuse.stop()
    begin = time.monotonic()
    daemon.qmp.send({'execute': 'blockdev-add', 'id': 'stuck',
                     'arguments': {'driver': 'file', 'node-name': 'stuck', 'filename': fuse.path}})
    answers_quickly(daemon, guest)
    reply = daemon.qmp.reply(COMMAND_LIMIT)
    assert time.monotonic() - begin < COMMAND_LIMIT
    assert reply['id'] == 'stuck' and fuse.path in reply['error']['desc'], reply
    # The name is free again, other commands work.
    daemon.qmp('blockdev-add', {'driver': 'null-co', 'node-name': 'stuck'})
    daemon.qmp('blockdev-del', node_name='stuck')


def start_mirror(daemon, fuse, **options):
    daemon.add_file('target', fuse.path)
    daemon.qmp('blockdev-mirror', dict({'job-id': 'j', 'device': 'other', 'target': 'target', 'sync': 'full',
                                        'speed': 1 * MiB}, **options))


@pytest.mark.parametrize('mode', ['background', 'write-blocking'])
def test_force_cancel_of_a_stuck_mirror(world, mode):
    daemon, fuse, guest = world
    start_mirror(daemon, fuse, **{'copy-mode': mode})
    wait_until(lambda: daemon.qmp.job('j')['current-progress'] > 0, 10, 'the mirror has begun')
    fuse.stop()
    daemon.qmp('block-job-set-speed', device='j', speed=0)
    if mode == 'background':
        answers_quickly(daemon, guest)
    second = daemon.connect()
    begin = time.monotonic()
    second('block-job-cancel', device='j', force=True)
    daemon.qmp.event('BLOCK_JOB_CANCELLED', CANCEL_LIMIT + 1, device='j')
    daemon.qmp.job_wait('j', 'null', CANCEL_LIMIT + 1)
    assert time.monotonic() - begin < CANCEL_LIMIT
    guest.worst = 0.0  # a write-blocking mirror may hold a guest up to the cancel
    answers_quickly(daemon, guest)
    assert not daemon.qmp('query-jobs')


def test_stuck_node_in_limbo(world):
    """The node that is given up shows as limbo, its name is free, and it goes when the file system wakes up."""
    daemon, fuse, _ = world
    start_mirror(daemon, fuse)
    wait_until(lambda: daemon.qmp.job('j')['current-progress'] > 0, 10, 'the mirror has begun')
    fuse.stop()
    daemon.qmp('block-job-set-speed', device='j', speed=0)
    fuse.wait_stuck(daemon)
    daemon.qmp('block-job-cancel', device='j', force=True)
    daemon.qmp.job_wait('j', 'null', 5)
    daemon.qmp('blockdev-del', {'node-name': 'target'}, timeout=COMMAND_LIMIT)
    daemon.qmp('blockdev-add', {'driver': 'null-co', 'node-name': 'target'})
    assert any(node.get('limbo') for node in daemon.qmp('query-named-block-nodes'))
    fuse.go_on()
    wait_until(lambda: not any(n.get('limbo') for n in daemon.qmp('query-named-block-nodes')), 10, 'limbo empties')


def test_reads_of_a_stuck_export(world):
    """A guest of the stuck node waits, alone; it is served when the file system wakes up."""
    daemon, fuse, guest = world
    daemon.add_file('stuck', fuse.path)
    handle = nbd_connect(daemon.export('stuck', writable=False))
    assert handle.pread(4096, 0)
    fuse.stop()
    answer = []
    reader = threading.Thread(target=lambda: answer.append(handle.pread(MiB, 4 * MiB)))
    reader.start()
    answers_quickly(daemon, guest)
    assert not answer
    fuse.go_on()
    reader.join(10)
    assert answer and len(answer[0]) == MiB


def test_command_on_a_stuck_node(world):
    """block_resize needs the file: it fails within its limit, and says which file."""
    daemon, fuse, guest = world
    daemon.add_file('stuck', fuse.path)
    fuse.stop()
    begin = time.monotonic()
    with pytest.raises(QmpError) as caught:
        daemon.qmp('block_resize', {'node-name': 'stuck', 'size': 4 * MiB}, timeout=COMMAND_LIMIT)
    assert time.monotonic() - begin < COMMAND_LIMIT
    assert fuse.path in caught.value.text
    answers_quickly(daemon, guest)


@contextlib.contextmanager
def threads_end_late(daemon):
    """All but the main thread get a CPU only when nothing else wants it, and something wants it all the time."""
    for task in os.listdir(f'/proc/{daemon.pid}/task'):
        if int(task) != daemon.pid:
            os.sched_setscheduler(int(task), os.SCHED_IDLE, os.sched_param(0))
    busy = [subprocess.Popen([sys.executable, '-c', 'while True: pass']) for _ in range(2 * os.cpu_count())]
    try:
        yield
    finally:
        for process in busy:
            process.kill()
            process.wait()


@pytest.mark.parametrize('late', [False, True], ids=['', 'late'])
@pytest.mark.parametrize('how', ['quit', 'SIGTERM', 'SIGINT', 'SIGHUP'])
def test_quit_with_a_stuck_node(world, how, late):
    """However the daemon is told to end. Whichever of its threads ends last must not be left to close the file."""
    daemon, fuse, guest = world
    start_mirror(daemon, fuse)
    wait_until(lambda: daemon.qmp.job('j')['current-progress'] > 0, 10, 'the mirror has begun')
    fuse.stop()
    daemon.qmp('block-job-set-speed', device='j', speed=0)
    guest.ending.set()
    guest.join(10)
    assert daemon.sanitized in (True, False)  # it is asked now, as long as it can be
    begin = time.monotonic()
    with threads_end_late(daemon) if late else contextlib.nullcontext():
        if how == 'quit':
            daemon.qmp('quit')
        else:
            daemon.process.send_signal(getattr(signal, how))
        daemon.wait_main_thread(COMMAND_LIMIT)
    assert time.monotonic() - begin < COMMAND_LIMIT
    fuse.go_on()
    daemon.wait(5)
