# SPDX-License-Identifier: BSD-2-Clause
"""weir ctl at a real daemon: finding the monitor, jobs, watching them, the verbs, mirrors, the graph."""
import json
import os
import re
import signal
import socket
import subprocess
import threading
import xml.etree.ElementTree as ElementTree

import pytest

from weirtest import KiB, MiB, fill, is_peer, nbd_connect, run, wait_until
from weirtest.ctl import Ctl, binary

pytestmark = pytest.mark.skipif(is_peer(), reason='a tool for this daemon')

SIZE = 4 * MiB
COMMANDS = ['cancel', 'complete', 'graph', 'jobs', 'mirror', 'pause', 'resume', 'watch']


@pytest.fixture
def ctl(daemon, tmp):
    return Ctl(daemon, tmp)


@pytest.fixture
def disk(daemon, tmp):
    """The daemon with the node `disk`, exported, and the node `copy`."""
    daemon.add_file('disk', fill(tmp / 'disk.img', SIZE, seed=1))
    with open(tmp / 'copy.img', 'wb') as file:
        file.truncate(SIZE)
    daemon.add_file('copy', tmp / 'copy.img')
    daemon.export('disk', 'e0')
    return daemon


def mirror(daemon, job='move', **options):
    daemon.qmp('blockdev-mirror', dict({'job-id': job, 'device': 'disk', 'target': 'copy', 'sync': 'full'}, **options))


def create(daemon, job, path):
    """A job that stays when it has ended."""
    daemon.qmp('blockdev-create', {'job-id': job, 'options': {'driver': 'file', 'filename': str(path), 'size': 512}})
    daemon.qmp.job_wait(job, 'concluded')


def nodes(daemon):
    return sorted(n['node-name'] for n in daemon.qmp('query-named-block-nodes') if n['node-name'][0] != '#')


def plain(*args, env=None):
    """Without -s: status and both streams."""
    clean = {k: v for k, v in os.environ.items() if k != 'WEIR_MONITOR'}
    done = subprocess.run([binary(), 'ctl', *args], stdin=subprocess.DEVNULL, capture_output=True, text=True,
                          timeout=60, check=False, env=dict(clean, **(env or {})))
    return done.returncode, done.stdout, done.stderr


# ---- help and arguments ----

def test_help_leads_to_everything(tmp):
    status, out, err = plain('--help')
    assert status == 0 and not err
    for word in COMMANDS + ['--socket', 'WEIR_MONITOR', 'weir daemon', '--monitor', '--chardev']:
        assert word in out
    for command in COMMANDS:
        status, out, err = plain(command, '--help')
        assert status == 0 and out.startswith(f'usage: weir ctl [-s ADDR] {command}') and not err
    assert 'weir ctl version' in plain('--version')[1]
    assert re.search(r'^  ctl ', run(binary(), '--help'), re.M)


def test_a_page_of_the_manual_for_every_command():
    with open(os.path.join(os.path.dirname(__file__), '../../docs/man/weir-ctl.1'), encoding='utf-8') as file:
        page = file.read()
    for command in COMMANDS:
        for option in re.findall(r'^  (--[a-z-]+)', plain(command, '--help')[1], re.M):
            assert option.replace('-', '\\-') in page, (command, option)


