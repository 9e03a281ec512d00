# SPDX-License-Identifier: BSD-2-Clause
"""Drivers: file and host_device, null-co, raw, blkdebug, and what each of their options does."""
import contextlib
import errno
import os
import subprocess
import time

import nbd
import pytest

from weirtest import KiB, MiB, QmpError, file_bytes, fill, is_peer, nbd_connect, run

SIZE = 4 * MiB


@pytest.fixture
def image(tmp):
    return fill(tmp / 'disk.img', SIZE)


def error_text(call, *args, **options):
    with pytest.raises(QmpError) as caught:
        call(*args, **options)
    assert caught.value.error_class == 'GenericError'
    return caught.value.text


def add(daemon, driver, node='n', **options):
    daemon.qmp('blockdev-add', dict({'driver': driver, 'node-name': node},
                                    **{k.replace('_', '-'): v for k, v in options.items()}))


def opened(daemon, driver, node='n', writable=True, structured=True, **options):
    """A client of an export of such a node."""
    add(daemon, driver, node, **options)
    # The peer drops clients when a structured read fails.
    return nbd_connect(daemon.export(node, writable=writable), structured=structured or not is_peer(), strict=False)


def fails(number, call, *args):
    with pytest.raises(nbd.Error) as caught:
        call(*args)
    assert caught.value.errnum == number, caught.value
    return True


@contextlib.contextmanager
def loop_device(path):
    device = run('losetup', '--find', '--show', path).strip()
    try:
        yield device
    finally:
        subprocess.run(['losetup', '--detach', device], check=False)


# ---- which there are ----

def test_drivers(daemon, image):
    """Each of them opens, is named in the query, and serves reads and writes."""
    daemon.qmp('object-add', {'qom-type': 'throttle-group', 'id': 'g'})
    add(daemon, 'file', 'file', filename=image)
    add(daemon, 'null-co', 'null', read_zeroes=True, size=SIZE)
    add(daemon, 'raw', 'raw', file='file')
    add(daemon, 'throttle', 'throttle', throttle_group='g', file='raw')
    add(daemon, 'blkdebug', 'blkdebug', image='throttle')
    drivers = {n['node-name']: n['drv'] for n in daemon.qmp('query-named-block-nodes')}
    assert drivers == {'file': 'file', 'null': 'null-co', 'raw': 'raw', 'throttle': 'throttle', 'blkdebug': 'blkdebug'}
    handle = nbd_connect(daemon.export('blkdebug'))
    handle.pwrite(b'through' * 100, 1000)
    assert handle.pread(700, 1000) == b'through' * 100 == file_bytes(image, 1000, 700)
    handle.zero(4096, 0)
    handle.trim(4096, 8192)
    handle.flush()
    assert handle.pread(4096, 0) == bytes(4096)


def test_host_device(daemon, image):
    """A block device: its size, its data, and zeroes and discards that reach it."""
    with loop_device(image) as device:
        assert image in error_text(add, daemon, 'host_device', filename=image)
        handle = opened(daemon, 'host_device', filename=device, discard='unmap', cache={'direct': True})
        assert handle.get_size() == SIZE
        handle.pwrite(b'd' * 4096, 12288)
        before = os.stat(image).st_blocks
        handle.trim(MiB, MiB)
        handle.flush()
        assert handle.pread(4096, 12288) == b'd' * 4096 == file_bytes(image, 12288, 4096)
        assert os.stat(image).st_blocks < before
        handle.shutdown()
        daemon.qmp('block-export-del', id='n', mode='hard')
        daemon.qmp.event('BLOCK_EXPORT_DELETED', id='n')
        daemon.qmp('blockdev-del', node_name='n')


# ---- file ----

