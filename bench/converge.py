#!/usr/bin/python3
# SPDX-License-Identifier: BSD-2-Clause
"""Whether a mirror gets in sync beside a guest that dirties the disk at 0.1 to 10 times the rate of the copy.

A raw image of 256 MiB is copied at 64 MiB/s while fio writes whole granules of 64 KiB at random places, at a multiple
of that rate; in both copy modes, and with the switch from background to write-blocking at half of the first pass.
Write-blocking, and from the switch on, BLOCK_JOB_READY must come within twice the time of the idle copy and the copy at
its minimum share (20 % of the time) together. In background mode READY must come where guests are slower than the copy
by half; where they are faster, `x-converges` of query-block-jobs must say that it will not, and a switch must help.
In the end both images are the same. Exit status 1 where one of this does not hold.
"""
import argparse
import json
import subprocess
import sys
import time

from jobs import Qmp
from servers import FIO, MIB, Server, Work, environment, fill

SIZE, SPEED = 256 * MIB, 64 * MIB
FACTORS = (0.1, 0.5, 1, 2, 10)
SHARE = 20
# Passes after which a background copy must have said what will become of it.
PASSES = 6


class Guest:
    def __init__(self, work, uri, factor):
        self.output = work.path / 'guest.json'
        self.process = subprocess.Popen(
            FIO + ['--name=j', '--ioengine=nbd', f'--uri={uri}', '--rw=randwrite', '--bs=64k', '--iodepth=16',
                   '--norandommap', '--randrepeat=0', '--time_based', '--runtime=600', '--refill_buffers',
                   f'--rate={int(SPEED * factor)}', f'--output={self.output}', '--output-format=json'],
            stdin=subprocess.DEVNULL, cwd=work.path)

    def end(self):
        """Its rate, as a multiple of the copy's."""
        self.process.terminate()
        self.process.wait(60)
        text = self.output.read_text()
        return json.loads(text[text.index('{'):])['jobs'][0]['write']['bw_bytes'] / SPEED


class Mirror:
    """One mirror from its start; seconds are counted from there."""

    def __init__(self, work, server, mode):
        self.qmp = Qmp(f'{server.socket}.qmp')
        self.qmp('blockdev-add', driver='raw', node_name='target',
                 file={'driver': 'file', 'filename': str(work.path / 'target.img')})
        self.begin = time.time()
        self.converges = True
        self.qmp('blockdev-mirror', job_id='j', device='disk', target='target', sync='full', copy_mode=mode,
                 speed=SPEED, x_minimum_share=SHARE)

    def job(self):
        job = next(j for j in self.qmp('query-block-jobs') if j['device'] == 'j')
        self.converges = job['x-converges']
        return job

    def until(self, condition, limit):
        """Seconds since the start once it holds, or None after the limit."""
        end = time.time() + limit
        while time.time() < end:
            if condition(self.job()):
                return time.time() - self.begin
            time.sleep(.01)
        return None

    def ready(self, limit):
        return self.until(lambda job: job['ready'], limit)

    def switch(self):
        self.qmp('block-job-change', id='j', type='mirror', copy_mode='write-blocking')

    def finish(self):
        self.qmp('block-job-cancel', device='j')
        while self.qmp.when('JOB_STATUS_CHANGE', id='j', status='null') is None:
            self.qmp.message()


def limit_of(idle):
    return 2 * idle + idle * 100 / SHARE


def idle_time(work):
    with Server(work, 'weir', work.path / 'disk.img') as server:
        mirror = Mirror(work, server, 'background')
        return mirror.ready(60) or sys.exit('the idle copy does not end')


def background(mirror, factor, idle):
    """(seconds to READY or None, whether that is as promised)"""
    ready = mirror.until(lambda job: job['ready'] or not job['x-converges'], PASSES * idle)
    said = not mirror.converges
    if ready and not said:
        return ready, factor <= 1
    mirror.switch()
    return None, said and factor >= 1 and mirror.ready(limit_of(idle)) is not None


def cell(work, mode, factor, idle):
    with Server(work, 'weir', work.path / 'disk.img') as server:
        guest = Guest(work, server.uri, factor)
        time.sleep(.5)
        mirror = Mirror(work, server, 'write-blocking' if mode == 'write-blocking' else 'background')
        if mode == 'background':
            ready, good = background(mirror, factor, idle)
        else:
            if mode == 'switched':
                mirror.until(lambda job: job['offset'] >= SIZE // 2, 10 * idle)
                mirror.switch()
            ready = mirror.ready(limit_of(idle))
            good = ready is not None and ready <= limit_of(idle)
        rate = guest.end()
        mirror.finish()
    same = subprocess.run(['cmp', '-s', work.path / 'disk.img', work.path / 'target.img'], check=False).returncode == 0
    text = 'does not converge, and says so' if ready is None and mode == 'background' else f'{ready} s'
    if ready:
        text = f'READY after {ready:.1f} s, {ready / idle:.2f} idle copies'
    print(f'figure: {mode}, guest at {factor} ({rate:.2f} measured) times the copy: {text}'
          f'{"" if same else ", DIFFERENT"}{"" if good else "   MISSED"}', flush=True)
    return good and same


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    print(environment())
    with Work() as work:
        for image in ('disk.img', 'target.img'):
            fill(work.path / image, SIZE)
        idle = idle_time(work)
        print(f'figure: idle copy {idle:.2f} s; READY is due within {limit_of(idle):.1f} s')
        results = [cell(work, mode, factor, idle) for mode in ('write-blocking', 'background', 'switched')
                   for factor in FACTORS]
    print(f'{results.count(False)} of {len(results)} cells missed')
    return 0 if all(results) else 1


if __name__ == '__main__':
    sys.exit(main())
