# SPDX-License-Identifier: BSD-2-Clause
"""The ends of a mirror that operators meet at bad moments: cancel and quit at every step, a source that hangs, a
rate that is raised, discards on the way."""
import contextlib
import os
import threading
import time

import pytest

from weirtest.fuse import FuseDisk
from weirtest import MiB, QmpError, fill, is_peer, nbd_connect, wait_until

pytestmark = pytest.mark.skipif(is_peer(), reason='the peer hangs')

SIZE = 8 * MiB


def mirror(daemon, tmp, **options):
    """A mirror 'j' from node s to node t; returns the guest's handle."""
    daemon.add_file('s', fill(tmp / 's.img', SIZE, seed=1), discard='unmap')
    with open(tmp / 't.img', 'wb') as target:
        target.truncate(SIZE)
    daemon.add_file('t', tmp / 't.img', discard='unmap')
    guest = nbd_connect(daemon.export('s'))
    daemon.qmp('blockdev-mirror', dict({'job-id': 'j', 'device': 's', 'target': 't', 'sync': 'full'}, **options))
    return guest


@pytest.mark.parametrize('delay_us', [0, 300, 1000, 3000])
@pytest.mark.parametrize('command', ['block-job-cancel', 'quit'])
def test_cancel_during_the_pivot(start, tmp, command, delay_us):
    """Whatever wins, the daemon stays whole, and the result says where the guest is."""
    daemon = start()
    daemon.serve_nbd()
    guest = mirror(daemon, tmp)
    daemon.qmp.event('BLOCK_JOB_READY', 10, device='j')
    second = daemon.connect()
    second.send({'execute': 'block-job-complete', 'arguments': {'device': 'j'}})
    time.sleep(delay_us / 1e6)
    if command == 'quit':
        daemon.qmp('quit')
        assert daemon.wait(12) == 0
        return
    with contextlib.suppress(QmpError):
        daemon.qmp('block-job-cancel', device='j', force=True)
    wait_until(lambda: not daemon.qmp('query-jobs'), 10, 'the job is gone')
    events = [e for e in daemon.qmp.events if e['event'] in ('BLOCK_JOB_COMPLETED', 'BLOCK_JOB_CANCELLED')]
    moved = daemon.qmp('query-block-exports')[0]['node-name'] == 't'
    assert [e['event'] for e in events] == ['BLOCK_JOB_COMPLETED' if moved else 'BLOCK_JOB_CANCELLED']
    guest.pwrite(b'x' * 4096, 0)
    guest.flush()
    with open(tmp / ('t.img' if moved else 's.img'), 'rb') as image:
        assert image.read(4096) == b'x' * 4096


def test_speed_is_raised(daemon, tmp):
    """A chunk that waits for its turn under a speed of 1 byte/s does not wait for it under another one."""
    mirror(daemon, tmp, speed=1)
    wait_until(lambda: daemon.qmp.job('j')['current-progress'] > 0, 10, 'the mirror has begun')
    daemon.qmp('block-job-set-speed', device='j', speed=1024 * MiB)
    daemon.qmp.event('BLOCK_JOB_READY', 10, device='j')


@pytest.mark.parametrize('mode', ['background', 'write-blocking'])
def test_discard_passes_the_filter(daemon, tmp, mode):
    """Space that the guest gives up while it is mirrored is given up on both sides."""
    guest = mirror(daemon, tmp, **{'copy-mode': mode})
    daemon.qmp.event('BLOCK_JOB_READY', 10, device='j')
    guest.trim(4 * MiB, 2 * MiB)
    guest.zero(1 * MiB, 6 * MiB)
    wait_until(lambda: daemon.qmp.job('j')['current-progress'] == daemon.qmp.job('j')['total-progress'], 10, 'in sync')
    daemon.qmp('block-job-complete', device='j')
    daemon.qmp.event('BLOCK_JOB_COMPLETED', 10, device='j')
    guest.flush()
    for image in 's.img', 't.img':
        assert os.stat(tmp / image).st_blocks * 512 <= SIZE - 5 * MiB
    assert guest.pread(MiB, 3 * MiB) == bytes(MiB) and guest.pread(MiB, 6 * MiB) == bytes(MiB)
    assert guest.pread(MiB, 0) == (tmp / 's.img').read_bytes()[:MiB] == (tmp / 't.img').read_bytes()[:MiB]


def write(guest):
    with contextlib.suppress(Exception):
        guest.pwrite(b'w' * SIZE, 0)


