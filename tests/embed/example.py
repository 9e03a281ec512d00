#!/usr/bin/python3
# SPDX-License-Identifier: BSD-2-Clause
"""The example does what its comment says: on a file, on the disk that holds nothing, and where it cannot."""
import json
import os
import subprocess
import sys
import tempfile


def run(program, *args):
    done = subprocess.run([program, *args], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=50)
    return done.returncode, done.stdout + done.stderr


def main(program):
    status, out = run(program)
    assert status == 0 and '1048576 bytes; of 16 blocks' in out, (status, out)
    with tempfile.TemporaryDirectory() as directory:
        disk = os.path.join(directory, 'disk.img')
        with open(disk, 'wb') as file:
            file.truncate(8 << 20)
        text = json.dumps({'driver': 'file', 'filename': disk, 'discard': 'unmap'})
        status, out = run(program, text)
        assert status == 0 and '8388608 bytes; of 64 blocks written 64 read back the same' in out, (status, out)
        with open(disk, 'rb') as file:
            assert file.read() == bytes(8 << 20)  # the example zeroes what it wrote
    status, out = run(program, text)
    assert status == 1 and 'disk.img' in out, (status, out)
    return 0


if __name__ == '__main__':
    sys.exit(main(sys.argv[1]))
