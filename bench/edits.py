#!/usr/bin/python3
# SPDX-License-Identifier: BSD-2-Clause
"""Filters are put in and taken out thousands of times below an export, while fio writes, reads and verifies at depth
32.

Half of the edits are made right below the export, half between two nodes of a chain. What is told: fio's latencies
(99th percentile and longest) over the whole time, and the longest wait of a second guest in each edit. Exit status 1
when anything failed, when fio found other data than it wrote, or when one of the 99th percentiles is over 20 ms.
"""
import argparse
import json
import pathlib
import subprocess
import sys
import tempfile
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / 'tests/integration'))

from weirtest import MiB, Daemon, nbd_connect, wait_until  # noqa: E402 (needs the path above)

SIZE = 256 * MiB
LIMIT_MS = 20
FILTERS = [
    {'driver': 'throttle', 'throttle-group': 'g', 'file': None},
    {'driver': 'copy-on-read', 'file': None},
    {'driver': 'blkdebug', 'image': None},
    {'driver': 'quorum', 'vote-threshold': 1, 'children': None},
]
# Whose child is exchanged, and which node that is: the export is on `top`, which is raw on `n`.
PLACES = [
    ({'parent-type': 'export', 'export-id': 'top'}, 'top'),
    ({'parent-type': 'driver', 'node-name': 'top', 'child': 'file'}, 'n'),
]


class Probe(threading.Thread):
    """A guest that reads one block after the other and keeps the longest wait since it was last asked."""

    def __init__(self, uri):
        super().__init__(daemon=True)
        self.guest, self.stopped, self.longest, self.error = nbd_connect(uri), False, 0.0, None

    def run(self):
        number = 0
        try:
            while not self.stopped:
                number += 1
                begin = time.monotonic()
                self.guest.pread(4096, number * 7919 % (SIZE // 4096) * 4096)
                self.longest = max(self.longest, time.monotonic() - begin)
        except Exception as error:  # told by main()
            self.error = error

    def take(self):
        longest, self.longest = self.longest, 0.0
        return longest


def writes(daemon):
    return next(node['stats']['wr_operations'] for node in daemon.qmp('query-blockstats', {'query-nodes': True})
                if node.get('node-name') == 'n')


def start_fio(uri, directory):
    return subprocess.Popen(
        ['fio', '--name=load', '--ioengine=nbd', f'--uri={uri}', f'--size={SIZE}', '--time_based', '--runtime=86400',
         '--thread', '--output-format=json', '--rw=randrw', '--bs=4k', '--iodepth=32', '--verify=crc32c',
         '--verify_backlog=4096', '--verify_fatal=1'], cwd=directory, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True)


def percentile(values, percent):
    return sorted(values)[min(len(values) * percent // 100, len(values) - 1)]


def edit(daemon, probe, count):
    """The longest wait of the probe in each insertion and removal, in ms. Each is one transaction: a quorum, for one,
    does not let others write to its children."""
    waits = []
    for number in range(count):
        place, node = PLACES[number // len(FILTERS) % len(PLACES)]
        options = {key: ([node] if key == 'children' else node) if value is None else value
                   for key, value in FILTERS[number % len(FILTERS)].items()}
        steps = [('blockdev-add', dict(options, **{'node-name': 'f'})),
                 ('blockdev-replace', dict(place, **{'new-child': 'f'})),
                 ('blockdev-replace', dict(place, **{'new-child': node})), ('blockdev-del', {'node-name': 'f'})]
        for first in 0, 2:
            probe.take()
            daemon.qmp('transaction', actions=[{'type': name, 'data': data} for name, data in steps[first:first + 2]])
            waits.append(1000 * probe.take())
    return waits


def finish(fio):
    """fio's own figures; whatever it complains of ends this program."""
    fio.terminate()
    output, errors = fio.communicate(timeout=60)
    result = json.loads(output[output.index('{'):])['jobs'][0]
    if result['error'] or 'verify' in errors:
        sys.exit(f'fio: error {result["error"]}\n{errors}')
    return {side: result[side] for side in ('read', 'write')}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--edits', type=int, default=10000, help='insertions, each with its removal (10,000)')
    edits = parser.parse_args().edits
    with tempfile.TemporaryDirectory() as name:
        directory = pathlib.Path(name)
        daemon = Daemon(directory)
        try:
            daemon.serve_nbd()
            with open(directory / 'n.img', 'wb') as file:
                file.truncate(SIZE)
            daemon.add_file('n', directory / 'n.img')
            daemon.qmp('blockdev-add', {'driver': 'raw', 'node-name': 'top', 'file': 'n'})
            daemon.qmp('object-add', {'qom-type': 'throttle-group', 'id': 'g'})
            uri = daemon.export('top')
            probe = Probe(uri)
            probe.start()
            fio = start_fio(uri, directory)
            wait_until(lambda: writes(daemon) > 1000, 30, 'fio writes')
            begin = time.monotonic()
            waits = edit(daemon, probe, edits)
            seconds = time.monotonic() - begin
            if fio.poll() is not None:
                sys.exit(f'fio ended early: {fio.communicate()[1]}')
            figures = finish(fio)
            probe.stopped = True
            probe.join(30)
            if probe.error:
                sys.exit(f'the second guest: {probe.error}')
        finally:
            daemon.stop()
        daemon.assert_no_crash()
    return report(edits, seconds, waits, figures)


def report(edits, seconds, waits, figures):
    worst = percentile(waits, 99)
    print(f'figure: {edits} insertions and {edits} removals in {seconds:.0f} s, no error')
    for side, result in figures.items():
        p99 = result['clat_ns']['percentile']['99.000000'] / 1e6
        worst = max(worst, p99)
        print(f'figure: fio {side}: {result["total_ios"]} verified requests at depth 32, 99th percentile {p99:.2f} ms, '
              f'longest {result["clat_ns"]["max"] / 1e6:.1f} ms')
    print(f'figure: longest wait of a guest at depth 1 in an edit: median {percentile(waits, 50):.2f} ms, 99th '
          f'percentile {percentile(waits, 99):.2f} ms, longest {max(waits):.1f} ms '
          f'(limit of each 99th percentile {LIMIT_MS} ms)')
    return worst > LIMIT_MS


if __name__ == '__main__':
    sys.exit(main())