@pytest.mark.parametrize('drop_guest', [False, True])
def test_source_that_hangs(start, tmp, drop_guest):
    """A write that hangs in the source holds its range: a force cancel does not wait for it, nor do other guests'
    exports, and when it comes back nothing is left of the job."""
    disk = FuseDisk(tmp)
    try:
        daemon = start()
        daemon.serve_nbd()
        daemon.add_file('s', disk.path)
        with open(tmp / 't.img', 'wb') as target:
            target.truncate(SIZE)
        daemon.add_file('t', tmp / 't.img')
        guest = nbd_connect(daemon.export('s'))
        daemon.qmp('blockdev-mirror', {'job-id': 'j', 'device': 's', 'target': 't', 'sync': 'full', 'speed': 65536,
                                       'copy-mode': 'write-blocking'})
        # The copy waits for its speed from here on, so that what hangs is the guest's write and not a read of it.
        wait_until(lambda: daemon.qmp.job('j')['current-progress'] > 0, 10, 'the first chunk is copied')
        disk.stop()
        writer = threading.Thread(target=write, args=(guest,))
        writer.start()
        disk.wait_stuck(daemon)
        daemon.qmp('block-job-set-speed', device='j', speed=0)
        time.sleep(0.3)  # the copy meets the range of the write: nothing shows when
        begin = time.monotonic()
        daemon.qmp('block-job-cancel', device='j', force=True)
        daemon.qmp.job_wait('j', 'null', 3)
        assert time.monotonic() - begin < 2
        if drop_guest:
            daemon.qmp('block-export-del', id='s', mode='hard')
            wait_until(lambda: not daemon.qmp('query-block-exports'), 15, 'the export is gone')
            time.sleep(2.5)  # the filter is tried to be taken out meanwhile
        disk.go_on()
        writer.join(10)
        wait_until(lambda: not any(n['drv'] == 'mirror_top' for n in daemon.qmp('query-named-block-nodes')), 30,
                   'the filter is gone')
        if not drop_guest:
            assert guest.pread(4096, 0) == b'w' * 4096
    finally:
        disk.close()


def test_no_writer_passes_the_mirror_by(daemon, tmp):
    """A second writer directly on the source would not be mirrored: it is refused while the mirror stands above it."""
    mirror(daemon, tmp)
    daemon.qmp.event('BLOCK_JOB_READY', 10, device='j')
    with pytest.raises(QmpError) as caught:
        daemon.export('s', 'second')
    assert "permissions 'write'" in caught.value.text
    daemon.export('s', 'reader', writable=False)
    daemon.qmp('block-export-del', id='reader')
    daemon.qmp('block-job-cancel', device='j', force=True)
    daemon.qmp.job_wait('j', 'null')
    daemon.export('s', 'second')


def slow_to_flush(tmp):
    """nbdkit's plugin: a disk whose flush takes 20 ms for each write since the last one, and lets others pass."""
    data, writes = tmp / 'backing.img', tmp / 'writes'
    return ['eval', 'thread_model=echo parallel', f'get_size=echo {SIZE}', 'can_write=exit 0', 'can_flush=exit 0',
            f'pread=dd if={data} skip=$4 count=$3 iflag=skip_bytes,count_bytes,fullblock status=none',
            f'pwrite=dd of={data} seek=$4 oflag=seek_bytes conv=notrunc status=none && echo w >>{writes}',
            f'flush=n=$(cat {writes} | wc -l); : >{writes}; sleep $(awk "BEGIN {{ print $n * 0.02 }}")']


def test_pivot_flushes_ahead(daemon, tmp):
    """What the target has cached until the end becomes durable while the guest goes on, not while it is held up."""
    disk = FuseDisk(tmp, slow_to_flush(tmp))
    try:
        daemon.add_file('s', fill(tmp / 's.img', SIZE, seed=1))
        daemon.add_file('t', disk.path)
        guest = nbd_connect(daemon.export('s'))
        daemon.qmp('blockdev-mirror', {'job-id': 'j', 'device': 's', 'target': 't', 'sync': 'full',
                                       'copy-mode': 'write-blocking'})
        daemon.qmp.event('BLOCK_JOB_READY', 60, device='j')
        for i in range(100):  # two seconds of flushing
            guest.pwrite(bytes([i]) * 4096, i * 65536)
        begin = time.monotonic()
        daemon.qmp('block-job-complete', device='j')
        longest = 0
        while not any(e['event'] == 'BLOCK_JOB_COMPLETED' for e in daemon.qmp.events):
            start = time.monotonic()
            guest.pread(4096, 0)
            longest = max(longest, time.monotonic() - start)
            daemon.qmp('query-version')
        assert time.monotonic() - begin > 1.5, 'the flush was not slow: nothing is shown'
        assert longest < .5
        daemon.qmp.job_wait('j', 'null')
        for i in range(100):
            assert guest.pread(4096, i * 65536) == bytes([i]) * 4096
    finally:
        daemon.kill()
        disk.close()
