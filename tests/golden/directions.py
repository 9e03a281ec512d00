# SPDX-License-Identifier: BSD-2-Clause
"""One case, forward (qemu-img creates, the daemon under test writes, qemu-img judges) or reverse (qemu-io writes, the
daemon reads)."""
import random
import shutil

import image
import plan as plans
from image import KiB
from load import Load, Twin, merged, same, statuses
from weirtest import Daemon, is_peer, nbd_connect, run

MiB = 1 << 20
# The image tool of the program under test as another judge: a list of argument lists, in which {image} stands for the
# file. Each must end with status 0.
IMG_CHECKS = [['build/weir', 'img', 'check', '-q', '{image}']]


def write_commands(rnd, size, cluster, count, touched, compressed=True, discard=True):
    """Commands of qemu-io, and what the bytes become: [(command, offset, length, byte)], byte None after a discard.
    @touched: set of clusters that have been written; qemu compresses into others only. The first
    commands may discard, and may compress a last cluster that is not whole."""
    kinds = ['write'] * 6 + ['zero', 'zero', 'unmap'] + ['compressed'] * 4 * compressed + ['discard'] * 2 * discard
    result = []
    for _ in range(count):
        kind = rnd.choice(kinds)
        if kind == 'write' and rnd.randrange(2):
            length = min(512 * rnd.randint(1, 48), size)
            offset = rnd.randint(0, (size - length) // 512) * 512
        else:
            offset = rnd.randrange(0, size // cluster + 1) * cluster
            length = min(cluster * rnd.choice((1, 1, 2, 5)), size - offset, 4 * MiB)
        clusters = range(offset // cluster, -(-(offset + length) // cluster))
        if not length or kind == 'compressed' and (touched.intersection(clusters) or not discard and length % cluster):
            continue
        touched.update(clusters)
        byte = rnd.randint(1, 255)
        text = {'write': f'write -P {byte}', 'compressed': f'write -c -P {byte}', 'zero': 'write -z', 'unmap': 'write -z -u',
                'discard': 'discard'}[kind]
        result.append((f'{text} {offset} {length}', offset, length,
                       {'zero': 0, 'unmap': 0, 'discard': None}.get(kind, byte)))
    # qemu 7.2 damages an image in which it compresses after an overwritten compressed cluster was freed.
    return sorted(result, key=lambda command: not command[0].startswith('write -c'))


def text_file(path, rnd, size):
    """A raw file that compresses, with holes."""
    with open(path, 'wb') as file:
        file.truncate(size)
        for offset in range(0, size, 64 * KiB):
            if rnd.randrange(3):
                file.seek(offset)
                word = rnd.randbytes(rnd.choice((4, 64, 4096)))
                file.write((word * (64 * KiB // len(word)))[:size - offset])


class Run:
    """The files and the daemon of one case in a directory of its own."""

    def __init__(self, case, directory, rnd):
        self.case, self.directory, self.rnd = case, directory, rnd
        self.top = directory / 'top.qcow2'
        self.touched = set()
        self.daemon = None

    def layers(self, size):
        """The layers below the image, from the bottom: raw or compressed, then qcow2 of any cluster size and length.
        Returns what the image's header is to say."""
        backing = None
        for number in range(self.case.depth):
            # Version 2 has no zero clusters to hide a longer layer below what the image grows by.
            longer = MiB if self.case.version == 3 else 0
            length = self.rnd.choice((size, size // 2, size + longer)) // 512 * 512
            path = self.directory / f'layer{number}'
            if number == 0:
                text_file(path, self.rnd, length)
                backing = path.name, 'raw'
                if self.rnd.randrange(3):
                    clusters = self.rnd.choice((4, 64, 256)) * KiB
                    options = f'cluster_size={clusters},compression_type={self.case.compression}'
                    run('qemu-img', 'convert', '-c', '-O', 'qcow2', '-o', options, path, f'{path}.c')
                    backing = path.name + '.c', 'qcow2'
            else:
                clusters = self.rnd.choice((512, 4 * KiB, 64 * KiB, self.case.cluster))
                image.create(path, f'cluster_size={clusters}', length, backing)
                image.io(path, [c[0] for c in write_commands(self.rnd, length, clusters, 12, set())], '-d', 'unmap')
                backing = path.name, 'qcow2'
        return backing

    def create(self, size):
        """The image, with its data file beside it."""
        image.create(self.top, self.case.create_options.replace('top.data', str(self.directory / 'top.data')), size,
                     self.layers(size))

    def write_by_qemu(self, size, count, discard):
        commands = write_commands(self.rnd, size, self.case.cluster, count, self.touched, self.case.data == 'none', discard)
        image.io(self.top, [c[0] for c in commands], '-d', 'unmap')
        image.check(self.top)
        return commands

    # ---- the daemon ----

    def options(self):
        """Options of the node that change how things are done, but never what comes out."""
        options = {'discard': self.rnd.choice(('unmap', 'unmap', 'ignore'))}
        if self.rnd.randrange(2):
            options['l2-cache-size'] = 4 * self.case.cluster
            options['refcount-cache-size'] = 4 * self.case.cluster
        if self.case.version == 3 and self.rnd.randrange(4) == 0:
            options['lazy-refcounts'] = True
        if self.rnd.randrange(4) == 0:
            options['pass-discard-other'] = True
        if options['discard'] == 'unmap' and self.rnd.randrange(4) == 0:
            options['detect-zeroes'] = 'unmap'
        return options

    def start(self, writable):
        self.daemon = Daemon(self.directory)
        self.daemon.serve_nbd()
        options = self.options() if writable else {}
        self.daemon.qmp('blockdev-add', {
            'driver': 'qcow2', 'node-name': 'top', 'read-only': not writable, **options,
            'file': {'driver': 'file', 'filename': str(self.top), 'discard': 'unmap'}})
        return nbd_connect(self.daemon.export('top', writable=writable))

    def resize(self, handle, size):
        """block_resize, between two exports, as an export does not share that permission."""
        handle.shutdown()
        if is_peer() and self.case.data != 'none':
            # qemu 7.2 ends on an assertion where a data file is resized which nobody is writing to.
            self.daemon.stop()
            run('qemu-img', 'resize', '-q', self.top, size)
            handle = self.start(True)
            assert handle.get_size() == size
            return handle
        self.daemon.qmp('block-export-del', {'id': 'top', 'mode': 'hard'})
        self.daemon.qmp.event('BLOCK_EXPORT_DELETED', 30, id='top')
        self.daemon.qmp('block_resize', {'node-name': 'top', 'size': size}, timeout=120)
        handle = nbd_connect(self.daemon.export('top'))
        assert handle.get_size() == size
        return handle

    def judge(self):
        image.check(self.top)
        for arguments in IMG_CHECKS:
            run(*[argument.format(image=self.top) for argument in arguments], timeout=300)


def forward(test):
    case, rnd = test.case, test.rnd
    plan = plans.make(case, rnd)
    test.create(plan.size)
    test.write_by_qemu(plan.size, 10, True)
    size = plan.size
    if plan.prealloc:
        size = plans.preallocate(case, plan, test.top)
    grown, l1, units = plans.grown_size(case, plan, test.top, size)
    before = image.Header(test.top)
    twin = Twin(test.directory / 'twin')
    image.to_raw(test.top, twin.path)
    handle = test.start(True)
    assert handle.get_size() == size == twin.size
    # The first region is small against the clusters, so that requests meet; so is the last one, at the new end.
    regions = [(0, plan.size)]
    if size > plan.size:
        middle = rnd.randint(plan.size, size) // 512 * 512
        regions.append((middle, min(size, middle + 20 * case.cluster)))
    load = Load(handle, twin, rnd, case.cluster, regions)
    load.run(25)
    load.handle = handle = test.resize(handle, grown)
    twin.resize(grown)
    load.fill(-(-size // plan.unit) * plan.unit, plan.unit, units)
    load.regions.append((max(size, grown - 20 * case.cluster), grown))
    load.run(25)
    load.verify()
    handle.flush()
    handle.shutdown()
    test.daemon.stop(60)
    test.judge()
    twin.close()
    image.compare(twin.path, test.top)
    if case.data == 'raw':
        image.compare(twin.path, test.directory / 'top.data', 'raw')
    plans.expect(plan, l1, before, image.Header(test.top))


def agree(found, expected, twin):
    """@found: (start, length, zero, hole) of the block status; @expected: (start, length, zero, data) of qemu-img map.
    What the image itself says must be the same. Data may be known to be zero by one side only, as that depends on whether
    the file below is asked for its holes; but then it is zero."""
    found, expected = list(found), list(expected)
    while found and expected:
        (start, length, zero, hole), (other_start, other_length, other_zero, data) = found[0], expected[0]
        assert start == other_start
        both = min(length, other_length)
        text = f'{start}+{both}: block status says zero={zero} hole={hole}, qemu-img map zero={other_zero} data={data}'
        if not data:
            assert zero == other_zero and hole, text
        elif zero and not other_zero:
            same(twin.read(start, both), bytes(both), start)
        elif not zero:
            assert not hole, text
        for extents in (found, expected):
            begin, rest, *kind = extents.pop(0)
            if rest > both:
                extents.insert(0, (begin + both, rest - both, *kind))
    assert found == expected == []


def reverse(test):
    case, rnd = test.case, test.rnd
    size = min(max(40 * case.cluster, MiB), 16 * MiB) - 512 * rnd.choice((0, 1, 5))
    test.create(size)
    test.write_by_qemu(size, 20, True)
    tail = size
    if rnd.randrange(3) == 0:
        size = rnd.choice((size + 2 * case.l2_covers, size + 100 * case.cluster + 512)) // 512 * 512
        run('qemu-img', 'resize', '-q', test.top, size)
    twin = Twin(test.directory / 'twin')
    image.to_raw(test.top, twin.path)
    for _, offset, length, byte in test.write_by_qemu(tail, 20, False):
        twin.write(offset, bytes([byte]) * length)
    twin.close()
    image.compare(twin.path, test.top)
    twin = Twin(twin.path)
    handle = test.start(False)
    assert handle.get_size() == size == twin.size and handle.is_read_only()
    found = statuses(handle, 0, size)
    assert found[0][0] == 0 and sum(found[-1][:2]) == size
    agree(found, merged(image.map_of(test.top), size), twin)
    load = Load(handle, twin, rnd, case.cluster, [(0, min(size, tail + 20 * case.cluster)),
                                                  (max(0, size - 20 * case.cluster), size)])
    load.verify()
    for _ in range(40):
        offset, length = load.range()
        same(handle.pread(length, offset), twin.read(offset, length), offset)
    handle.shutdown()
    test.daemon.stop(60)
    test.judge()
    twin.close()
    image.compare(twin.path, test.top)


def run_case(case, direction, seed, directory):
    """Runs it in @directory, which is removed when all went well; raises otherwise."""
    test = Run(case, directory, random.Random(f'{seed} {direction} {case.name}'))
    try:
        {'forward': forward, 'reverse': reverse}[direction](test)
    finally:
        if test.daemon:
            test.daemon.kill()
    test.daemon.assert_no_crash()
    shutil.rmtree(directory)
