# SPDX-License-Identifier: BSD-2-Clause
"""A file on a file system whose server can be stopped: whoever touches it then hangs in state D."""
import contextlib
import os
import signal
import subprocess

from weirtest.tools import MiB, fill, wait_until


def read(path):
    try:
        with open(path, encoding='utf-8', errors='replace') as file:
            return file.read()
    except (FileNotFoundError, ProcessLookupError):
        return ''


def tasks(pid):
    try:
        return os.listdir(f'/proc/{pid}/task')
    except FileNotFoundError:
        return []


def fields(pid, task):
    return read(f'/proc/{pid}/task/{task}/stat').rsplit(')', 1)[-1].split() or ['X', '0']


def state(pid, task):
    return fields(pid, task)[0]


def parent(pid):
    return int(fields(pid, pid)[1])


def where(pid, task):
    return read(f'/proc/{pid}/task/{task}/wchan')


class FuseDisk:
    """nbdfuse over nbdkit (by default its file plugin): one file, whose server can be stopped and goes on later."""

    SIZE = 8 * MiB

    def __init__(self, directory, plugin=None):
        self.mount = directory / 'fuse'
        self.mount.mkdir()
        self.path = str(self.mount / 'disk.img')
        backing = fill(directory / 'backing.img', self.SIZE, seed=9)
        plugin = plugin or ['file', backing]
        with open(directory / 'nbdfuse.log', 'wb') as log:
            self.process = subprocess.Popen(
                ['nbdfuse', self.path, '--command', 'nbdkit', '-s', '--exit-with-parent', *plugin],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        wait_until(lambda: os.path.exists(self.path), 10, 'the FUSE file is there')

    def stop(self):
        """From the return on nobody is answered."""
        self.process.send_signal(signal.SIGSTOP)
        pid = self.process.pid
        wait_until(lambda: all(state(pid, task) == 'T' for task in tasks(pid)), 10, 'it stops')

    @staticmethod
    def wait_stuck(daemon):
        """Waits until a thread or child process of the daemon waits for the file system's answer."""
        def attempt():
            pids = [int(pid) for pid in os.listdir('/proc') if pid.isdigit()]
            return any(where(pid, task) == 'request_wait_answer' for pid in pids
                       if pid == daemon.pid or parent(pid) == daemon.pid for task in tasks(pid))
        wait_until(attempt, 10, 'a request hangs')

    def go_on(self):
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGCONT)

    def close(self):
        self.go_on()
        subprocess.run(['umount', '-l', self.mount], check=False, capture_output=True)
        self.process.kill()
        self.process.wait()
