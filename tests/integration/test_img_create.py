# SPDX-License-Identifier: BSD-2-Clause
"""weir img create next to qemu-img."""
import os

import pytest
from weirtest import MiB
from weirtest.img import Pair, call


@pytest.fixture
def pair(tmp):
    pair = Pair(tmp)
    pair.file('base.raw', 3 * MiB, (MiB, b'\x11' * MiB))
    pair.peer('create', '-q', '-f', 'qcow2', 'base.qcow2', '64M')
    return pair


def text(args):
    return ' '.join(args) or 'nothing'


@pytest.mark.parametrize('args', [
    ['-f', 'raw', 'x', '1M'], ['x', '1M'], ['-f', 'raw', 'x', '1000001'], ['-f', 'raw', 'x', '1.5k'],
    ['-f', 'raw', 'x', '0'], ['-f', 'raw', 'x', '3T'], ['-f', 'raw', '-o', 'size=2M', 'x'],
    ['-f', 'raw', '-o', 'preallocation=off', 'x', '1M'], ['-f', 'raw', '-o', 'preallocation=falloc', 'x', '1M'],
    ['-f', 'raw', '-o', 'preallocation=full', 'x', '1M'], ['-f', 'file', 'x', '1M'], ['-f', 'raw', 'file:x', '1M'],
    ['-q', '-f', 'raw', 'x', '1M'],
], ids=text)
def test_raw(pair, args):
    pair.same('create', *args, status=0)
    ours, theirs = (os.stat(directory / 'x') for directory in pair.each())
    assert ours.st_size == theirs.st_size
    if 'preallocation=falloc' in args or 'preallocation=full' in args:
        assert pair.used('x') >= ours.st_size
    else:
        assert pair.used('x') == 0 or ours.st_size == 0


QCOW2 = [
    [], ['-o', 'compat=0.10'], ['-o', 'compat=v2'], ['-o', 'compat=1.1'], ['-o', 'compat=v3'],
    ['-o', 'cluster_size=512'], ['-o', 'cluster_size=4k'], ['-o', 'cluster_size=2M'],
    ['-o', 'lazy_refcounts=on'], ['-o', 'lazy_refcounts'], ['-o', 'lazy_refcounts=yes'],
    ['-o', 'refcount_bits=1'], ['-o', 'refcount_bits=64'], ['-o', 'compression_type=zstd'],
    ['-o', 'extended_l2=on'], ['-o', 'extended_l2=on,cluster_size=128k'],
    ['-o', 'preallocation=metadata'], ['-o', 'preallocation=falloc'], ['-o', 'preallocation=full'],
    ['-o', 'data_file=d.raw'], ['-o', 'data_file=d.raw,data_file_raw=on'],
    ['-o', 'cluster_size=4k', '-o', 'compression_type=zstd'],
    ['-o', 'cluster_size=64k,lazy_refcounts=on,refcount_bits=8,preallocation=metadata,compression_type=zstd'],
    ['-b', 'base.raw', '-F', 'raw'], ['-b', 'base.qcow2', '-F', 'qcow2'],
    ['-o', 'backing_file=base.raw,backing_fmt=raw'], ['-u', '-b', 'none', '-F', 'raw'],
    ['-u', '-b', 'a,b".raw', '-F', 'raw'],
]


@pytest.mark.parametrize('args', QCOW2, ids=text)
@pytest.mark.parametrize('size', ['10M', '1000001', '0'])
def test_qcow2(pair, args, size):
    """The line, the image as qemu-img sees it, and no fault in it."""
    pair.same('create', '-f', 'qcow2', *args, 'x', size, status=0)
    theirs = call(pair.theirs, ['info', '--output=json', 'x'])[1]
    ours = call(pair.ours, ['info', '--output=json', 'x'])[1]

    def stable(info):
        return [line for line in info.splitlines() if 'actual-size' not in line]
    assert stable(ours) == stable(theirs)
    if 'none' not in args and 'a,b".raw' not in args:
        pair.sound('x')
        pair.ok('check', 'x')
        assert call(pair.ours, ['map', '--output=json', '-f', 'qcow2', 'x'])[0] == 0


def test_size_from_backing(pair):
    for name, fmt in (('base.raw', 'raw'), ('base.qcow2', 'qcow2')):
        pair.same('create', '-f', 'qcow2', '-b', name, '-F', fmt, 'x', status=0)


def test_backing_below_another_directory(pair):
    for directory in pair.each():
        (directory / 'sub').mkdir()
        os.link(directory / 'base.raw', directory / 'sub/inner.raw')
    pair.same('create', '-f', 'qcow2', '-b', 'inner.raw', '-F', 'raw', 'sub/x', status=0)
    pair.same('info', 'sub/x', status=0, lines='disk size')
    pair.same('create', '-f', 'qcow2', '-b', 'base.raw', '-F', 'raw', 'sub/y', status=1)


def test_written_image_reads_back(pair):
    """What is created is not only sound but usable by others."""
    pair.same('create', '-f', 'qcow2', '-b', 'base.raw', '-F', 'raw', 'x', '5M', status=0)
    pair.qemu_io('x', 'write -P 5 1M 64k', 'read -P 0x11 1088k 64k', 'read -P 0 4M 1M')
    pair.sound('x')


