#!/usr/bin/python3
# SPDX-License-Identifier: BSD-2-Clause
"""qcow2 over NBD on a unix socket, beside qemu-storage-daemon (the better of its aio settings).

Three images on the file system of TMPDIR: one that is fully allocated (4 KiB random reads and writes at depth 16), one
that is empty before each run (allocating writes), and a chain of three, of which each layer holds a third of the
clusters, beside our own raw image (reads). Servers take turns within each round; figures are medians of the server's
CPU time for a request. Exit status 1 where a promised ratio is missed.
"""
import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys

from servers import (MIB, PAGE, QSD, WEIR, Server, SERVERS, Work, environment, fill, fio_line, measure, median,
                     settle)

QEMU_IMG = shlex.split(os.environ.get('QEMU_IMG', 'qemu-img'))
QEMU_IO = shlex.split(os.environ.get('QEMU_IO', 'qemu-io'))
# name -> (image, rw, most of the better peer's CPU a request)
WORKLOADS = {'full randread': ('full', 'randread', 0.5), 'full randwrite': ('written', 'randwrite', 0.5),
             'allocating randwrite': ('empty', 'randwrite', 0.6)}
CHAIN_MAX = 1.1
DEPTH = 16


def daemon_line(program, image, path, fmt='qcow2', aio=None):
    file = {'driver': 'file', 'filename': str(image)}
    if aio:
        file['aio'] = aio
    node = {'driver': fmt, 'node-name': 'disk', 'file': file}
    return program + ['--nbd-server', f'addr.type=unix,addr.path={path}', '--blockdev', json.dumps(node), '--export',
                      'type=nbd,id=e0,node-name=disk,name=disk,writable=on']


SERVERS.clear()
SERVERS.update({
    'weir': lambda image, path: daemon_line(WEIR, image, path),
    'qsd': lambda image, path: daemon_line(QSD, image, path, aio='threads'),
    'qsd-uring': lambda image, path: daemon_line(QSD, image, path, aio='io_uring'),
    'weir-raw': lambda image, path: daemon_line(WEIR, image, path, fmt='raw'),
})


def tool(*argv):
    subprocess.run([str(a) for a in argv], check=True, stdout=subprocess.DEVNULL)


def make_chain(work, size):
    """Layers base, middle and top; each 64 KiB cluster is in one of them, in turn."""
    below = None
    for number, name in enumerate(('base', 'middle', 'top')):
        layer = work.path / f'{name}.qcow2'
        backing = ['-b', below.name, '-F', 'qcow2'] if below else []
        tool(*QEMU_IMG, 'create', '-q', '-f', 'qcow2', *backing, layer, size)
        script = ''.join(f'write -q -P {number + 1} {at} 64k\n' for at in range(number * 65536, size, 3 * 65536))
        subprocess.run(QEMU_IO + ['-f', 'qcow2', str(layer)], input=script, text=True, check=True,
                       stdout=subprocess.DEVNULL)
        below = layer
    return below


def make_images(work, size):
    raw = work.path / 'disk.img'
    fill(raw, size)
    tool(*QEMU_IMG, 'convert', '-f', 'raw', '-O', 'qcow2', raw, work.path / 'full.qcow2')
    images = {'raw': raw, 'chain': make_chain(work, size)}
    images |= {name: work.path / f'{name}.qcow2' for name in ('full', 'written', 'empty')}
    shutil.copy(images['full'], images['written'])
    settle(images['full'], MIB)
    settle(images['written'], PAGE)
    for name in ('disk.img', 'base.qcow2', 'middle.qcow2', 'top.qcow2'):
        settle(work.path / name, PAGE)
    return images


def one(work, images, results, workload, name, seconds, size):
    image, rw = (WORKLOADS[workload][:2] if workload in WORKLOADS else
                 ('raw' if name == 'weir-raw' else 'chain', 'randread'))
    if image == 'empty':
        images[image].unlink(missing_ok=True)
        tool(*QEMU_IMG, 'create', '-q', '-f', 'qcow2', images[image], 16 * size)
    os.sync()
    with Server(work, name, images[image]) as server:
        if (workload, name) not in results:
            print(f'{workload}: {name}: {shlex.join(server.argv)}')
        results.setdefault((workload, name), []).append(measure(work, server, rw, '4k', DEPTH, seconds))


def report(results):
    missed = []
    print(f'{"workload":24}{"server":12}{"requests/s":>12}{"CPU us/req":>12}')
    for (workload, name), rows in results.items():
        print(f'{workload:24}{name:12}{median(rows, "iops"):12.0f}{median(rows, "us"):12.2f}')
    for workload, (_, _, limit) in WORKLOADS.items():
        peer = min(median(results[workload, name], 'us') for name in ('qsd', 'qsd-uring'))
        judge(missed, workload, median(results[workload, 'weir'], 'us') / peer, limit, "qemu-storage-daemon's")
    judge(missed, 'chain randread', median(results['chain randread', 'weir'], 'us') /
          median(results['chain randread', 'weir-raw'], 'us'), CHAIN_MAX, "our own raw image's")
    return missed


def judge(missed, workload, ratio, limit, what):
    print(f'figure: {workload}, 4 KiB at depth {DEPTH}: {ratio:.2f} of {what} CPU a request (at most {limit})')
    if ratio > limit:
        missed.append(f'{workload}: {ratio:.2f}, at most {limit} was promised')


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--rounds', type=int, default=9)
    parser.add_argument('--runtime', type=float, default=1.5, help='seconds of one fio run')
    parser.add_argument('--size', type=int, default=1024, help='of the images, in MiB')
    args = parser.parse_args()
    print(environment())
    results = {}
    jobs = {w: ['weir', 'qsd', 'qsd-uring'] for w in WORKLOADS} | {'chain randread': ['weir', 'weir-raw']}
    with Work() as work:
        images = make_images(work, args.size * MIB)
        print('client:', shlex.join(fio_line('URI', 'RW', '4k', DEPTH, args.runtime)))
        for number in range(args.rounds):
            for workload, names in jobs.items():
                first = number % len(names)
                for name in names[first:] + names[:first]:
                    one(work, images, results, workload, name, args.runtime, args.size * MIB)
            print(f'round {number + 1} of {args.rounds} done', file=sys.stderr, flush=True)
        missed = report(results)
    for line in missed:
        print(f'MISSED: {line}')
    return 1 if missed else 0


if __name__ == '__main__':
    sys.exit(main())
