# SPDX-License-Identifier: BSD-2-Clause
"""qcow2 images of the tests: looked at and changed byte by byte, and judged by qemu-img."""
import struct

from weirtest.tools import file_bytes, run


def sound(path):
    run('qemu-img', 'check', '-q', str(path))


def number(path, offset, fmt='>Q'):
    return struct.unpack(fmt, file_bytes(path, offset, struct.calcsize(fmt)))[0]


def patch(path, offset, data):
    with open(path, 'r+b') as f:
        f.seek(offset)
        f.write(data)
