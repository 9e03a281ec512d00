# SPDX-License-Identifier: BSD-2-Clause
"""Image locks: two daemons, and qemu's tools beside a daemon, exclude each other exactly as two QEMU processes do.

Each pair of users of one image is tried with two qemu-storage-daemons first; the outcome with ours on either
side, or on both, must be the same. One exception, on purpose: our mirror does not share its source with another
writer, whose writes it would not see (docs/compat.md).
"""
import fcntl
import os
import struct
import subprocess

import pytest

from weirtest import MiB, QmpError, fill, is_peer

PEER = ['qemu-storage-daemon']
# Bytes of the file that carry the locks: a permission held, and one that is not shared with others.
HELD, UNSHARED = 100, 200
CONSISTENT_READ, WRITE, WRITE_UNCHANGED, RESIZE = range(4)


def locked_bytes(path):
    """Which of the lock bytes somebody else holds (a test for a write lock, byte by byte)."""
    fd = os.open(path, os.O_RDWR)
    try:
        return {i for base in (HELD, UNSHARED) for i in range(base, base + 4) if holder(fd, i) != fcntl.F_UNLCK}
    finally:
        os.close(fd)


def holder(fd, byte):
    request = struct.pack('hhqqi4x', fcntl.F_WRLCK, os.SEEK_SET, byte, 1, 0)
    return struct.unpack('hhqqi4x', fcntl.fcntl(fd, fcntl.F_OFD_GETLK, request))[0]


@pytest.fixture
def image(tmp):
    return fill(tmp / 'disk.img', MiB)


# ---- ways to use an image in a daemon; each either works or raises QmpError ----

def use_node(daemon, image):
    daemon.add_file('n', image)


def use_read_only_node(daemon, image):
    daemon.add_file('n', image, read_only=True)


def use_auto_read_only(daemon, image):
    daemon.add_file('n', image, read_only=True, auto_read_only=True)


def use_reader(daemon, image):
    daemon.add_file('n', image, read_only=True)
    daemon.export('n', writable=False)


def use_reader_of_writable_node(daemon, image):
    daemon.add_file('n', image)
    daemon.export('n', writable=False)


def use_writer(daemon, image):
    daemon.add_file('n', image)
    daemon.export('n')


def use_file_writer(daemon, image):
    daemon.qmp('blockdev-add', {'driver': 'file', 'node-name': 'n', 'filename': image})
    daemon.export('n')


def use_force_share(daemon, image):
    daemon.add_file('n', image, read_only=True, force_share=True)
    daemon.export('n', writable=False)


def use_force_share_writable(daemon, image):
    daemon.qmp('blockdev-add', {'driver': 'file', 'node-name': 'n', 'filename': image, 'force-share': True})


def use_unlocked(daemon, image):
    daemon.add_file('n', image, locking='off')
    daemon.export('n')


def use_mirror_source(daemon, image):
    daemon.add_file('n', image)
    daemon.qmp('blockdev-add', {'driver': 'null-co', 'node-name': 'other', 'size': MiB})
    daemon.qmp('blockdev-mirror', job_id='j', device='n', target='other', sync='full')
    daemon.qmp.job_wait('j', 'ready')


def use_mirror_target(daemon, image):
    daemon.add_file('n', image)
    daemon.qmp('blockdev-add', {'driver': 'null-co', 'node-name': 'other', 'size': MiB, 'read-zeroes': True})
    daemon.qmp('blockdev-mirror', job_id='j', device='other', target='n', sync='full')
    daemon.qmp.job_wait('j', 'ready')


def use_resize(daemon, image):
    daemon.add_file('n', image)
    daemon.qmp('block_resize', node_name='n', size=2 * MiB)
    daemon.qmp('block_resize', node_name='n', size=MiB)


USES = [use_node, use_read_only_node, use_auto_read_only, use_reader, use_reader_of_writable_node, use_writer,
        use_file_writer, use_force_share, use_force_share_writable, use_unlocked, use_mirror_source, use_mirror_target,
        use_resize]