WRONG = [
    ([], 'no command was given'),
    (['move'], "there is no command 'move'"),
    (['-x'], "unrecognized option '-x'"),
    (['-s'], "missing argument for option '-s'"),
    (['jobs', '--yaml'], "unrecognized option '--yaml'"),
    (['jobs', 'x'], "unexpected argument 'x'"),
    (['watch', 'a', 'b'], "unexpected argument 'b'"),
    (['watch', '--until', 'dawn'], '--until dawn: '),
    (['watch', '--until'], "missing argument for option '--until'"),
    (['mirror'], 'SRC is missing'),
    (['mirror', 'a'], 'TARGET is missing'),
    (['mirror', 'a', 'b', 'c'], "unexpected argument 'c'"),
    (['mirror', 'a', ''], 'TARGET is empty'),
    (['mirror', '--format', 'vmdk', 'a', 'b'], '--format vmdk: '),
    (['mirror', '--speed', 'fast', 'a', 'b'], '--speed fast: '),
    (['mirror', '--speed', '8E', 'a', 'b'], '--speed 8E: '),
    (['mirror', '--no-wait', '--pivot', 'a', 'b'], '--no-wait and --pivot'),
    (['complete'], 'JOB is missing'),
    (['pause', '--force', 'j'], "unrecognized option '--force'"),
    (['graph', '--svg'], "missing argument for option '--svg'"),
    (['graph', 'x'], "unexpected argument 'x'"),
]


@pytest.mark.parametrize('args, text', WRONG, ids=[' '.join(a) or 'nothing' for a, _ in WRONG])
def test_wrong_arguments_are_named(args, text):
    status, out, err = plain(*args)
    assert status == 1 and not out and text in err and "--help' for more information" in err


# ---- finding the monitor ----

def test_the_monitor_is_found(daemon, ctl, tmp):
    env = {'WEIR_MONITOR': ctl.address}
    assert plain('jobs', env=env) == (0, 'no jobs\n', '')
    assert plain('-s', ctl.address, 'jobs', env={'WEIR_MONITOR': '/nowhere'})[0] == 0
    assert plain('jobs', f'--socket={ctl.address}')[0] == 0
    done = subprocess.run([binary(), 'ctl', '-s', os.path.basename(ctl.address), 'jobs'], cwd=tmp, check=False)
    assert done.returncode == 0


@pytest.mark.parametrize('host', ['127.0.0.1', '[::1]', 'localhost'])
def test_a_monitor_over_tcp(start, tmp, host):
    family = socket.AF_INET6 if '[' in host else socket.AF_INET
    with socket.socket(family) as free:
        free.bind((host.strip('[]'), 0))
        port = free.getsockname()[1]
    start('--blockdev', 'driver=null-co,node-name=n', '--chardev',
          f'socket,id=t,host={host.strip("[]")},port={port},server=on,wait=off', '--monitor', 'chardev=t')
    assert plain('-s', f'{host}:{port}', 'jobs') == (0, 'no jobs\n', '')
    status, _, err = plain('-s', f'{host}:{port}', 'mirror', 'n', 'b.img')
    assert status == 1 and 'must be absolute' in err


def test_no_monitor(daemon, tmp):
    """Each way of not reaching one has its own words."""
    stale = socket.socket(socket.AF_UNIX)
    stale.bind(str(tmp / 'stale'))
    stale.close()
    closing = socket.socket(socket.AF_UNIX)
    closing.bind(str(tmp / 'closing'))
    closing.listen()
    threading.Thread(target=lambda: closing.accept()[0].close(), daemon=True).start()
    fill(tmp / 'file', KiB)
    for address, text in [
            (tmp / 'nothing', 'there is no such socket'), (tmp / 'stale', 'nobody listens there'),
            (tmp / 'file', 'nobody listens there'), (daemon.nbd_path, 'does not speak QMP'),
            (tmp / 'closing', 'closed without a greeting'), ('x' * 200, 'at most 107 bytes'),
            ('a:b:c', 'is no address of a monitor'), ('host:', 'is no address'), ('localhost:nix', 'no such port'),
            ('127.0.0.1:1', 'nobody listens there')]:
        status, _, err = plain('-s', str(address), 'jobs')
        assert status == 1 and text in err and str(address) in err, (address, err)
    status, _, err = plain('jobs')
    assert status == 1 and 'WEIR_MONITOR' in err and '-s ADDR' in err


def test_a_busy_monitor(daemon):
    """It takes one client at a time; who comes second is told so."""
    status, _, err = plain('-s', str(daemon.qmp_path), 'jobs')
    assert status == 1 and 'no greeting' in err and 'one client at a time' in err