def test_file_options(daemon, image, tmp):
    """The file is found by its path, whatever is in its name, and not by anything else."""
    strange = tmp / 'json:{"a": "b"},=% \t ünïcode'
    os.link(image, strange)
    os.symlink(strange, tmp / 'link')
    add(daemon, 'file', 'a', filename=str(strange), read_only=True)
    add(daemon, 'file', 'b', filename=str(tmp / 'link'), read_only=True)
    for node in 'ab':
        assert nbd_connect(daemon.export(node, writable=False)).pread(512, 512) == file_bytes(image, 512, 512)
    for wrong in ('', str(tmp), str(tmp / 'missing'), image + '/below'):
        assert wrong in error_text(add, daemon, 'file', filename=wrong)


def test_file_with_a_size_between_sectors(daemon, tmp):
    """A file that ends within a sector: every byte that is there can be read, and a guest sees whole sectors."""
    path = fill(tmp / 'odd.img', 10000)
    handle = opened(daemon, 'file', filename=path, writable=False)
    size = handle.get_size()
    assert size in (10000, 10240)
    assert handle.pread(10000, 0) == file_bytes(path, 0, 10000)
    assert handle.pread(size - 9999, 9999)[:1] == file_bytes(path, 9999, 1)


@pytest.mark.parametrize('aio', ['threads', 'native', 'io_uring', None])
@pytest.mark.parametrize('direct', [False, True])
def test_file_aio(daemon, image, aio, direct):
    """Whatever way of I/O is asked for works, with many requests at once; native only without the page cache."""
    options = dict({'aio': aio} if aio else {}, filename=image, cache={'direct': direct})
    if aio == 'native' and not direct:
        text = error_text(add, daemon, 'file', **options)
        assert text == 'aio=native was specified, but it requires cache.direct=on, which was not specified.'
        return
    handle = opened(daemon, 'file', **options)
    data = [bytes([i]) * 4096 for i in range(64)]
    cookies = [handle.aio_pwrite(nbd.Buffer.from_bytearray(bytearray(d)), i * 8192) for i, d in enumerate(data)]
    while handle.aio_in_flight():
        handle.poll(1000)
    assert all(handle.aio_command_completed(c) for c in cookies)
    for i, d in enumerate(data):
        assert handle.pread(4096, i * 8192) == d == file_bytes(image, i * 8192, 4096)
    handle.flush()


# ---- null-co ----

def test_null_co(daemon):
    """Takes everything, keeps nothing."""
    handle = opened(daemon, 'null-co', read_zeroes=True)
    handle.pwrite(b'x' * 4096, 0)
    handle.zero(4096, 0)
    handle.trim(4096, 0)
    handle.flush()
    assert handle.pread(4096, 0) == bytes(4096)


def test_null_co_size(daemon):
    assert opened(daemon, 'null-co').get_size() == 1 << 30
    assert opened(daemon, 'null-co', 'm', size=SIZE + 512).get_size() == SIZE + 512
    handle = opened(daemon, 'null-co', 'big', size=1 << 60, read_zeroes=True)
    assert handle.get_size() == 1 << 60 and handle.pread(512, (1 << 60) - 512) == bytes(512)
    assert opened(daemon, 'null-co', 'none', size=0).get_size() == 0


def test_null_co_read_zeroes(daemon):
    """Zeroes when asked for; and then the map says so."""
    handle = opened(daemon, 'null-co', size=MiB, read_zeroes=True)
    assert handle.pread(MiB, 0) == bytes(MiB)
    entries = []
    handle.block_status(MiB, 0, lambda context, offset, extents, error: entries.extend(extents) or 0)
    assert entries[1] & nbd.STATE_ZERO
    handle = opened(daemon, 'null-co', 'm', size=MiB)
    entries.clear()
    handle.block_status(MiB, 0, lambda context, offset, extents, error: entries.extend(extents) or 0)
    assert not entries[1] & nbd.STATE_ZERO


