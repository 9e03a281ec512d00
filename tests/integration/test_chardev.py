# SPDX-License-Identifier: BSD-2-Clause
"""Character devices of monitors: sockets of every kind, as server and as client, and standard input and output."""
import json
import os
import socket
import subprocess

import pytest

from weirtest import Qmp, daemon_command, is_peer, wait_until


@pytest.fixture
def spawn(tmp):
    """spawn(*options, **popen) -> Popen of a daemon without the usual monitors; standard error goes to tmp/stderr."""
    running = []

    def run(*options, **popen):
        with open(tmp / 'stderr', 'wb') as stderr:
            popen = dict({'stdin': subprocess.DEVNULL, 'stdout': stderr}, **popen)
            running.append(subprocess.Popen([*daemon_command(), *options], stderr=stderr, **popen))
        return running[-1]
    yield run
    for process in running:
        process.kill()
        process.wait()


def quits(qmp, process):
    """The monitor works: it can end the daemon."""
    assert qmp('query-version')
    assert qmp('quit') == {}
    assert process.wait(10) == 0


def connected(process, path):
    def attempt():
        assert process.poll() is None
        try:
            return Qmp(path)
        except OSError:
            return None
    return wait_until(attempt, 10, 'the monitor listens')


def accepted(listening):
    """A Qmp on the connection that the daemon makes to us."""
    listening.settimeout(10)
    return Qmp(listening.accept()[0])


def test_chardev_clients(spawn, tmp):
    """As a client the daemon calls the manager."""
    path = str(tmp / 'manager')
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path)
        listening.listen()
        process = spawn('--chardev', f'socket,id=c,path={path},server=off', '--monitor', 'c')
        quits(accepted(listening), process)


def test_chardev_client_without_server(spawn, tmp):
    """Nobody there: an error that says where."""
    path = str(tmp / 'nobody')
    process = spawn('--chardev', f'socket,id=c,path={path}', '--monitor', 'c')
    assert process.wait(10) == 1
    assert path in (tmp / 'stderr').read_text() or is_peer()


def test_chardev_server(spawn, tmp):
    """One client at a time; the next is served when the first has left."""
    path = str(tmp / 'server')
    process = spawn('--chardev', f'socket,id=c,path={path},server=on,wait=off', '--monitor', 'chardev=c')
    first = connected(process, path)
    second = socket.socket(socket.AF_UNIX)
    second.settimeout(10)
    second.connect(path)
    assert first('query-version')
    first.close()
    quits(Qmp(second), process)


def free_port():
    with socket.socket() as one:
        one.bind(('127.0.0.1', 0))
        return one.getsockname()[1]


def test_chardev_socket_tcp(spawn):
    port = free_port()
    process = spawn('--chardev', f'socket,id=c,host=127.0.0.1,port={port},server=on,wait=off', '--monitor', 'c')
    quits(connected(process, ('127.0.0.1', port)), process)
    with socket.socket() as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(('127.0.0.1', 0))
        listening.listen()
        process = spawn('--chardev', f'socket,id=c,host=localhost,port={listening.getsockname()[1]},server=off',
                        '--monitor', 'c')
        quits(accepted(listening), process)


def test_chardev_socket_fd(spawn, tmp):
    """A listening descriptor, and one that is connected already."""
    path = str(tmp / 'passed')
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path)
        listening.listen()
        process = spawn('--chardev', f'socket,id=c,fd={listening.fileno()},server=on,wait=off', '--monitor', 'c',
                        pass_fds=[listening.fileno()])
    quits(connected(process, path), process)
    ours, theirs = socket.socketpair(socket.AF_UNIX)
    with theirs:
        process = spawn('--chardev', f'socket,id=c,fd={theirs.fileno()},server=off', '--monitor', 'c',
                        pass_fds=[theirs.fileno()])
    ours.settimeout(10)
    quits(Qmp(ours), process)


def test_chardev_socket_bad_fd(spawn, tmp):
    process = spawn('--chardev', 'socket,id=c,fd=99,server=on,wait=off', '--monitor', 'c')
    assert process.wait(10) == 1
    assert '99' in (tmp / 'stderr').read_text()


def asleep(process):
    with open(f'/proc/{process.pid}/stat', encoding='ascii') as stat:
        return stat.read().rsplit(')', 1)[1].split()[0] == 'S'


def test_chardev_socket_wait(spawn, tmp):
    """With wait the next option is looked at when the client has come; without, at once."""
    path = str(tmp / 'server')
    wrong = ['--blockdev', 'driver=file,node-name=n,filename=/nonexistent/x']
    assert spawn('--chardev', f'socket,id=c,path={path},server=on,wait=off', *wrong).wait(10) == 1
    with socket.socket(socket.AF_UNIX) as early:
        process = spawn('--chardev', f'socket,id=c,path={path}2,server=on,wait=on', *wrong)
        wait_until(lambda: os.path.exists(path + '2') and asleep(process), 10, 'it waits')
        assert process.poll() is None and '/nonexistent/x' not in (tmp / 'stderr').read_text()
        early.connect(path + '2')
        assert process.wait(10) == 1
    assert '/nonexistent/x' in (tmp / 'stderr').read_text()


