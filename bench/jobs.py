#!/usr/bin/python3
# SPDX-License-Identifier: BSD-2-Clause
"""A mirror beside its guest, next to qemu-storage-daemon: how far the job gives way, and what it costs the job.

A raw image of 4 GiB is mirrored to another, in both copy modes, while fio writes 4 KiB at random places: flat out
at depth 16, at 2,000 requests a second, or not at all. The servers take turns. The target is written in full before
and kept for all rounds, after a warm-up round: memory that a file gives up, a virtual machine may give back to its
host, and the first touch of it would then be what is measured.
Measured from the start of the job to the end of its first full pass: the guest's requests a second and their 99th
percentile, the seconds of the pass and those to BLOCK_JOB_READY; and the guest's longest wait around the pivot. Where a
background copy does not catch up with a guest, weir is told to go on write-blocking, which qemu-storage-daemon cannot.
Run it with TMPDIR on a tmpfs of 12 GiB. Exit status 1 where a promised ratio is missed.
"""
import argparse
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import time

from servers import FIO, MIB, QSD, SERVERS, WEIR, Server, Work, environment, fill

MODES = ('background', 'write-blocking')
CAP = 2000
LOADS = {'idle': None, 'capped': CAP, 'flat out': 0}
BEFORE, AFTER = 1.5, 1.0
# How long after its first pass a background copy is given to catch up with a guest that writes flat out.
CATCH_UP = 2.0


def daemon_line(program, image, path):
    file = {'driver': 'file', 'node-name': 'file', 'filename': str(image)}
    return program + ['--chardev', f'socket,id=c,path={path}.qmp,server=on,wait=off', '--monitor', 'chardev=c',
                      '--blockdev', json.dumps({'driver': 'raw', 'node-name': 'disk', 'file': file}),
                      '--nbd-server', f'addr.type=unix,addr.path={path}', '--export',
                      'type=nbd,id=e0,node-name=disk,name=disk,writable=on']


SERVERS.clear()
SERVERS.update({'weir': lambda image, path: daemon_line(WEIR, image, path),
                'qsd': lambda image, path: daemon_line(QSD, image, path)})


class Qmp:
    """One monitor; events are kept with the time of their arrival."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(path)
        self.file = self.socket.makefile('r')
        self.events = []
        self.file.readline()
        self('qmp_capabilities')

    def message(self):
        message = json.loads(self.file.readline())
        if 'event' in message:
            self.events.append((time.time(), message))
        return message

    def __call__(self, command, **arguments):
        arguments = {key.replace('_', '-'): value for key, value in arguments.items()}
        self.socket.sendall(json.dumps({'execute': command, 'arguments': arguments}).encode())
        while True:
            message = self.message()
            if 'error' in message:
                sys.exit(f'{command} {arguments}: {message["error"]["desc"]}')
            if 'return' in message:
                return message['return']

    def when(self, name, **data):
        """Time of such an event, or None."""
        return next((at for at, e in self.events if e['event'] == name and
                     all(e['data'].get(key) == value for key, value in data.items())), None)


class Guest:
    """fio with a log of each request's end and latency."""

    def __init__(self, work, uri, rate):
        self.prefix = work.path / 'guest'
        argv = FIO + ['--name=j', '--ioengine=nbd', f'--uri={uri}', '--rw=randwrite', '--bs=4k', '--iodepth=16',
                      '--norandommap', '--randrepeat=0', '--time_based', '--runtime=600',
                      f'--write_lat_log={self.prefix}', '--log_unix_epoch=1', '--disable_slat=1', '--disable_clat=1',
                      '--output=/dev/null']
        if rate:
            argv.append(f'--rate_iops={rate}')
        self.process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, cwd=work.path)

    def end(self):
        """[(end in seconds, latency in seconds)]"""
        self.process.send_signal(signal.SIGINT)
        self.process.wait(60)
        with open(f'{self.prefix}_lat.1.log', encoding='ascii') as log:
            rows = [line.split(',', 2) for line in log]
        return [(int(row[0]) / 1e3, int(row[1]) / 1e9) for row in rows]


def first_pass(qmp, size, limit):
    """Waits for the end of the first full pass; its time, or None."""
    end = time.time() + limit
    while time.time() < end:
        job = next((j for j in qmp('query-block-jobs') if j['device'] == 'j'), None)
        if not job:
            sys.exit(f'the job is gone: {qmp.events}')
        if job['offset'] >= size or job['ready']:
            return time.time()
        time.sleep(.01)
    return None


def await_ready(qmp, end):
    while qmp.when('BLOCK_JOB_READY') is None and time.time() < end:
        qmp('query-jobs')
        time.sleep(.01)


def pivot(qmp):
    """The time from job-complete to the end of the job."""
    begin = time.time()
    qmp('job-complete', id='j')
    while qmp.when('JOB_STATUS_CHANGE', id='j', status='null') is None:
        qmp.message()
    return begin, time.time()


