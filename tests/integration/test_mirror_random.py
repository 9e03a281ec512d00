# SPDX-License-Identifier: BSD-2-Clause
"""Random mirrors on real files, raw and qcow2, while a guest writes and verifies: started, paused, switched, failed,
cancelled and completed at random. WEIR_RANDOM_MIRRORS: how many; WEIR_RANDOM_SEED: another history."""
import contextlib
import os
import random
import threading

import nbd
import pytest

from weirtest import KiB, MiB, QmpError, is_peer, nbd_connect, run, wait_until

pytestmark = pytest.mark.skipif(is_peer(), reason='tests ours')

SIZE = 2 * MiB
COUNT = int(os.environ.get('WEIR_RANDOM_MIRRORS', '25'))
SEED = int(os.environ.get('WEIR_RANDOM_SEED', '1'))


class Guest(threading.Thread):
    """Writes, zeroes, discards and reads at any alignment, knows what must be there, and can be held still."""

    def __init__(self, uri, seed):
        super().__init__(daemon=True)
        self.handle = nbd_connect(uri)
        self.random = random.Random(seed)
        self.shadow = bytearray(self.handle.pread(SIZE, 0))
        self.still = threading.Lock()
        self.ending = threading.Event()
        self.failure = None
        self.requests = 0

    def request(self):
        length = self.random.choice([1, 100, 511, 512, 4096, 5000, 65536, 200000])
        offset = self.random.randrange(SIZE - length + 1)
        if self.random.random() < .3:
            offset = offset // 65536 * 65536
            length = min(length, SIZE - offset)
        what = self.random.random()
        if what < .5:
            data = self.random.randbytes(1) * length
            self.handle.pwrite(data, offset, nbd.CMD_FLAG_FUA if self.random.random() < .1 else 0)
            self.shadow[offset:offset + length] = data
        elif what < .65:
            self.handle.zero(length, offset)
            self.shadow[offset:offset + length] = bytes(length)
        elif what < .75:
            self.handle.trim(length, offset)
            self.shadow[offset:offset + length] = self.handle.pread(length, offset)
        elif what < .8:
            self.handle.flush()
        else:
            assert self.handle.pread(length, offset) == self.shadow[offset:offset + length], (offset, length)
        self.requests += 1

    def run(self):
        try:
            while not self.ending.is_set():
                with self.still:
                    for _ in range(20):
                        self.request()
        except Exception as error:  # told by check(), whatever it is
            self.failure = error

    def check(self, whole=False):
        assert not self.failure, repr(self.failure)
        if whole:
            with self.still:
                assert self.handle.pread(SIZE, 0) == self.shadow


def make_target(daemon, tmp, number, rnd):
    """Node name, file and format of a new target with old data in it; some of its requests may fail."""
    fmt, name, path = rnd.choice(['raw', 'qcow2']), f't{number}', tmp / f't{number}.img'
    rules = []
    if rnd.random() < .4:
        rules = [{'event': 'none', 'iotype': rnd.choice(['write', 'write', 'flush']), 'once': rnd.random() < .8,
                  'errno': rnd.choice([5, 28])}]  # it meets the copy, and is gone before a guest could meet it
    run('qemu-img', 'create', '-q', '-f', fmt, *(['-o', f'cluster_size={rnd.choice(["4k", "64k"])}']
                                                 if fmt == 'qcow2' else []), path, SIZE)
    run('qemu-io', '-f', fmt, '-c', f'write -q -P 9 {rnd.randrange(SIZE - MiB)} 300k', path)
    daemon.qmp('blockdev-add', {'driver': 'file', 'node-name': name + 'f', 'filename': str(path), 'discard': 'unmap'})
    below = name + 'f'
    if rules:
        daemon.qmp('blockdev-add', {'driver': 'blkdebug', 'node-name': name + 'b', 'image': below,
                                    'inject-error': rules})
        below = name + 'b'
    daemon.qmp('blockdev-add', {'driver': fmt, 'node-name': name, 'file': below, 'discard': 'unmap'})
    return name, path, fmt, bool(rules)


def delete(daemon, name):
    for node in (name, name + 'b', name + 'f'):
        with contextlib.suppress(QmpError):
            daemon.qmp('blockdev-del', node_name=node)


def disturb(daemon, rnd):
    """A few commands, each of which may come at a wrong moment."""
    for _ in range(rnd.randrange(6)):
        command = rnd.choice(['pause', 'switch', 'switch', 'speed', 'query'])
        with contextlib.suppress(QmpError):
            if command == 'pause':
                daemon.qmp('job-pause', id='j')
                daemon.qmp('job-resume', id='j')
            elif command == 'switch':
                daemon.qmp('block-job-change', {'id': 'j', 'type': 'mirror', 'copy-mode': rnd.choice(
                    ['background', 'write-blocking'])})
            elif command == 'speed':
                daemon.qmp('block-job-set-speed', device='j', speed=rnd.choice([0, 4 * MiB, 64 * MiB]))
            else:
                daemon.qmp('query-block-jobs')