def test_chardev_waits_and_serves(spawn, tmp):
    """The client that was waited for is the monitor's first."""
    path = str(tmp / 'server')
    process = spawn('--chardev', f'socket,id=c,path={path},server=on', '--blockdev', 'driver=null-co,node-name=n',
                    '--monitor', 'c')
    qmp = connected(process, path)
    assert [n['node-name'] for n in qmp('query-named-block-nodes')] == ['n']
    quits(qmp, process)


def talk(process, *messages):
    """Sends the messages and returns the lines that come before the daemon ends."""
    output, _ = process.communicate(''.join(json.dumps(m) + '\n' for m in messages).encode(), timeout=20)
    assert process.returncode == 0
    return output


SESSION = [{'execute': 'qmp_capabilities'}, {'execute': 'query-block-exports', 'id': 1}, {'execute': 'quit', 'id': 2}]


@pytest.mark.parametrize('chardev', ['stdio,id=c', '{"backend": "stdio", "id": "c"}'])
def test_chardev_stdio(spawn, chardev):
    if is_peer():
        chardev = 'stdio,id=c'  # it has no JSON form here
    process = spawn('--chardev', chardev, '--monitor', 'chardev=c', stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    lines = [json.loads(line) for line in talk(process, *SESSION).splitlines()]
    assert 'QMP' in lines[0] and lines[1:] == [{'return': {}}, {'return': [], 'id': 1}, {'return': {}, 'id': 2}]


def test_monitor_pretty(spawn):
    """Indented by four, and still the same."""
    for pretty in ('on', 'off'):
        process = spawn('--chardev', 'stdio,id=c', '--monitor', f'chardev=c,pretty={pretty}',
                        stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        output = talk(process, *SESSION).replace(b'\r\n', b'\n')
        assert (b'{\n    "return": [],\n    "id": 1\n}\n' in output.replace(b'[\n    ]', b'[]')) == (pretty == 'on')
        assert (b'\n{"return": [], "id": 1}\n' in output) == (pretty == 'off'), output
        assert (b'{\n    "QMP": {\n        "version": {\n            "qemu": {\n' in output) == (pretty == 'on')


TEXTS = [
    (['--monitor', 'chardev=nope'], "nope"),
    (['--chardev', 'socket,id=c,path=@/a,server=on,wait=off', '--monitor', 'chardev=c,mode=telepathy'],
     "Parameter 'mode' does not accept value 'telepathy'"),
    (['--chardev', 'socket,id=c,path=@/b,server=on,wait=off', '--monitor', 'chardev=c,nonsense=1'],
     "Parameter 'nonsense' is unexpected"),
    (['--chardev', 'socket,id=c,path=@/c,server=on,wait=off', '--monitor', 'chardev=c', '--monitor', 'chardev=c'], 'c'),
    (['--chardev', 'socket,id=c,path=@/d,server=on,wait=off',
      '--chardev', 'socket,id=c,path=@/e,server=on,wait=off'], 'c'),
    (['--chardev', 'telepathy,id=c'], 'telepathy'),
    (['--chardev', 'socket,path=@/f,server=on,wait=off'], 'id'),
    (['--chardev', 'socket,id=c,path=@/nowhere/at/all,server=on,wait=off'], 'No such file or directory'),
    (['--chardev', 'socket,id=c,path=@/g,server=on,wait=perhaps'], 'wait'),
]


@pytest.mark.parametrize('options, text', TEXTS, ids=lambda v: ' '.join(v) if isinstance(v, list) else '')
def test_option_texts(spawn, tmp, options, text):
    """Wrong options of devices and monitors: status 1, and a line that names what is wrong."""
    process = spawn(*[o.replace('@', str(tmp)) for o in options])
    assert process.wait(10) == 1
    lines = (tmp / 'stderr').read_text().splitlines()
    assert lines and any(text in line for line in lines) and len(lines) <= 3, lines


@pytest.mark.skipif(is_peer(), reason='it starts, with an address of its own')
def test_chardev_socket_without_address(spawn, tmp):
    assert spawn('--chardev', 'socket,id=c,server=on,wait=off').wait(10) == 1
    assert 'path' in (tmp / 'stderr').read_text()


def test_monitor_options(spawn, tmp):
    """id and mode are accepted, in either form."""
    path = tmp / 'server'
    for monitor in ('chardev=c,id=m,mode=control', '{"chardev": "c", "id": "m", "mode": "control", "pretty": false}'):
        process = spawn('--chardev', f'socket,id=c,path={path},server=on,wait=off', '--monitor', monitor)
        quits(connected(process, path), process)
