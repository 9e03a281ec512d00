# SPDX-License-Identifier: BSD-2-Clause
"""The process: options in order, pid file, going to the background, signals, an end that is orderly and bounded."""
import contextlib
import fcntl
import os
import signal
import socket
import subprocess
import time

import nbd
import pytest

from weirtest import MiB, KiB, Qmp, daemon_command, fill, file_bytes, is_peer, nbd_connect, nbd_uri, run, wait_until

STOPS = ['SIGINT', 'SIGTERM', 'SIGHUP', 'quit']
# The daemon gives itself ten seconds for its end; without anything stuck it needs next to none.
STOP_LIMIT = 5


def end(daemon, how):
    if how == 'quit':
        daemon.qmp('quit')
    else:
        daemon.process.send_signal(getattr(signal, how))


# ---- end ----

@pytest.mark.parametrize('how', STOPS)
def test_stop(start, how):
    daemon = start()
    end(daemon, how)
    assert daemon.wait(STOP_LIMIT) == 0
    daemon.assert_no_crash()


@pytest.mark.parametrize('how', STOPS)
def test_stop_with_a_client(daemon, tmp, how):
    """A connected client, in the middle of requests, does not hold up the end; what was answered is in the file."""
    path = fill(tmp / 'disk.img', 4 * MiB)
    daemon.add_file('n', path)
    uri = daemon.export('n')
    idle, busy = nbd_connect(uri), nbd_connect(uri)
    busy.pwrite(b'before' * 1000, 12345)
    buffer = nbd.Buffer.from_bytearray(bytearray(b'z' * 64 * KiB))
    cookies = [busy.aio_pwrite(buffer, i * 64 * KiB) for i in range(16)]
    begin = time.monotonic()
    end(daemon, how)
    assert daemon.wait(STOP_LIMIT) == 0
    assert time.monotonic() - begin < STOP_LIMIT
    daemon.assert_no_crash()
    with pytest.raises(nbd.Error):
        idle.pread(512, 0)
    for i, cookie in enumerate(cookies):
        with contextlib.suppress(nbd.Error):
            if busy.aio_command_completed(cookie):
                assert file_bytes(path, i * 64 * KiB, 64 * KiB) == b'z' * 64 * KiB
    assert file_bytes(path, 2 * MiB, 1000) != b'z' * 1000
    run('qemu-io', '-f', 'raw', path, '-c', 'read 0 512')  # nobody holds a lock


@pytest.mark.parametrize('mode', ['background', 'write-blocking'])
@pytest.mark.parametrize('how', STOPS)
def test_stop_with_a_job(daemon, tmp, how, mode):
    """Jobs are cancelled, whatever state they are in."""
    for node in ('n', 't'):
        daemon.add_file(node, fill(tmp / f'{node}.img', 4 * MiB, seed=len(node)))
        daemon.qmp('blockdev-add', {'driver': 'null-co', 'node-name': f'{node}0', 'size': 64 * MiB})
    handle = nbd_connect(daemon.export('n'))
    daemon.qmp('blockdev-mirror', {'job-id': 'slow', 'device': 'n0', 'target': 't0', 'sync': 'full', 'speed': 64 * KiB})
    daemon.qmp('blockdev-mirror', {'job-id': 'j', 'device': 'n', 'target': 't', 'sync': 'full', 'copy-mode': mode})
    daemon.qmp.event('BLOCK_JOB_READY', device='j')
    handle.pwrite(b'w' * 4096, 8192)
    daemon.qmp('job-pause', id='slow')
    end(daemon, how)
    assert daemon.wait(STOP_LIMIT) == 0
    daemon.assert_no_crash()
    assert file_bytes(tmp / 'n.img', 8192, 4096) == b'w' * 4096
    if mode == 'write-blocking':
        run('cmp', tmp / 'n.img', tmp / 't.img')


def test_stop_twice(start):
    """A second signal while it stops changes nothing."""
    daemon = start()
    for _ in range(10):
        with contextlib.suppress(ProcessLookupError):
            daemon.process.send_signal(signal.SIGTERM)
            daemon.process.send_signal(signal.SIGINT)
    assert daemon.wait(STOP_LIMIT) == 0


