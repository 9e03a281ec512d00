# SPDX-License-Identifier: BSD-2-Clause
"""Two hosts and the long cable between them: network namespaces, each with a tap device, and a thread that carries
frames from one to the other, later; or drops them, when the cable is cut."""
import collections
import ctypes
import fcntl
import os
import select
import struct
import subprocess
import threading
import time

LIBC = ctypes.CDLL(None, use_errno=True)
CLONE_NEWNET = 0x40000000
TUNSETIFF = 0x400454ca
IFF_TAP, IFF_NO_PI = 0x2, 0x1000
MTU = 9000
FRAMES_MAX = 4096  # on their way in one direction: what a router's queue holds


def ip(*arguments):
    subprocess.run(['ip', *arguments], check=True, capture_output=True)


def open_tap(namespace):
    """A descriptor of the device `far` of a namespace, which the calling thread enters for that."""
    old = os.open('/proc/thread-self/ns/net', os.O_RDONLY)
    new = os.open(f'/run/netns/{namespace}', os.O_RDONLY)
    try:
        assert not LIBC.setns(new, CLONE_NEWNET), os.strerror(ctypes.get_errno())
        try:
            tap = os.open('/dev/net/tun', os.O_RDWR | os.O_NONBLOCK)
            fcntl.ioctl(tap, TUNSETIFF, struct.pack('16sH22x', b'far', IFF_TAP | IFF_NO_PI))
            return tap
        finally:
            assert not LIBC.setns(old, CLONE_NEWNET), os.strerror(ctypes.get_errno())
    finally:
        os.close(old)
        os.close(new)


class Link:
    """Hosts `near` and `far`: namespaces of these names with the addresses below. A frame takes @delay seconds."""

    NEAR, FAR = '10.83.0.1', '10.83.0.2'

    def __init__(self, delay):
        self.delay, self.is_cut, self.stopped, self.names = delay, False, False, []
        unique = f'{os.getpid()}'
        self.taps = []
        for name, address in ('near', self.NEAR), ('far', self.FAR):
            namespace = f'weir-{name}-{unique}'
            ip('netns', 'add', namespace)
            self.names.append(namespace)
            self.taps.append(open_tap(namespace))
            ip('-n', namespace, 'link', 'set', 'lo', 'up')
            ip('-n', namespace, 'link', 'set', 'far', 'mtu', str(MTU), 'up')
            ip('-n', namespace, 'address', 'add', f'{address}/24', 'dev', 'far')
        self.thread = threading.Thread(target=self.carry, daemon=True)
        self.thread.start()

    def command(self, host, *command):
        """The command line that runs a command on 'near' or 'far'."""
        return ['ip', 'netns', 'exec', self.names[('near', 'far').index(host)], *command]

    def carry(self):
        ways = [(self.taps[0], self.taps[1], collections.deque()), (self.taps[1], self.taps[0], collections.deque())]
        while not self.stopped:
            now = time.monotonic()
            due = [way[0][0] for _, _, way in ways if way]
            select.select(self.taps, [], [], max(0, min(due) - now) if due else 0.1)
            now = time.monotonic()
            for source, target, way in ways:
                self.take(source, way, now)
                while way and way[0][0] <= now:
                    self.put(target, way.popleft()[1])

    def take(self, source, way, now):
        for _ in range(64):
            try:
                frame = os.read(source, MTU + 64)
            except BlockingIOError:
                return
            if not self.is_cut and len(way) < FRAMES_MAX:
                way.append((now + self.delay, frame))

    def put(self, target, frame):
        try:
            if not self.is_cut:
                os.write(target, frame)
        except OSError:
            pass  # a full queue drops, as queues do

    def cut(self, seconds):
        """Nothing comes through for so long."""
        self.is_cut = True
        try:
            time.sleep(seconds)
        finally:
            self.is_cut = False

    def close(self):
        self.stopped = True
        self.thread.join(10)
        for tap in self.taps:
            os.close(tap)
        for name in self.names:
            ip('netns', 'del', name)