def test_null_co_latency(daemon):
    """Each request takes as long as that, and those at the same time no longer."""
    handle = opened(daemon, 'null-co', latency_ns=100 * 1000 * 1000, size=MiB)
    begin = time.monotonic()
    handle.pread(512, 0)
    handle.pwrite(b'x' * 512, 0)
    assert 0.2 <= time.monotonic() - begin < 1
    begin = time.monotonic()
    for _ in range(16):
        handle.aio_pread(nbd.Buffer(512), 0)
    while handle.aio_in_flight():
        handle.poll(1000)
    assert 0.1 <= time.monotonic() - begin < 0.9
    assert error_text(add, daemon, 'null-co', 'x', latency_ns=-1)


# ---- raw ----

def test_raw_offset_size(daemon, image):
    """A window of the child: its size, its data, and nothing outside of it."""
    for node, options, offset, size in (('a', {'offset': MiB}, MiB, SIZE - MiB), ('b', {'size': MiB}, 0, MiB),
                                        ('c', {'offset': 512, 'size': 1024}, 512, 1024), ('d', {}, 0, SIZE),
                                        ('e', {'offset': SIZE}, SIZE, 0)):
        add(daemon, 'file', node + '0', filename=image, locking='off')
        handle = opened(daemon, 'raw', node, file=node + '0', **options)
        assert handle.get_size() == size
        if size:
            assert handle.pread(size, 0) == file_bytes(image, offset, size)
            handle.pwrite(b'w' * 512, size - 512)
            assert file_bytes(image, offset + size - 512, 512) == b'w' * 512
            fails(errno.EINVAL, nbd_connect(daemon.uri(node), strict=False).pread, 512, size)
    assert os.path.getsize(image) == SIZE


def test_raw_window_is_a_fence(daemon, image):
    """Writes, zeroes and discards of the whole window leave every byte outside as it was."""
    before, after = file_bytes(image, 0, MiB), file_bytes(image, 2 * MiB, 2 * MiB)
    handle = opened(daemon, 'raw', file={'driver': 'file', 'filename': image, 'discard': 'unmap'}, offset=MiB,
                    size=MiB, discard='unmap')
    for change in (lambda: handle.pwrite(b'w' * MiB, 0), lambda: handle.zero(MiB, 0), lambda: handle.trim(MiB, 0)):
        change()
        handle.flush()
        assert file_bytes(image, 0, MiB) == before and file_bytes(image, 2 * MiB, 2 * MiB) == after


def test_raw_wrong_windows(daemon, image):
    add(daemon, 'file', 'f', filename=image)
    for options in ({'offset': SIZE + 512}, {'size': SIZE + 512}, {'offset': SIZE - 512, 'size': 1024},
                    {'offset': -512}, {'size': -1}, {'offset': 1 << 62, 'size': 1 << 62}):
        with pytest.raises(QmpError):
            add(daemon, 'raw', file='f', **options)
    assert {n['node-name'] for n in daemon.qmp('query-named-block-nodes')} == {'f'}


def test_raw_block_status(daemon, tmp):
    """The map of a window is the map of the part below it."""
    path = tmp / 'sparse.img'
    with open(path, 'wb') as file:
        file.truncate(SIZE)
        os.pwrite(file.fileno(), b'x' * MiB, 2 * MiB)
    handle = opened(daemon, 'raw', file={'driver': 'file', 'filename': str(path)}, offset=MiB, size=2 * MiB)
    entries = []
    handle.block_status(2 * MiB, 0, lambda context, offset, extents, error: entries.extend(extents) or 0)
    assert entries == [MiB, nbd.STATE_HOLE | nbd.STATE_ZERO, MiB, 0]


# ---- blkdebug ----

def blkdebug(daemon, *rules, node='n', image=None, **options):
    errors = [{k.replace('_', '-'): v for k, v in r.items()} for r in rules]
    return opened(daemon, 'blkdebug', node, structured=False, inject_error=errors,
                  image=image or {'driver': 'file', 'filename': fill(daemon.directory / f'{node}.img', SIZE),
                                  'discard': 'unmap'},
                  discard='unmap', **options)


