# SPDX-License-Identifier: BSD-2-Clause
"""Fixtures: a short temporary directory, and daemons that must end in good order."""
import pathlib
import socket
import subprocess
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))

from weirtest import Daemon, FuseDisk, fill, wait_until  # noqa: E402 (needs the path above)
from weirtest.chain import make_three  # noqa: E402
from weirtest.fixtures import tmp  # noqa: E402, F401
from weirtest.mirror import SIZE as MIRROR_SIZE  # noqa: E402


@pytest.fixture
def start(tmp):
    """start(*options, **keywords) -> Daemon; all of them are stopped and checked at the end of the test."""
    running = []

    def run(*options, **keywords):
        daemon = Daemon(tmp, *options, **keywords)
        running.append(daemon)
        return daemon
    yield run
    try:
        for daemon in running:
            if daemon.process.poll() is None:
                daemon.stop()
            daemon.assert_no_crash()
    finally:
        for daemon in running:
            daemon.kill()


@pytest.fixture
def daemon(start):
    """A daemon with a monitor and an NBD server, and nothing else."""
    one = start()
    one.serve_nbd()
    return one


@pytest.fixture
def disks(daemon, tmp):
    """A daemon with the nodes n (exported) and t, of different random data; both give up what is discarded."""
    for node, seed in (('n', 1), ('t', 2)):
        daemon.add_file(node, fill(tmp / f'{node}.img', MIRROR_SIZE, seed=seed), discard='unmap')
    daemon.export('n')
    return daemon


@pytest.fixture
def three(daemon, tmp):
    """A daemon with a chain of three layers, base, mid and top, each with data of its own."""
    make_three(daemon, tmp)
    return daemon


@pytest.fixture
def fuse_disk(tmp):
    """A file of 8 MiB on a FUSE mount."""
    disk = FuseDisk(tmp)
    yield disk
    disk.close()


def has_listener(path):
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(path)) == 0


@pytest.fixture
def serve():
    """serve(*command) starts a server that listens at the last argument's path, and waits until it does."""
    running = []

    def begin(path, *command):
        process = subprocess.Popen([str(c) for c in command], stdin=subprocess.DEVNULL)
        running.append(process)
        wait_until(lambda: has_listener(path) or process.poll() is not None, 20, 'the server listens')
        assert process.poll() is None, command
        return process
    yield begin
    for process in running:
        process.kill()
        process.wait(20)


@pytest.fixture
def nbdkit(serve, tmp):
    """nbdkit(*arguments, name=...) -> path of its socket."""
    def begin(*arguments, name='kit'):
        path = tmp / name
        serve(path, 'nbdkit', '-f', '-U', path, *arguments)
        return str(path)
    return begin
