#!/usr/bin/python3
# SPDX-License-Identifier: BSD-2-Clause
"""NBD over a unix socket on a raw file in the page cache, beside qemu-storage-daemon and nbdkit.

Servers take turns within each round; figures are medians over the rounds. What counts is the server's CPU time
for a request: at depth 16 and 64 it must be at most 0.45 of qemu-storage-daemon's (the better of its aio
settings) and below nbdkit's. Exit status 1 where that is missed.
"""
import argparse
import os
import shlex
import sys

from servers import MIB, PAGE, SERVERS, Server, Work, environment, fill, fio_line, measure, median, settle

RATIO_MAX = 0.45
WORKLOADS = [(rw, '4k', depth) for rw in ('randread', 'randwrite') for depth in (1, 16, 64)] + \
            [('read', '1M', 4), ('write', '1M', 4)]


def judged(workload):
    return workload[1] == '4k' and workload[2] in (16, 64)


def run_rounds(work, images, servers, workloads, rounds, seconds):
    """{(workload, server): [result of each round]}"""
    results = {(w, s): [] for w in workloads for s in servers}
    for number in range(rounds):
        for position, workload in enumerate(workloads):
            turn = (number + position) % len(servers)
            for name in servers[turn:] + servers[:turn]:
                os.sync()
                with Server(work, name, images['write' if 'write' in workload[0] else 'read']) as server:
                    if number == 0 and workload == workloads[0]:
                        print(f'{name}: {shlex.join(server.argv)}')
                    results[workload, name].append(measure(work, server, *workload, seconds))
        print(f'round {number + 1} of {rounds} done', file=sys.stderr, flush=True)
    return results


def report(results, servers, workloads):
    """Prints the table; the names of the missed promises."""
    missed = []
    print(f'{"workload":22}{"server":12}{"requests/s":>12}{"MiB/s":>10}{"CPU us/req":>12}{"weir / it":>11}')
    for workload in workloads:
        label = f'{workload[0]} {workload[1]} depth {workload[2]}'
        us = {name: median(results[workload, name], 'us') for name in servers}
        for name in servers:
            rows = results[workload, name]
            ratio = f'{us["weir"] / us[name]:.2f}' if 'weir' in us and name != 'weir' and us[name] else ''
            print(f'{label:22}{name:12}{median(rows, "iops"):12.0f}{median(rows, "mibs"):10.0f}{us[name]:12.2f}'
                  f'{ratio:>11}')
        if judged(workload) and 'weir' in us:
            missed += judge(label, us)
    return missed


def judge(label, us):
    peers = [us[name] for name in ('qsd', 'qsd-uring') if name in us]
    if peers:
        ratio = us['weir'] / min(peers)
        print(f'figure: {label}: {us["weir"]:.2f} us CPU a request, {ratio:.2f} of qemu-storage-daemon '
              f'(at most {RATIO_MAX})')
        if ratio > RATIO_MAX:
            yield f'{label}: {ratio:.2f} of qemu-storage-daemon, at most {RATIO_MAX} was promised'
    if 'nbdkit' in us:
        ratio = us['weir'] / us['nbdkit']
        print(f'figure: {label}: {ratio:.2f} of nbdkit (below 1)')
        if ratio >= 1:
            yield f'{label}: {ratio:.2f} of nbdkit, less than 1 was promised'


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--servers', default=','.join(SERVERS), help='comma list of ' + ', '.join(SERVERS))
    parser.add_argument('--rounds', type=int, default=9)
    parser.add_argument('--runtime', type=float, default=1.5, help='seconds of one fio run')
    parser.add_argument('--size', type=int, default=1024, help='of the image, in MiB')
    parser.add_argument('--only', help='workloads whose name contains this')
    args = parser.parse_args()
    servers = args.servers.split(',')
    workloads = [w for w in WORKLOADS if not args.only or args.only in f'{w[0]} {w[1]} depth {w[2]}']
    print(environment())
    with Work() as work:
        images = {'read': work.path / 'disk.img', 'write': work.path / 'written.img'}
        for kind, path in images.items():
            fill(path, args.size * MIB)
            settle(path, MIB if kind == 'read' else PAGE)
        print('client:', shlex.join(fio_line('URI', 'RW', 'BS', 'DEPTH', args.runtime)))
        results = run_rounds(work, images, servers, workloads, args.rounds, args.runtime)
        missed = report(results, servers, workloads)
    for line in missed:
        print(f'MISSED: {line}')
    return 1 if missed else 0


if __name__ == '__main__':
    sys.exit(main())
