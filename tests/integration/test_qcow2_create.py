# SPDX-License-Identifier: BSD-2-Clause
"""blockdev-create of qcow2: other people's tools find the image as it was asked for, and what cannot be is refused with
the texts of qemu-storage-daemon."""
import itertools
import json
import os
import random

import pytest

from weirtest import KiB, MiB, QmpError, file_bytes, fill, is_peer, run

SIZE = 4 * MiB
MAGIC = b'QFI\xfb'
BACKED = 0x5a  # what the backing file is full of


class Images:
    """Names and nodes of one daemon: image.qcow2 (node f), data.bin (node d)."""

    def __init__(self, daemon, tmp):
        self.daemon, self.qmp = daemon, daemon.qmp
        self.image, self.data = tmp / 'image.qcow2', tmp / 'data.bin'
        self.jobs = 0
        self.renew()

    def renew(self, image=b'', data=b''):
        """Other files behind the nodes."""
        for node, path, content in (('f', self.image, image), ('d', self.data, data)):
            if self.jobs or node in [n['node-name'] for n in self.qmp('query-named-block-nodes')]:
                self.qmp('blockdev-del', node_name=node)
            path.write_bytes(content)
            self.qmp('blockdev-add', {'driver': 'file', 'node-name': node, 'filename': str(path)})

    def create(self, file='f', size=SIZE, driver='qcow2', **options):
        """The error of the job or of the command; None where there was none."""
        self.jobs += 1
        job = f'create{self.jobs}'
        arguments = {'driver': driver, 'file': file, 'size': size}
        arguments.update({name.replace('_', '-'): value for name, value in options.items() if value is not None})
        try:
            self.qmp('blockdev-create', job_id=job, options=arguments)
        except QmpError as error:
            assert error.error_class == 'GenericError'
            return error.text
        self.qmp.job_wait(job, 'concluded')
        error = self.qmp.job(job).get('error')
        self.qmp('job-dismiss', id=job)
        return error

    def make(self, **options):
        """Must succeed; the tools find nothing wrong with it. Returns what they say: ImageInfo."""
        error = self.create(**options)
        assert error is None, (options, error)
        return self.info()

    def info(self):
        assert 'No errors were found' in run('qemu-img', 'check', '-U', '-f', 'qcow2', self.image)
        return self.described()

    def described(self):
        return json.loads(run('qemu-img', 'info', '-U', '--output=json', '-f', 'qcow2', self.image))

    def is_image(self):
        return 'virtual size' in run('qemu-img', 'info', '-U', '-f', 'qcow2', self.image, ok=(0, 1))

    def io(self, *commands, writes=False):
        """The node keeps its locks, so a writer works on the files once the daemon is done with them."""
        if writes:
            for node in ('f', 'd'):
                self.qmp('blockdev-del', node_name=node)
        argv = [a for command in commands for a in ('-c', command)]
        output = run('qemu-io', *([] if writes else ['-r', '-U']), '-f', 'qcow2', *argv, self.image)
        if writes:
            for node, path in (('f', self.image), ('d', self.data)):
                self.qmp('blockdev-add', {'driver': 'file', 'node-name': node, 'filename': str(path)})
        assert 'failed' not in output and 'error' not in output, output
        return output

    def try_it(self, size=SIZE, byte=0):
        """All of it reads as @byte; what is written is there afterwards and nothing else has changed."""
        edge = min(size, 72 * KiB)
        self.io(f'read -P {byte} 0 {size}')
        self.io(f'write -P 0x11 0 {edge}', f'write -P 0x22 {size - 512} 512', writes=True)
        self.io(f'read -P 0x11 0 {min(edge, size - 512)}', f'read -P 0x22 {size - 512} 512')
        if size > edge + 512:
            self.io(f'read -P {byte} {edge} {size - edge - 512}')
        self.info()


@pytest.fixture
def images(daemon, tmp):
    (tmp / 'base.img').write_bytes(bytes([BACKED]) * SIZE)
    return Images(daemon, tmp)


def special(info):
    return info['format-specific']['data']


# ---- one option after the other ----

