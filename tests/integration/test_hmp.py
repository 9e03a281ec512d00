# SPDX-License-Identifier: BSD-2-Clause
"""human-monitor-command: commands of the I/O tool at nodes of a running daemon."""
import threading

import pytest
from weirtest import KiB, MiB, QmpError, fill, file_bytes, nbd_connect, wait_until

SIZE = 8 * MiB


@pytest.fixture
def hmp(daemon, tmp):
    """hmp(node, command, monitor) -> text; the node n is raw over blkdebug d over a file, and exported."""
    path = fill(tmp / 'n.img', SIZE, seed=1)
    daemon.qmp('blockdev-add', {'driver': 'blkdebug', 'node-name': 'd',
                                'image': {'driver': 'file', 'filename': str(path)}})
    daemon.qmp('blockdev-add', {'driver': 'raw', 'node-name': 'n', 'file': 'd'})
    daemon.export('n')

    def run(node, command, monitor=None, flag=''):
        line = f'qemu-io {flag}{node} "{command}"'
        return (monitor or daemon.qmp)('human-monitor-command', {'command-line': line}).replace('\r\n', '\n')
    return run


def test_human_monitor_command(hmp, daemon, tmp):
    assert hmp('n', 'length') == '8 MiB\n'
    text = daemon.qmp('human-monitor-command', {'command-line': 'qemu-io n length', 'cpu-index': 0})
    assert text == '8 MiB\r\n'
    assert hmp('n', 'write -P 7 1M 64k').startswith('wrote 65536/65536 bytes at offset 1048576\n64 KiB, 1 ops; ')
    assert file_bytes(tmp / 'n.img', MiB, 64 * KiB) == b'\x07' * 64 * KiB
    assert hmp('n', 'read -P 7 1M 64k').startswith('read 65536/65536')
    assert 'Pattern verification failed at offset 1048576, 65536 bytes\n' in hmp('n', 'read -P 8 1M 64k', flag='-d ')
    assert hmp('n', 'read 8M 1') == 'read failed: Input/output error\n'
    assert hmp('n', 'info').startswith('format name: raw\n')
    assert 'unshared by block export' in hmp('n', 'truncate 9M')
    daemon.qmp('block-export-del', id='n')
    assert hmp('n', 'truncate 9M') == '' and hmp('n', 'length') == '9 MiB\n'
    assert hmp('n', 'nope') == 'command "nope" not found\n'
    assert hmp('n', 'read') == 'bad argument count 0 to read, expected at least 2 arguments\n'
    for other in ('quit', 'abort', 'sigraise 9', 'open /etc/passwd', 'close'):
        assert hmp('n', other) == f'command "{other.split()[0]}" not found\n'
    daemon.qmp('query-version')


def test_errors(hmp, daemon):
    assert hmp('x', 'length') == "Error: Cannot find device='x' nor node-name='x'\n"
    daemon.qmp('blockdev-add', {'driver': 'null-co', 'node-name': 'r', 'read-only': True})
    assert 'read-only' in hmp('r', 'write 0 4k') and hmp('r', 'read -q 0 4k') == ''
    for line in ('info block', '', 'qemu-io', 'qemu-io n', 'qemu-io n length more', 'drive_add'):
        with pytest.raises(QmpError) as caught:
            daemon.qmp('human-monitor-command', {'command-line': line})
        assert caught.value.error_class == 'GenericError' and 'qemu-io' in caught.value.text


def test_a_guest_is_held(hmp, daemon, tmp):
    """A guest's write waits at a breakpoint while others go on, and is done when it is resumed."""
    guest = nbd_connect(daemon.uri('n'))
    assert hmp('n', 'break write_aio A') == ''
    writer = threading.Thread(target=guest.pwrite, args=(b'\x05' * 4096, 0))
    writer.start()
    assert hmp('n', 'wait_break A') == ''
    assert hmp('n', 'write -qP 6 64k 4k') == ''
    other = daemon.nbd('n')
    assert other.pread(4096, 65536) == b'\x06' * 4096
    assert writer.is_alive() and file_bytes(tmp / 'n.img', 0, 4096) != b'\x05' * 4096
    assert hmp('n', 'resume A') == ''
    writer.join(10)
    assert not writer.is_alive() and file_bytes(tmp / 'n.img', 0, 4096) == b'\x05' * 4096
    assert hmp('n', 'resume A') == 'Could not resume request: No such file or directory\n'