def test_pretty_monitors_are_understood(start, tmp):
    start('--chardev', f'socket,id=p,path={tmp}/pretty,server=on,wait=off', '--monitor', 'chardev=p,pretty=on')
    assert plain('-s', f'{tmp}/pretty', 'jobs') == (0, 'no jobs\n', '')


# ---- jobs ----

def test_jobs(disk, ctl, tmp):
    assert ctl('jobs') == 'no jobs\n' and json.loads(ctl('jobs', '--json')) == []
    mirror(disk, speed=64 * KiB)
    wait_until(lambda: disk.qmp.job('move')['current-progress'], 10, 'it has begun')
    disk.qmp('job-pause', id='move')
    create(disk, 'make', '/nowhere/x')
    wait_until(lambda: disk.qmp.job('move')['status'] == 'paused', 10, 'it is paused')
    head, *lines = ctl('jobs').splitlines()
    assert head.split() == ['ID', 'TYPE', 'STATUS', 'PROGRESS', 'DONE', '/', 'TOTAL', 'LIMIT', 'IN', 'SYNC', 'ERROR']
    line = {words[0]: words for words in (re.split('  +', line) for line in lines)}
    assert line['move'][1:3] == ['mirror', 'paused'] and line['move'][5:] == ['64.0 KiB/s', 'no', '-']
    assert line['move'][3].endswith(' %') and line['move'][4].endswith('/ 4.0 MiB')
    assert line['make'][1:3] == ['create', 'concluded'] and 'No such file or directory' in line['make'][-1]
    merged = {j['id']: j for j in json.loads(ctl('jobs', '--json'))}
    assert merged['move']['speed'] == 64 * KiB and merged['move']['total-progress'] == SIZE
    assert merged['move']['actively-synced'] is False and 'speed' not in merged['make']


def test_jobs_that_are_in_sync(disk, ctl):
    mirror(disk)
    disk.qmp.event('BLOCK_JOB_READY')
    assert re.search(r'ready +100\.0 % +4\.0 MiB / 4\.0 MiB +- +yes +-$', ctl('jobs'), re.M)
    disk.qmp('block-job-cancel', device='move', force=True)
    disk.qmp.job_wait('move', 'null')
    mirror(disk, **{'copy-mode': 'write-blocking'})
    disk.qmp.event('BLOCK_JOB_READY')
    assert re.search(r'ready +100\.0 % .* active +-$', ctl('jobs'), re.M)


# ---- verbs ----

def test_verbs(disk, ctl):
    mirror(disk)
    disk.qmp.event('BLOCK_JOB_READY')
    assert ctl('pause', 'move') == ''
    wait_until(lambda: disk.qmp.job('move')['status'] == 'standby', 10, 'it stands by')
    assert ctl('resume', 'move') == ''
    wait_until(lambda: disk.qmp.job('move')['status'] == 'ready', 10, 'it goes on')
    assert ctl('complete', 'move') == ''
    disk.qmp.event('BLOCK_JOB_COMPLETED')
    assert disk.qmp('query-block-exports')[0]['node-name'] == 'copy'


def test_complete_waits(disk, ctl):
    mirror(disk)
    disk.qmp.event('BLOCK_JOB_READY')
    assert ctl('complete', '--wait', 'move').splitlines()[-1] == 'move: completed'
    assert disk.qmp('query-block-exports')[0]['node-name'] == 'copy'


@pytest.mark.parametrize('options, end', [([], 'completed'), (['--force'], 'cancelled')])
def test_cancel_of_a_ready_mirror(disk, ctl, options, end):
    mirror(disk)
    disk.qmp.event('BLOCK_JOB_READY')
    assert ctl('cancel', '--wait', *options, 'move').splitlines()[-1] == f'move: {end}'
    assert disk.qmp('query-block-exports')[0]['node-name'] == 'disk' and not disk.qmp('query-jobs')


