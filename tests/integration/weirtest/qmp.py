# SPDX-License-Identifier: BSD-2-Clause
"""A QMP client that waits with limits and keeps the events that come in between."""
import json
import socket
import time


class QmpError(Exception):
    """An error reply: .error_class, .text."""

    def __init__(self, command, error):
        super().__init__(f"{command}: {error['class']}: {error['desc']}")
        self.error_class, self.text = error['class'], error['desc']


class Qmp:
    """One monitor connection. Call it like a function: qmp('block-export-del', id='e0', mode='hard').

    Underscores of keyword arguments become hyphens; a dict as second argument is taken as it is.
    """

    def __init__(self, path, timeout=10, negotiate=True):
        """@path: of a unix socket; (host, port); or a connected socket, which becomes the monitor's."""
        self.socket = path
        if not isinstance(path, socket.socket):
            self.socket = socket.socket(socket.AF_INET if isinstance(path, tuple) else socket.AF_UNIX)
            self.socket.settimeout(timeout)
            self.socket.connect(path if isinstance(path, tuple) else str(path))
        self.buffer = ''
        self.closed = False
        self.events = []
        self.next_id = 0
        self.greeting = self.receive(timeout)
        assert self.greeting is not None and 'QMP' in self.greeting, self.greeting
        if negotiate:
            self('qmp_capabilities')

    def close(self):
        self.socket.close()
        self.closed = True

    def send(self, message):
        """Sends an object, or a text or bytes as they are."""
        if not isinstance(message, (str, bytes)):
            message = json.dumps(message) + '\n'
        self.socket.sendall(message.encode() if isinstance(message, str) else message)

    def receive(self, timeout=10):
        """The next message of any kind; None past @timeout or when the peer has closed (then .closed is true)."""
        end = time.monotonic() + timeout
        while True:
            line, newline, rest = self.buffer.partition('\n')
            if newline:
                self.buffer = rest
                if line.strip():
                    return json.loads(line)
                continue
            left = end - time.monotonic()
            if left <= 0 or self.closed:
                return None
            self.socket.settimeout(left)
            try:
                data = self.socket.recv(1 << 16)
            except socket.timeout:
                return None
            except ConnectionResetError:
                data = b''
            self.closed = not data
            self.buffer += data.decode()

    def reply(self, timeout=10):
        """The next message that is no event; events on the way are kept."""
        end = time.monotonic() + timeout
        while True:
            message = self.receive(end - time.monotonic())
            assert message is not None, 'the monitor was closed' if self.closed else f'no reply in {timeout} s'
            if 'QMP' in message and 'Debian' in message['QMP']['version']['package']:
                continue  # qemu's daemon greets twice when a client comes very early
            if 'event' not in message:
                return message
            self.events.append(message)

    def __call__(self, command, arguments=None, timeout=30, **options):
        arguments = dict(arguments or {}, **{k.replace('_', '-'): v for k, v in options.items()})
        self.next_id += 1
        self.send({'execute': command, 'arguments': arguments, 'id': self.next_id})
        message = self.reply(timeout)
        assert message.get('id') == self.next_id, message
        if 'error' in message:
            raise QmpError(command, message['error'])
        return message['return']

    def event(self, name, timeout=10, **data):
        """The next event of that name whose data has these values; it and those before it are consumed."""
        end = time.monotonic() + timeout
        position = 0
        while True:
            while position < len(self.events):
                event = self.events[position]
                position += 1
                if event['event'] == name and all(event.get('data', {}).get(k) == v for k, v in data.items()):
                    del self.events[:position]
                    return event
            message = self.receive(end - time.monotonic())
            assert message is not None, f'no {name} {data} in {timeout} s; seen: {self.events}'
            assert 'event' in message, message
            self.events.append(message)

    def next_event(self, timeout=10):
        """The next event, whichever it is."""
        if not self.events:
            message = self.receive(timeout)
            assert message is not None and 'event' in message, message or f'no event in {timeout} s'
            return message
        return self.events.pop(0)

    def job_wait(self, job, status, timeout=60):
        """Waits for the job to reach the status (of JOB_STATUS_CHANGE)."""
        return self.event('JOB_STATUS_CHANGE', timeout, id=job, status=status)

    def job(self, job):
        """Its line of query-jobs, or None."""
        return next((j for j in self('query-jobs') if j['id'] == job), None)
