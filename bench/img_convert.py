#!/usr/bin/python3
# SPDX-License-Identifier: BSD-2-Clause
"""`weir img convert` beside `qemu-img convert`, wall time, on the file system of TMPDIR.

Raw to qcow2, qcow2 to raw, and raw to compressed qcow2. The source is by volume a quarter holes, and text-like and
random data otherwise. Tools take turns within each round, on memory just touched; figures are medians. The output is
compared with the source once, by qemu-img. Exit status 1 where a promised ratio is missed.
"""
import argparse
import os
import random
import shlex
import subprocess
import sys
import time

from servers import MIB, ROOT, Work, environment, median

WEIR_IMG = shlex.split(os.environ.get('WEIR_IMG', f'{ROOT}/build/weir img'))
QEMU_IMG = shlex.split(os.environ.get('QEMU_IMG', 'qemu-img'))
# name -> (options, source, format of source, of target, most of qemu-img's time)
CASES = {'raw to qcow2': ([], 'src.raw', 'raw', 'qcow2', 0.8),
         'qcow2 to raw': ([], 'src.qcow2', 'qcow2', 'raw', 0.8),
         'raw to qcow2 -c': (['-c'], 'small.raw', 'raw', 'qcow2', 0.5)}


def realistic(path, size):
    """Runs of 1 MiB: holes, zeroes, compressible text, random data."""
    draw = random.Random(size)
    words = [bytes(draw.choices(b'abcdefghijklmnopqrstuvwxyz', k=draw.randint(2, 9))) for _ in range(2000)]
    with open(path, 'wb') as f:
        f.truncate(size)
        for at in range(0, size, MIB):
            kind = draw.random()
            f.seek(at)
            if kind < 0.25:
                continue
            if kind < 0.40:
                f.write(bytes(MIB))
            elif kind < 0.80:
                f.write(b' '.join(draw.choices(words, k=200000))[:MIB])
            else:
                f.write(draw.randbytes(MIB))


def touch_memory(work, size):
    """A virtual machine may have given free memory back to its host; who takes it first pays for that, tenfold."""
    path = work.path / 'filler'
    with open(path, 'wb', buffering=0) as f:
        block = bytes(2 * MIB)
        for _ in range(0, size, len(block)):
            f.write(block)
    path.unlink()


def convert(work, tool, case):
    options, source, source_format, target_format, _ = CASES[case]
    target = work.path / 'out'
    target.unlink(missing_ok=True)
    os.sync()
    touch_memory(work, (work.path / source).stat().st_size)
    argv = tool + ['convert', *options, '-f', source_format, '-O', target_format, str(work.path / source), str(target)]
    begin = time.monotonic()
    subprocess.run(argv, check=True)
    return {'s': time.monotonic() - begin}, argv


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--rounds', type=int, default=9)
    parser.add_argument('--size', type=int, default=2048, help='of the source, in MiB')
    parser.add_argument('--small', type=int, default=256, help='of the source of compression, in MiB')
    args = parser.parse_args()
    tools = {'weir img': WEIR_IMG, 'qemu-img': QEMU_IMG}
    results = {(case, name): [] for case in CASES for name in tools}
    print(environment())
    with Work() as work:
        realistic(work.path / 'src.raw', args.size * MIB)
        realistic(work.path / 'small.raw', args.small * MIB)
        subprocess.run(QEMU_IMG + ['convert', '-f', 'raw', '-O', 'qcow2', str(work.path / 'src.raw'),
                                   str(work.path / 'src.qcow2')], check=True)
        for number in range(args.rounds):
            for case in CASES:
                for name in list(tools)[number % 2:] + list(tools)[:number % 2]:
                    result, argv = convert(work, tools[name], case)
                    results[case, name].append(result)
                    if number == 0:
                        print(f'{case}: {shlex.join(argv)}')
                        subprocess.run(QEMU_IMG + ['compare', '-q', '-f', CASES[case][2], '-F', CASES[case][3],
                                                   str(work.path / CASES[case][1]), str(work.path / 'out')], check=True)
            print(f'round {number + 1} of {args.rounds} done', file=sys.stderr, flush=True)
    missed = False
    for case, (_, _, _, _, limit) in CASES.items():
        ours, theirs = (median(results[case, name], 's') for name in tools)
        print(f'figure: convert {case}: {ours:.2f} s, qemu-img {theirs:.2f} s: {ours / theirs:.2f} (at most {limit})')
        missed |= ours / theirs > limit
    print('MISSED' if missed else 'all ratios held')
    return 1 if missed else 0


if __name__ == '__main__':
    sys.exit(main())