def test_qcow2_create(images):
    """Defaults, sizes, what was in the file before; the job stays until it is dismissed."""
    info = images.make()
    assert info['virtual-size'] == SIZE and info['cluster-size'] == 64 * KiB
    assert special(info) == {'compat': '1.1', 'compression-type': 'zlib', 'lazy-refcounts': False,
                             'refcount-bits': 16, 'corrupt': False, 'extended-l2': False}
    assert 'backing-filename' not in info
    assert os.path.getsize(images.image) <= 4 * 64 * KiB
    images.try_it()
    for size in (0, 512, 65536, 65536 + 512, 512 * MiB, 512 * MiB + 512, 1 << 50):
        images.renew(image=bytes([0xee]) * MiB)
        assert images.make(size=size)['virtual-size'] == size
        if 0 < size < 1 << 50:
            images.try_it(size)


def test_qcow2_create_node_definition(images):
    """The file may be given as the options of a node, which is gone afterwards."""
    images.qmp('blockdev-del', node_name='f')
    file = {'driver': 'file', 'filename': str(images.image)}
    nodes = len(images.qmp('query-named-block-nodes'))
    assert images.create(file=file) is None
    images.info()
    assert images.create(file=dict(file, driver='raw', filename=None)) is not None
    assert images.create(file={'driver': 'raw', 'file': file}, size=8 * MiB) is None
    assert images.info()['virtual-size'] == 8 * MiB
    assert len(images.qmp('query-named-block-nodes')) == nodes
    # Nobody holds the file any more.
    run('qemu-io', '-f', 'qcow2', '-c', 'write 0 64k', images.image)


@pytest.mark.parametrize('version', ['v2', 'v3'])
def test_qcow2_create_version(images, version):
    assert special(images.make(version=version))['compat'] == {'v2': '0.10', 'v3': '1.1'}[version]
    images.try_it()


@pytest.mark.parametrize('bits', range(9, 22, 2))
def test_qcow2_create_cluster_size(images, bits):
    assert images.make(cluster_size=1 << bits)['cluster-size'] == 1 << bits
    images.try_it()


@pytest.mark.parametrize('bits', [1, 2, 4, 8, 16, 32, 64])
def test_qcow2_create_refcount_bits(images, bits):
    assert special(images.make(refcount_bits=bits))['refcount-bits'] == bits
    images.try_it()


def test_qcow2_create_extended_l2(images):
    for cluster_size in (16 * KiB, 2 * MiB):
        assert special(images.make(extended_l2=True, cluster_size=cluster_size))['extended-l2'] is True
        images.try_it()


def test_qcow2_create_lazy_refcounts(images):
    assert special(images.make(lazy_refcounts=True))['lazy-refcounts'] is True
    images.try_it()
    assert special(images.make(lazy_refcounts=False))['lazy-refcounts'] is False


@pytest.mark.parametrize('kind', ['zlib', 'zstd'])
def test_qcow2_create_compression_type(images, kind):
    assert special(images.make(compression_type=kind))['compression-type'] == kind
    images.io('write -c -P 0x33 0 64k', writes=True)
    images.io('read -P 0x33 0 64k', 'read -P 0 64k 64k')


def test_qcow2_create_backing(images):
    """The name is stored as it is and not looked at; the tools find the file beside the image."""
    info = images.make(backing_file='base.img', backing_fmt='raw')
    assert info['backing-filename'] == 'base.img' and info['backing-filename-format'] == 'raw'
    images.try_it(byte=BACKED)
    info = images.make(backing_file='base.img')
    assert info['backing-filename'] == 'base.img' and 'backing-filename-format' not in info
    for name in ('missing.img', 'nbd://nowhere/x', 'ä b', 'n' * 1023):
        assert images.create(backing_file=name, backing_fmt='raw') is None
        assert images.described()['backing-filename'] == name
    # A cluster of the smallest size has no room for a long one, and then nothing happens to the file.
    images.renew(image=b'kept')
    error = images.create(backing_file='n' * 480, backing_fmt='raw', cluster_size=512)
    assert error == f"Could not assign backing file '{'n' * 480}' with format 'raw': No space left on device"
    assert images.image.read_bytes() == b'kept' or is_peer()
    error = images.create(backing_file='n' * 1024)
    assert error.startswith(f"Could not assign backing file '{'n' * 1024}'") and 'Invalid argument' in error


