# SPDX-License-Identifier: BSD-2-Clause
"""A guest for tests that change things under it."""
import threading

from weirtest.nbdclient import nbd_connect
from weirtest.tools import MiB


class Writer:
    """A guest that writes rising numbers to all of the disk, and says at the end whether each was kept."""

    def __init__(self, uri, size=4 * MiB):
        self.guest, self.sectors, self.stopped = nbd_connect(uri), size // 512, threading.Event()
        self.newest, self.error = {}, None
        self.thread = threading.Thread(target=self.run)
        self.thread.start()

    def run(self):
        number = 0
        try:
            while not self.stopped.is_set():
                number += 1
                sector = number * 7919 % self.sectors
                self.guest.pwrite(number.to_bytes(8, 'big') * 64, sector * 512)
                self.newest[sector] = number
        except Exception as error:  # told to the test
            self.error = error

    def stop(self):
        self.stopped.set()
        self.thread.join(30)
        assert not self.error, self.error
        data = b''.join(self.guest.pread(MiB, at) for at in range(0, self.sectors * 512, MiB))
        wrong = [s for s, n in self.newest.items() if data[s * 512:s * 512 + 8] != n.to_bytes(8, 'big')]
        assert not wrong, wrong[:5]
        self.guest.shutdown()
        return len(self.newest)
