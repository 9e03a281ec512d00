# SPDX-License-Identifier: BSD-2-Clause
"""Nodes over NBD servers, and what is done with a client of such a node's export."""
import random

import nbd
import pytest

from weirtest.nbdclient import nbd_connect
from weirtest.qmp import QmpError
from weirtest.tools import KiB, MiB, run

SIZE = 4 * MiB


def address(path):
    return {'type': 'unix', 'path': str(path)}


def add(daemon, path, node='n', **options):
    server = path if isinstance(path, dict) else address(path)
    daemon.qmp('blockdev-add', dict({'driver': 'nbd', 'node-name': node, 'server': server, 'discard': 'unmap'},
                                    **{k.replace('_', '-'): v for k, v in options.items()}))


def refused(daemon, path, **options):
    with pytest.raises(QmpError) as caught:
        add(daemon, path, **options)
    assert caught.value.error_class == 'GenericError'
    return caught.value.text


def opened(daemon, path, node='n', writable=True, **options):
    """A client of our export of a node over the server's."""
    add(daemon, path, node, **options)
    return nbd_connect(daemon.export(node, writable=writable), strict=False)


def gone(daemon, node='n'):
    daemon.qmp('block-export-del', id=node, mode='hard')
    daemon.qmp.event('BLOCK_EXPORT_DELETED', id=node)
    daemon.qmp('blockdev-del', node_name=node)


def fails(number, call, *args):
    with pytest.raises(nbd.Error) as caught:
        call(*args)
    assert caught.value.errnum == number, caught.value


def extents(handle, offset=0, length=SIZE):
    found = []
    handle.block_status(length, offset, lambda _context, at, entries, _error: found.extend(
        zip(entries[0::2], entries[1::2])) or 0)
    return found


def exercise(handle, size=SIZE, rounds=200, align=1, seed=1):
    """Random requests against a shadow; the whole disk is compared in the end."""
    rnd = random.Random(seed)
    shadow = bytearray(handle.pread(size, 0))
    for _ in range(rounds):
        offset = rnd.randrange(size // align) * align
        length = min(rnd.randrange(1, 300 * KiB // align) * align, size - offset)
        kind = rnd.randrange(5)
        if kind == 0:
            shadow[offset:offset + length] = data = rnd.randbytes(length)
            handle.pwrite(data, offset, nbd.CMD_FLAG_FUA if rnd.randrange(2) else 0)
        elif kind == 1:
            shadow[offset:offset + length] = bytes(length)
            handle.zero(length, offset, rnd.choice((0, nbd.CMD_FLAG_NO_HOLE)))
        elif kind == 2:
            handle.trim(length, offset)
            shadow[offset:offset + length] = handle.pread(length, offset)
        elif kind == 3:
            assert handle.pread(length, offset) == shadow[offset:offset + length]
        else:
            handle.flush()
    assert handle.pread(size, 0) == shadow
    return bytes(shadow)


def many(handle, count, size=SIZE):
    """So many requests at a time, each on a block of its own, twice; compared."""
    written = {i: bytes([i % 251 + 1]) * 4096 for i in range(min(count, size // 4096))}
    finish(handle, [handle.aio_pwrite(nbd.Buffer.from_bytearray(bytearray(data)), i * 4096)
                    for i, data in written.items()])
    buffers = {i: nbd.Buffer(4096) for i in written}
    finish(handle, [handle.aio_pread(buffer, i * 4096) for i, buffer in buffers.items()])
    for i, data in written.items():
        assert buffers[i].to_bytearray() == data


def finish(handle, cookies):
    for cookie in cookies:
        while not handle.aio_command_completed(cookie):
            handle.poll(-1)


def clients_of(pid, path):
    """Connections that the server holds on its socket."""
    return sum(str(path) in line and f'pid={pid},' in line for line in run('ss', '-Hxnp').splitlines()
               if 'ESTAB' in line)