@pytest.mark.parametrize('command', ['complete', 'cancel', 'pause', 'resume'])
def test_verbs_without_their_job(ctl, command):
    assert f"weir ctl: {command} 'nix': Job not found" in ctl.error(command, 'nix')


def test_complete_before_it_is_ready(disk, ctl):
    mirror(disk, speed=KiB)
    assert "complete 'move': " in ctl.error('complete', 'move') and 'cannot accept' in ctl.error('complete', 'move')


# ---- watch ----

def watched(process, status):
    out, err = process.communicate(timeout=60)
    assert process.returncode == status, (out, err)
    return out.splitlines(), err


def begun(process):
    """The first line: from now on it sees everything."""
    line = process.stdout.readline()
    assert line, process.stderr.read()
    return line.rstrip()


def test_watch_to_a_good_end(disk, ctl):
    """The job is gone when it has ended: what it was is known from the events."""
    mirror(disk)
    disk.qmp.event('BLOCK_JOB_READY')
    process = ctl.start('watch')
    assert re.fullmatch(r'move: ready, 100\.0 %, in sync', begun(process))
    disk.qmp('job-complete', id='move')
    lines, err = watched(process, 0)
    assert lines[-1] == 'move: completed' and not err


def test_watch_shows_how_far_it_is(disk, ctl):
    mirror(disk, speed=256 * KiB)
    process = ctl.start('watch', '--until', 'ready')
    shown = [begun(process), begun(process)]
    disk.qmp('block-job-set-speed', device='move', speed=0)
    lines, _ = watched(process, 0)
    for line in shown:
        assert re.fullmatch(r'move: (running|paused), +\d+\.\d %, \d+(\.\d [KM]i| )B/s, \d+(\.\d [KM]i| )B left, '
                            r'ETA (\d+:\d\d|-)', line), line
    assert shown[0] != shown[1] and lines[-1] == 'move: ready'


def test_watch_of_a_cancelled_job(disk, ctl):
    mirror(disk, speed=KiB)
    process = ctl.start('watch', 'move')
    begun(process)
    disk.qmp('job-cancel', id='move')
    assert watched(process, 1)[1] == "weir ctl: job 'move' was cancelled\n"


