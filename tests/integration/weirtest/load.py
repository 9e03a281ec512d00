# SPDX-License-Identifier: BSD-2-Clause
"""Several clients that keep so many requests in flight, and how many of them each got done in a time."""
import time

import nbd


class Load:
    """@depth requests of @size bytes at one time on a connection. What ended is counted in .done."""

    def __init__(self, uri, depth, size, write=False):
        self.handle = nbd.NBD()
        self.handle.connect_uri(uri)
        self.size, self.write = size, write
        self.blocks = self.handle.get_size() // size
        self.buffers = [nbd.Buffer.from_bytearray(bytearray(b'x' * size)) for _ in range(depth)]
        self.next, self.done, self.failed, self.idle = 0, 0, 0, []
        for number in range(depth):
            self.issue(number)

    def issue(self, number):
        offset = self.next * 7919 % self.blocks * self.size  # no neighbours, which could be merged
        self.next += 1

        def completed(error):
            self.failed += bool(error if isinstance(error, int) else error.value)
            self.done += 1
            self.idle.append(number)  # the library is not to be called from here
            return 1
        call = self.handle.aio_pwrite if self.write else self.handle.aio_pread
        call(self.buffers[number], offset, completion=completed)

    def poll(self):
        self.handle.poll(1)
        while self.idle:
            self.issue(self.idle.pop())

    def finish(self):
        while self.handle.aio_in_flight():
            self.handle.poll(100)
        self.handle.shutdown()
        assert not self.failed


def turn(loads, end):
    while time.monotonic() < end:
        for load in loads:
            load.poll()


def rates(loads, seconds, settle=0.7):
    """Requests a second of each, measured over so many seconds after the burst at the start is over."""
    turn(loads, time.monotonic() + settle)
    before, begin = [load.done for load in loads], time.monotonic()
    turn(loads, begin + seconds)
    took = time.monotonic() - begin
    return [(load.done - done) / took for load, done in zip(loads, before)]
