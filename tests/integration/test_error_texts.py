# SPDX-License-Identifier: BSD-2-Clause
"""Errors: the class and, where managers parse it, the text; and for files: which one, and why."""
import os
import re
import subprocess

import pytest

from weirtest import MiB, QmpError, daemon_command, fill, is_peer, run

NOWHERE = "Cannot find device='' nor node-name='nope'"
MIRROR = {'job-id': 'j', 'device': 'n', 'target': 't', 'sync': 'full'}
EXPORT = {'type': 'nbd', 'id': 'e', 'node-name': 'n'}
NULL = {'driver': 'null-co', 'node-name': 'x'}


@pytest.fixture
def nodes(daemon):
    """A daemon with the null nodes n and t."""
    for node in ('n', 't'):
        daemon.qmp('blockdev-add', {'driver': 'null-co', 'node-name': node, 'size': 64 * MiB})
    return daemon


def error_of(daemon, command, arguments=None):
    with pytest.raises(QmpError) as caught:
        daemon.qmp(command, arguments or {})
    return caught.value


def changed(options, **changes):
    """The options with these members, None removes one."""
    merged = dict(options, **{k.replace('_', '-'): v for k, v in changes.items()})
    return {k: v for k, v in merged.items() if v is not None}


ARGUMENTS = [
    ('blockdev-add', changed(NULL, driver=None), "Parameter 'driver' is missing"),
    ('blockdev-add', changed(NULL, driver='nonsense'), "Parameter 'driver' does not accept value 'nonsense'"),
    ('blockdev-add', changed(NULL, nonsense=1), "Parameter 'nonsense' is unexpected"),
    ('blockdev-add', changed(NULL, size='many'), "Invalid parameter type for 'size', expected: integer"),
    ('blockdev-add', changed(NULL, read_only='yes'), "Invalid parameter type for 'read-only', expected: boolean"),
    ('blockdev-add', changed(NULL, driver=7), "Invalid parameter type for 'driver', expected: string"),
    ('blockdev-add', {'driver': 'file', 'node-name': 'x'}, "Parameter 'filename' is missing"),
    ('blockdev-add', {'driver': 'raw', 'node-name': 'x'}, "Parameter 'file' is missing"),
    ('blockdev-add', {'driver': 'raw', 'node-name': 'x', 'file': {'driver': 'file'}},
     "Parameter 'file.filename' is missing"),
    ('blockdev-del', {}, "Parameter 'node-name' is missing"),
    ('blockdev-del', {'node-name': 'n', 'more': 1}, "Parameter 'more' is unexpected"),
    ('blockdev-mirror', changed(MIRROR, target=None), "Parameter 'target' is missing"),
    ('blockdev-mirror', changed(MIRROR, sync='half'), "Parameter 'sync' does not accept value 'half'"),
    ('blockdev-mirror', changed(MIRROR, copy_mode='x'), "Parameter 'copy-mode' does not accept value 'x'"),
    ('block-export-add', changed(EXPORT, type='telepathy'), "Parameter 'type' does not accept value 'telepathy'"),
    ('block-export-add', changed(EXPORT, id=None), "Parameter 'id' is missing"),
    ('query-version', {'x': 1}, "Parameter 'x' is unexpected"),
]


@pytest.mark.parametrize('command, arguments, text', ARGUMENTS)
def test_argument_errors(nodes, command, arguments, text):
    error = error_of(nodes, command, arguments)
    assert (error.error_class, error.text) == ('GenericError', text)


UNKNOWN = [
    ('blockdev-mirror', changed(MIRROR, device='nope'), 'GenericError', NOWHERE.replace("=''", "='nope'")),
    ('blockdev-mirror', changed(MIRROR, target='nope'), 'GenericError', NOWHERE.replace("=''", "='nope'")),
    ('block-export-add', changed(EXPORT, node_name='nope'), 'GenericError', NOWHERE),
    ('block_resize', {'node-name': 'nope', 'size': 0}, 'GenericError', NOWHERE),
    ('blockdev-del', {'node-name': 'nope'}, 'GenericError', "Failed to find node with node-name='nope'"),
    ('block-export-del', {'id': 'nope'}, 'GenericError', "Export 'nope' is not found"),
    ('job-cancel', {'id': 'nope'}, 'GenericError', 'Job not found'),
    ('job-complete', {'id': 'nope'}, 'GenericError', 'Job not found'),
    ('job-dismiss', {'id': 'nope'}, 'GenericError', 'Job not found'),
    ('job-finalize', {'id': 'nope'}, 'GenericError', 'Job not found'),
    ('block-job-cancel', {'device': 'nope'}, 'DeviceNotActive', "Block job 'nope' not found"),
    ('block-job-set-speed', {'device': 'nope', 'speed': 1}, 'DeviceNotActive', "Block job 'nope' not found"),
    ('block-export-add', changed(EXPORT, iothread='nope'), 'GenericError', 'iothread "nope" not found'),
    ('object-del', {'id': 'nope'}, 'GenericError', "object 'nope' not found"),
    ('no-such-command', {}, 'CommandNotFound', 'The command no-such-command has not been found'),
]


