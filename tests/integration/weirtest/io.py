# SPDX-License-Identifier: BSD-2-Clause
"""The I/O tool next to qemu-io: the same commands, in two directories with the same files.

WEIR_IMG overrides the binary under test. It is called by the name qemu-io, so that its messages begin alike.
"""
import re
import subprocess

from weirtest.img import Pair, binary

# Times and rates vary; so does their form with the length of the time.
RATES = re.compile(r'ops; .*\)$|\d:\d\d:\d\d\.\d\d,[0-9.]+,[0-9.]+$', re.MULTILINE)
# What qemu-io thinks of opening raw images without -f.
WARNING = re.compile(r'WARNING: Image format was not specified.*\n.*\n.*\n')


def run(args, cwd, executable=None, given='', timeout=30):
    """(exit status, standard output, standard error), without what varies."""
    done = subprocess.run(['qemu-io'] + [str(a) for a in args], executable=executable, cwd=cwd, input=given,
                          capture_output=True, text=True, timeout=timeout, check=False)
    return done.returncode, RATES.sub('T', done.stdout), WARNING.sub('', done.stderr)


def commands(*lines):
    """Arguments for these commands."""
    return [word for line in lines for word in ('-c', line)]


class IoPair(Pair):
    def io(self, *args, given='', timeout=30):
        """Ours alone."""
        return run(args, self.ours, binary(), given, timeout)

    def same_io(self, *args, given='', status=None, usage=False):
        """Both say the same. @usage: the help behind a complaint is own text, and not compared."""
        ours, theirs = self.io(*args, given=given), run(args, self.theirs, None, given)
        if usage:
            ours, theirs = (ours[0], ours[2]), (theirs[0], theirs[2])
        assert ours == theirs, (args, ours, theirs)
        assert status is None or ours[0] == status, (args, ours)
        return ours