def test_watch_of_a_failing_job(disk, ctl):
    """It stops for want of space first, and says how to go on; then it fails, with the reason."""
    disk.qmp('blockdev-add', {'driver': 'blkdebug', 'node-name': 'bad', 'inject-error': [
        {'event': 'none', 'iotype': 'write', 'errno': 28, 'sector': 3 * MiB // 512}],
        'image': {'driver': 'null-co', 'size': SIZE, 'read-zeroes': True}})
    mirror(disk, target='bad', **{'on-target-error': 'enospc'})
    wait_until(lambda: disk.qmp.job('move')['status'] == 'paused', 10, 'it has stopped')
    process = ctl.start('watch')
    assert begun(process).startswith('move: paused')
    disk.qmp('job-resume', id='move')
    line = begun(process)
    while re.match('move: (running|paused), ', line):
        line = begun(process)
    assert line == f"move: a write failed, and the job stops; 'weir ctl -s {ctl.address} resume move' " \
                   'lets it try again'
    disk.qmp('job-cancel', id='move')
    assert 'was cancelled' in watched(process, 1)[1]
    disk.qmp.job_wait('move', 'null')
    mirror(disk, target='bad', speed=KiB)
    process = ctl.start('watch')
    begun(process)
    disk.qmp('block-job-set-speed', device='move', speed=0)
    assert re.match("weir ctl: job 'move' failed: .*No space left", watched(process, 1)[1])


def test_watch_of_a_job_that_stays(daemon, ctl, tmp):
    """Jobs of blockdev-create tell their reason in the list, where they stay."""
    for name, path, status, text in [('bad', '/nowhere/x', 1, 'No such file'), ('good', tmp / 'x', 0, '')]:
        create(daemon, name, path)
        lines, err = watched(ctl.start('watch', name), status)
        assert text in err and (status or lines[-1] == 'good: completed')


def test_watch_has_to_know_which(disk, ctl):
    assert 'there are no jobs' in ctl.error('watch')
    assert "there is no job 'nix'" in ctl.error('watch', 'nix')
    mirror(disk, speed=KiB)
    assert "there is no job 'nix'; jobs: move" in ctl.error('watch', 'nix')
    disk.qmp('blockdev-add', {'driver': 'null-co', 'node-name': 'n', 'size': SIZE, 'read-zeroes': True})
    disk.qmp('blockdev-add', {'driver': 'null-co', 'node-name': 'm', 'size': SIZE, 'read-zeroes': True})
    mirror(disk, job='second', device='n', target='m', speed=KiB)
    assert 'several jobs, say which one: move, second' in ctl.error('watch')


@pytest.mark.parametrize('mode', ['background', 'write-blocking'])
def test_watch_until_synced(disk, ctl, mode):
    mirror(disk, **{'copy-mode': mode, 'speed': 2 * MiB})
    process = ctl.start('watch', '--until', 'synced')
    if mode == 'background':
        line = begun(process)
        while not line.startswith('move: ready'):
            line = begun(process)
        assert 'actively' not in line
        disk.qmp('job-complete', id='move')
        assert watched(process, 0)[0][-1] in ('move: completed', 'move: actively synced')
    else:
        assert watched(process, 0)[0][-1] == 'move: actively synced'


def test_ctrl_c_leaves_the_job_alone(disk, ctl):
    mirror(disk, speed=KiB)
    process = ctl.start('watch')
    begun(process)
    process.send_signal(signal.SIGINT)
    assert "the job 'move' goes on without being watched" in watched(process, 130)[1]
    assert disk.qmp.job('move')['status'] == 'running'


def test_watch_when_the_daemon_ends(disk, ctl):
    """quit cancels the job, and that is the last that is heard of it; a killed daemon says nothing."""
    mirror(disk, speed=KiB)
    process = ctl.start('watch')
    begun(process)
    disk.process.kill()
    assert "how the job 'move' goes on is not known" in watched(process, 1)[1]
    disk.process.wait()


# ---- mirror ----

def same(one, other):
    run('qemu-img', 'compare', '-f', 'raw', '-F', 'qcow2' if str(other).endswith('.qcow2') else 'raw', one, other)


def test_mirror_to_a_node(disk, ctl, tmp):
    """It stays ready, and the commands that are printed work as they are."""
    out = ctl('mirror', '--active', 'disk', 'copy')
    assert "job 'mirror-disk' copies 'disk' to 'copy'" in out and nodes(disk).count('copy') == 1
    assert disk.qmp.job('mirror-disk')['status'] == 'ready'
    hints = [line.split('    ')[0].strip() for line in out.splitlines() if line.startswith('  weir ctl')]
    assert [hint.split()[4:] for hint in hints] == [['complete', 'mirror-disk'], ['cancel', 'mirror-disk']]
    run('sh', '-c', hints[0].replace('weir ctl', f'{binary()} ctl', 1))
    disk.qmp.event('BLOCK_JOB_COMPLETED')
    assert disk.qmp('query-block-exports')[0]['node-name'] == 'copy'
    same(tmp / 'disk.img', tmp / 'copy.img')


@pytest.mark.parametrize('format', ['raw', 'qcow2'])
def test_mirror_creates_its_target(disk, ctl, tmp, format):
    """The path is relative to the tool, and the daemon has nothing left of the way there."""
    name = f'new disk.{format}'
    out = ctl('mirror', 'disk', name, '--create', '--format', format, '--pivot')
    assert f"node 'new-disk' ({format}) for '{tmp}/{name}'" in out
    assert out.splitlines()[-1] == "users of 'disk' use 'new-disk' now"
    assert nodes(disk) == ['copy', 'disk', 'new-disk'] and not disk.qmp('query-jobs')
    assert disk.qmp('query-block-exports')[0]['node-name'] == 'new-disk'
    disk.stop()
    same(tmp / 'disk.img', tmp / name)


def test_mirror_into_an_existing_file(disk, ctl, tmp):
    run('qemu-img', 'create', '-q', '-f', 'qcow2', tmp / 'copy.qcow2', SIZE)
    out = ctl('mirror', 'disk', tmp / 'copy.qcow2', '--format=qcow2', '--job', 'j', '--pivot')
    assert "node 'copy-2' (qcow2)" in out and "job 'j' copies" in out
    disk.stop()
    same(tmp / 'disk.img', tmp / 'copy.qcow2')


def test_mirror_does_not_wait(disk, ctl):
    out = ctl('mirror', '--no-wait', '--speed', '64k', 'disk', 'copy')
    assert 'watch --until ready mirror-disk' in out
    job = next(j for j in disk.qmp('query-block-jobs') if j['device'] == 'mirror-disk')
    assert job['speed'] == 64 * KiB and not job['ready']


def test_mirror_names_the_step_that_failed(disk, ctl, tmp):
    """Nothing that it made stays behind, and files keep what is in them."""
    before = nodes(disk)
    keep = fill(tmp / 'keep.img', SIZE, seed=7)
    short = fill(tmp / 'short.img', SIZE // 2, seed=8)
    for args, texts in [
            (['nix', 'copy'], ["there is no node 'nix' to copy; nodes: ", 'disk']),
            (['disk', 'none.img'], [f"add a node for '{tmp}/none.img': ", 'No such file', '--create']),
            (['disk', keep, '--format', 'qcow2'], [f"add a node for '{keep}': ", 'qcow2']),
            (['disk', keep, '--create'], [f"'{keep}': the file exists"]),
            (['disk', '/nowhere/x', '--create'], ["create '/nowhere/x': ", 'No such file']),
            (['disk', tmp, '--create'], [f"'{tmp}': "]),
            (['disk', 'copy', '--create'], ["'copy' is a node: --create"]),
            (['disk', 'copy', '--format', 'raw'], ["'copy' is a node: --format"]),
            (['disk', 'disk'], ['start the mirror: ']),
            (['disk', keep, '--job', '1!'], ['start the mirror: ', "Invalid job ID '1!'", "'keep' was removed again"]),
            (['disk', short], ["job 'mirror-disk' failed: ", 'different sizes', "'short' was removed again"])]:
        err = ctl.error('mirror', *args)
        assert all(text in err for text in texts), (args, err)
        assert nodes(disk) == before and not disk.qmp('query-jobs')
    with open(keep, 'rb') as kept, open(fill(tmp / 'again.img', SIZE, seed=7), 'rb') as again:
        assert kept.read() == again.read()


def test_mirror_that_is_cancelled_meanwhile(disk, ctl, tmp):
    fill(tmp / 'other.img', SIZE)
    process = ctl.start('mirror', '--speed', '1k', 'disk', 'other.img')
    wait_until(lambda: disk.qmp.job('mirror-disk'), 10, 'it has begun')
    disk.qmp('job-cancel', id='mirror-disk')
    err = watched(process, 1)[1]
    assert 'was cancelled' in err and "'other' was removed again" in err and 'other' not in nodes(disk)


def test_ctrl_c_leaves_a_mirror_alone(disk, ctl, tmp):
    fill(tmp / 'other.img', SIZE)
    process = ctl.start('mirror', '--speed', '1k', 'disk', 'other.img')
    wait_until(lambda: disk.qmp.job('mirror-disk'), 10, 'it has begun')
    while not begun(process).startswith('mirror-disk: '):
        pass
    process.send_signal(signal.SIGINT)
    assert 'goes on without being watched' in watched(process, 130)[1]
    assert disk.qmp.job('mirror-disk') and 'other' in nodes(disk)


# ---- graph ----

def test_graph(disk, ctl, tmp):
    out = ctl('graph').replace(str(tmp), 'TMP')
    assert re.sub(r'#block\d+', '#block', out) == '''\
export 'e0' (nbd)
`-- root: disk (raw, 4.0 MiB)
    `-- file: #block (file, 4.0 MiB) TMP/disk.img
copy (raw, 4.0 MiB), used by nobody
`-- file: #block (file, 4.0 MiB) TMP/copy.img
'''


def test_graph_of_a_mirror(disk, ctl):
    """The filter above the source has two users and is shown once."""
    mirror(disk, **{'filter-node-name': 'top'})
    disk.qmp.event('BLOCK_JOB_READY')
    out = ctl('graph')
    assert re.search(r"^job 'move' \(mirror, ready\)$", out, re.M) and re.search(r"^export 'e0' \(nbd\)$", out, re.M)
    assert len(re.findall(r'top \(mirror_top, ', out)) == 1 and 'top (see above)' in out
    assert len(re.findall(r'copy \(raw, ', out)) == 1


def test_graph_shows_read_only_and_chains(daemon, ctl, tmp):
    run('qemu-img', 'create', '-q', '-f', 'qcow2', tmp / 'base.qcow2', MiB)
    run('qemu-img', 'create', '-q', '-f', 'qcow2', '-b', 'base.qcow2', '-F', 'qcow2', tmp / 'top.qcow2')
    daemon.qmp('blockdev-add', {'driver': 'qcow2', 'node-name': 'top', 'file': {
        'driver': 'file', 'filename': str(tmp / 'top.qcow2')}})
    out = ctl('graph')
    assert re.search(r'^top \(qcow2, 1\.0 MiB\), used by nobody$', out, re.M)
    assert re.search(r'^[|`]-- backing: \S+ \(qcow2, 1\.0 MiB, read-only\)$', out, re.M)
    assert re.search(r'\(file, .*read-only\) .*base\.qcow2$', out, re.M)


SVG = '{http://www.w3.org/2000/svg}'


def test_graph_as_a_picture(disk, ctl, tmp):
    """Well-formed whatever files are called, every node a box inside the picture, children below their parents."""
    odd = fill(tmp / 'a<b>&"c.img', MiB)
    disk.add_file('odd', odd)
    mirror(disk, **{'filter-node-name': 'top'})
    disk.qmp.event('BLOCK_JOB_READY')
    ctl('graph', '--svg', tmp / 'graph.svg')
    root = ElementTree.parse(tmp / 'graph.svg').getroot()
    assert ctl('graph', '--svg', '-') == (tmp / 'graph.svg').read_text()
    top = {}
    for group in root.iter(f'{SVG}g'):
        box = group.find(f'{SVG}rect')
        x, y, width, height = (float(box.get(k)) for k in ('x', 'y', 'width', 'height'))
        assert x >= 0 and x + width <= float(root.get('width')) and y + height <= float(root.get('height'))
        top[group.find(f'{SVG}text').text] = y
    assert set(top) >= {"export 'e0'", "job 'move'", 'top', 'disk', 'copy', 'odd'}
    assert len(top) == 9
    assert top["export 'e0'"] == top["job 'move'"] < top['top'] < top['disk'] == top['copy']
    assert any(title.text == odd for title in root.iter(f'{SVG}title'))
    roles = [text.text for text in root.iter(f'{SVG}text') if text.get('class') == 'role']
    arrows = [path for path in root.iter(f'{SVG}path') if path.get('marker-end')]
    assert len(arrows) == len(roles) and roles.count('file') >= 3
    assert '/nowhere/x' in ctl.error('graph', '--svg', '/nowhere/x')


def test_graph_of_nothing(ctl, tmp):
    assert ctl('graph') == 'no nodes\n'
    ctl('graph', '--svg', tmp / 'graph.svg')
    ElementTree.parse(tmp / 'graph.svg')


# ---- as a person would ----

def test_the_way_of_a_new_user(disk, ctl, tmp):
    """A disk that is written to all the time moves to another file; nothing that was answered is lost."""
    assert 'disk (raw, ' in ctl('graph')
    guest, stop, written = nbd_connect(disk.uri('e0')), threading.Event(), []

    def write():
        while not stop.is_set():
            n = len(written)
            guest.pwrite(bytes([n % 255 + 1]) * 4096, n * 4096 % SIZE)
            written.append(n)
    writer = threading.Thread(target=write)
    writer.start()
    try:
        process = ctl.start('mirror', 'disk', 'moved.img', '--create', '--active', '--pivot', '--speed', '16k')
        wait_until(lambda: disk.qmp.job('mirror-disk'), 10, 'it has begun')
        other = Ctl(disk, tmp, monitor=1)
        assert 'mirror-disk' in other('jobs') and "job 'mirror-disk' (mirror, " in other('graph')
        disk.qmp('block-job-set-speed', device='mirror-disk', speed=0)
        lines, err = watched(process, 0)
        assert not err and lines[0] == f"created '{tmp}/moved.img' (raw)"
        assert lines[-2:] == ['mirror-disk: completed', "users of 'disk' use 'moved' now"]
        after = len(written)
        wait_until(lambda: len(written) > after + 10, 10, 'the guest goes on')
    finally:
        stop.set()
        writer.join()
    out = ctl('graph')
    assert re.search(r"^export 'e0' \(nbd\)\n`-- root: moved \(raw, 4\.0 MiB\)\n    `-- file: .*/moved\.img$", out,
                     re.M)
    assert re.search(r'^disk \(raw, 4\.0 MiB\), used by nobody$', out, re.M)
    guest.flush()
    seen = (tmp / 'moved.img').read_bytes()
    last = {n * 4096 % SIZE: n for n in written}
    assert all(seen[at] == n % 255 + 1 == seen[at + 4095] for at, n in last.items())


class Terminal:
    """A tmux of its own: 80 columns, 24 lines."""

    def __init__(self, directory, command):
        self.base = ['tmux', '-S', str(directory / 'tmux')]
        run(*self.base, '-f', '/dev/null', 'new-session', '-d', '-x', '80', '-y', '24', command)

    def screen(self):
        return re.sub(' +$', '', run(*self.base, 'capture-pane', '-p'), flags=re.M)

    def key(self, key):
        run(*self.base, 'send-keys', key)

    def close(self):
        run(*self.base, 'kill-server')


def test_the_bar_on_a_terminal(disk, ctl, tmp):
    """One line that grows, in place; Ctrl-C gives the terminal back and the job goes on; it ends in a clean line."""
    mirror(disk, speed=256 * KiB)
    command = f'{binary()} ctl -s {ctl.address} watch'
    terminal = Terminal(tmp, f"sh -c 'trap : INT; {command}; echo status $?; {command}; echo status $?; cat'")
    bar = re.compile(r'^move: running \[(#*)(\.*)\]  *(\d+\.\d) %, .*/s, .* left, ETA ', re.M)
    try:
        def marks():
            shown = bar.findall(terminal.screen())
            assert len(shown) <= 1
            return len(shown[0][0]) if shown else -1
        few = wait_until(lambda: marks() + 1, 20, 'there is a bar') - 1
        wait_until(lambda: marks() > few, 20, 'it grows')
        assert max(len(line) for line in terminal.screen().splitlines()) < 80
        terminal.key('C-c')
        wait_until(lambda: 'status 130' in terminal.screen(), 10, 'Ctrl-C ends it')
        assert 'goes on without being watched' in terminal.screen().replace('\n', '')
        disk.qmp('block-job-set-speed', device='move', speed=0)
        wait_until(lambda: re.search(r'^move: ready \[#+\] 100\.0 %, in sync$', terminal.screen(), re.M), 20, 'in sync')
        disk.qmp('job-complete', id='move')
        wait_until(lambda: re.search(r'^move: completed\nstatus 0$', terminal.screen(), re.M), 10, 'it has ended')
    finally:
        terminal.close()
