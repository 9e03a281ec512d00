#!/usr/bin/python3
# SPDX-License-Identifier: BSD-2-Clause
"""Throttle groups over a longer time: limits on requests and bytes hold within 5 %, also for two exports together,
which share them to within 10 %.

One line for each case: the limit, what passed, and the difference in percent. Exit status 1 where a promise is missed.
"""
import argparse
import pathlib
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / 'tests/integration'))

from weirtest import KiB, MiB, Daemon  # noqa: E402 (needs the path above)
from weirtest.load import Load, rates  # noqa: E402

# name, limits, depth of each client, bytes of a request, writes, requests a second that pass
CASES = [
    ('iops, one export', {'iops-total': 1000}, (16,), 4 * KiB, False, 1000),
    ('iops, writes one by one', {'iops-write': 300}, (1,), 4 * KiB, True, 300),
    ('bytes, one export', {'bps-total': 32 * MiB}, (16,), 64 * KiB, True, 512),
    ('iops, two exports', {'iops-total': 1000}, (16, 16), 4 * KiB, False, 1000),
    ('iops, two exports, one asks for more', {'iops-total': 1000}, (64, 4), 4 * KiB, False, 1000),
    ('bytes, two exports', {'bps-total': 16 * MiB}, (16, 16), 16 * KiB, True, 1024),
]


def measure(limits, depths, size, write, seconds):
    with tempfile.TemporaryDirectory() as directory:
        daemon = Daemon(directory)
        try:
            daemon.serve_nbd()
            daemon.qmp('object-add', {'qom-type': 'throttle-group', 'id': 'g', 'limits': limits})
            running = []
            for number, depth in enumerate(depths):
                node = f'n{number}'
                daemon.qmp('blockdev-add', {'driver': 'throttle', 'node-name': node, 'throttle-group': 'g',
                                            'file': {'driver': 'null-co', 'size': 64 * MiB, 'read-zeroes': True}})
                running.append(Load(daemon.export(node), depth, size, write))
            result = rates(running, seconds)
            for load in running:
                load.finish()
            return result
        finally:
            daemon.stop()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--seconds', type=float, default=10, help='of each case (10)')
    seconds, missed = parser.parse_args().seconds, 0
    for name, limits, depths, size, write, expected in CASES:
        each = measure(limits, depths, size, write, seconds)
        off = 100 * (sum(each) / expected - 1)
        unfair = max(abs(100 * (rate * len(each) / expected - 1)) for rate in each)
        bad = abs(off) > 5 or (len(each) > 1 and unfair > 10)
        missed += bad
        print(f"{name:40} limit {expected:5} passed {sum(each):8.1f} ({off:+.1f} %)" +
              (f"  each {', '.join(f'{r:.1f}' for r in each)}" if len(each) > 1 else '') +
              ('  MISSED' if bad else ''), flush=True)
    return missed > 0


if __name__ == '__main__':
    sys.exit(main())
