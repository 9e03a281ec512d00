#!/usr/bin/python3
# SPDX-License-Identifier: BSD-2-Clause
"""Golden images: qcow2 of every kind that qemu-img can create, written by the daemon under test and judged by qemu-img,
and the other way round. Without --all a small set in which all pairs of properties occur.

WEIR_DAEMON overrides the daemon, as in the integration tests.
"""
import argparse
import collections
import concurrent.futures
import fnmatch
import os
import pathlib
import shutil
import sys
import tempfile
import time
import traceback

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
sys.dont_write_bytecode = True

import cases  # noqa: E402 (needs the path above)
import directions  # noqa: E402
import plan  # noqa: E402
import random  # noqa: E402

ROOT = HERE.parents[1]
MEMORY = pathlib.Path('/dev/shm')
MEMORY_MIN = 2 << 30

# Cases that one set of processes takes through.
PROCESS_CASES = 400


def working_directory():
    """In memory where there is some: the images are many, and nothing here is about the disk."""
    if os.access(MEMORY, os.W_OK) and shutil.disk_usage(MEMORY).free >= MEMORY_MIN:
        return str(MEMORY)
    return tempfile.gettempdir()


def run_one(case, direction, seed, parent):
    """(name, None or what went wrong, seconds); in a process of its own."""
    begin = time.monotonic()
    directory = pathlib.Path(tempfile.mkdtemp(prefix='golden-', dir=parent))
    try:
        directions.run_case(case, direction, seed, directory)
        return None, time.monotonic() - begin
    except Exception as error:  # whatever it is, it belongs to this case
        text = ''.join(traceback.format_exception(error))
        (directory / 'traceback').write_text(text)
        line = str(error).strip().splitlines() or [repr(error)]
        return f'{" / ".join(line)[:600]} ({directory})', time.monotonic() - begin


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--all', action='store_true', help='every combination')
    parser.add_argument('--only', metavar='PATTERN', action='append', default=[],
                        help='these of all combinations, as c512-w16-v3-*; with /forward or /reverse for one direction')
    parser.add_argument('--jobs', type=int, default=os.cpu_count())
    parser.add_argument('--seed', default='1')
    parser.add_argument('--dir', default=None, help='where images are made (default: in memory, or TMPDIR)')
    parser.add_argument('--keep', action='store_true', help='keep the files of cases that failed')
    parser.add_argument('--list', action='store_true', help='print what each case asserts to grow, and the totals')
    parser.add_argument('--verbose', action='store_true', help='a line for each case')
    return parser.parse_args()


def selected(args):
    """[(case, direction)]"""
    chosen = list(cases.product()) if args.all or args.only else cases.pairwise()
    both = [(case, direction) for case in chosen for direction in ('forward', 'reverse')]
    if args.only:
        both = [(case, direction) for case, direction in both
                if any(fnmatch.fnmatchcase(f'{case.name}/{direction}', pattern if '/' in pattern else pattern + '/*')
                       for pattern in args.only)]
    return both


def print_list(todo):
    totals = collections.Counter()
    for case in dict.fromkeys(case for case, _ in todo):
        text = plan.make(case, random.Random(1)).text
        totals[text] += 1
        print(f'{case.name:45} {text}')
    for text, count in totals.most_common():
        print(f'{count:5} cases: {text}')


class Tally:
    """What has been said and counted so far."""

    def __init__(self, todo, args):
        self.total, self.args = len(todo), args
        self.passed = self.failed = 0
        self.begin = self.last = time.monotonic()

    def note(self, name, wrong, seconds):
        self.passed, self.failed = self.passed + (not wrong), self.failed + bool(wrong)
        if wrong:
            print(f'FAILED {name}: {wrong}\n       again: tests/golden/golden.py --keep --seed {self.args.seed} '
                  f'--only {name}', flush=True)
        elif self.args.verbose:
            print(f'ok     {name} [{seconds:.1f} s]', flush=True)
        if time.monotonic() - self.last > 60:
            self.last = time.monotonic()
            print(f'... {self.passed + self.failed} of {self.total}, {self.last - self.begin:.0f} s', flush=True)


def run_all(todo, args, parent):
    tally = Tally(todo, args)
    for first in range(0, len(todo), PROCESS_CASES):
        # New processes now and then: the NBD library's bindings keep the memory of buffers.
        with concurrent.futures.ProcessPoolExecutor(args.jobs) as pool:
            futures = {pool.submit(run_one, case, direction, args.seed, parent): f'{case.name}/{direction}'
                       for case, direction in todo[first:first + PROCESS_CASES]}
            for future in concurrent.futures.as_completed(futures):
                tally.note(futures[future], *future.result())
    print(f'seed {args.seed}, {time.monotonic() - tally.begin:.0f} s')
    print(f'{tally.passed} passed, {tally.failed} failed', flush=True)
    return 1 if tally.failed or not tally.passed else 0


def main():
    args = arguments()
    os.chdir(ROOT)
    todo = selected(args)
    if args.list:
        print_list(todo)
        return 0
    parent = tempfile.mkdtemp(prefix='golden-', dir=args.dir or working_directory())
    try:
        return run_all(todo, args, parent)
    finally:
        if args.keep:
            print(f'kept: {parent}')
        else:
            shutil.rmtree(parent, ignore_errors=True)


if __name__ == '__main__':
    sys.exit(main())