def test_requests_that_go_on(hmp, daemon, tmp):
    """aio_write outlives its command; the node cannot go before it."""
    daemon.qmp('block-export-del', id='n')
    assert hmp('d', 'break write_aio A') == ''
    assert hmp('n', 'aio_write -P 9 0 4k') == ''
    assert hmp('d', 'wait_break A') == ''
    with pytest.raises(QmpError) as caught:
        daemon.qmp('blockdev-del', {'node-name': 'n'})
    assert 'in use' in caught.value.text
    assert hmp('d', 'remove_break A') == 'Could not remove breakpoint A: No such file or directory\n'

    def gone():
        try:
            daemon.qmp('blockdev-del', {'node-name': 'n'})
            return True
        except QmpError:
            return False
    wait_until(gone, 10, 'the request has ended')
    assert file_bytes(tmp / 'n.img', 0, 4096) == b'\x09' * 4096


def test_waits_are_bounded(hmp, daemon):
    """A monitor that waits can be answered from another one, and does not wait for ever."""
    assert hmp('d', 'break read_aio A') == ''
    assert hmp('d', 'break nope A') == 'Could not set breakpoint: No such file or directory\n'
    assert hmp('d', 'wait_break none') == 'Could not wait for breakpoint: No such file or directory\n'
    other = daemon.connect()
    texts = []
    waiter = threading.Thread(target=lambda: texts.append(hmp('d', 'wait_break A', other)))
    waiter.start()
    reader = threading.Thread(target=daemon.nbd('n').pread, args=(4096, 0))
    reader.start()
    waiter.join(10)
    assert texts == ['']
    assert hmp('n', 'write 0 1G') == 'length cannot exceed 67108864 without -n, given 1G\n'
    assert hmp('n', 'aio_read 0 1G') == "Argument '1G' exceeds maximum size 67108864\n"
    assert hmp('d', 'sleep 11000') == '11000 is longer than a command may take\n'
    assert hmp('d', 'resume A') == ''
    reader.join(10)
    assert not reader.is_alive()


def test_quit_lets_go(hmp, daemon):
    """A daemon with held requests ends in good order, and soon."""
    guest = nbd_connect(daemon.uri('n'))
    assert hmp('n', 'break write_aio A') == '' and hmp('n', 'break write_aio B') == ''
    ended = []
    writer = threading.Thread(target=lambda: ended.append(guest.pwrite(bytes(4096), 0)))
    writer.start()
    assert hmp('n', 'wait_break B') == ''
    assert hmp('n', 'aio_write 64k 4k') == ''
    assert hmp('n', 'wait_break A') == ''
    daemon.qmp('quit')
    assert daemon.wait(5) == 0
    writer.join(5)
    assert ended == [None]


def test_a_drain_tells_what_is_held(hmp, daemon):
    """Whoever drains is told within the limit, and the request goes on afterwards."""
    guest = nbd_connect(daemon.uri('n'))
    assert hmp('n', 'break pwritev A') == ''
    writer = threading.Thread(target=guest.pwrite, args=(bytes(4096), 0))
    writer.start()
    assert hmp('n', 'wait_break A') == ''
    daemon.qmp('blockdev-add', {'driver': 'null-co', 'node-name': 't', 'size': SIZE})
    with pytest.raises(QmpError) as caught:
        daemon.qmp('blockdev-mirror', {'job-id': 'j', 'device': 'n', 'target': 't', 'sync': 'full'}, timeout=20)
    assert 'write' in caught.value.text and "export 'n'" in caught.value.text, caught.value.text
    assert hmp('n', 'resume A') == ''
    writer.join(10)
    assert not writer.is_alive()