@pytest.mark.parametrize('command, arguments, error_class, text', UNKNOWN)
def test_unknown_names(nodes, command, arguments, error_class, text):
    error = error_of(nodes, command, arguments)
    assert error.error_class == error_class
    assert error.text == text


BAD_NAMES = [
    ('blockdev-add', changed(NULL, node_name='1x'), "Invalid node-name: '1x'"),
    ('blockdev-add', changed(NULL, node_name='a b'), "Invalid node-name: 'a b'"),
    ('blockdev-add', changed(NULL, node_name='n' * 32), 'Node name too long'),
    ('blockdev-add', changed(NULL, node_name=None), "'node-name' must be specified for the root node"),
    ('blockdev-add', changed(NULL, node_name='n'), None),
    ('block-export-add', changed(EXPORT, id='1e'), 'Invalid block export id'),
    ('blockdev-mirror', changed(MIRROR, job_id='#j'), "Invalid job ID '#j'"),
    ('blockdev-mirror', changed(MIRROR, job_id=None), "Invalid job ID ''"),
]


@pytest.mark.parametrize('command, arguments, text', BAD_NAMES)
def test_bad_names(nodes, command, arguments, text):
    error = error_of(nodes, command, arguments)
    assert error.error_class == 'GenericError'
    assert error.text == text if text else "'n'" in error.text or '=n' in error.text, error.text


@pytest.mark.parametrize('granularity, text', [
    (100, "Parameter 'granularity' expects a value in range [512B, 64MB]"),
    (1 << 27, "Parameter 'granularity' expects a value in range [512B, 64MB]"),
    (12345, "Parameter 'granularity' expects a power of 2"),
])
def test_granularity(nodes, granularity, text):
    error = error_of(nodes, 'blockdev-mirror', changed(MIRROR, granularity=granularity))
    assert (error.error_class, error.text.lower().replace("a power of 2", "power of 2")) == \
        ('GenericError', text.lower().replace("a power of 2", "power of 2"))


def test_names_in_use(nodes):
    nodes.qmp('block-export-add', EXPORT)
    error = error_of(nodes, 'block-export-add', EXPORT)
    assert error.text == "Block export id 'e' is already in use"
    error = error_of(nodes, 'block-export-add', changed(EXPORT, id='f'))
    assert error.text == "NBD server already has export named 'n'"
    error = error_of(nodes, 'blockdev-del', {'node-name': 'n'})
    assert error.error_class == 'GenericError' and error.text.startswith('Node n is in use'), error.text


def test_server_errors(nodes, tmp):
    address = {'addr': {'type': 'unix', 'data': {'path': str(tmp / 'second')}}}
    assert error_of(nodes, 'nbd-server-start', address).text == 'NBD server already running'
    nodes.qmp('nbd-server-stop')
    assert error_of(nodes, 'nbd-server-stop').text == 'NBD server not running'
    assert error_of(nodes, 'block-export-add', EXPORT).text == 'NBD server not running'


def test_socket_errors(start, tmp):
    daemon = start()
    path = str(tmp / 'gone' / 'socket')
    error = error_of(daemon, 'nbd-server-start', {'addr': {'type': 'unix', 'data': {'path': path}}})
    assert path in error.text and 'No such file or directory' in error.text


def test_export_of_a_read_only_node(nodes):
    nodes.qmp('blockdev-add', changed(NULL, read_only=True))
    error = error_of(nodes, 'block-export-add', changed(EXPORT, node_name='x', writable=True))
    assert error.text == 'Cannot export read-only node as writable'


def test_job_errors(nodes):
    nodes.qmp('blockdev-mirror', dict(MIRROR, speed=4096))
    for verb in ('job-complete', 'job-dismiss', 'job-finalize'):
        error = error_of(nodes, verb, {'id': 'j'})
        assert error.error_class == 'GenericError'
        assert re.fullmatch(r"Job 'j' in state '\w+' cannot accept command verb '\w+'", error.text), error.text
    nodes.qmp('blockdev-add', NULL)
    assert error_of(nodes, 'blockdev-mirror', changed(MIRROR, device='x', target='x')).error_class == 'GenericError'
    assert error_of(nodes, 'blockdev-mirror', changed(MIRROR, device='x')).error_class == 'GenericError'
    nodes.qmp('job-cancel', id='j')
    nodes.qmp.job_wait('j', 'null')


