# SPDX-License-Identifier: BSD-2-Clause
"""The image tool next to qemu-img: the same command, in two directories with the same files.

WEIR_IMG overrides the binary under test. It is called by the name qemu-img, so that its messages begin alike.
"""
import os
import pathlib
import re
import subprocess

from weirtest.daemon import ROOT

PEER = 'qemu-img'


def binary():
    return os.path.abspath(os.environ.get('WEIR_IMG', str(ROOT / 'build/weir')))


def call(directory, args, executable=None, timeout=120):
    """Runs one of the two in @directory: exit status, standard output, standard error."""
    argv = ['qemu-img'] + [str(a) for a in args]
    done = subprocess.run(argv, executable=executable, cwd=directory, stdin=subprocess.DEVNULL,
                          capture_output=True, timeout=timeout, check=False, env=dict(os.environ, TZ='UTC'))
    return done.returncode, done.stdout.decode(errors='replace'), done.stderr.decode(errors='replace')


class Pair:
    """Two directories, `ours` and `theirs`, in which the two tools find the same files."""

    def __init__(self, directory):
        self.ours = pathlib.Path(directory) / 'ours'
        self.theirs = pathlib.Path(directory) / 'theirs'
        self.ours.mkdir()
        self.theirs.mkdir()

    # ---- inputs, the same on both sides ----

    def each(self):
        return self.ours, self.theirs

    def file(self, name, size, *pieces):
        """A sparse file of @size bytes; @pieces are (offset, bytes)."""
        for directory in self.each():
            with open(directory / name, 'wb') as f:
                f.truncate(size)
                for offset, data in pieces:
                    f.seek(offset)
                    f.write(data)

    def peer(self, *args):
        """qemu-img in both directories, to make inputs."""
        for directory in self.each():
            status, out, err = call(directory, args)
            assert status == 0, (args, out, err)

    def qemu_io(self, image, *commands):
        argv = ['qemu-io', '-f', 'raw' if image.endswith('.raw') else 'qcow2']
        for command in commands:
            argv += ['-c', command]
        for directory in self.each():
            done = subprocess.run(argv + [image], cwd=directory, capture_output=True, check=False)
            assert done.returncode == 0 and b'failed' not in done.stdout, done

    def patch(self, name, offset, data):
        for directory in self.each():
            with open(directory / name, 'r+b') as f:
                f.seek(offset)
                f.write(data)

    # ---- the two tools ----

    def run(self, *args):
        """(status, stdout, stderr) of ours."""
        return call(self.ours, args, binary())

    def ok(self, *args):
        """Ours must succeed; its standard output."""
        status, out, err = self.run(*args)
        assert status == 0, (args, out, err)
        return out

    def both(self, *args):
        return self.run(*args), call(self.theirs, args)

    def same(self, *args, status=None, stderr=True, lines=None):
        """Both must say the same: exit status, output and, unless told otherwise, errors. @lines: a regular
        expression; lines of the output that match it are not compared. Returns ours."""
        ours, theirs = self.both(*args)
        assert ours[0] == theirs[0], (args, ours, theirs)
        if status is not None:
            assert ours[0] == status, (args, ours)
        assert strip(ours[1], lines) == strip(theirs[1], lines), (args, ours, theirs)
        if stderr:
            assert ours[2] == theirs[2], (args, ours, theirs)
        return ours

    # ---- verdicts of qemu-img about what ours made ----

    def identical(self, one, other, one_format=None, other_format=None):
        """Both are names in our directory."""
        args = ['compare']
        args += ['-f', one_format] if one_format else []
        args += ['-F', other_format] if other_format else []
        status, out, err = call(self.ours, args + [one, other])
        assert status == 0, (one, other, out, err)

    def sound(self, name):
        """A qcow2 image in our directory has nothing that qemu-img would complain about."""
        status, out, err = call(self.ours, ['check', '-f', 'qcow2', name])
        assert status == 0, (name, out, err)

    def used(self, name):
        """Bytes that our file takes."""
        return os.stat(self.ours / name).st_blocks * 512


def strip(text, lines):
    return text if lines is None else ''.join(line for line in text.splitlines(True) if not re.search(lines, line))