# Programs beside a daemon.
TOOLS = [['qemu-io', '-f', 'raw', '-c', 'write 0 512'], ['qemu-io', '-r', '-f', 'raw', '-c', 'read 0 512'],
         ['qemu-img', 'info', '-f', 'raw'], ['qemu-img', 'info', '-U', '-f', 'raw'],
         ['qemu-img', 'map', '-f', 'raw'], ['qemu-img', 'check', '-f', 'raw'],
         ['qemu-img', 'resize', '-f', 'raw', '--shrink', 'IMAGE', '512k'],
         ['qemu-img', 'bench', '-c', '1', '-w', '-f', 'raw']]


def name(use):
    return getattr(use, '__name__', None) or use


def attempt(daemon, use, image):
    """None when it works, else the error."""
    daemon.serve_nbd()
    try:
        use(daemon, image)
    except QmpError as error:
        return error
    return None


def outcome(start, first, second, uses, image):
    """What comes of the two uses: for each an error or None, and the lock bytes with both in place."""
    one, two = start(command=first), start(command=second)
    errors = [attempt(one, uses[0], image), attempt(two, uses[1], image)]
    held = locked_bytes(image)
    for daemon in (one, two):
        daemon.stop()
    return errors, held


def refused_by_our_mirror(commands, uses):
    """Whether one is the source of a mirror of ours, and the other a writer."""
    return any(uses[i] is use_mirror_source and commands[i] is None and uses[1 - i] in (use_writer, use_file_writer)
               for i in (0, 1)) and not is_peer()


@pytest.mark.parametrize('second', USES, ids=name)
@pytest.mark.parametrize('first', USES, ids=name)
def test_two_daemons(start, image, first, second):
    wanted, _ = outcome(start, PEER, PEER, (first, second), image)
    for commands in ((None, None), (None, PEER), (PEER, None)):
        got, _ = outcome(start, *commands, (first, second), image)
        if refused_by_our_mirror(commands, (first, second)):
            assert got[0] is None and 'lock' in got[1].text, (commands, got)
            continue
        assert [e is None for e in got] == [e is None for e in wanted], (commands, got, wanted)
        for error, command, peer_error in zip(got, commands, wanted):
            if error and command is None and 'lock' in peer_error.text and not is_peer():
                assert 'lock' in error.text and image in error.text, error.text


@pytest.mark.parametrize('use', USES, ids=name)
def test_lock_bytes(start, image, use):
    """The bytes on the file are those that QEMU's daemon holds in the same state, and none are left behind."""
    held = []
    for command in (PEER, None):
        daemon = start(command=command)
        attempt(daemon, use, image)
        held.append(locked_bytes(image))
        daemon.stop()
        assert not locked_bytes(image)
    if use is use_mirror_source and not is_peer():
        held[0].add(UNSHARED + WRITE)
    assert held[0] == held[1]


@pytest.mark.parametrize('tool', TOOLS, ids=' '.join)
@pytest.mark.parametrize('use', [use_reader, use_writer, use_force_share, use_mirror_target], ids=name)
def test_tools_beside_a_daemon(start, image, use, tool):
    results = []
    for command in (PEER, None):
        daemon = start(command=command)
        assert attempt(daemon, use, image) is None
        argv = [image if a == 'IMAGE' else a for a in tool] + ([] if 'IMAGE' in tool else [image])
        done = subprocess.run(argv, capture_output=True, text=True, timeout=30, check=False)
        results.append((done.returncode, done.stderr))
        daemon.stop()
        fill(image, MiB)
    assert results[0] == results[1]


def test_locks_go_with_a_killed_daemon(start, image):
    first = start()
    assert attempt(first, use_mirror_target, image) is None
    first.kill()
    assert attempt(start(), use_mirror_target, image) is None


def test_refused_use_leaves_the_first_alone(start, image):
    """The one that was refused has changed nothing: the first goes on, and its locks hold as before."""
    first = start()
    assert attempt(first, use_mirror_target, image) is None
    before = locked_bytes(image)
    second = start()
    assert attempt(second, use_writer, image) is not None
    assert locked_bytes(image) == before
    assert first.qmp.job('j')['status'] == 'ready'


def test_force_share_needs_read_only(start, image):
    with pytest.raises(QmpError):
        use_force_share_writable(start(), image)


def test_image_lock_modes(start, image):
    """locking=off takes no locks and looks at none."""
    first = start()
    assert attempt(first, use_mirror_target, image) is None
    second = start()
    assert attempt(second, use_unlocked, image) is None
    first.stop()
    assert not locked_bytes(image)