def test_same_job_id(nodes):
    for node in ('n2', 't2'):
        nodes.qmp('blockdev-add', {'driver': 'null-co', 'node-name': node, 'size': 64 * MiB})
    nodes.qmp('blockdev-mirror', dict(MIRROR, speed=4096))
    error = error_of(nodes, 'blockdev-mirror', changed(MIRROR, device='n2', target='t2'))
    assert error.text == "Job ID 'j' already in use"
    nodes.qmp('job-cancel', id='j')


def test_mirror_of_other_size(nodes):
    nodes.qmp('blockdev-add', changed(NULL, size=2 * MiB))
    nodes.qmp('blockdev-mirror', changed(MIRROR, target='x', auto_dismiss=False))
    event = nodes.qmp.event('BLOCK_JOB_COMPLETED')
    assert event['data']['error'] == 'Source and target image have different sizes'
    nodes.qmp('job-dismiss', id='j')


# ---- files ----

def test_file_is_missing(daemon, tmp):
    path = str(tmp / 'gone.img')
    error = error_of(daemon, 'blockdev-add', {'driver': 'file', 'node-name': 'n', 'filename': path})
    assert error.text == f"Could not open '{path}': No such file or directory"


def test_file_is_a_directory(daemon, tmp):
    error = error_of(daemon, 'blockdev-add', {'driver': 'file', 'node-name': 'n', 'filename': str(tmp)})
    assert str(tmp) in error.text


def test_permission_denied(start, tmp):
    """As a user who may not read the file (root may everything)."""
    path = fill(tmp / 'secret.img', MiB)
    os.chmod(path, 0)
    os.chmod(tmp, 0o777)
    command = daemon_command()
    if os.getuid() == 0:
        command = ['setpriv', '--reuid=65534', '--regid=65534', '--clear-groups', '--'] + command
    daemon = start(command=command)
    error = error_of(daemon, 'blockdev-add', {'driver': 'file', 'node-name': 'n', 'filename': path})
    assert error.text == f"Could not open '{path}': Permission denied"


def test_file_is_read_only(start, tmp):
    path = fill(tmp / 'disk.img', MiB)
    os.chmod(path, 0o444)
    os.chmod(tmp, 0o777)
    command = daemon_command()
    if os.getuid() == 0:
        command = ['setpriv', '--reuid=65534', '--regid=65534', '--clear-groups', '--'] + command
    daemon = start(command=command)
    error = error_of(daemon, 'blockdev-add', {'driver': 'file', 'node-name': 'n', 'filename': path})
    assert error.text == f"Could not open '{path}': Permission denied"
    daemon.qmp('blockdev-add', {'driver': 'file', 'node-name': 'n', 'filename': path, 'read-only': True})
    daemon.qmp('blockdev-add', {'driver': 'file', 'node-name': 'm', 'filename': path, 'auto-read-only': True})


def test_locked_by_another_process(start, daemon, tmp):
    path = fill(tmp / 'disk.img', MiB)
    daemon.qmp('blockdev-add', {'driver': 'null-co', 'node-name': 'n', 'size': MiB})
    daemon.add_file('t', path)
    daemon.qmp('blockdev-mirror', MIRROR)
    daemon.qmp.job_wait('j', 'ready')
    other = start()
    other.serve_nbd()
    with pytest.raises(QmpError) as caught:
        other.add_file('n', path)
        other.export('n')
    assert re.search(r'Failed to get (shared )?"(write|consistent read)" lock', caught.value.text), caught.value.text
    assert is_peer() or f'Is another process using the image [{path}]?' in caught.value.text, caught.value.text


def test_no_access_for_direct(daemon, tmp):
    """What the host cannot do is said with its name: O_DIRECT on a file system without it (proc)."""
    error = error_of(daemon, 'blockdev-add', {'driver': 'file', 'node-name': 'n', 'filename': '/proc/version',
                                              'read-only': True, 'cache': {'direct': True}})
    assert '/proc/version' in error.text


@pytest.fixture
def small_disk(tmp):
    """A directory on a file system of 4 MiB, mounted for the test."""
    path = tmp / 'small'
    path.mkdir()
    run('mount', '-t', 'tmpfs', '-o', 'size=4m', 'weir-test', path)
    yield path
    run('umount', '-l', path)


