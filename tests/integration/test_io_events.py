# SPDX-License-Identifier: BSD-2-Clause
"""Each event of blkdebug happens where its name says: a request is held there, or fails there, and nothing is lost."""
import pytest
from weirtest import KiB, MiB
from weirtest.io import IoPair, commands

SIZE = 8 * MiB
QCOW2 = 'driver=qcow2,file.driver=blkdebug,file.image.driver=file,file.image.filename=t.qcow2'
RAW = 'driver=raw,file.driver=blkdebug,file.image.driver=file,file.image.filename=t.raw'


@pytest.fixture
def pair(tmp):
    both = IoPair(tmp)
    both.file('t.raw', SIZE, (0, b'\x11' * 64 * KiB))
    both.file('base.raw', SIZE, (0, b'\x22' * MiB))
    return both


def make(pair, kind):
    """Images by kind; the first cluster of "used", "shared" and "stored" holds data."""
    options = {'small': ['-o', 'cluster_size=512'], 'backed': ['-b', 'base.raw', '-F', 'raw']}.get(kind, [])
    pair.peer('create', '-q', '-f', 'qcow2', *options, 't.qcow2', 16 * MiB if kind == 'small' else SIZE)
    if kind in ('used', 'shared', 'stored'):
        pair.qemu_io('t.qcow2', f'write {"-c" if kind == "stored" else ""} -P 1 0 64k')
    if kind == 'shared':
        pair.peer('snapshot', '-c', 's', 't.qcow2')


HELD = [
    ('l1_update', 'new', 'aio_write 0 64k'),
    ('l2_load', 'used', 'aio_read 0 4k'),
    ('l2_update', 'used', 'aio_write 64k 64k'),
    ('l2_alloc_write', 'new', 'aio_write 0 64k'),
    ('l2_alloc_cow_read', 'shared', 'aio_write 0 4k'),
    ('read_aio', 'used', 'aio_read 0 4k'),
    ('read_backing_aio', 'backed', 'aio_read 0 4k'),
    ('read_compressed', 'stored', 'aio_read 0 4k'),
    ('write_aio', 'used', 'aio_write 0 4k'),
    ('cow_read', 'backed', 'aio_write 4k 4k'),
    ('cow_write', 'backed', 'aio_write 4k 4k'),
    ('reftable_update', 'small', 'aio_write 0 256k'),
    ('reftable_grow', 'small', 'aio_write 0 12M'),
    ('refblock_load', 'used', 'aio_write 64k 4k'),
    ('refblock_update', 'used', 'aio_write 64k 4k'),
    ('refblock_update_part', 'used', 'aio_write 64k 4k'),
    ('refblock_alloc', 'small', 'aio_write 0 256k'),
    ('refblock_alloc_hookup', 'small', 'aio_write 0 256k'),
    ('refblock_alloc_write', 'small', 'aio_write 0 256k'),
    ('refblock_alloc_write_blocks', 'small', 'aio_write 0 12M'),
    ('refblock_alloc_write_table', 'small', 'aio_write 0 12M'),
    ('refblock_alloc_switch_table', 'small', 'aio_write 0 12M'),
    ('cluster_alloc', 'new', 'aio_write 0 64k'),
    ('cluster_free', 'used', 'aio_write -zu 0 64k'),
    ('flush_to_os', 'used', 'aio_write 0 4k'),
    ('flush_to_disk', 'used', 'aio_write 0 4k'),
    ('pwritev', 'used', 'aio_write 0 4k'),
    ('pwritev_done', 'used', 'aio_write 0 4k'),
    ('pwritev_zero', None, 'aio_write -z 0 64k'),
    ('pwritev_rmw_head', None, 'aio_write 100 5000'),
    ('pwritev_rmw_after_head', None, 'aio_write 100 5000'),
    ('pwritev_rmw_tail', None, 'aio_write 100 5000'),
    ('pwritev_rmw_after_tail', None, 'aio_write 100 5000'),
]


@pytest.mark.parametrize('event, kind, command', HELD, ids=[row[0] for row in HELD])
def test_held_at(pair, event, kind, command):
    """Whoever comes by is held, and goes on as if nothing had been."""
    if kind:
        make(pair, kind)
    image = QCOW2 if kind else RAW + ',file.align=4096'
    lines = [f'break {event} A', command, 'wait_break A', 'resume A', 'aio_flush']
    status, out, err = pair.io('--image-opts', *commands(*lines), image)
    assert (status, err) == (0, '') and "Suspended request 'A'" in out and 'failed' not in out, out
    if kind:
        pair.sound('t.qcow2')


FAILED = [
    ('l2_update_compressed', 'new', 'write -c 0 64k'),
    ('write_compressed', 'new', 'write -c 0 64k'),
    ('cluster_alloc_bytes', 'new', 'write -c 0 64k'),
    ('l1_grow_alloc_table', 'small', 'truncate 64M'),
    ('l1_grow_write_table', 'small', 'truncate 64M'),
    ('l1_grow_activate_table', 'small', 'truncate 64M'),
    ('l1_shrink_free_l2_clusters', 'used', 'truncate 32k'),
    ('l1_shrink_write_table', 'used', 'truncate 32k'),
    ('cluster_alloc', 'new', 'write 0 64k'),
    ('refblock_alloc_write_table', 'small', 'write 0 12M'),
    ('l2_alloc_cow_read', 'shared', 'write 0 4k'),
]


@pytest.mark.parametrize('event, kind, command', FAILED, ids=[row[0] for row in FAILED])
def test_failed_at(pair, event, kind, command):
    """What is under way fails, the image stays sound, and the same works the next time."""
    make(pair, kind)
    rule = f',file.inject-error.0.event={event},file.inject-error.0.once=on'
    status, out, err = pair.io('--image-opts', *commands(command), QCOW2 + rule)
    assert status == 1 and 'Input/output error' in out + err, (out, err)
    pair.sound('t.qcow2')
    assert pair.io('-f', 'qcow2', *commands(command), 't.qcow2')[0] == 0
    pair.sound('t.qcow2')


def test_failed_at_the_opening(pair):
    make(pair, 'used')
    rule = ',file.inject-error.0.event=reftable_load'
    pair.same_io('--image-opts', *commands('length'), QCOW2 + rule, status=1)
