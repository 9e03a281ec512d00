# SPDX-License-Identifier: BSD-2-Clause
"""drive-mirror: a mirror to a file, which is made or is there."""
import json
import os

import pytest

from weirtest import KiB, MiB, file_bytes, fill, is_peer, nbd_connect, run
from weirtest.mirror import SIZE, error_text, exported, ready, soft_cancel
from weirtest.qcow2 import sound

pytestmark = pytest.mark.skipif(is_peer(), reason='its errors and node names differ')


@pytest.fixture
def disk(daemon, tmp):
    """A daemon with the exported node n."""
    daemon.add_file('n', fill(tmp / 'n.img', SIZE, seed=1))
    daemon.export('n')
    return daemon


def drive_mirror(daemon, target, **options):
    arguments = {'job-id': 'j', 'device': 'n', 'target': str(target), 'sync': 'full'}
    arguments.update({key.replace('_', '-'): value for key, value in options.items()})
    daemon.qmp('drive-mirror', arguments)


def nodes(daemon):
    return {n['node-name'] for n in daemon.qmp('query-named-block-nodes')}


def info(path):
    return json.loads(run('qemu-img', 'info', '--output=json', path))


@pytest.mark.parametrize('end', ['job-complete', 'soft cancel'])
def test_drive_mirror(disk, tmp, end):
    """A new file of the source's format; its node stays if it is used and goes if it is not."""
    handle = disk.nbd('n')
    before = nodes(disk)
    drive_mirror(disk, tmp / 'new.img', node_name='new')
    ready(disk)
    handle.pwrite(b'new' * 1000, 12345)
    if end == 'soft cancel':
        soft_cancel(disk)
        assert nodes(disk) == before and exported(disk) == 'n'
    else:
        disk.qmp('job-complete', id='j')
        disk.qmp.job_wait('j', 'null')
        assert exported(disk) == 'new' and handle.pread(3000, 12345) == b'new' * 1000
        disk.qmp('blockdev-del', node_name='n')
        disk.qmp('block-export-del', id='n', mode='hard')
        disk.qmp.event('BLOCK_EXPORT_DELETED', id='n')
        assert not nodes(disk)
    run('cmp', tmp / 'n.img', tmp / 'new.img')


@pytest.mark.parametrize('fmt', ['raw', 'qcow2'])
def test_drive_mirror_formats(disk, tmp, fmt):
    """The format that is asked for, whatever the source's is."""
    drive_mirror(disk, tmp / 'new', format=fmt)
    ready(disk)
    soft_cancel(disk)
    assert info(tmp / 'new')['format'] == fmt
    run('qemu-img', 'compare', '-f', 'raw', '-F', fmt, tmp / 'n.img', tmp / 'new')
    if fmt == 'qcow2':
        sound(tmp / 'new')


@pytest.mark.parametrize('fmt', [None, 'raw'])
def test_drive_mirror_sync_top(daemon, tmp, fmt):
    """The copy of an overlay is an overlay of the same image, and holds only what the overlay held."""
    base = fill(tmp / 'base.img', SIZE)
    run('qemu-img', 'create', '-q', '-f', 'qcow2', '-b', base, '-F', 'raw', tmp / 'n.qcow2')
    run('qemu-io', '-f', 'qcow2', '-c', 'write -P 7 1M 64k', tmp / 'n.qcow2')
    daemon.qmp('blockdev-add', {'driver': 'qcow2', 'node-name': 'n',
                                'file': {'driver': 'file', 'filename': str(tmp / 'n.qcow2')}})
    handle = nbd_connect(daemon.export('n'))
    if fmt:
        assert 'backing file' in error_text(drive_mirror, daemon, tmp / 'new', sync='top', format=fmt)
        assert not os.path.exists(tmp / 'new')
        return
    drive_mirror(daemon, tmp / 'new', sync='top')
    ready(daemon)
    handle.pwrite(b'x' * 100, 3 * MiB + 5)
    daemon.qmp('job-complete', id='j')
    daemon.qmp.job_wait('j', 'null')
    assert handle.pread(SIZE, 0)[3 * MiB:3 * MiB + 65536] == (
        file_bytes(base, 3 * MiB, 5) + b'x' * 100 + file_bytes(base, 3 * MiB + 105, 65536 - 105))
    handle.shutdown()
    daemon.stop()
    assert info(tmp / 'new')['backing-filename'] == base
    assert os.path.getsize(tmp / 'new') < MiB
    run('qemu-img', 'compare', '-f', 'qcow2', '-F', 'qcow2', tmp / 'n.qcow2', tmp / 'new', ok=(0,))
    sound(tmp / 'new')


def test_drive_mirror_existing(disk, tmp):
    """A file that is there is used as it is, in the format that is named; the size must be right."""
    run('qemu-img', 'create', '-q', '-f', 'qcow2', '-o', 'cluster_size=4k', tmp / 'new', SIZE)
    text = error_text(drive_mirror, disk, tmp / 'new', mode='existing')
    assert text == "Parameter 'format' is missing: that of an existing image is not guessed"
    drive_mirror(disk, tmp / 'new', mode='existing', format='qcow2')
    ready(disk)
    soft_cancel(disk)
    assert info(tmp / 'new')['cluster-size'] == 4 * KiB
    run('qemu-img', 'compare', '-f', 'raw', '-F', 'qcow2', tmp / 'n.img', tmp / 'new')
    fill(tmp / 'small', SIZE // 2)
    drive_mirror(disk, tmp / 'small', mode='existing', format='raw')
    assert disk.qmp.event('BLOCK_JOB_COMPLETED')['data']['error'] == 'Source and target image have different sizes'


def test_drive_mirror_errors(disk, tmp):
    """Each names what was wrong, and leaves no job and no node behind."""
    before = nodes(disk)
    assert str(tmp / 'no/dir') in error_text(drive_mirror, disk, tmp / 'no/dir')
    assert str(tmp / 'none') in error_text(drive_mirror, disk, tmp / 'none', mode='existing', format='raw')
    assert "'vmdk'" in error_text(drive_mirror, disk, tmp / 'new', format='vmdk')
    assert 'mode=existing' in error_text(drive_mirror, disk, tmp / 'new', sync='none')
    assert "Duplicate nodes with node-name='n'" in error_text(drive_mirror, disk, tmp / 'new', node_name='n')
    assert 'lock' in error_text(drive_mirror, disk, tmp / 'n.img', mode='existing', format='raw')
    assert 'nope' in error_text(drive_mirror, disk, tmp / 'new', device='nope')
    assert error_text(drive_mirror, disk, tmp / 'new', buf_size=-1) == "Invalid parameter 'buf-size'"
    assert nodes(disk) == before and not disk.qmp('query-jobs')


@pytest.mark.parametrize('unmap', [True, False])
def test_drive_mirror_unmap(daemon, tmp, unmap):
    """Zeroes become holes of the target, or space that is kept."""
    daemon.add_file('n', fill(tmp / 'n.img', SIZE, seed=1), discard='unmap')
    handle = nbd_connect(daemon.export('n'))
    drive_mirror(daemon, tmp / 'new.img', unmap=unmap)
    ready(daemon)
    handle.trim(4 * MiB, 0)
    soft_cancel(daemon)
    run('cmp', tmp / 'n.img', tmp / 'new.img')
    used = os.stat(tmp / 'new.img').st_blocks * 512
    assert used <= SIZE - 4 * MiB + 64 * KiB if unmap else used >= SIZE