@pytest.mark.skipif(is_peer(), reason='it waits on')
def test_stop_before_it_is_ready(tmp):
    """A signal while an option waits for a client."""
    path = tmp / 'server'
    process = subprocess.Popen([*daemon_command(), '--chardev', f'socket,id=c,path={path},server=on,wait=on'],
                               stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_until(path.exists, 10, 'it waits')
        process.send_signal(signal.SIGTERM)
        process.wait(STOP_LIMIT)
    finally:
        process.kill()
        process.wait()


def test_broken_pipe_is_survived(start):
    """Clients that go away before they are answered: SIGPIPE is not for us."""
    daemon = start()
    daemon.qmp.send('{"execute":"query-qmp-schema"}' * 100)
    daemon.qmp.close()
    wait_until(lambda: Qmp(daemon.qmp_path)('query-version'), 10)
    assert daemon.process.poll() is None


# ---- pid file ----

def test_pidfile(start, tmp):
    """It has the process's number, is locked, appears when every export is ready, and goes at the end."""
    path = tmp / 'pid'
    daemon = start('--blockdev', f"driver=file,node-name=n,filename={fill(tmp / 'disk.img', MiB)}",
                   '--nbd-server', f'addr.type=unix,addr.path={tmp}/nbd', '--export', 'type=nbd,id=e,node-name=n',
                   '--pidfile', str(path), qmp=False)
    wait_until(path.exists, 10, 'the pid file is there')
    assert nbd_connect(nbd_uri(tmp / 'nbd', 'n')).get_size() == MiB
    assert int(path.read_text()) == daemon.pid
    with open(path, 'r+b') as file, pytest.raises(OSError):
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    second = subprocess.run([*daemon_command(), '--pidfile', str(path)], stdin=subprocess.DEVNULL, capture_output=True,
                            text=True, timeout=10, check=False)
    assert second.returncode == 1 and (str(path) in second.stderr or is_peer()), second
    assert int(path.read_text()) == daemon.pid
    daemon.stop()
    assert not path.exists()


def test_stale_pidfile(start, tmp):
    """One that nobody has locked is taken over."""
    path = tmp / 'pid'
    path.write_text('12345678\n and more')
    daemon = start('--pidfile', str(path))
    assert path.read_text().strip() == str(daemon.pid)


def test_pidfile_that_cannot_be(tmp):
    path = tmp / 'no' / 'pid'
    done = subprocess.run([*daemon_command(), '--pidfile', str(path)], stdin=subprocess.DEVNULL, capture_output=True,
                          text=True, timeout=10, check=False)
    assert done.returncode == 1 and str(path) in done.stderr and 'No such file' in done.stderr


# ---- background ----

@contextlib.contextmanager
def background(tmp, *options):
    """(CompletedProcess of the parent, pid of the daemon)."""
    pidfile = tmp / 'background.pid'
    done = subprocess.run([*daemon_command(), *options, '--daemonize', '--pidfile', str(pidfile)], cwd=tmp,
                          stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=20, check=False)
    pid = int(pidfile.read_text()) if done.returncode == 0 else None
    try:
        yield done, pid
    finally:
        if pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
            wait_until(lambda: not pidfile.exists(), 10, 'the daemon has ended')


def test_daemonize(tmp):
    """The parent ends well when the child serves; the child is on its own: session, standard streams."""
    image = fill(tmp / 'disk.img', MiB)
    with background(tmp, '--blockdev', f'driver=file,node-name=n,filename={image}',
                    '--nbd-server', f'addr.type=unix,addr.path={tmp}/nbd',
                    '--export', 'type=nbd,id=e,node-name=n') as (done, pid):
        assert done.returncode == 0, done
        assert nbd_connect(nbd_uri(tmp / 'nbd', 'n')).pread(512, 0) == file_bytes(image, 0, 512)
        assert os.getsid(pid) != os.getsid(0)
        assert all(os.readlink(f'/proc/{pid}/fd/{n}') == '/dev/null' for n in range(3))


def test_daemonize_failure(tmp):
    """What fails before it is ready is the parent's message and status."""
    with background(tmp, '--blockdev', 'driver=file,node-name=n,filename=/nonexistent/x') as (done, pid):
        assert done.returncode == 1 and pid is None
        assert "Could not open '/nonexistent/x': No such file or directory" in done.stderr


def test_daemonize_relative_paths(tmp):
    """Paths are those of the directory where it was started, also for later commands."""
    fill(tmp / 'disk.img', MiB)
    with background(tmp, '--blockdev', 'driver=file,node-name=n,filename=disk.img',
                    '--chardev', 'socket,id=c,path=qmp,server=on,wait=off', '--monitor', 'c') as (done, _):
        assert done.returncode == 0, done
        qmp = Qmp(tmp / 'qmp')
        assert [n['node-name'] for n in qmp('query-named-block-nodes')] == ['n']


# ---- options ----

def test_options_in_order(tmp):
    """An option may only use what stands before it."""
    node, export = ['--blockdev', 'driver=null-co,node-name=n'], ['--export', 'type=nbd,id=e,node-name=n']
    server = ['--nbd-server', f'addr.type=unix,addr.path={tmp}/nbd']
    for options in (node + export + server, export + server + node):
        done = subprocess.run([*daemon_command(), *options], stdin=subprocess.DEVNULL, capture_output=True, text=True,
                              timeout=10, check=False)
        assert done.returncode == 1 and done.stderr, options


def test_options_of_every_kind(start, tmp):
    """The same, as keyval and as JSON, with nested members and escaped commas."""
    os.mkdir(tmp / 'a,b')
    image = fill(tmp / 'a,b' / 'disk.img', 4 * MiB)
    comma = image.replace(',', ',,')
    daemon = start(
        '--object', 'throttle-group,id=g0,limits.iops-total=1000', '--object', 'iothread,id=io0',
        '--object', {'qom-type': 'throttle-group', 'id': 'g1', 'limits': {'bps-read': 5}},
        '--blockdev', f'driver=file,node-name=f,filename={comma},read-only=on,cache.direct=off',
        '--blockdev', f'driver=raw,node-name=r,read-only=on,file.driver=file,file.filename={comma},'
                      'file.read-only=on,offset=1048576,size=2097152',
        '--blockdev', {'driver': 'throttle', 'node-name': 'th', 'throttle-group': 'g0', 'read-only': True, 'file': 'r'},
        '--blockdev', 'driver=null-co,node-name=z,size=1073741824',
        '--nbd-server', {'addr': {'type': 'unix', 'path': str(tmp / 'nbd')}, 'max-connections': 7},
        '--export', 'type=nbd,id=e0,node-name=th,name=first,iothread=io0',
        '--export', {'type': 'nbd', 'id': 'e1', 'node-name': 'z', 'name': 'second', 'writable': True})
    nodes = {n['node-name']: n for n in daemon.qmp('query-named-block-nodes')}
    assert nodes['r']['image']['virtual-size'] == 2 * MiB and nodes['z']['image']['virtual-size'] == 1 << 30
    assert daemon.qmp('qom-get', path='g0', property='limits')['iops-total'] == 1000
    assert daemon.qmp('qom-get', path='/objects/g1', property='limits')['bps-read'] == 5
    assert {e['id'] for e in daemon.qmp('query-block-exports')} == {'e0', 'e1'}
    assert nbd_connect(nbd_uri(tmp / 'nbd', 'first')).pread(512, 0) == file_bytes(image, MiB, 512)
    nbd_connect(nbd_uri(tmp / 'nbd', 'second')).pwrite(b'x' * 512, 0)


@pytest.mark.skipif(is_peer(), reason='is what it is')
def test_drop_in(start, tmp):
    """Called qemu-storage-daemon the program is the daemon."""
    link = tmp / 'qemu-storage-daemon'
    link.symlink_to(daemon_command()[0])
    daemon = start('--blockdev', 'driver=null-co,node-name=n', command=[str(link)])
    assert [n['node-name'] for n in daemon.qmp('query-named-block-nodes')] == ['n']
    assert 'qemu-storage-daemon' in run(link, '--help')
    done = subprocess.run([link, '--nonsense'], capture_output=True, text=True, timeout=10, check=False)
    assert done.returncode == 1 and done.stderr.startswith('qemu-storage-daemon: '), done


def test_short_options(tmp):
    for short, long in (('-h', '--help'), ('-V', '--version')):
        assert run(*daemon_command(), short) == run(*daemon_command(), long)


def test_no_descriptor_is_left(start, tmp):
    """Nodes, exports, clients and jobs that came and went leave no descriptor behind."""
    daemon = start()
    daemon.serve_nbd()
    images = [fill(tmp / f'{i}.img', MiB) for i in 'nt']

    def once():
        for node, image in zip('nt', images):
            daemon.add_file(node, image)
        nbd_connect(daemon.export('n')).pread(512, 0)
        daemon.qmp('blockdev-mirror', job_id='j', device='n', target='t', sync='full')
        daemon.qmp.event('BLOCK_JOB_READY', device='j')
        daemon.qmp('job-complete', id='j')
        daemon.qmp.job_wait('j', 'null')
        daemon.qmp('block-export-del', id='n', mode='hard')
        daemon.qmp.event('BLOCK_EXPORT_DELETED', id='n')
        for node in 'nt':
            daemon.qmp('blockdev-del', node_name=node)

    def descriptors():
        return len(os.listdir(f'/proc/{daemon.pid}/fd'))
    for _ in range(2):
        once()
    before = descriptors()
    for _ in range(10):
        once()
    wait_until(lambda: descriptors() <= before, 5, 'as many descriptors as before')


def test_listening_socket_file_goes(start, tmp):
    """The monitor's and the server's socket files go with the daemon, so that the next one can start."""
    options = ['--chardev', f'socket,id=x,path={tmp}/same,server=on,wait=off', '--monitor', 'x',
               '--nbd-server', f'addr.type=unix,addr.path={tmp}/nbd']
    for _ in range(2):
        daemon = start(*options)
        assert Qmp(tmp / 'same')('query-version')
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(tmp / 'nbd'))
        daemon.stop()
