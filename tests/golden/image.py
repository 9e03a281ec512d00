# SPDX-License-Identifier: BSD-2-Clause
"""A qcow2 image seen from outside: its header, and what qemu's tools make of it."""
import json
import pathlib
import struct
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / 'integration'))

from weirtest import KiB, run  # noqa: E402, F401 (needs the path above)


class Header:
    """The fixed fields that say how much the image's own tables have grown."""

    def __init__(self, path):
        with open(path, 'rb') as file:
            (magic, self.version, _, _, self.cluster_bits, self.size, _, self.l1_size, self.l1_offset,
             self.table_offset, self.table_clusters, _, _) = struct.unpack('>IIQIIQIIQQIIQ', file.read(72))
            assert magic == 0x514649fb
            file.seek(self.table_offset)
            table = file.read(self.table_clusters << self.cluster_bits)
        entries = struct.unpack(f'>{len(table) // 8}Q', table)
        self.refcount_blocks = sum(1 for entry in entries if entry)

    @property
    def table(self):
        return self.table_offset, self.table_clusters

    @property
    def l1(self):
        return self.l1_offset, self.l1_size


def create(path, options, size, backing=None):
    more = ['-b', backing[0], '-F', backing[1]] if backing else []
    run('qemu-img', 'create', '-q', '-f', 'qcow2', '-o', options, *more, path, str(size))


def check(path):
    """No error and no leak."""
    report = json.loads(run('qemu-img', 'check', '--output=json', path, timeout=300, ok=(0, 2, 3)))
    found = {key: report[key] for key in ('corruptions', 'leaks', 'check-errors') if report.get(key)}
    assert not found, f'qemu-img check: {found}'


def compare(twin, path, form='qcow2'):
    text = run('qemu-img', 'compare', '-f', 'raw', '-F', form, twin, path, timeout=300, ok=(0, 1))
    assert 'Images are identical.' in text, f'qemu-img compare: {text.strip()}'


def to_raw(path, twin):
    run('qemu-img', 'convert', '-f', 'qcow2', '-O', 'raw', path, twin, timeout=300)


def map_of(path):
    """[(start, length, zero, data)] of the whole chain."""
    return [(e['start'], e['length'], e['zero'], e['data'])
            for e in json.loads(run('qemu-img', 'map', '-f', 'qcow2', '--output=json', path, timeout=300))]


def io(path, commands, *options):
    """Runs qemu-io commands; each must succeed."""
    argv = ['qemu-io', '-f', 'qcow2', *options]
    for command in commands:
        argv += ['-c', command]
    text = run(*argv, path, timeout=300)
    assert 'failed' not in text, f'{path}: {text}'
