# SPDX-License-Identifier: BSD-2-Clause
"""An NBD server for tests, which does on the wire exactly what a test wants of it."""
import contextlib
import socket
import struct
import threading

OPTION_MAGIC = 0x49484156454f5054
ANSWER_MAGIC = 0x3e889045565a9
REQUEST = struct.Struct('>IHHQQI')
READ, WRITE, DISC, FLUSH, TRIM, _CACHE, ZERO, STATUS = range(8)
FLAGS = 1 | 4 | 8 | 32 | 64  # flush, FUA, trim, write zeroes
NONE, DATA, HOLE, EXTENTS, ERROR, ERROR_OFFSET = 0, 1, 2, 5, 0x8001, 0x8002


def chunk(cookie, kind, content=b'', last=True):
    return struct.pack('>IHHQI', 0x668e33ef, int(last), kind, cookie, len(content)) + content


def data(cookie, offset, content, last=True):
    return chunk(cookie, DATA, struct.pack('>Q', offset) + content, last)


def hole(cookie, offset, length, last=True):
    return chunk(cookie, HOLE, struct.pack('>QI', offset, length), last)


def error(cookie, code, last=True):
    return chunk(cookie, ERROR, struct.pack('>IH', code, 0), last)


def simple(cookie, code=0):
    return struct.pack('>IIQ', 0x67446698, code, cookie)


class NbdServer:
    """Serves a bytearray at a unix socket, one thread a connection.

    @hook(kind, cookie, offset, length, payload) answers instead, if it returns bytes: they are sent as they are. None:
    the usual answer. EOFError hangs up.
    """

    def __init__(self, path, size, hook=None, flags=FLAGS):
        self.content, self.hook, self.flags = bytearray(size), hook or (lambda *_: None), flags
        self.connections, self.open = 0, []
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(path))
        self.listener.listen()
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self.listener.accept()
                self.connections += 1
                self.open.append(connection)
                threading.Thread(target=self.serve, args=(connection,), daemon=True).start()

    def close(self):
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.hang_up()

    def hang_up(self):
        for connection in self.open:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self.open = []

    def serve(self, connection):
        with contextlib.suppress(EOFError, OSError, ConnectionError), connection:
            if self.negotiate(connection):
                while self.command(connection):
                    pass

    @staticmethod
    def take(connection, length):
        found = b''
        while len(found) < length:
            more = connection.recv(length - len(found))
            if not more:
                raise EOFError
            found += more
        return found

    def negotiate(self, connection):
        connection.sendall(b'NBDMAGIC' + struct.pack('>QH', OPTION_MAGIC, 3))
        self.take(connection, 4)
        while True:
            _, option, length = struct.unpack('>QII', self.take(connection, 16))
            self.take(connection, length)

            def answer(kind, content=b'', number=option):
                connection.sendall(struct.pack('>QIII', ANSWER_MAGIC, number, kind, len(content)) + content)
            if option == 10:
                answer(4, struct.pack('>I', 1) + b'base:allocation')
            if option == 7:
                answer(3, struct.pack('>HQH', 0, len(self.content), self.flags))
            answer(1 if option in (7, 8, 10) else 0x80000001)
            if option == 7:
                return True

    def command(self, connection):
        _, _, kind, cookie, offset, length = REQUEST.unpack(self.take(connection, REQUEST.size))
        payload = self.take(connection, length) if kind == WRITE else b''
        if kind == DISC:
            return False
        answer = self.hook(kind, cookie, offset, length, payload)
        if answer is None:
            answer = self.usual(kind, cookie, offset, length, payload)
        connection.sendall(answer)
        return True

    def usual(self, kind, cookie, offset, length, payload):
        if kind == READ:
            return data(cookie, offset, bytes(self.content[offset:offset + length]))
        if kind == STATUS:
            return chunk(cookie, EXTENTS, struct.pack('>III', 1, length, 0))
        if kind == WRITE:
            self.content[offset:offset + length] = payload
        if kind in (ZERO, TRIM):
            self.content[offset:offset + length] = bytes(length)
        return simple(cookie)
