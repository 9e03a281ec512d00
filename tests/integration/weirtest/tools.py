# SPDX-License-Identifier: BSD-2-Clause
"""Small things: other programs, files with known content, waiting for a condition."""
import os
import random
import shlex
import subprocess
import time

KiB = 1 << 10
MiB = 1 << 20


def run(*argv, ok=(0,), timeout=60, **options):
    """Runs a program to its end; its output (both streams) when the status is in @ok, else an assertion."""
    argv = [str(a) for a in argv]
    options.setdefault('stdin', subprocess.DEVNULL)
    done = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=timeout, check=False,
                          **options)
    output = done.stdout.decode(errors='replace')
    assert done.returncode in ok, f'{shlex.join(argv)}: exit status {done.returncode}\n{output}'
    return output


def wait_until(condition, timeout=10, what=''):
    """Asks until condition() is true and returns its value; an assertion past @timeout seconds."""
    end = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < end, f'not within {timeout} s: {what or condition}'
        time.sleep(0.002)


def fill(path, size, seed=1):
    """Writes a file of @size pseudo-random bytes and returns its path as a string."""
    rnd = random.Random(seed)
    with open(path, 'wb') as f:
        left = size
        while left:
            f.write(rnd.randbytes(min(left, MiB)))
            left -= min(left, MiB)
    return str(path)


def file_bytes(path, offset, length):
    with open(path, 'rb') as f:
        return os.pread(f.fileno(), length, offset)
