# SPDX-License-Identifier: BSD-2-Clause
"""What the integration tests are written with: a daemon, a QMP client, NBD clients, other people's tools.

WEIR_DAEMON overrides the daemon's command line (`qemu-storage-daemon`, `build-asan/weir daemon`).
"""
from weirtest.daemon import Daemon, daemon_command, is_peer
from weirtest.fuse import FuseDisk
from weirtest.nbdclient import nbd_connect, nbd_uri
from weirtest.qmp import Qmp, QmpError
from weirtest.tools import MiB, KiB, fill, file_bytes, run, wait_until

__all__ = ['Daemon', 'FuseDisk', 'daemon_command', 'is_peer', 'nbd_connect', 'nbd_uri', 'Qmp', 'QmpError', 'MiB',
           'KiB', 'fill',
           'file_bytes', 'run', 'wait_until']