def test_blkdebug_inject_error(daemon, image):
    """The error that was asked for, and nothing reaches the image."""
    handle = blkdebug(daemon, {'event': 'none', 'iotype': 'write', 'errno': 28},
                      image={'driver': 'file', 'filename': image})
    old = file_bytes(image, 0, 4096)
    fails(errno.ENOSPC, handle.pwrite, b'x' * 4096, 0)
    assert file_bytes(image, 0, 4096) == old == handle.pread(4096, 0)
    handle = blkdebug(daemon, {'event': 'none', 'iotype': 'read'}, node='m')
    fails(errno.EIO, handle.pread, 512, 0)
    add(daemon, 'blkdebug', 'none', image='n')  # without rules it only passes on
    assert nbd_connect(daemon.export('none')).pread(512, 512) == file_bytes(image, 512, 512)


def test_blkdebug_iotype(daemon):
    """A rule hits the kind of request that it names."""
    calls = {'read': lambda h: h.pread(4096, 0), 'write': lambda h: h.pwrite(b'x' * 4096, 0),
             'write-zeroes': lambda h: h.zero(4096, 0), 'discard': lambda h: h.trim(4096, 0),
              'flush': lambda h: h.flush()}
    for number, iotype in enumerate(calls):
        handle = blkdebug(daemon, {'event': 'none', 'iotype': iotype}, node=f'n{number}')
        for kind in ('write', 'read', 'write-zeroes', 'discard', 'flush'):
            if kind == iotype:
                fails(errno.EIO, calls[kind], handle)
            elif not (iotype == 'write' and kind == 'flush' and is_peer()):
                calls[kind](handle)
    error_text(add, daemon, 'blkdebug', 'x', image='n0', inject_error=[{'event': 'none', 'iotype': 'nap'}])


@pytest.mark.skipif(is_peer(), reason='drops the client')
def test_blkdebug_block_status(daemon):
    """A question where data is can fail, too."""
    handle = blkdebug(daemon, {'event': 'none', 'iotype': 'block-status'})
    fails(errno.EIO, handle.block_status, MiB, 0, lambda *_: 0)
    assert handle.pread(512, 0) != bytes(512)


def test_blkdebug_sector(daemon):
    """Only requests that touch the sector, whatever their size."""
    handle = blkdebug(daemon, {'event': 'none', 'iotype': 'read', 'sector': 16})
    for offset, length, bad in ((0, 8192, False), (8192, 512, True), (0, 8193, True), (8191, 2, True),
                                (8704, 4096, False), (0, MiB, True)):
        if bad:
            fails(errno.EIO, handle.pread, length, offset)
        else:
            handle.pread(length, offset)


def test_blkdebug_once(daemon):
    """The first time only; without it, every time."""
    handle = blkdebug(daemon, {'event': 'none', 'iotype': 'read', 'once': True})
    fails(errno.EIO, handle.pread, 512, 0)
    for _ in range(3):
        handle.pread(512, 0)
    handle = blkdebug(daemon, {'event': 'none', 'iotype': 'read', 'once': False}, node='m')
    for _ in range(3):
        fails(errno.EIO, handle.pread, 512, 0)
    rules = [{'event': 'none', 'iotype': 'read', 'once': True, 'errno': n} for n in (28, 1)]
    handle = blkdebug(daemon, *rules, node='two')
    assert sorted(fails_with(handle.pread, 512, 0) for _ in range(2)) == [errno.EPERM, errno.ENOSPC]
    handle.pread(512, 0)


def fails_with(call, *args):
    with pytest.raises(nbd.Error) as caught:
        call(*args)
    return caught.value.errnum


