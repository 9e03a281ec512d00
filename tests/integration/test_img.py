# SPDX-License-Identifier: BSD-2-Clause
"""weir img, what all subcommands share: names, help, arguments, ways to name an image, locks."""
import json
import os
import subprocess

import pytest
from weirtest import MiB, Daemon
from weirtest.img import Pair, binary, call


@pytest.fixture
def pair(tmp):
    return Pair(tmp)


@pytest.fixture
def disks(pair):
    """a.raw, a.qcow2 with the same content, and b.qcow2 on top of a.qcow2."""
    pair.file('a.raw', 8 * MiB, (MiB, b'\x11' * MiB), (5 * MiB + 512, b'\x22' * 70000))
    pair.peer('convert', '-f', 'raw', '-O', 'qcow2', 'a.raw', 'a.qcow2')
    pair.peer('create', '-q', '-f', 'qcow2', '-b', 'a.qcow2', '-F', 'qcow2', 'b.qcow2')
    pair.qemu_io('b.qcow2', 'write -P 3 2M 64k', 'write -z 5M 64k')
    return pair


# ---- the program ----

def test_called_as_tool_of_weir(tmp):
    done = subprocess.run([binary(), 'img', 'info', 'none'], cwd=tmp, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == "weir img: Could not open 'none': Could not open 'none': No such file or directory\n"


def test_help(pair):
    status, out, _ = pair.run('--help')
    assert status == 0 and out.splitlines()[-1].startswith('Supported formats: ')
    for command in ('check', 'compare', 'convert', 'create', 'info', 'map'):
        assert f'\n  {command} ' in out
        assert pair.run(command, '--help')[1] == out
    assert pair.run('-h')[1] == out


def test_version(pair):
    for option in ('-V', '--version'):
        status, out, _ = pair.run(option)
        assert status == 0 and out.startswith('qemu-img version ')


@pytest.mark.parametrize('args', [
    [], ['frobnicate'], ['--frobnicate'], ['-Z'],
    ['info'], ['info', 'a', 'b'], ['info', '-q', 'a'], ['info', '--output=xml', 'a'], ['info', '--output'],
    ['check'], ['check', '-r', 'some', 'a'], ['check', '-T', 'x', 'a.raw'], ['check', 'a', 'b'],
    ['map'], ['map', '--start-offset=1x', 'a'], ['map', '--max-length=-1', 'a'], ['map', '--start-offset=8E', 'a'],
    ['map', '--start-offset=99999999999999999999', 'a'],
    ['compare', 'a'], ['compare', 'a', 'b', 'c'], ['compare', '-T', 'x', 'a.raw', 'a.raw'],
    ['convert'], ['convert', 'a'], ['convert', '-m', '0', 'a', 'b'], ['convert', '-m', '17', 'a', 'b'],
    ['convert', '-m', 'x', 'a', 'b'], ['convert', '-S', '1', 'a', 'b'], ['convert', '-S', 'x', 'a', 'b'],
    ['convert', '-S', '32M', 'a', 'b'], ['convert', '-r', 'x', 'a', 'b'], ['convert', '-t', 'x', 'a.raw', 'b'],
    ['convert', '-T', 'x', 'a.raw', 'b'], ['convert', '--target-is-zero', 'a', 'b'],
    ['convert', '--target-image-opts', 'a', 'b'], ['convert', '-n', '-o', 'size=1M', 'a', 'b'],
    ['convert', '--skip-broken-bitmaps', 'a', 'b'], ['convert', '-C', '-c', 'a', 'b'],
    ['convert', '-C', '-S', '4k', 'a', 'b'],
    ['create'], ['create', '-f', 'raw'], ['create', '-f'], ['create', '--nothing'], ['create', '-Z'],
    ['create', 'x', '1M', '2M'], ['create', 'x', '1x'], ['create', 'x', '8E'], ['create', 'x', '--', '-5'],
    ['create', 'x', '18446744073709551616'], ['create', 'x', '16E'],
], ids=' '.join)
def test_wrong_usage(disks, args):
    disks.same(*args)
    assert not os.path.exists(disks.ours / 'x')


def test_objects_are_refused(disks):
    for command in (['info'], ['check'], ['map'], ['compare', 'a.raw'], ['convert', 'a.raw'], ['create']):
        status, _, err = disks.run(command[0], '--object', 'secret,id=s,data=x', *command[1:], 'a.raw')
        assert status == 1 and '--object' in err


# ---- naming an image ----

COMMANDS = [['info'], ['info', '--output=json'], ['map'], ['map', '--output=json'], ['check']]


@pytest.mark.parametrize('command', COMMANDS, ids=' '.join)
@pytest.mark.parametrize('name', [
    'a.raw', 'a.qcow2', './a.raw', 'file:a.raw', 'file:a.qcow2', 'none', 'foo:a.raw', 'dir', 'json:{', 'json:[]',
    'json:{"driver":"qcow2","file":{"driver":"file","filename":"a.qcow2"}}',
    'json:{"driver":"raw","file":{"driver":"file","filename":"none"}}',
    'json:{"driver":"foo"}',
], ids=str)
def test_names(disks, command, name):
    for directory in disks.each():
        (directory / 'dir').mkdir()
    disks.same(*command, name, stderr=not name.startswith('json:['))


@pytest.mark.parametrize('command', COMMANDS, ids=' '.join)
@pytest.mark.parametrize('fmt', ['raw', 'qcow2', 'nothing'])
@pytest.mark.parametrize('name', ['a.raw', 'a.qcow2'])
def test_format_given(disks, command, fmt, name):
    disks.same(*command, '-f', fmt, name, lines='disk size|actual-size')


@pytest.mark.parametrize('command', COMMANDS, ids=' '.join)
@pytest.mark.parametrize('options', [
    'driver=raw,file.filename=a.raw', 'driver=raw,file.driver=file,file.filename=a.raw',
    'driver=qcow2,file.filename=a.qcow2', 'driver=qcow2,file.driver=file,file.filename=a.qcow2',
    'driver=qcow2,file.driver=file,file.filename=none', 'driver=foo', 'a.raw', 'filename=a.raw',
    'file.driver=file,file.filename=a.qcow2', 'driver=raw,file.driver=file,file.filename=a.raw,offset=1M,size=1M',
])
def test_image_opts(disks, command, options):
    disks.same(*command, '--image-opts', options, stderr=options != 'filename=a.raw',
               lines='image:|filename|disk size|actual-size' if 'offset' in options else None)


def test_image_opts_unknown_option(disks):
    ours, theirs = disks.both('info', '--image-opts', 'driver=raw,file.filename=a.raw,foo=bar')
    assert ours[0] == theirs[0] == 1 and "'foo'" in ours[2]


@pytest.mark.parametrize('args', [
    ['info', '-f', 'raw', '--image-opts', 'driver=raw,file.filename=a.raw'],
    ['map', '-f', 'raw', '--image-opts', 'driver=raw,file.filename=a.raw'],
    ['check', '-f', 'raw', '--image-opts', 'driver=raw,file.filename=a.raw'],
    ['compare', '-f', 'raw', '--image-opts', 'driver=raw,file.filename=a.raw', 'driver=raw,file.filename=a.raw'],
    ['convert', '-f', 'raw', '--image-opts', 'driver=raw,file.filename=a.raw', 'x'],
    ['convert', '-n', '-O', 'raw', '--target-image-opts', 'a.raw', 'driver=raw,file.filename=a.raw'],
], ids=' '.join)
def test_image_opts_and_format(disks, args):
    disks.same(*args)


# ---- images that somebody uses ----

@pytest.fixture
def served(pair, start):
    """lk.raw and lk.qcow2 in both directories are written to by daemons of QEMU's."""
    pair.file('a.raw', 4 * MiB, (MiB, b'\x11' * MiB))
    pair.file('lk.raw', 4 * MiB, (MiB, b'\x11' * MiB))
    pair.peer('convert', '-f', 'raw', '-O', 'qcow2', 'a.raw', 'lk.qcow2')
    for i, directory in enumerate(pair.each()):
        start('--nbd-server', f'addr.type=unix,addr.path={directory}/s',
              '--blockdev', f'file,node-name=r,filename={directory}/lk.raw',
              '--blockdev', f'file,node-name=f,filename={directory}/lk.qcow2',
              '--blockdev', 'qcow2,node-name=q,file=f',
              '--export', 'nbd,id=r,node-name=r,writable=on', '--export', 'nbd,id=q,node-name=q,writable=on',
              '--pidfile', f'{directory}/pid', command=['qemu-storage-daemon'])
    return pair


def test_locked_images(served):
    for name in ('lk.raw', 'lk.qcow2'):
        for args in (['info', name], ['map', name], ['check', name], ['compare', name, 'a.raw'],
                     ['compare', 'a.raw', name], ['convert', name, 'x'], ['convert', 'a.raw', name],
                     ['create', '-f', 'raw', name, '1M'], ['create', '-f', 'qcow2', name, '1M'],
                     ['convert', '-n', 'a.raw', name], ['check', '-r', 'all', '-f', name[3:], name],
                     ['info', '-U', name], ['map', '-U', name], ['check', '-U', name],
                     ['compare', '-U', name, 'a.raw'], ['convert', '-U', '-f', name[3:], name, 'x'],
                     ['check', '-U', '-r', 'all', '-f', name[3:], name]):
            served.same(*args, lines='disk size')


def test_locked_backing_image(served):
    served.peer('create', '-q', '-u', '-f', 'qcow2', '-b', 'lk.qcow2', '-F', 'qcow2', 'top.qcow2', '4M')
    for args in (['info'], ['info', '--backing-chain'], ['map'], ['check'], ['map', '-U']):
        served.same(*args, 'top.qcow2')
    served.same('create', '-f', 'qcow2', '-b', 'lk.qcow2', '-F', 'qcow2', 'x')


def test_own_images_exclude_each_other(disks):
    disks.same('convert', 'a.raw', 'a.raw')
    disks.same('convert', '-O', 'qcow2', 'a.qcow2', 'a.qcow2')
    disks.identical('a.raw', 'a.qcow2')


# ---- a block device ----

def test_character_device(pair):
    status, out, _ = pair.run('info', '--output=json', '/dev/null')
    assert status == 0 and json.loads(out)['virtual-size'] == 0


def test_output_that_cannot_be_written(disks):
    with open('/dev/full', 'wb') as full:
        done = subprocess.run(['qemu-img', 'map', '--output=json', 'a.raw'], executable=binary(), cwd=disks.ours,
                              stdout=full, stderr=subprocess.PIPE, check=False)
    assert done.returncode == 1 and b'output' in done.stderr


def test_peer_is_another_program(tmp):
    """The comparisons of this file would hold trivially between a program and itself."""
    assert 'Fabrice' in call(tmp, ['--version'])[1]
    assert 'Fabrice' not in call(tmp, ['--version'], binary())[1]
    assert Daemon
