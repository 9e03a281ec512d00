#!/usr/bin/python3
# SPDX-License-Identifier: BSD-2-Clause
"""Instructions of one 4 KiB request through the core, beside a chain of direct calls (bench/instr.c), by callgrind.

The number is the difference between a run with many requests and one with few, so that only what each request
costs is in it; it is the same each time. Exit status 1 when the core needs more than 5 % over the direct chain on
a null node, or more than 15 % with nodes above it, or when four filters that want no reads make it more than 1.05
of what it is without them.
"""
import argparse
import os
import re
import subprocess
import sys
import tempfile

OVER_MAX, OVER_MAX_ABOVE, FILTERS_MAX = 0.05, 0.15, 1.05
FEW, MANY = 1000, 3000
ROWS = [
    ('4 KiB read, null-co', 'read', OVER_MAX),
    ('4 KiB write, null-co', 'write', OVER_MAX),
    ('4 KiB read, raw on null-co', 'read-1', OVER_MAX_ABOVE),
    ('4 KiB read, 4 times raw on null-co', 'read-4', OVER_MAX_ABOVE),
    ('4 KiB read, raw with offset on null-co', 'window', None),
]


def collected(program, case, count):
    """Instructions inside of measured()."""
    with tempfile.TemporaryDirectory() as directory:
        done = subprocess.run(
            ['valgrind', '--tool=callgrind', '--toggle-collect=measured',
             f'--callgrind-out-file={directory}/out', program, case, str(count)],
            stderr=subprocess.PIPE, text=True, check=False)
    found = re.search(r'Collected\s*:\s*(\d+)', done.stderr)
    if done.returncode or not found:
        sys.exit(f'{program} {case} {count} failed:\n{done.stderr}')
    return int(found.group(1))


def cost(program, case):
    return (collected(program, case, MANY) - collected(program, case, FEW)) / (MANY - FEW)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--program', default=os.environ.get('WEIR_INSTR', 'build/bench/instr'))
    args = parser.parse_args()

    failed = False
    levels = {}
    print(f'{"instructions of one request":<42} {"direct":>8} {"core":>8} {"over":>8}')
    for title, name, limit in ROWS:
        direct, core = cost(args.program, f'direct-{name}'), cost(args.program, f'core-{name}')
        over = core / direct - 1
        levels[name] = (direct, core)
        failed |= limit is not None and over > limit
        print(f'{title:<42} {direct:>8.1f} {core:>8.1f} {over:>+8.1%}' +
              (f'  at most {limit:+.0%}' if limit is not None else ''))
    each = [(levels['read-4'][i] - levels['read-1'][i]) / 3 for i in (0, 1)]
    print(f'{"each level of raw":<42} {each[0]:>8.1f} {each[1]:>8.1f}')
    none, four = levels['read'][1], cost(args.program, 'core-filters')
    failed |= four > FILTERS_MAX * none
    print(f'figure: 4 KiB read through four filters that want none: {four:.1f} instructions, {four / none:.3f} of '
          f'{none:.1f} without them (at most {FILTERS_MAX})')
    print('promise ' + ('MISSED' if failed else 'kept'))
    return 1 if failed else 0


if __name__ == '__main__':
    sys.exit(main())
