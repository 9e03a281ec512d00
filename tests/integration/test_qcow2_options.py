# SPDX-License-Identifier: BSD-2-Clause
"""Options of the qcow2 driver, each by what it changes; damaged images; the check of an image in use."""
import json
import struct
import subprocess

import nbd
import pytest

from weirtest import KiB, MiB, QmpError, file_bytes, is_peer, nbd_connect, run
from weirtest.qcow2 import number, patch, sound

SIZE = 8 * MiB
INCOMPATIBLE, COMPATIBLE = 72, 80


def create(path, *options, size=SIZE):
    run('qemu-img', 'create', '-q', '-f', 'qcow2', *options, path.name, str(size), cwd=path.parent)
    return path


def file(path):
    return {'driver': 'file', 'filename': str(path)}


def add(daemon, path, node='n', **options):
    daemon.qmp('blockdev-add', dict({'driver': 'qcow2', 'node-name': node, 'file': file(path)},
                                    **{k.replace('_', '-'): v for k, v in options.items()}))


def opened(daemon, path, writable=True, **options):
    add(daemon, path, **options)
    return nbd_connect(daemon.export('n', writable=writable), strict=False)


def refused(daemon, path, *words, **options):
    with pytest.raises(QmpError) as caught:
        add(daemon, path, **options)
    assert caught.value.error_class == 'GenericError'
    for word in words:
        assert word in caught.value.text
    return caught.value.text


def finish(daemon, client=None):
    if client:
        client.shutdown()
    daemon.stop()


def io(path, *commands):
    return run('qemu-io', '-f', 'qcow2', *[word for c in commands for word in ('-c', c)], str(path))


def allocated(path):
    return json.loads(run('qemu-img', 'map', '--output=json', '-f', 'qcow2', str(path)))


def used(path):
    return path.stat().st_blocks * 512


def node(daemon, name='n'):
    return next(n for n in daemon.qmp('query-named-block-nodes') if n['node-name'] == name)


# ---- opening ----

def test_qcow2_open(daemon, tmp):
    """An image by definition and by the name of its file's node; what is written is there for others."""
    path = create(tmp / 'a.qcow2')
    client = opened(daemon, path)
    client.pwrite(b'\x5a' * 100000, 123456)
    client.flush()
    daemon.qmp('blockdev-add', dict(file(create(tmp / 'b.qcow2')), **{'node-name': 'below'}))
    daemon.qmp('blockdev-add', {'driver': 'qcow2', 'node-name': 'by-name', 'file': 'below'})
    assert node(daemon, 'by-name')['image']['virtual-size'] == SIZE
    finish(daemon, client)
    sound(path)
    io(path, 'read -P 0x5a 123456 100000', 'read -P 0 0 123456')