def cut(rows, begin, end):
    waits = sorted(wait for at, wait in rows if begin <= at < end)
    if not waits:
        return {'iops': 0, 'p99': end - begin, 'max': end - begin}
    return {'iops': len(waits) / (end - begin), 'p99': waits[len(waits) * 99 // 100], 'max': waits[-1]}


def one(work, name, mode, load, size, limit):
    """One mirror; a dictionary of figures."""
    target = work.path / 'target.img'
    with Server(work, name, work.path / 'disk.img') as server:
        qmp = Qmp(f'{server.socket}.qmp')
        qmp('blockdev-add', driver='raw', node_name='target', file={'driver': 'file', 'filename': str(target)})
        guest = None if load == 'idle' else Guest(work, server.uri, LOADS[load])
        time.sleep(BEFORE if guest else 0)
        begin = time.time()
        qmp('blockdev-mirror', job_id='j', device='disk', target='target', sync='full', copy_mode=mode)
        passed = first_pass(qmp, size, limit)
        result = {'pass': (passed or begin + limit) - begin}
        await_ready(qmp, begin + limit if mode == 'write-blocking' else time.time() + CATCH_UP)
        if qmp.when('BLOCK_JOB_READY') is None and name == 'weir':
            qmp('block-job-change', id='j', type='mirror', copy_mode='write-blocking')
            await_ready(qmp, begin + limit)
        result['ready'] = (qmp.when('BLOCK_JOB_READY') or begin + limit) - begin
        if guest:
            time.sleep(AFTER)
            edge = pivot(qmp) if qmp.when('BLOCK_JOB_READY') else None
            time.sleep(.3)
            rows = guest.end()
            result.update(cut(rows, begin, begin + result['pass']))
            if edge:
                result['stall'] = cut(rows, edge[0], edge[1] + .3)['max']
    return result


def median(rows, key):
    values = [row[key] for row in rows if key in row]
    return statistics.median(values) if values else float('nan')


# (text, mode, load, figure, how the two compare, limit); the comparison is ours by theirs, or ours alone.
PROMISES = [
    ('guest during a write-blocking first pass, requests/s', 'write-blocking', 'flat out', 'iops', 'at least', 8),
    ('guest during a background first pass, requests/s', 'background', 'flat out', 'iops', 'at least', 1.3),
    ('99th percentile, write-blocking', 'write-blocking', 'flat out', 'p99', 'at most', .5),
    ('99th percentile, background', 'background', 'flat out', 'p99', 'at most', .5),
    ('first pass under load, write-blocking', 'write-blocking', 'flat out', 'pass', 'at most', 1.5),
    ('first pass under load, background', 'background', 'flat out', 'pass', 'at most', 1.5),
    ('READY under load, write-blocking', 'write-blocking', 'flat out', 'ready', 'at most', 1.5),
    ('idle copy, write-blocking', 'write-blocking', 'idle', 'pass', 'at most', .8),
    ('idle copy, background', 'background', 'idle', 'pass', 'at most', .8),
]
ALONE = [
    ('longest wait around the pivot, write-blocking, ms', 'write-blocking', 'flat out', 'stall', 1e3, 'at most', 100),
    ('longest wait around the pivot, background, ms', 'background', 'flat out', 'stall', 1e3, 'at most', 100),
    ('a guest capped at 2,000, background, share of it', 'background', 'capped', 'iops', 1 / CAP, 'at least', .95),
    ('a guest capped at 2,000, write-blocking, share of it', 'write-blocking', 'capped', 'iops', 1 / CAP, 'at least',
     .95),
]


def report(results):
    missed = 0

    def judge(text, value, how, limit, detail):
        nonlocal missed
        good = value >= limit if how == 'at least' else value <= limit
        missed += not good
        print(f'figure: {text}: {value:.2f} ({how} {limit}){detail}{"" if good else "   MISSED"}')

    print(f'{"mode":16}{"load":10}{"server":8}{"pass s":>8}{"ready s":>8}{"guest/s":>9}{"p99 ms":>8}{"max ms":>8}'
          f'{"stall ms":>9}')
    for (mode, load, name), rows in sorted(results.items()):
        print(f'{mode:16}{load:10}{name:8}{median(rows, "pass"):8.2f}{median(rows, "ready"):8.2f}'
              f'{median(rows, "iops"):9.0f}{median(rows, "p99") * 1e3:8.2f}{median(rows, "max") * 1e3:8.1f}'
              f'{median(rows, "stall") * 1e3:9.1f}')
    for text, mode, load, key, how, limit in PROMISES:
        ours, theirs = (median(results.get((mode, load, name), []), key) for name in ('weir', 'qsd'))
        judge(text, ours / theirs, how, limit, f' of qemu-storage-daemon\'s: {ours:.4g} and {theirs:.4g}')
    for text, mode, load, key, scale, how, limit in ALONE:
        judge(text, median(results.get((mode, load, 'weir'), []), key) * scale, how, limit,
              f', qemu-storage-daemon {median(results.get((mode, load, "qsd"), []), key) * scale:.2f}')
    return missed


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--rounds', type=int, default=9)
    parser.add_argument('--size', type=int, default=4096, help='of the image, in MiB')
    parser.add_argument('--limit', type=float, default=60, help='seconds that a mirror may take')
    parser.add_argument('--loads', default=','.join(LOADS))
    args = parser.parse_args()
    print(environment())
    results = {}
    with Work() as work:
        for image in ('disk.img', 'target.img'):
            fill(work.path / image, args.size * MIB)
        for number in range(args.rounds + 1):
            for load in args.loads.split(','):
                for mode in MODES:
                    for name in ('weir', 'qsd')[::1 if number % 2 else -1]:
                        result = one(work, name, mode, load, args.size * MIB, args.limit)
                        if number:
                            results.setdefault((mode, load, name), []).append(result)
            print(f'round {number} of {args.rounds} done', file=sys.stderr, flush=True)
        missed = report(results)
    print(f'{missed} promises missed' if missed else 'all promises held')
    return 1 if missed else 0


if __name__ == '__main__':
    sys.exit(main())
