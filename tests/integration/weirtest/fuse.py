# SPDX-License-Identifier: BSD-2-Clause
"""A file on a file system whose server can be stopped: whoever touches it then hangs in state D."""
import contextlib
import os
import signal
import subprocess

from weirtest.tools import MiB, fill, wait_until


class FuseDisk:
    """nbdfuse over nbdkit: one file, whose server can be stopped and goes on later."""

    SIZE = 8 * MiB

    def __init__(self, directory):
        self.mount = directory / 'fuse'
        self.mount.mkdir()
        self.path = str(self.mount / 'disk.img')
        backing = fill(directory / 'backing.img', self.SIZE, seed=9)
        with open(directory / 'nbdfuse.log', 'wb') as log:
            self.process = subprocess.Popen(
                ['nbdfuse', self.path, '--command', 'nbdkit', '-s', '--exit-with-parent', 'file', backing],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        wait_until(lambda: os.path.exists(self.path), 10, 'the FUSE file is there')

    def stop(self):
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self):
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGCONT)

    def close(self):
        self.go_on()
        subprocess.run(['umount', '-l', self.mount], check=False, capture_output=True)
        self.process.kill()
        self.process.wait()