@pytest.mark.skipif(is_peer(), reason='the peer keeps the name of the file to itself')
def test_full_disk(start, small_disk, tmp):
    """A mirror whose target's file system is full: the job's error says which file, and why."""
    source = fill(tmp / 'disk.img', 16 * MiB)
    with open(small_disk / 'target.img', 'wb') as f:
        f.truncate(16 * MiB)
    daemon = start()
    daemon.serve_nbd()
    daemon.add_file('n', source)
    daemon.add_file('t', small_disk / 'target.img')
    daemon.qmp('blockdev-mirror', dict(MIRROR, **{'auto-dismiss': False}))
    daemon.qmp.job_wait('j', 'concluded')
    error = daemon.qmp.job('j')['error']
    assert 'No space left on device' in error and str(small_disk / 'target.img') in error, error
    daemon.qmp('job-dismiss', id='j')


@pytest.mark.skipif(is_peer(), reason='the peer says nothing')
def test_full_disk_of_a_guest(start, small_disk):
    """A guest gets ENOSPC on the wire; the operator a line that names the file."""
    path = small_disk / 'disk.img'
    with open(path, 'wb') as f:
        f.truncate(16 * MiB)
    daemon = start()
    daemon.serve_nbd()
    daemon.add_file('n', path)
    daemon.export('n')
    handle = daemon.nbd('n')
    with pytest.raises(Exception) as caught:
        for i in range(16):
            handle.pwrite(b'x' * MiB, i * MiB)
    assert caught.value.errnum == 28
    handle.shutdown()
    assert str(path) in daemon.stderr and 'No space left on device' in daemon.stderr


@pytest.mark.skipif(is_peer(), reason='the peer says nothing')
def test_file_changed_by_another_process(daemon, tmp):
    """Somebody cut the file short behind our back: reads beyond its end fail, and the log names it."""
    path = fill(tmp / 'disk.img', 4 * MiB)
    daemon.add_file('n', path)
    daemon.export('n')
    handle = daemon.nbd('n')
    assert handle.pread(512, 3 * MiB) != bytes(512)
    os.truncate(path, MiB)
    with pytest.raises(Exception) as caught:
        handle.pread(512, 3 * MiB)
    assert caught.value.errnum == 5
    handle.shutdown()
    assert path in daemon.stderr and 'shorter' in daemon.stderr, daemon.stderr


# ---- command line ----

COMMAND_LINES = [
    (['--nonsense'], "unrecognized option '--nonsense'"),
    (['--blockdev', 'driver=nonsense,node-name=n'], "Parameter 'driver' does not accept value 'nonsense'"),
    (['--blockdev', 'node-name=n'], "Parameter 'driver' is missing"),
    (['--blockdev', 'driver=null-co,node-name=n,nonsense=1'], "Parameter 'nonsense' is unexpected"),
    (['--blockdev', 'driver=null-co,node-name=n,size=large'], "Parameter 'size' expects"),
    (['--blockdev', '{"driver": "null-co",'], 'JSON'),
    (['--blockdev', 'driver=null-co,node-name=n,read-only=perhaps'], "Parameter 'read-only' expects 'on' or 'off'"),
    (['--blockdev', 'driver=null-co,node-name=n', '--export', 'type=nbd,id=e,node-name=n'], 'NBD server not running'),
    (['--export', 'type=nbd,id=e,node-name=n'], "Cannot find device='' nor node-name='n'"),
    (['--monitor', 'nope'], "nope"),
    (['--nbd-server', 'addr.type=pigeon'], "type' does not accept value 'pigeon'"),
    (['--object', 'nonsense,id=o'], 'nonsense'),
    (['--blockdev', 'driver=file,node-name=n,filename=/nonexistent/x'],
     "Could not open '/nonexistent/x': No such file or directory"),
]


@pytest.mark.parametrize('arguments, text', COMMAND_LINES, ids=lambda v: ' '.join(v) if isinstance(v, list) else '')
def test_command_line_errors(arguments, text):
    done = subprocess.run(daemon_command() + arguments, capture_output=True, text=True, timeout=20, check=False,
                          stdin=subprocess.DEVNULL)
    assert done.returncode == 1, done
    assert text in done.stderr, done.stderr
    assert len(done.stderr.splitlines()) <= 3, done.stderr


def test_help_and_version():
    output = run(*daemon_command(), '--help')
    for option in ('--blockdev', '--chardev', '--daemonize', '--export', '--monitor', '--nbd-server', '--object',
                   '--pidfile', '--help', '--version'):
        assert option in output, option
    assert re.search(r'\d+\.\d+', run(*daemon_command(), '--version'))
