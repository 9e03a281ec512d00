# SPDX-License-Identifier: BSD-2-Clause
"""Starts and stops the daemon under test."""
import contextlib
import functools
import json
import os
import pathlib
import re
import shlex
import signal
import subprocess

from weirtest.nbdclient import nbd_connect, nbd_uri
from weirtest.qmp import Qmp
from weirtest.tools import wait_until

ROOT = pathlib.Path(__file__).resolve().parents[3]
PF_EXITING = 0x4  # of the kernel's flags of a task, proc(5)
# What a sanitizer or an assertion leaves on standard error.
CRASH_WORDS = ('AddressSanitizer', 'LeakSanitizer', 'ThreadSanitizer', 'runtime error:', 'assertion', 'Assertion')


def daemon_command():
    """Command line of the daemon under test, as a list."""
    command = shlex.split(os.environ.get('WEIR_DAEMON', str(ROOT / 'build/weir') + ' daemon'))
    if '/' in command[0]:
        command[0] = os.path.abspath(command[0])
    return command


def is_peer():
    """Whether the daemon under test is qemu's: for the few places where it is known to do worse."""
    return os.path.basename(daemon_command()[0]).startswith('qemu')


def option(value):
    """An option's value: text as it is, a dict as JSON."""
    return value if isinstance(value, str) else json.dumps(value)


MONITORS = 8


class Daemon:
    """A running daemon. @directory: where its sockets go. @options: command line, dicts become JSON.

    With @qmp a monitor is configured first and connected (self.qmp) once the daemon serves it, that is when all
    other options have been processed.
    """

    count = 0

    def __init__(self, directory, *options, qmp=True, command=None, env=None, limit=20, **popen):
        Daemon.count += 1
        self.directory = pathlib.Path(directory)
        self.qmp_path = self.directory / f'qmp{Daemon.count}'
        self.nbd_path = self.directory / f'nbd{Daemon.count}'
        self.stderr_path = self.directory / f'stderr{Daemon.count}'
        self.qmp = None
        self.argv = list(command or daemon_command())
        # A character device serves one client at a time: each connection of a test has one of its own.
        self.monitors = [[self.qmp_path if not i else self.directory / f'{self.qmp_path.name}.{i}', None]
                         for i in range(MONITORS)]
        for i, (path, _) in enumerate(self.monitors if qmp else []):
            self.argv += ['--chardev', f'socket,id=c{i},path={path},server=on,wait=off',
                          '--monitor', f'chardev=c{i}']
        self.argv += [option(o) for o in options]
        # qemu's daemon stumbles now and then over clients that come before it is ready: its pid file says when.
        self.peer = os.path.basename(self.argv[0]).startswith('qemu')
        ready_path = self.directory / f'ready{Daemon.count}'
        if self.peer and '--pidfile' not in self.argv:
            self.argv += ['--pidfile', str(ready_path)]
        with open(self.stderr_path, 'wb') as stderr:
            self.process = subprocess.Popen(self.argv, stdin=subprocess.DEVNULL, stdout=stderr, stderr=stderr,
                                            env=dict(os.environ, **env) if env else None, **popen)
        if qmp:
            try:
                if str(ready_path) in self.argv:
                    wait_until(lambda: ready_path.exists() or self.process.poll() is not None, limit,
                               'the peer is ready')
                self.qmp = self.connect(limit)
            except BaseException:
                self.kill()
                raise

    @property
    def pid(self):
        return self.process.pid

    @property
    def stderr(self):
        return self.stderr_path.read_text(errors='replace')

    def connect(self, timeout=10, negotiate=True):
        """Another monitor connection, on a monitor that no open connection of ours uses."""
        monitor = next((m for m in self.monitors if m[1] is None or m[1].closed), None)
        assert monitor, f'more than {MONITORS} monitor connections at one time'

        def attempt():
            assert self.process.poll() is None, f'daemon ended ({self.process.returncode}): {self.stderr}'
            try:
                monitor[1] = Qmp(monitor[0], timeout, negotiate)
                return monitor[1]
            except (FileNotFoundError, ConnectionRefusedError):
                return None
        return wait_until(attempt, timeout, 'the monitor listens')

    # ---- things that most tests do ----

    def serve_nbd(self):
        self.qmp('nbd-server-start', {'addr': {'type': 'unix', 'data': {'path': str(self.nbd_path)}}})

    def add_file(self, node, path, **options):
        """A raw node over a file; options of the file node as keywords (underscores become hyphens)."""
        file = dict({'driver': 'file', 'filename': str(path)}, **{k.replace('_', '-'): v for k, v in options.items()})
        self.qmp('blockdev-add', {'driver': 'raw', 'node-name': node, 'file': file,
                                  'read-only': file.get('read-only', False),
                                  'discard': file.get('discard', 'ignore')})

    def export(self, node, export=None, writable=True, **options):
        """Exports a node over NBD (export id and name: @export or the node's name) and returns the URI."""
        name = export or node
        self.qmp('block-export-add', dict({'type': 'nbd', 'id': name, 'node-name': node, 'name': name,
                                           'writable': writable}, **options))
        return self.uri(name)

    def uri(self, export=''):
        return nbd_uri(self.nbd_path, export)

    def nbd(self, export='', **options):
        return nbd_connect(self.uri(export), **options)

    # ---- ends ----

    def wait(self, limit=15):
        """Exit status; the process is killed and an assertion fails past the limit."""
        try:
            return self.process.wait(limit)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f'the daemon did not end within {limit} s: {self.stderr}') from None

    def stop(self, limit=15):
        """Orderly end by SIGTERM; asserts that it was one."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        status = self.wait(limit)
        assert status == 0, f'exit status {status}: {self.stderr}'
        self.assert_no_crash()

    def kill(self):
        """A thread in state D keeps a killed process: with a limit, for the sake of the other tests."""
        self.process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(20)

    @functools.cached_property
    def sanitized(self):
        """Whether it is a sanitizer build. First asked while it runs."""
        with open(f'/proc/{self.pid}/maps', encoding='utf-8') as maps:
            return re.search('lib(asan|tsan)', maps.read()) is not None

    def wait_main_thread(self, limit):
        """Waits until the daemon is done with everything. In a sanitizer build the process itself stays for as long as
        one of its threads hangs in the host: there only threads make such calls, for its tools follow nothing else."""
        if not self.sanitized:
            self.wait(limit)
            return

        def ended():
            with open(f'/proc/{self.pid}/stat', encoding='utf-8') as stat:
                fields = stat.read().rsplit(')', 1)[1].split()
            # Or on its way through exit(2), where the kernel closes the file that hangs.
            return fields[0] in 'ZX' or int(fields[6]) & PF_EXITING
        wait_until(ended, limit, 'the main thread has ended')

    def assert_no_crash(self):
        text = self.stderr
        assert self.peer or not any(word in text for word in CRASH_WORDS), text
