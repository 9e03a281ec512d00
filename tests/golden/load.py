# SPDX-License-Identifier: BSD-2-Clause
"""Random requests over NBD, beside a raw twin that says what every byte has to be.

Requests go out in batches whose ranges do not overlap, so that the twin is always certain; but they meet in the same
clusters, which is where a format can go wrong. What was read is compared at once. A trimmed range may read as before
or as zeroes, sector by sector, and nothing else; the twin then takes what was read.
"""
import os

import nbd

SECTOR = 512
PIECE = 8 << 20


class Twin:
    """A sparse raw file."""

    def __init__(self, path):
        self.path = path
        self.fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)

    def close(self):
        os.close(self.fd)

    @property
    def size(self):
        return os.fstat(self.fd).st_size

    def resize(self, size):
        os.ftruncate(self.fd, size)

    def read(self, offset, length):
        data = os.pread(self.fd, length, offset)
        assert len(data) == length
        return data

    def write(self, offset, data):
        assert os.pwrite(self.fd, data, offset) == len(data)

    def zero(self, offset, length):
        self.write(offset, bytes(length))


class Load:
    """@regions: [(begin, end)] where requests go. @cluster: of the image, which decides where borders are."""

    FLAGS = (0, 0, 0, nbd.CMD_FLAG_FUA)

    def __init__(self, handle, twin, rnd, cluster, regions):
        self.handle, self.twin, self.rnd, self.cluster = handle, twin, rnd, cluster
        self.regions = [(begin, end) for begin, end in regions if end > begin]

    # ---- what to do next ----

    def range(self):
        """A range of some region: of any length and place, of whole sectors, or of whole clusters."""
        begin, end = self.rnd.choice(self.regions)
        span = end - begin
        kind = self.rnd.randrange(4)
        if kind == 0:
            length = self.rnd.randint(1, min(2000, span))
            offset = begin + self.rnd.randint(0, span - length)
        elif kind == 1:
            length = SECTOR * self.rnd.randint(1, max(1, min(64, span // SECTOR)))
            offset = begin + self.rnd.randint(0, max(0, span - length)) // SECTOR * SECTOR
        elif kind == 2:
            length = self.cluster * self.rnd.choice((1, 1, 1, 2, 3, max(1, (32 << 10) // self.cluster)))
            offset = begin + self.rnd.randint(0, span) // self.cluster * self.cluster
        else:  # around a border of clusters
            length = self.rnd.randint(2, max(2, min(2 * self.cluster, 256 << 10)))
            offset = begin + self.rnd.randint(0, span) // self.cluster * self.cluster - self.rnd.randint(1, length - 1)
        offset = min(max(offset, begin), end - 1)
        return offset, min(length, end - offset, 4 << 20)

    def operation(self, taken):
        """(what, offset, length) that leaves the ranges in @taken alone, or None."""
        offset, length = self.range()
        if any(offset < end and begin < offset + length for begin, end in taken):
            return None
        what = self.rnd.choice(('write',) * 8 + ('read',) * 4 + ('zero', 'zero keep', 'trim') * 2)
        if what == 'write' and length > (1 << 20):
            length = self.rnd.randint(1, 1 << 20)
        taken.append((offset, offset + length))
        return what, offset, length

    # ---- doing it ----

    def run(self, batches, depth=8):
        for _ in range(batches):
            taken = []
            todo = [self.operation(taken) for _ in range(self.rnd.choice((1, depth, depth)))]
            self.batch([one for one in todo if one])
            if self.rnd.randrange(6) == 0:
                self.handle.flush()

    def batch(self, todo):
        cookies, reads, trims = {}, [], []
        for what, offset, length in todo:
            flags = self.rnd.choice(self.FLAGS)
            if what == 'write':
                data = self.rnd.randbytes(length)
                buffer = nbd.Buffer.from_bytearray(bytearray(data))
                cookies[self.handle.aio_pwrite(buffer, offset, flags=flags)] = (what, offset, length)
                self.twin.write(offset, data)
            elif what == 'read':
                buffer = nbd.Buffer(length)
                cookies[self.handle.aio_pread(buffer, offset)] = (what, offset, length)
                reads.append((offset, length, buffer))
            elif what == 'trim':
                cookies[self.handle.aio_trim(length, offset, flags=flags)] = (what, offset, length)
                trims.append((offset, length))
            else:
                flags |= nbd.CMD_FLAG_NO_HOLE if what == 'zero keep' else 0
                cookies[self.handle.aio_zero(length, offset, flags=flags)] = (what, offset, length)
                self.twin.zero(offset, length)
        self.wait(cookies)
        for offset, length, buffer in reads:
            same(buffer.to_bytearray(), self.twin.read(offset, length), offset)
        for offset, length in trims:
            self.trimmed(offset, length)

    def wait(self, cookies):
        """Until all have been answered; an error is an assertion that names the request."""
        left = dict(cookies)
        while left:
            for cookie in list(left):
                try:
                    done = self.handle.aio_command_completed(cookie)
                except nbd.Error as error:
                    raise AssertionError('%s of %d+%d: %s' % (*left[cookie], error)) from error
                if done:
                    del left[cookie]
            if left:
                assert self.handle.poll(60000) > 0, f'no answer for a minute: {list(left.values())}'

    def trimmed(self, offset, length):
        got, old = self.handle.pread(length, offset), self.twin.read(offset, length)
        if got not in (old, bytes(length)):
            position = 0
            while position < length:
                end = min(length, position + SECTOR - (offset + position) % SECTOR)
                piece = got[position:end]
                assert piece in (old[position:end], bytes(end - position)), \
                    f'trimmed, and neither old nor zero: {offset + position}+{end - position} of {offset}+{length}'
                position = end
        self.twin.write(offset, got)

    def fill(self, begin, unit, count):
        """One write into each of @count units of the guest's disk from @begin on, many at once."""
        whole = unit <= (64 << 10)
        each = max(1, (64 << 10) // unit) if whole else 1
        cookies = {}
        for first in range(0, count, each):
            offset = begin + first * unit
            data = offset.to_bytes(8, 'big') * ((each * unit if whole else SECTOR) // 8)
            data = data[:min(len(data), self.twin.size - offset)]
            buffer = nbd.Buffer.from_bytearray(bytearray(data))
            cookies[self.handle.aio_pwrite(buffer, offset)] = ('fill', offset, len(data))
            self.twin.write(offset, data)
            if len(cookies) >= 32:
                self.wait(cookies)
                cookies = {}
        self.wait(cookies)

    def verify(self):
        """All regions, read in pieces."""
        for begin, end in self.regions:
            for offset in range(begin, end, PIECE):
                length = min(PIECE, end - offset)
                same(self.handle.pread(length, offset), self.twin.read(offset, length), offset)


def same(got, expected, offset):
    if got != expected:
        at = next(i for i, (one, other) in enumerate(zip(got, expected)) if one != other)
        raise AssertionError(f'read of {offset}+{len(expected)} differs at {offset + at}: '
                             f'{bytes(got[at:at + 8]).hex()}, expected {expected[at:at + 8].hex()}')


def statuses(handle, begin, end):
    """[(start, length, zero, hole)] of base:allocation, neighbours of one kind merged."""
    found = []

    def extents(context, offset, entries, error):
        if context == nbd.CONTEXT_BASE_ALLOCATION:
            for length, flags in zip(entries[::2], entries[1::2]):
                found.append((offset, length, bool(flags & nbd.STATE_ZERO), bool(flags & nbd.STATE_HOLE)))
                offset += length
        return 0
    position = begin
    while position < end:
        handle.block_status(min(end - position, 2 << 30), position, extents)
        assert found and sum(found[-1][:2]) > position, f'no progress at {position}'
        position = sum(found[-1][:2])
    return merged(found, end)


def merged(extents, end):
    result = []
    for start, length, *kind in extents:
        length = min(length, end - start)
        if result and result[-1][2:] == tuple(kind) and sum(result[-1][:2]) == start:
            result[-1] = (result[-1][0], result[-1][1] + length, *kind)
        elif length > 0:
            result.append((start, length, *kind))
    return result