def job(daemon):
    """The mirror as it is, or None; what an error has stopped goes on."""
    info = next((j for j in daemon.qmp('query-block-jobs') if j['device'] == 'j'), None)
    if info and info['io-status'] != 'ok' and info['paused']:
        with contextlib.suppress(QmpError):
            daemon.qmp('job-resume', id='j')
    return info


def until(daemon, *statuses, tries=4000):
    """Its state once that is one of these; a job that fails again and again is not waited for."""
    for _ in range(tries):
        info = job(daemon)
        if info and info['status'] in (*statuses, 'concluded'):
            return info['status']
    return None


def end(daemon, guest, rnd, target):
    """Ends the mirror somehow; 'pivot', 'copy' or None for an end without a result."""
    how = rnd.choice(['complete', 'complete', 'complete', 'soft', 'soft', 'force', 'early'])
    disturb(daemon, rnd)
    if how != 'early':
        with contextlib.suppress(QmpError):
            daemon.qmp('block-job-set-speed', device='j', speed=0)
            # A guest that is faster than the copy would keep it from getting ready.
            daemon.qmp('block-job-change', {'id': 'j', 'type': 'mirror', 'copy-mode': 'write-blocking'})
        if until(daemon, 'ready') == 'ready':
            disturb(daemon, rnd)
        else:
            how = 'force'
    still = guest.still if how == 'soft' else contextlib.nullcontext()
    with still:
        with contextlib.suppress(QmpError):
            if how == 'complete':
                daemon.qmp('job-complete', id='j')
            elif how == 'soft':
                daemon.qmp('block-job-cancel', device='j')
            else:
                daemon.qmp('job-cancel', id='j')
        if until(daemon, 'concluded') != 'concluded':
            with contextlib.suppress(QmpError):  # its target's error may have come first
                daemon.qmp('job-cancel', id='j')
            wait_until(lambda: job(daemon)['status'] == 'concluded', 10, 'the cancelled job ends')
        result = next(j for j in daemon.qmp('query-jobs') if j['id'] == 'j')
        daemon.qmp('job-dismiss', id='j')
        pivoted = daemon.qmp('query-block-exports')[0]['node-name'] == target
        assert pivoted == (how == 'complete' and 'error' not in result), (how, result)
        if 'error' in result:
            return None
        return 'pivot' if pivoted else 'copy', bytes(guest.shadow)


def test_random_mirrors(start, tmp):
    """The source is never wrong, and each good end leaves a target that is right."""
    rnd = random.Random(SEED)
    daemon = start()
    daemon.serve_nbd()
    current, path, fmt, _ = make_target(daemon, tmp, 0, random.Random(0))
    guest = Guest(daemon.export(current, 'disk'), SEED)
    guest.start()
    ends = {'pivot': 0, 'copy': 0, 'none': 0}
    for number in range(1, COUNT + 1):
        target, target_path, target_fmt, _ = make_target(daemon, tmp, number, rnd)
        daemon.qmp('blockdev-mirror', {
            'job-id': 'j', 'device': current, 'target': target, 'sync': 'full', 'auto-dismiss': False,
            'copy-mode': rnd.choice(['background', 'write-blocking']), 'granularity': 512 << rnd.randrange(9),
            'buf-size': rnd.choice([0, 64 * KiB]), 'speed': rnd.choice([0, 0, 16 * MiB]),
            'on-target-error': rnd.choice(['report', 'ignore', 'stop', 'enospc'])})
        done = end(daemon, guest, rnd, target)
        daemon.qmp.events.clear()
        guest.check(whole=True)
        ends[done[0] if done else 'none'] += 1
        gone, gone_path = (current, path) if done and done[0] == 'pivot' else (target, target_path)
        delete(daemon, gone)
        if done and done[0] == 'copy':
            (tmp / 'expected').write_bytes(done[1])
            run('qemu-img', 'compare', '-f', 'raw', '-F', target_fmt, tmp / 'expected', target_path)
        gone_path.unlink()
        if gone == current:
            current, path, fmt = target, target_path, target_fmt
    guest.ending.set()
    guest.join(10)
    guest.check(whole=True)
    print(f'figure: {COUNT} random mirrors: {ends["pivot"]} pivots, {ends["copy"]} copies, {ends["none"]} without a '
          f'result; {guest.requests} requests of the guest')
    assert min(ends.values()) >= COUNT // 12, ends
    daemon.qmp('block-export-del', id='disk', mode='hard')
    daemon.stop()
    (tmp / 'expected').write_bytes(guest.shadow)
    run('qemu-img', 'compare', '-f', 'raw', '-F', fmt, tmp / 'expected', path)
