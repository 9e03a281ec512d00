# SPDX-License-Identifier: BSD-2-Clause
"""Starts the daemon and its peers on one image, runs fio against them, reads their CPU time from /proc."""
import json
import os
import pathlib
import shlex
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
HZ = os.sysconf('SC_CLK_TCK')
MIB = 1 << 20
PAGE = 4096


def command(variable, default):
    return shlex.split(os.environ.get(variable, default))


WEIR = command('WEIR_DAEMON', f'{ROOT}/build/weir daemon')
QSD = command('QSD', 'qemu-storage-daemon')
NBDKIT = command('NBDKIT', 'nbdkit')
FIO = command('FIO', 'fio')


class Work:
    """A directory for the run; images, sockets and servers go with it."""

    def __init__(self):
        self.path = pathlib.Path(tempfile.mkdtemp(prefix='weir-bench-', dir=os.environ.get('TMPDIR', '/var/tmp')))
        self.count = 0
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        shutil.rmtree(self.path, ignore_errors=True)

    def socket(self):
        self.count += 1
        return self.path / f's{self.count}'


def fill(path, size):
    """A fully written file of cheap data without repetition."""
    block = bytearray(os.urandom(MIB))
    with open(path, 'wb') as f:
        for i in range(size // MIB):
            block[:8] = i.to_bytes(8, 'little')
            f.write(block)


def settle(path, piece):
    """Out of the page cache and in again: what is there lies in folios of the kernel's choice, however it was written;
    or, with pieces of a page, in single pages. These are sure to be alike for two files, and for writes: in a large
    folio ext4 walks all of its buffers for each, which takes longer than all that is to be compared."""
    with open(path, 'rb', buffering=0) as f:
        os.fsync(f.fileno())
        os.posix_fadvise(f.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        if piece == PAGE:
            os.posix_fadvise(f.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
        while f.read(piece):
            pass


def daemon_line(program, image, socket_path, aio=None):
    file = {'driver': 'file', 'filename': str(image)}
    if aio:
        file['aio'] = aio
    node = {'driver': 'raw', 'node-name': 'disk', 'file': file}
    return program + ['--nbd-server', f'addr.type=unix,addr.path={socket_path}', '--blockdev', json.dumps(node),
                      '--export', 'type=nbd,id=e0,node-name=disk,name=disk,writable=on']


def nbdkit_line(image, socket_path):
    return NBDKIT + ['-f', '-U', str(socket_path), 'file', str(image)]


# Name -> command line for an image and a socket.
SERVERS = {
    'weir': lambda image, path: daemon_line(WEIR, image, path),
    'qsd': lambda image, path: daemon_line(QSD, image, path, 'threads'),
    'qsd-uring': lambda image, path: daemon_line(QSD, image, path, 'io_uring'),
    'nbdkit': nbdkit_line,
}


class Server:
    """A running server; as a context it ends with the block."""

    def __init__(self, work, name, image):
        self.socket = work.socket()
        self.argv = SERVERS[name](image, self.socket)
        self.log = open(work.path / f'{name}.log', 'wb')
        self.process = subprocess.Popen(self.argv, stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log)
        self.uri = f'nbd+unix:///disk?socket={self.socket}'

    def __enter__(self):
        end = time.monotonic() + 10
        while True:
            with socket.socket(socket.AF_UNIX) as probe:
                try:
                    probe.connect(str(self.socket))
                    return self
                except OSError:
                    pass
            if self.process.poll() is not None or time.monotonic() > end:
                self.__exit__()
                sys.exit(f'server did not listen: {shlex.join(self.argv)}\n{open(self.log.name).read()}')
            time.sleep(0.002)

    def __exit__(self, *_):
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.log.close()

    def cpu(self):
        """Seconds of user and system time of all threads so far."""
        with open(f'/proc/{self.process.pid}/stat') as f:
            fields = f.read().rpartition(')')[2].split()
        return (int(fields[11]) + int(fields[12])) / HZ


def fio_line(uri, rw, block, depth, seconds):
    return FIO + ['--name=j', '--ioengine=nbd', f'--uri={uri}', f'--rw={rw}', f'--bs={block}', f'--iodepth={depth}',
                  '--time_based', f'--runtime={int(seconds * 1000)}ms', '--norandommap', '--randrepeat=0',
                  '--eta=never', '--output-format=json']


def fio(work, *arguments):
    """{'ios': requests, 'iops': ..., 'mibs': ...} of one run."""
    argv = fio_line(*arguments)
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, cwd=work.path, check=False)
    if done.returncode or '{' not in done.stdout:
        sys.exit(f'fio failed: {shlex.join(argv)}\n{done.stdout}{done.stderr}')
    job = json.loads(done.stdout[done.stdout.index('{'):])['jobs'][0]
    if job['error']:
        sys.exit(f'fio failed: {shlex.join(argv)}\n{done.stdout}')
    sides = [job[d] for d in ('read', 'write') if job[d]['total_ios']]
    return {'ios': sum(s['total_ios'] for s in sides), 'iops': sum(s['iops'] for s in sides),
            'mibs': sum(s['bw_bytes'] for s in sides) / MIB}


def measure(work, server, *arguments):
    """A fio run with the CPU of the server: adds 'us', microseconds per request."""
    before = server.cpu()
    result = fio(work, server.uri, *arguments)
    result['us'] = (server.cpu() - before) / result['ios'] * 1e6
    return result


def median(rows, key):
    return statistics.median(row[key] for row in rows)


def environment():
    version = subprocess.run(QSD + ['--version'], capture_output=True, text=True, check=False).stdout.splitlines()
    nbdkit = subprocess.run(NBDKIT + ['--version'], capture_output=True, text=True, check=False).stdout.strip()
    return (f'{time.strftime("%F %T")}, {os.cpu_count()} CPUs, Linux {os.uname().release}, '
            f'load {os.getloadavg()[0]:.2f}, {version[0] if version else "no qemu-storage-daemon"}, {nbdkit}')