def test_qcow2_backing(daemon, tmp):
    """From the header (relative to the image), none by null, another by name."""
    base = create(tmp / 'base.qcow2')
    io(base, 'write -P 1 0 1M')
    other = create(tmp / 'other.qcow2')
    io(other, 'write -P 2 0 1M')
    path = tmp / 'top.qcow2'
    run('qemu-img', 'create', '-q', '-f', 'qcow2', '-b', 'base.qcow2', '-F', 'qcow2', str(path))
    client = opened(daemon, path)
    assert client.pread(MiB, 0) == b'\1' * MiB
    client.pwrite(b'\7' * 512, 4096)
    assert client.pread(3 * 512, 4096 - 512) == b'\1' * 512 + b'\7' * 512 + b'\1' * 512
    client.shutdown()
    daemon.qmp('block-export-del', id='n', mode='hard')
    daemon.qmp.event('BLOCK_EXPORT_DELETED')
    daemon.qmp('blockdev-del', {'node-name': 'n'})
    add(daemon, path, node='none', backing=None, read_only=True)
    client = nbd_connect(daemon.export('none', writable=False))
    assert client.pread(512, MiB // 2) == bytes(512)
    client.shutdown()
    daemon.qmp('blockdev-add', {'driver': 'qcow2', 'node-name': 'o', 'read-only': True, 'file': file(other)})
    add(daemon, path, node='second', backing='o', read_only=True)
    client = nbd_connect(daemon.export('second', writable=False))
    assert client.pread(512, MiB // 2) == b'\2' * 512
    finish(daemon, client)
    sound(path)


@pytest.mark.parametrize('raw', ['off', 'on'])
def test_qcow2_data_file(daemon, tmp, raw):
    """The data is where the image says, or where the option says."""
    path = create(tmp / 'a.qcow2', '-o', f'data_file={tmp}/a.data,data_file_raw={raw}')
    client = opened(daemon, path)
    client.pwrite(b'\x5a' * 100000, 65536)
    finish(daemon, client)
    assert file_bytes(tmp / 'a.data', 65536, 100000) == b'\x5a' * 100000
    sound(path)


def test_qcow2_data_file_option(daemon, tmp):
    path = create(tmp / 'a.qcow2', '-o', f'data_file={tmp}/a.data')
    (tmp / 'a.data').rename(tmp / 'moved')
    client = opened(daemon, path, data_file=file(tmp / 'moved'))
    client.pwrite(b'\x11' * 512, 0)
    finish(daemon, client)
    assert file_bytes(tmp / 'moved', 0, 512) == b'\x11' * 512


def test_qcow2_data_file_not_wanted(daemon, tmp):
    (tmp / 'x').touch()
    refused(daemon, create(tmp / 'a.qcow2'), "'data-file'", data_file=file(tmp / 'x'))


def test_qcow2_lazy_refcounts(daemon, tmp):
    """While it is open the image says that its counts cannot be trusted; a crash is repaired by the next writer."""
    path = create(tmp / 'a.qcow2')
    client = opened(daemon, path, lazy_refcounts=True)
    assert number(path, INCOMPATIBLE) & 1
    client.pwrite(b'\x5a' * MiB, 0)
    client.flush()
    daemon.kill()
    assert number(path, INCOMPATIBLE) & 1


def test_qcow2_lazy_refcounts_repair(start, tmp):
    path = create(tmp / 'a.qcow2', '-o', 'lazy_refcounts=on')
    daemon = start()
    daemon.serve_nbd()
    client = opened(daemon, path)
    client.pwrite(b'\x5a' * MiB, 0)
    client.flush()
    daemon.kill()
    daemon = start()
    daemon.serve_nbd()
    client = opened(daemon, path)
    assert client.pread(MiB, 0) == b'\x5a' * MiB
    client.pwrite(b'\x33' * MiB, 4 * MiB)
    finish(daemon, client)
    assert not number(path, INCOMPATIBLE) & 1
    sound(path)
    io(path, 'read -P 0x5a 0 1M', 'read -P 0x33 4M 1M')


def test_qcow2_lazy_refcounts_version(daemon, tmp):
    refused(daemon, create(tmp / 'a.qcow2', '-o', 'compat=0.10'), 'Lazy refcounts require', lazy_refcounts=True)


@pytest.mark.parametrize('passed', [True, False])
def test_qcow2_pass_discard(daemon, tmp, passed):
    """Space that a guest discards leaves the host's file, or only the image."""
    path = create(tmp / 'a.qcow2')
    client = opened(daemon, path, discard='unmap', pass_discard_request=passed)
    client.pwrite(b'\x5a' * (4 * MiB), 0)
    client.flush()
    before = used(path)
    client.trim(4 * MiB, 0)
    client.flush()
    client.flush()
    assert client.pread(MiB, 0) == bytes(MiB)
    assert (used(path) < before - 3 * MiB) == passed
    finish(daemon, client)
    sound(path)


def test_qcow2_discard_no_unref(daemon, tmp):
    """Discarded clusters keep their place: they are zero, and what is written there later goes where it was."""
    path = create(tmp / 'a.qcow2')
    client = opened(daemon, path, discard='unmap', discard_no_unref=True)
    client.pwrite(b'\x5a' * (2 * MiB), 0)
    client.flush()
    end = path.stat().st_size
    client.trim(2 * MiB, 0)
    assert client.pread(MiB, 0) == bytes(MiB)
    client.pwrite(b'\x77' * (2 * MiB), 0)
    finish(daemon, client)
    assert path.stat().st_size == end
    sound(path)
    io(path, 'read -P 0x77 0 2M')


@pytest.mark.parametrize('options,words', [
    ({'cache-size': 1048576, 'l2-cache-size': 65536, 'refcount-cache-size': 65536}, 'may not be set at the same time'),
    ({'cache-size': 65536, 'l2-cache-size': 131072}, 'l2-cache-size may not exceed cache-size'),
    ({'cache-size': 65536, 'refcount-cache-size': 131072}, 'refcount-cache-size may not exceed cache-size')])
def test_qcow2_cache_options(daemon, tmp, options, words):
    """Combinations that make no sense; small caches work, and unused tables go."""
    path = create(tmp / 'a.qcow2', '-o', 'cluster_size=4k')
    refused(daemon, path, words, **options)
    client = opened(daemon, path, **{'l2-cache-size': 4096, 'refcount-cache-size': 4096, 'cache-clean-interval': 1})
    for at in range(0, SIZE, 64 * KiB):
        client.pwrite(bytes([at >> 16]) * 4096, at)
    for at in range(0, SIZE, 64 * KiB):
        assert client.pread(4096, at) == bytes([at >> 16]) * 4096
    finish(daemon, client)
    sound(path)


# ---- damage ----

def damaged(path):
    """The L2 entry of guest offset 0 points to the refcount table."""
    io(path, 'write -P 1 0 64k', 'flush')
    l1 = number(path, 40)
    l2 = number(path, l1) & 0x00fffffffffffe00
    patch(path, l2, struct.pack('>Q', number(path, 48) | 1 << 63))
    return path


@pytest.mark.parametrize('check', ['constant', 'cached', 'all', {'template': 'none', 'refcount-table': True}])
def test_qcow2_overlap_check(daemon, tmp, check):
    """Guest data never goes where metadata is."""
    path = damaged(create(tmp / 'a.qcow2'))
    before = file_bytes(path, number(path, 48), 64 * KiB)
    client = opened(daemon, path, overlap_check=check)
    with pytest.raises(nbd.Error):
        client.pwrite(b'\xff' * 512, 0)
    finish(daemon, client)
    assert file_bytes(path, number(path, 48), 64 * KiB) == before


def test_qcow2_overlap_check_none(daemon, tmp):
    path = damaged(create(tmp / 'a.qcow2'))
    client = opened(daemon, path, overlap_check='none')
    client.pwrite(b'\xff' * 512, 512)
    client.flush()
    assert file_bytes(path, number(path, 48) + 512, 512) == b'\xff' * 512


def test_qcow2_corrupted_event(daemon, tmp):
    """The first refused write is told, the image marked; it can then be read but not written to."""
    path = damaged(create(tmp / 'a.qcow2'))
    client = opened(daemon, path)
    with pytest.raises(nbd.Error):
        client.pwrite(b'\xff' * 512, 0)
    event = daemon.qmp.event('BLOCK_IMAGE_CORRUPTED')['data']
    assert event['node-name'] == 'n' and event['fatal'] and event['device'] == '' and event['msg']
    with pytest.raises(nbd.Error):
        client.pwrite(b'\xff' * 512, MiB)
    assert client.pread(512, MiB) == bytes(512)
    finish(daemon, client)
    assert number(path, INCOMPATIBLE) & 2


def test_qcow2_corrupt_image(daemon, tmp):
    path = create(tmp / 'a.qcow2')
    patch(path, INCOMPATIBLE, struct.pack('>Q', 2))
    refused(daemon, path, 'corrupt')
    add(daemon, path, read_only=True)


def test_qcow2_x_repair(daemon, tmp):
    """A marked image opens for a repair, and takes no writes."""
    path = create(tmp / 'a.qcow2')
    patch(path, INCOMPATIBLE, struct.pack('>Q', 2))
    client = opened(daemon, path, x_repair=True)
    with pytest.raises(nbd.Error):
        client.pwrite(b'\xff' * 512, 0)
    finish(daemon, client)
    run('build/weir', 'img', 'check', '-r', 'all', str(path), ok=(0,))
    assert not number(path, INCOMPATIBLE) & 2
    sound(path)


# ---- what people are told ----

def test_qcow2_image_info(daemon, start, tmp):
    """The same as the field's daemon says about the same image."""
    create(tmp / 'base.qcow2')
    path = tmp / 'a.qcow2'
    run('qemu-img', 'create', '-q', '-f', 'qcow2', '-b', 'base.qcow2', '-F', 'qcow2', '-o', 'lazy_refcounts=on',
        str(path))
    run('qemu-img', 'snapshot', '-c', 'one', str(path))
    run('qemu-img', 'bitmap', '--add', '-g', '65536', str(path), 'marks')
    peer = start(command=['qemu-storage-daemon'])
    add(peer, path, read_only=True)
    theirs = node(peer)['image']
    add(daemon, path, read_only=True)
    ours = node(daemon)['image']
    for name in ('backing-filename', 'backing-filename-format', 'full-backing-filename', 'cluster-size', 'dirty-flag',
                 'format', 'virtual-size', 'snapshots', 'format-specific'):
        assert ours[name] == theirs[name], name


def test_blockdev_check(daemon, tmp):
    """An image that is in use is judged beside its guests; one with a leak shows it; others are refused."""
    path = create(tmp / 'a.qcow2')
    client = opened(daemon, path)
    client.pwrite(b'\x5a' * MiB, 0)
    daemon.qmp('blockdev-check', {'job-id': 'c', 'node-name': 'n'})
    daemon.qmp.job_wait('c', 'concluded')
    result = daemon.qmp.job('c')['check']
    assert (result['corruptions'], result['leaks'], result['check-errors']) == (0, 0, 0)
    assert result['allocated-clusters'] == 16 and result['total-clusters'] == SIZE // 65536
    daemon.qmp('job-dismiss', id='c')
    leaky = create(tmp / 'b.qcow2')
    table = number(leaky, 48)
    patch(leaky, number(leaky, table) + 2 * 5, struct.pack('>H', 1))
    add(daemon, leaky, node='leaky')
    daemon.qmp('blockdev-check', {'job-id': 'c', 'node-name': 'leaky'})
    daemon.qmp.job_wait('c', 'concluded')
    assert daemon.qmp.job('c')['check']['leaks'] == 1
    with pytest.raises(QmpError) as caught:
        daemon.qmp('blockdev-check', {'job-id': 'd', 'node-name': node(daemon, 'leaky')['children'][0]['node-name']})
    assert 'does not support checks' in caught.value.text
    client.pwrite(b'\x66' * MiB, 2 * MiB)
    finish(daemon, client)
    sound(path)