@pytest.mark.parametrize('cluster_size', [512, 4 * KiB, 64 * KiB, 2 * MiB])
@pytest.mark.parametrize('mode', ['off', 'metadata', 'falloc', 'full'])
def test_qcow2_create_preallocation(images, mode, cluster_size):
    """How much is mapped, how long the file is, and how much space of the host it takes."""
    for size in (SIZE, SIZE - 512):
        images.renew()
        images.make(preallocation=mode, cluster_size=cluster_size, size=size)
        mapped = json.loads(run('qemu-img', 'map', '-U', '--output=json', '-f', 'qcow2', images.image))
        placed = sum(part['length'] for part in mapped if 'offset' in part)
        assert placed == (0 if mode == 'off' else size)
        length, taken = os.path.getsize(images.image), os.stat(images.image).st_blocks * 512
        if mode == 'off':
            assert length <= 4 * cluster_size + 4 * KiB
        else:
            assert length >= 5 * cluster_size + size
        if not is_peer():
            # Tables take what is in them; with clusters of 512 bytes that is some.
            assert (taken >= size) if mode in ('falloc', 'full') else (taken <= SIZE // 8 + 160 * KiB)
        images.try_it(size)
        # What was mapped is used: the file does not grow.
        assert mode == 'off' or os.path.getsize(images.image) <= length


@pytest.mark.parametrize('mode', ['metadata', 'falloc', 'full'])
def test_qcow2_create_preallocation_extended_l2(images, mode):
    """Preallocated parts of clusters stay unallocated: what is behind them shines through."""
    if is_peer() and mode != 'metadata':
        pytest.xfail('qemu-storage-daemon does not preallocate into a file that it has just written')
    images.make(preallocation=mode, extended_l2=True, backing_file='base.img', backing_fmt='raw')
    assert os.path.getsize(images.image) >= SIZE
    images.try_it(byte=BACKED)


@pytest.mark.parametrize('mode', ['off', 'metadata', 'falloc', 'full'])
def test_qcow2_create_data_file(images, mode):
    """The data is apart. What was in the file before is not part of the new disk."""
    images.renew(data=bytes([0xee]) * (SIZE + MiB))
    info = images.make(data_file='d', preallocation=mode)
    assert special(info)['data-file'] == str(images.data) and special(info)['data-file-raw'] is False
    assert os.path.getsize(images.image) < MiB
    if not is_peer():
        assert os.path.getsize(images.data) == SIZE
        assert (os.stat(images.data).st_blocks * 512 >= SIZE) == (mode in ('falloc', 'full'))
        images.try_it()
    assert os.path.getsize(images.image) < MiB


@pytest.mark.parametrize('extended_l2', [False, True])
@pytest.mark.parametrize('mode', ['off', 'metadata', 'falloc', 'full'])
def test_qcow2_create_data_file_raw(images, mode, extended_l2):
    """The data file is the disk: what is in it stays, the rest is zero, and writes are where they should be."""
    images.renew(data=bytes([0xee]) * MiB)
    info = images.make(data_file='d', data_file_raw=True, preallocation=mode, extended_l2=extended_l2)
    assert special(info)['data-file'] == str(images.data) and special(info)['data-file-raw'] is True
    assert os.path.getsize(images.data) == SIZE
    if mode in ('falloc', 'full'):
        assert os.stat(images.data).st_blocks * 512 >= SIZE
    if not (is_peer() and extended_l2):
        images.io(f'read -P 0xee 0 {MiB}', f'read -P 0 {MiB} {SIZE - MiB}')
    images.io('write -P 0x44 2M 64k', 'write -P 0x55 512 512', writes=True)
    assert file_bytes(images.data, 2 * MiB, 64 * KiB) == bytes([0x44]) * 64 * KiB
    assert file_bytes(images.data, 512, 512) == bytes([0x55]) * 512
    images.info()
    # A larger file is not cut.
    images.make(data_file='d', data_file_raw=True, size=MiB)
    assert os.path.getsize(images.data) == SIZE and file_bytes(images.data, 2 * MiB, 1) == b'\x44'


@pytest.mark.parametrize('mode', ['off', 'metadata', 'full'])
def test_qcow2_create_on_device(images, tmp, mode):
    """A device keeps its size and what was in it: the new disk reads as zero all the same."""
    if is_peer() and mode != 'off':
        pytest.xfail('qemu-storage-daemon shows what was on the device, or refuses')
    disk = fill(tmp / 'device.img', 2 * SIZE)
    device = run('losetup', '--find', '--show', disk).strip()
    try:
        images.qmp('blockdev-add', {'driver': 'host_device', 'node-name': 'dev', 'filename': device})
        assert images.create(file='dev', size=SIZE, preallocation=mode) is None
        images.daemon.export('dev', 'all', writable=False)
        assert images.daemon.nbd('all').get_size() == 2 * SIZE
        images.qmp('block-export-del', id='all', mode='hard')
        images.qmp.event('BLOCK_EXPORT_DELETED')
        assert 'Cannot grow device files' in images.create(file='dev', size=4 * SIZE, preallocation='metadata')
        assert images.create(file='dev', size=SIZE, preallocation=mode) is None
        images.qmp('blockdev-del', node_name='dev')
        assert 'No errors' in run('qemu-img', 'check', '-f', 'qcow2', device)
        run('qemu-io', '-f', 'qcow2', '-c', f'read -P 0 0 {SIZE}', '-c', 'write -P 1 64k 64k', device)
    finally:
        run('losetup', '--detach', device)


@pytest.mark.parametrize('options', [
    {}, {'version': 'v2'}, {'cluster_size': 512, 'preallocation': 'metadata'}, {'refcount_bits': 1},
    {'extended_l2': True, 'preallocation': 'falloc'}, {'cluster_size': 2 * MiB, 'compression_type': 'zstd'},
    {'data_file': 'd'}, {'data_file': 'd', 'data_file_raw': True, 'extended_l2': True}, {'lazy_refcounts': True},
], ids=lambda o: '-'.join(o) or 'plain')
def test_qcow2_create_served(images, options):
    """The daemon that made the image serves it: zeroes, then what was written."""
    images.renew()
    images.make(**options)
    node = {'driver': 'qcow2', 'node-name': 'q', 'file': 'f'}
    images.qmp('blockdev-add', dict(node, **({'data-file': 'd'} if 'data_file' in options else {})))
    images.daemon.export('q')
    client = images.daemon.nbd('q')
    assert client.get_size() == SIZE and client.pread(SIZE, 0) == bytes(SIZE)
    client.pwrite(b'a' * 100 * KiB, MiB - 512)
    assert client.pread(100 * KiB + 1024, MiB - 1024) == bytes(512) + b'a' * 100 * KiB + bytes(512)
    client.shutdown()
    images.qmp('block-export-del', id='q', mode='hard')
    images.qmp.event('BLOCK_EXPORT_DELETED')
    # While it is in use it is not overwritten.
    assert "Permission conflict on node 'f'" in images.create()
    images.qmp('blockdev-del', node_name='q')
    images.io(f'read -P 0 0 {MiB - 512}', f'read -P 97 {MiB - 512} 100k', f'read -P 0 {MiB + 100 * KiB - 512} 1M')
    images.info()


# ---- all of them together ----

FACTORS = {
    'version': ['v2', 'v3'],
    'cluster_size': [512, 4 * KiB, 16 * KiB, 64 * KiB, 2 * MiB],
    'refcount_bits': [1, 4, 16, 64],
    'extended_l2': [False, True],
    'compression_type': ['zlib', 'zstd'],
    'lazy_refcounts': [False, True],
    'preallocation': ['off', 'metadata', 'falloc', 'full'],
    'data': ['inside', 'apart', 'raw'],
    'backing': [False, True],
    'size': [SIZE, SIZE - 512, 33 * KiB],
}


def possible(case):
    v3_only = (case['refcount_bits'] != 16 or case['extended_l2'] or case['compression_type'] == 'zstd' or
               case['lazy_refcounts'] or case['data'] != 'inside')
    return not ((case['version'] == 'v2' and v3_only) or
                (case['extended_l2'] and case['cluster_size'] < 16 * KiB) or
                (case['backing'] and case['data'] == 'raw') or
                (case['backing'] and case['preallocation'] != 'off' and not case['extended_l2']))


def pairs(case):
    return set(itertools.combinations(sorted((k, str(v)) for k, v in case.items()), 2))


def pairwise():
    """Cases that contain each possible pair of values: of some random ones the one that adds most, until all are in."""
    rnd = random.Random(11)
    every = [c for c in (dict(zip(FACTORS, values)) for values in itertools.product(*FACTORS.values())) if possible(c)]
    missing = set().union(*(pairs(case) for case in every))
    chosen = []
    while missing:
        case = max(rnd.sample(every, 60), key=lambda c: len(pairs(c) & missing))
        if not pairs(case) & missing:
            case = next(c for c in every if pairs(c) & missing)
        missing -= pairs(case)
        chosen.append(case)
    return chosen


@pytest.mark.parametrize('case', pairwise(), ids=lambda c: '-'.join(str(v) for v in c.values()))
def test_qcow2_create_pairwise(images, case):
    options = {k: v for k, v in case.items() if k not in ('data', 'backing')}
    if case['data'] != 'inside':
        options.update(data_file='d', data_file_raw=case['data'] == 'raw')
    if case['backing']:
        options.update(backing_file='base.img', backing_fmt='raw')
    if is_peer() and case['preallocation'] in ('falloc', 'full'):
        images.renew()
    info = images.make(**options)
    data = special(info)
    assert info['virtual-size'] == case['size'] and info['cluster-size'] == case['cluster_size']
    assert data['compat'] == {'v2': '0.10', 'v3': '1.1'}[case['version']]
    assert data['refcount-bits'] == case['refcount_bits'] and data['compression-type'] == case['compression_type']
    if case['version'] == 'v3':
        assert data['extended-l2'] == case['extended_l2'] and data['lazy-refcounts'] == case['lazy_refcounts']
    assert ('data-file' in data) == (case['data'] != 'inside')
    assert info.get('backing-filename') == ('base.img' if case['backing'] else None)
    images.try_it(case['size'], BACKED if case['backing'] else 0)


# ---- what cannot be ----

WRONG = [
    {'size': 1}, {'size': 511}, {'size': 513},
    *({'cluster_size': n} for n in (0, 1, 256, 513, 65537, 4 * MiB, 1 << 40)),
    {'cluster_size': 8 * KiB, 'extended_l2': True}, {'version': 'v2', 'extended_l2': True},
    {'version': 'v2', 'lazy_refcounts': True}, {'version': 'v2', 'compression_type': 'zstd'},
    *({'refcount_bits': n} for n in (-1, 0, 3, 17, 128)),
    {'version': 'v2', 'refcount_bits': 8}, {'version': 'v2', 'refcount_bits': 7},
    {'data_file_raw': True}, {'data_file_raw': True, 'backing_file': 'b'}, {'version': 'v2', 'data_file': 'd'},
    {'data_file': 'd', 'data_file_raw': True, 'backing_file': 'b'}, {'data_file': 'none'}, {'file': 'none'},
    {'backing_fmt': 'raw'}, {'backing_file': 'b', 'preallocation': 'metadata'},
    {'backing_file': 'b', 'preallocation': 'full', 'refcount_bits': 3},
    {'size': 1 << 62}, {'size': (128 << 30) + 512, 'cluster_size': 512}, {'size': (1 << 63) - 512},
    {'cluster_size': 3, 'size': 5}, {'cluster_size': 3, 'refcount_bits': 3},
    {'refcount_bits': 3, 'backing_fmt': 'raw'}, {'refcount_bits': 3, 'lazy_refcounts': True, 'version': 'v2'},
    {'version': 'v1'}, {'compression_type': 'lzo'}, {'preallocation': 'some'},
    {'backing_file': 'b', 'backing_fmt': 'x'},
    {'cluster_size': 'big'}, {'surplus': 1}, {'size': 'much'},
]


def test_qcow2_create_wrong_options(images, start, tmp):
    """Word for word what qemu-storage-daemon says, in the same order where several things are wrong; but here the
    file is as it was."""
    (tmp / 'peer').mkdir()
    peer = Images(start(command=['qemu-storage-daemon']), tmp / 'peer')
    images.renew(image=b'kept')
    for wrong in WRONG:
        error = images.create(**wrong)
        assert error and error == peer.create(**wrong), wrong
    if not is_peer():
        assert images.image.read_bytes() == b'kept'


def test_qcow2_create_nodes_in_use(images):
    """A node that somebody uses is left alone, as is one that may not be written."""
    images.renew(image=b'kept' * 128)
    images.daemon.export('f', writable=False)
    error = images.create()
    assert "Permission conflict on node 'f'" in error and "'root'" in error
    images.qmp('block-export-del', id='f')
    images.daemon.qmp.event('BLOCK_EXPORT_DELETED')
    # One node cannot be both.
    assert "Permission conflict on node 'f'" in images.create(data_file='f')
    images.qmp('blockdev-del', node_name='f')
    images.qmp('blockdev-add', {'driver': 'file', 'node-name': 'f', 'filename': str(images.image), 'read-only': True})
    assert images.create() == 'Block node is read-only'
    if not is_peer():
        assert images.image.read_bytes() == b'kept' * 128
    assert 'No such file' in images.create(file={'driver': 'file', 'filename': '/nowhere/x'})
    # A node without a size that could be changed, and a data file that nothing in an image could name.
    images.qmp('blockdev-add', {'driver': 'null-co', 'node-name': 'n', 'size': 64 * KiB})
    assert images.create(data_file='n')


def test_qcow2_create_file_mode_metadata(images, tmp):
    """The file driver has no metadata to preallocate."""
    images.qmp('blockdev-create', job_id='j', options={'driver': 'file', 'filename': str(tmp / 'new'), 'size': MiB,
                                                       'preallocation': 'metadata'})
    images.qmp.job_wait('j', 'concluded')
    assert images.qmp.job('j')['error'] == 'Unsupported preallocation mode: metadata'
    images.qmp('job-dismiss', id='j')


# ---- half made ----

@pytest.mark.parametrize('rule, text', [
    ({'iotype': 'flush'}, 'Could not empty'),
    ({'iotype': 'write', 'sector': 0}, 'Could not empty'),
    ({'iotype': 'write', 'sector': 0}, 'Could not write qcow2 header'),
    ({'iotype': 'write', 'sector': 1}, 'Could not write the tables of the image'),
    ({'iotype': 'write', 'sector': 128}, 'Could not write the tables of the image'),
    ({'iotype': 'write', 'sector': 4 * 128}, 'Could not write the tables of the image'),
    ({'iotype': 'write', 'sector': 5 * 128 + 9}, 'Could not preallocate data clusters'),
])
def test_qcow2_create_fails_half_way(images, rule, text):
    """Whatever fails, what is there afterwards is no image, neither the old one nor a part of the new one, or the old
    one as it was. Only erasing the old header and writing the new one touch the first sector."""
    if is_peer():
        pytest.xfail('qemu-storage-daemon writes the header first')
    assert images.create() is None and images.is_image()
    old = images.image.read_bytes()
    if 'header' in text:
        images.renew()  # or the old header could not be erased
    images.qmp('blockdev-add', {'driver': 'blkdebug', 'node-name': 'b', 'image': 'f',
                                'inject-error': [dict({'event': 'none'}, **rule)]})
    error = images.create(file='b', preallocation='full')
    assert text in error and 'Input/output error' in error
    if rule == {'iotype': 'write', 'sector': 0} and 'empty' in text:
        assert images.image.read_bytes() == old
    else:
        assert not images.is_image() and file_bytes(images.image, 0, 4) != MAGIC
    # The same node serves once nothing fails any more.
    images.qmp('blockdev-del', node_name='b')
    images.make(preallocation='full')
    images.try_it()


def test_qcow2_create_many_at_once(images, tmp):
    """Jobs that write at the same time, while the monitor answers."""
    for i in range(6):
        fill(tmp / f'm{i}', 0 if is_peer() else MiB)  # it would leave that in the disk
        images.qmp('blockdev-create', job_id=f'm{i}', options={
            'driver': 'qcow2', 'size': 32 * MiB, 'preallocation': 'full', 'cluster-size': 512 << i,
            'file': {'driver': 'raw', 'file': {'driver': 'file', 'filename': str(tmp / f'm{i}')}}})
    assert len(images.qmp('query-jobs')) == 6
    for i in range(6):
        # Their events come in any order.
        while images.qmp.job(f'm{i}')['status'] != 'concluded':
            images.qmp.event('JOB_STATUS_CHANGE', 30)
        assert 'error' not in images.qmp.job(f'm{i}')
        images.qmp('job-dismiss', id=f'm{i}')
        assert 'No errors' in run('qemu-img', 'check', '-f', 'qcow2', tmp / f'm{i}')
        run('qemu-io', '-f', 'qcow2', '-c', f'read -P 0 0 {32 * MiB}', tmp / f'm{i}')