# Requests: r read, w write, z write-zeroes, f flush; capitals fail.
EVENTS = [
    ('pwritev', 'read', 'rwRwR'), ('pwritev', 'write', 'rWrW'), ('pwritev_done', 'write', 'wWrW'),
    ('pwritev_done', 'read', 'rwR'), ('write_aio', 'read', 'rwR'), ('write_aio', 'write', 'rW'),
    ('read_aio', 'read', 'wRwR'), ('read_aio', 'write', 'wrW'), ('flush_to_disk', 'read', 'rwfR'),
    ('flush_to_disk', 'write', 'wfW'), ('flush_to_os', 'write', 'wfW'), ('pwritev_zero', 'read', 'wrzR'),
    ('pwritev_zero', 'write', 'wzW'), ('none', 'read', 'wR'),
]


@pytest.mark.parametrize('event, iotype, requests', EVENTS)
def test_blkdebug_events(daemon, event, iotype, requests):
    """A rule is armed by its event, and from then on fails what it matches."""
    blkdebug(daemon, {'event': event, 'iotype': iotype}).shutdown()
    handle = opened(daemon, 'raw', 'r', structured=False, file='n')
    calls = {'r': lambda: handle.pread(512, 0), 'w': lambda: handle.pwrite(b'x' * 512, 0),
             'z': lambda: handle.zero(4096, 0), 'f': handle.flush}
    for request in requests:
        if request.islower():
            calls[request]()
        else:
            fails(errno.EIO, calls[request.lower()])


def test_blkdebug_unknown_event(daemon):
    add(daemon, 'null-co', 'z', size=SIZE)
    text = error_text(add, daemon, 'blkdebug', 'x', image='z', inject_error=[{'event': 'lunch'}])
    assert "does not accept value 'lunch'" in text


def test_blkdebug_immediately(daemon):
    """Accepted with either value; the request fails in both cases."""
    for node, value in (('a', True), ('b', False)):
        handle = blkdebug(daemon, {'event': 'none', 'iotype': 'write', 'immediately': value}, node=node)
        fails(errno.EIO, handle.pwrite, b'x' * 512, 0)


@pytest.mark.parametrize('align', [512, 4096, 64 * KiB])
def test_blkdebug_align(daemon, image, align):
    """Below the node requests have that alignment: a rule for one sector hits all that share its block."""
    handle = blkdebug(daemon, {'event': 'none', 'iotype': 'read', 'sector': align // 512 - 1}, align=align,
                      image={'driver': 'file', 'filename': image})
    fails(errno.EIO, handle.pread, 1, 0) if align > 512 else handle.pread(1, align)
    assert handle.pread(513, align + 1) == file_bytes(image, align + 1, 513)
    expected = bytearray(file_bytes(image, 0, SIZE))
    for offset, length in ((align, 1), (2 * align - 1, 2), (3 * align + 5, 2 * align), (SIZE - 3, 3)):
        handle.pwrite(b'a' * length, offset)
        expected[offset:offset + length] = b'a' * length
    assert file_bytes(image, 0, SIZE) == expected


def test_blkdebug_wrong_align(daemon):
    add(daemon, 'null-co', 'z', size=SIZE)
    for align in (3, 513, -1, 1000):
        error_text(add, daemon, 'blkdebug', 'x', image='z', align=align)


def test_error_reaches_every_client(daemon):
    """An injected error is the answer to the request that failed, and to no other."""
    handle = blkdebug(daemon, {'event': 'none', 'iotype': 'read', 'sector': 8})
    results = {}

    def done(number):
        def callback(error):
            results[number] = error.value
            return 1
        return callback
    for number in range(64):
        handle.aio_pread(nbd.Buffer(512), number % 16 * 512, completion=done(number))
    while handle.aio_in_flight():
        handle.poll(1000)
    assert results == {n: errno.EIO if n % 16 == 8 else 0 for n in range(64)}
    assert handle.pread(512, 0) == file_bytes(daemon.directory / 'n.img', 0, 512)