@pytest.mark.parametrize('args', [
    ['-f', 'raw', 'x'], ['-f', 'raw', '-o', 'foo=1', 'x', '1M'],
    ['-f', 'raw', '-o', 'preallocation=metadata', 'x', '1M'],
    ['-f', 'raw', '-o', 'preallocation', 'x', '1M'], ['-f', 'raw', '-o', 'size=1x', 'x'],
    ['-f', 'nothing', 'x', '1M'], ['-f', 'null-co', 'x', '1M'], ['-f', 'raw', 'dir/none/x', '1M'],
    ['-f', 'qcow2', 'dir/none/x', '1M'], ['-f', 'raw', '-b', 'base.raw', 'x', '1M'],
    ['-f', 'raw', 'x', '7.9E'], ['-f', 'raw', 'foo:x', '1M'], ['-f', 'raw', 'json:{}', '1M'],
    ['-f', 'raw', '-o', 'size=2M', 'x', '1M'], ['-f', 'raw', '-F', 'raw', 'x', '1M'],
    ['-f', 'qcow2', '-b', 'none', '-F', 'raw', 'x'], ['-f', 'qcow2', '-b', 'none', '-F', 'raw', 'x', '1M'],
    ['-f', 'qcow2', '-u', '-b', 'none', '-F', 'raw', 'x'], ['-f', 'qcow2', '-F', 'nothing', '-b', 'base.raw', 'x'],
    ['-f', 'qcow2', '-F', 'raw', 'x', '1M'], ['-f', 'qcow2', '-b', 'x', '-F', 'raw', 'x', '1M'],
    ['-f', 'qcow2', '-o', 'cluster_size=5', 'x', '1M'], ['-f', 'qcow2', '-o', 'cluster_size=x', 'x', '1M'],
    ['-f', 'qcow2', '-o', 'cluster_size=4M', 'x', '1M'], ['-f', 'qcow2', '-o', 'compat=1.2', 'x', '1M'],
    ['-f', 'qcow2', '-o', 'lazy_refcounts=maybe', 'x', '1M'], ['-f', 'qcow2', '-o', 'refcount_bits=3', 'x', '1M'],
    ['-f', 'qcow2', '-o', 'refcount_bits=x', 'x', '1M'], ['-f', 'qcow2', '-o', 'refcount_bits=128', 'x', '1M'],
    ['-f', 'qcow2', '-o', 'compression_type=lzo', 'x', '1M'], ['-f', 'qcow2', '-o', 'preallocation=some', 'x', '1M'],
    ['-f', 'qcow2', '-o', 'compat=0.10,lazy_refcounts=on', 'x', '1M'],
    ['-f', 'qcow2', '-o', 'compat=0.10,refcount_bits=1', 'x', '1M'],
    ['-f', 'qcow2', '-o', 'compat=0.10,compression_type=zstd', 'x', '1M'],
    ['-f', 'qcow2', '-o', 'compat=0.10,data_file=d.raw', 'x', '1M'],
    ['-f', 'qcow2', '-o', 'data_file_raw=on', 'x', '1M'],
    ['-f', 'qcow2', '-o', 'data_file=d.raw,data_file_raw=on', '-u', '-b', 'none', '-F', 'raw', 'x', '1M'],
    ['-f', 'qcow2', '-o', 'extended_l2=on,cluster_size=8k', 'x', '1M'],
    ['-f', 'qcow2', '-o', 'extended_l2=on,compat=0.10', 'x', '1M'],
    ['-f', 'qcow2', '-o', 'cluster_size=512', 'x', '1E'],
], ids=text)
def test_errors(pair, args):
    """The same text, and nothing left behind."""
    for directory in pair.each():
        (directory / 'dir').mkdir()
    pair.same('create', *args, status=1)
    if os.path.exists(pair.ours / 'x'):
        assert os.path.exists(pair.theirs / 'x')


def test_backing_without_format(pair):
    """qemu-img ends the text without a line's end; that is the only difference."""
    ours, theirs = pair.both('create', '-f', 'qcow2', '-b', 'base.qcow2', 'x')
    assert ours[0] == theirs[0] == 1 and ours[2] == theirs[2] + '\n'


@pytest.mark.parametrize('args', [
    ['-f', 'raw', '-o', 'help'], ['-f', 'raw', '-o', '?'], ['-f', 'qcow2', '-o', 'help'], ['-o', 'help', 'x'],
], ids=text)
def test_help_of_options(pair, args):
    """Every option of ours is one of qemu-img's, described alike."""
    ours, theirs = pair.both('create', *args)
    assert ours[0] == theirs[0] == 0
    options = [line for line in ours[1].splitlines() if line.startswith('  ')]
    listed = call(pair.theirs, ['create', *args, *([] if 'x' in args else ['x'])])[1]
    assert options and all(line in listed.splitlines() for line in options)


def test_options_that_are_refused(pair):
    for option in ('nocow=on', 'extent_size_hint=1M', 'encryption=on', 'encrypt.format=luks'):
        status, out, err = pair.run('create', '-f', 'qcow2', '-o', option, 'x', '1M')
        assert status == 1 and not out and f"Invalid parameter '{option.split('=')[0]}'" in err
        assert not os.path.exists(pair.ours / 'x')


def test_overwrites_what_was_there(pair):
    pair.file('x', 9 * MiB, (0, b'\x55' * 9 * MiB))
    pair.same('create', '-f', 'raw', 'x', '1M', status=0)
    assert (pair.ours / 'x').read_bytes() == bytes(MiB)
    pair.same('create', '-f', 'qcow2', 'x', '1M', status=0)
    pair.sound('x')
