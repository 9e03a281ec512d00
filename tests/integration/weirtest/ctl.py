# SPDX-License-Identifier: BSD-2-Clause
"""weir ctl at a monitor of the daemon under test that nobody else uses."""
import os
import subprocess

from weirtest.daemon import ROOT, daemon_command, is_peer


def binary():
    return str(ROOT / 'build/weir') if is_peer() else daemon_command()[0]


class Ctl:
    """ctl('jobs', '--json') -> (exit status, standard output, standard error). @monitor: counted from the last one."""

    def __init__(self, daemon, directory, monitor=0):
        self.address = str(daemon.monitors[-1 - monitor][0])
        self.directory = directory

    def argv(self, *args):
        return [binary(), 'ctl', '-s', self.address, *(str(a) for a in args)]

    def __call__(self, *args, status=0, timeout=60):
        done = subprocess.run(self.argv(*args), stdin=subprocess.DEVNULL, capture_output=True, text=True,
                              timeout=timeout, check=False, cwd=self.directory)
        assert done.returncode == status, (args, done)
        return done.stdout

    def error(self, *args, status=1, timeout=60):
        """It must fail: what it says about that."""
        done = subprocess.run(self.argv(*args), stdin=subprocess.DEVNULL, capture_output=True, text=True,
                              timeout=timeout, check=False, cwd=self.directory)
        assert done.returncode == status and done.stderr.startswith('weir ctl: '), (args, done)
        return done.stderr

    def start(self, *args):
        """In the background; its output is read by the test."""
        return subprocess.Popen(self.argv(*args), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                stderr=subprocess.PIPE, text=True, cwd=self.directory,
                                env={k: v for k, v in os.environ.items() if k != 'WEIR_MONITOR'})
