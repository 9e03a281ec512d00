# SPDX-License-Identifier: BSD-2-Clause
"""weir img convert next to qemu-img."""
import hashlib
import os
import random
import time

import pytest
from weirtest import KiB, MiB
from weirtest.img import Pair, call


@pytest.fixture
def pair(tmp):
    return Pair(tmp)


def mixed(size, seed=1):
    """Pieces of a disk: text, noise, written zeroes and holes, at odd places."""
    rnd = random.Random(seed)
    at = 0
    while at < size:
        length = min(rnd.choice([512, 4096, 5000, 70000, 300000, MiB, 2 * MiB + 512]), size - at)
        kind = rnd.randrange(4)
        if kind == 0:
            yield at, (b'weir %d ' % at * (length // 6 + 1))[:length]
        elif kind == 1:
            yield at, rnd.randbytes(length)
        elif kind == 2:
            yield at, bytes(length)
        at += length


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def disks(pair):
    pair.file('s.raw', 8 * MiB, *mixed(8 * MiB))
    pair.file('odd.raw', 1000001, (0, b'\x11' * 65536), (524288, b'\x22' * 4096), (1000000, b'\x33'))
    pair.file('empty.raw', 0)
    pair.peer('convert', '-f', 'raw', '-O', 'qcow2', 's.raw', 's.qcow2')
    pair.peer('convert', '-c', '-f', 'raw', '-O', 'qcow2', 's.raw', 'c.qcow2')
    pair.peer('convert', '-c', '-o', 'compression_type=zstd', '-f', 'raw', '-O', 'qcow2', 's.raw', 'z.qcow2')
    pair.peer('convert', '-o', 'cluster_size=512', '-f', 'raw', '-O', 'qcow2', 's.raw', 'small.qcow2')
    pair.peer('convert', '-o', 'extended_l2=on', '-f', 'raw', '-O', 'qcow2', 's.raw', 'e.qcow2')
    return pair


def text(args):
    return ' '.join(args) or 'nothing'


def verify(pair, fmt, source):
    """By qemu-img, and by ourselves."""
    pair.identical('x', source, fmt, source.split('.')[-1])
    assert pair.run('compare', 'x', source)[0] == 0
    if fmt == 'qcow2':
        pair.sound('x')
        assert pair.run('check', 'x')[0] == 0


TARGETS = [['-O', 'raw'], [], ['-O', 'qcow2'], ['-O', 'file'],
           ['-O', 'qcow2', '-o', 'cluster_size=4k'], ['-O', 'qcow2', '-o', 'cluster_size=2M'],
           ['-O', 'qcow2', '-o', 'extended_l2=on'], ['-O', 'qcow2', '-o', 'compat=0.10'],
           ['-O', 'qcow2', '-o', 'preallocation=metadata'], ['-O', 'qcow2', '-o', 'preallocation=full'],
           ['-O', 'raw', '-o', 'preallocation=full'], ['-O', 'qcow2', '-o', 'data_file=d.raw'],
           ['-O', 'qcow2', '-o', 'data_file=d.raw,data_file_raw=on'],
           ['-c', '-O', 'qcow2'], ['-c', '-O', 'qcow2', '-o', 'compression_type=zstd'],
           ['-c', '-O', 'qcow2', '-o', 'cluster_size=4k'], ['-c', '-W', '-O', 'qcow2']]


@pytest.mark.parametrize('args', TARGETS, ids=text)
def test_formats(disks, args):
    for source in ('s.raw', 's.qcow2', 'c.qcow2', 'odd.raw', 'empty.raw'):
        disks.same('convert', *args, source, 'x', status=0)
        verify(disks, 'qcow2' if 'qcow2' in args else 'raw', source)


@pytest.mark.parametrize('source', ['z.qcow2', 'small.qcow2', 'e.qcow2'])
def test_sources(disks, source):
    for args in (['-O', 'raw'], ['-O', 'qcow2'], ['-c', '-O', 'qcow2', '-o', 'cluster_size=4k']):
        disks.same('convert', *args, source, 'x', status=0)
        verify(disks, args[args.index('-O') + 1], source)


@pytest.mark.parametrize('args', [
    ['-m', '1'], ['-m', '16'], ['-W'], ['-W', '-m', '16'], ['-S', '0'], ['-S', '512'], ['-S', '64k'], ['-S', '1M'],
    ['-t', 'none'], ['-t', 'writeback'], ['-t', 'writethrough'], ['-t', 'directsync'], ['-T', 'none'], ['-T', 'unsafe'],
    ['-r', '1T'], ['-q'], ['-U'], ['--salvage'],
], ids=text)
@pytest.mark.parametrize('fmt', ['raw', 'qcow2'])
def test_options(disks, args, fmt):
    disks.same('convert', *args, '-O', fmt, 's.raw', 'x', status=0)
    disks.identical('x', 's.raw', fmt, 'raw')
    disks.same('convert', *args, '-O', fmt, 's.qcow2', 'x', status=0)
    disks.identical('x', 's.raw', fmt, 'raw')
    if fmt == 'qcow2':
        disks.sound('x')


def test_space(disks):
    """Zeroes take no space, whether they are holes or written; -S 0 takes all of it."""
    sizes = {}
    for fmt in ('raw', 'qcow2'):
        for source in ('s.raw', 's.qcow2'):
            disks.same('convert', '-O', fmt, source, 'x', status=0)
            theirs = os.stat(disks.theirs / 'x').st_blocks * 512
            assert disks.used('x') <= theirs * 1.02 + 128 * KiB, (fmt, source)
            sizes[fmt] = disks.used('x')
        disks.same('convert', '-S', '0', '-O', fmt, 's.raw', 'x', status=0)
        assert disks.used('x') >= 8 * MiB
    disks.same('convert', '-c', '-O', 'qcow2', 's.raw', 'x', status=0)
    assert disks.used('x') <= os.stat(disks.theirs / 'x').st_blocks * 512 * 1.02 + 128 * KiB
    assert disks.used('x') < sizes['qcow2']


def test_zeroes_only(pair):
    pair.file('zero.raw', 64 * MiB, (0, bytes(32 * MiB)))
    pair.same('convert', 'zero.raw', 'x', status=0)
    assert pair.used('x') == 0 and os.stat(pair.ours / 'x').st_size == 64 * MiB
    pair.same('convert', '-O', 'qcow2', 'zero.raw', 'x', status=0)
    assert pair.used('x') < MiB


def test_huge_sparse_image(pair):
    pair.file('s.raw', 2 << 40, (1 << 40, b'\x11' * 100000))
    start = time.monotonic()
    pair.ok('convert', '-O', 'qcow2', 's.raw', 'x')
    pair.ok('convert', '-O', 'raw', 'x', 'y')
    assert time.monotonic() - start < 60
    pair.identical('x', 's.raw', 'qcow2', 'raw')
    pair.identical('y', 's.raw', 'raw', 'raw')
    assert pair.used('x') < 64 * MiB and pair.used('y') < MiB


# ---- several sources ----

def test_concatenation(disks):
    for args in (['-O', 'raw'], ['-O', 'qcow2'], ['-c', '-O', 'qcow2'], ['-O', 'qcow2', '-o', 'cluster_size=2M'],
                 ['-O', 'raw', '-W']):
        disks.same('convert', *args, 's.raw', 'odd.raw', 's.raw', 'empty.raw', 'odd.raw', 'x', status=0)
        theirs = call(disks.theirs, ['convert', '-O', 'raw', 'x', 'flat.raw'])
        ours = call(disks.ours, ['convert', '-O', 'raw', 'x', 'flat.raw'])
        assert ours[0] == theirs[0] == 0
        assert digest(disks.ours / 'flat.raw') == digest(disks.theirs / 'flat.raw')


# ---- backing ----

@pytest.fixture
def chain(pair):
    pair.file('base.raw', 8 * MiB, (0, b'\x11' * 8 * MiB))
    pair.peer('create', '-q', '-f', 'qcow2', '-b', 'base.raw', '-F', 'raw', 'top.qcow2', '12M')
    pair.qemu_io('top.qcow2', 'write -P 2 1M 100k', 'write -z 2M 256k', 'write -P 3 9M 64k', 'write -z 10M 64k')
    return pair


def test_flat_copy_of_chain(chain):
    for args in (['-O', 'raw'], ['-O', 'qcow2'], ['-c', '-O', 'qcow2']):
        chain.same('convert', *args, 'top.qcow2', 'x', status=0)
        chain.identical('x', 'top.qcow2')
        assert 'backing' not in call(chain.ours, ['info', 'x'])[1]


def test_copy_onto_backing(chain):
    for args in (['-B', 'base.raw', '-F', 'raw'], ['-o', 'backing_file=base.raw,backing_fmt=raw'],
                 ['-c', '-B', 'base.raw', '-F', 'raw'], ['-B', 'base.raw', '-F', 'raw', '-o', 'cluster_size=4k'],
                 ['-B', 'base.raw', '-F', 'raw', '-o', 'cluster_size=2M']):
        chain.same('convert', '-O', 'qcow2', *args, 'top.qcow2', 'x', status=0)
        chain.identical('x', 'top.qcow2')
        chain.sound('x')
        assert 'backing file: base.raw' in call(chain.ours, ['info', 'x'])[1]
        assert chain.used('x') < 2 * MiB or 'cluster_size=2M' in args


def test_raw_source_onto_backing(chain):
    """Zeroes of the source hide what the backing file has there."""
    chain.file('s.raw', 12 * MiB, (MiB, b'\x44' * MiB))
    chain.same('convert', '-O', 'qcow2', '-B', 'base.raw', '-F', 'raw', 's.raw', 'x', status=0)
    chain.identical('x', 's.raw', 'qcow2', 'raw')


# ---- into an image that exists ----

def test_existing_target(disks):
    disks.file('t.raw', 10 * MiB, (0, b'\x77' * 10 * MiB))
    disks.same('convert', '-n', '-O', 'raw', 's.raw', 't.raw', status=0)
    ours = (disks.ours / 't.raw').read_bytes()
    assert ours[:8 * MiB] == (disks.ours / 's.raw').read_bytes()
    assert ours[8 * MiB:] == (disks.theirs / 't.raw').read_bytes()[8 * MiB:] == b'\x77' * 2 * MiB


def test_existing_qcow2_target(disks):
    disks.peer('create', '-q', '-f', 'qcow2', 't.qcow2', '8M')
    disks.qemu_io('t.qcow2', 'write -P 9 0 7M')
    for args in (['-O', 'qcow2'], ['-W', '-O', 'qcow2']):
        disks.same('convert', '-n', *args, 's.raw', 't.qcow2', status=0)
        disks.identical('t.qcow2', 's.raw', 'qcow2', 'raw')
        disks.sound('t.qcow2')
    # qemu-img does not compress over what is there.
    disks.ok('convert', '-n', '-c', '-O', 'qcow2', 's.raw', 't.qcow2')
    disks.identical('t.qcow2', 's.raw', 'qcow2', 'raw')
    disks.sound('t.qcow2')


def test_target_is_zero(disks):
    disks.file('t.raw', 8 * MiB)
    disks.same('convert', '-n', '--target-is-zero', '-O', 'raw', 's.raw', 't.raw', status=0)
    disks.identical('t.raw', 's.raw', 'raw', 'raw')
    # It is believed: where the source is zero, what was there stays.
    disks.file('zero.raw', MiB)
    disks.file('t.raw', MiB, (0, b'\x55' * MiB))
    disks.same('convert', '-n', '--target-is-zero', '-O', 'raw', 'zero.raw', 't.raw', status=0)
    assert (disks.ours / 't.raw').read_bytes() == b'\x55' * MiB


def test_image_opts_of_both(disks):
    disks.file('t.raw', 8 * MiB)
    disks.same('convert', '--image-opts', '--target-image-opts', '-n', 'driver=qcow2,file.filename=s.qcow2',
               'driver=raw,file.filename=t.raw', status=0)
    disks.identical('t.raw', 's.raw', 'raw', 'raw')


# ---- what fails ----

@pytest.mark.parametrize('args', [
    ['none', 'x'], ['-f', 'nothing', 's.raw', 'x'], ['-O', 'nothing', 's.raw', 'x'], ['-O', 'null-co', 's.raw', 'x'],
    ['-O', 'qcow2', 's.raw', 'no/x'], ['-O', 'raw', 's.raw', 'no/x'], ['-O', 'qcow2', '-o', 'foo=1', 's.raw', 'x'],
    ['-c', 's.raw', 'x'], ['-c', '-O', 'raw', 's.raw', 'x'], ['-n', 's.raw', 'none'], ['-n', 's.raw', 'odd.raw'],
    ['--bitmaps', 's.raw', 'x'], ['-l', 'one', 's.raw', 'x'], ['-B', 's.raw', '-O', 'qcow2', 's.qcow2', 'x'],
    ['-B', 's.raw', '-F', 'raw', 's.raw', 'x'], ['-F', 'raw', 's.raw', 'x'],
    ['-B', 's.raw', '-F', 'raw', '-O', 'qcow2', 's.raw', 's.raw', 'x'],
    ['-O', 'qcow2', '-o', 'preallocation=some', 's.raw', 'x'], ['-f', 'qcow2', 's.raw', 'x'],
    ['-B', 'none', '-F', 'raw', '-O', 'qcow2', 's.raw', 'x'], ['-O', 'raw', '-o', 'backing_file=s.raw', 's.raw', 'x'],
    ['-O', 'qcow2', '-o', 'cluster_size=3', 's.raw', 'x'],
    ['-c', '-o', 'compression_type=lzo', '-O', 'qcow2', 's.raw', 'x'],
    ['-O', 'qcow2', '-o', 'compat=1.2', 's.raw', 'x'], ['foo:s.raw', 'x'], ['s.raw', 'foo:x'],
], ids=text)
def test_errors(disks, args):
    disks.same('convert', *args, status=1)


def test_target_with_backing_is_not_zero(chain):
    """qemu-img says this only when -B is given; a target may have a backing file without it."""
    text = 'qemu-img: Cannot use --target-is-zero when the destination image has a backing file\n'
    common = ['convert', '-n', '--target-is-zero', '-O', 'qcow2']
    assert chain.run(*common, 'base.raw', 'top.qcow2') == (1, '', text)
    assert call(chain.theirs, common + ['-B', 'base.raw', '-F', 'raw', 'base.raw', 'top.qcow2'])[2] == text


def test_what_is_not_supported_is_refused(disks):
    for args, word in ((['-C'], 'offload'), (['-l', 'one'], 'snapshot'), (['--bitmaps'], 'bitmap')):
        status, _, err = disks.run('convert', *args, '-O', 'qcow2', 's.qcow2', 'x')
        assert status == 1 and word in err
        assert not os.path.exists(disks.ours / 'x')


def failing(name, fault):
    return (f'driver=raw,file.driver=blkdebug,file.image.driver=file,file.image.filename={name},'
            f'file.inject-error.0.event=none,file.inject-error.0.{fault}')


def without_file(err):
    """Our text names the image first."""
    program, _, rest = err.partition(': ')
    return f'{program}: {rest[rest.index("error while"):]}'


def test_read_error(disks):
    for options in ([], ['-W'], ['-m', '1']):
        ours, theirs = disks.both('convert', *options, '--image-opts', failing('s.raw', 'iotype=read'), 'x')
        assert ours[0] == theirs[0] == 1 and failing('s.raw', 'iotype=read') in ours[2]
        # One failure is told, the first; qemu-img tells one for each coroutine.
        assert without_file(ours[2]) in theirs[2] or '-W' in options
        assert ours[2].count('\n') == 1


def test_status_error(disks):
    ours, theirs = disks.both('convert', '--image-opts', failing('s.raw', 'iotype=block-status'), 'x')
    assert ours[0] == theirs[0] == 1
    assert without_file(ours[2]) == theirs[2]


def test_write_error(disks):
    for where in ('t.raw', 't2.raw'):
        disks.file(where, 8 * MiB)
    target = failing('t.raw', 'iotype=write') + ',file.inject-error.0.errno=28'
    for options in ([], ['-W'], ['-m', '1']):
        ours, theirs = disks.both('convert', '-n', *options, '--target-image-opts', 's.raw', target)
        assert ours[0] == theirs[0] == 1
        assert ours[2].startswith(f'qemu-img: {target}: error while writing at byte ')
        assert ours[2].endswith(': No space left on device\n') and ours[2].count('\n') == 1


def test_salvage(disks):
    source = failing('s.raw', 'iotype=read') + f',file.inject-error.0.sector={MiB // 512 + 3}'
    assert disks.run('convert', '--image-opts', source, 'x')[0] == 1
    for options in ([], ['-q']):
        ours, theirs = disks.both('convert', '--salvage', *options, '--image-opts', source, 'x')
        assert ours[0] == theirs[0] == 0 and ours[2] == theirs[2]
        bad = MiB + 3 * 512
        expected = bytearray((disks.ours / 's.raw').read_bytes())
        expected[bad:bad + 512] = bytes(512)
        assert (disks.ours / 'x').read_bytes() == expected


# ---- how it goes about it ----

def test_progress(disks):
    status, out, _ = disks.run('convert', '-p', 's.raw', 'x')
    steps = out.split('\r')
    assert status == 0 and steps[0] == '    (0.00/100%)' and steps[-2:] == ['    (100.00/100%)', '\n']
    values = [float(step.strip()[1:].split('/')[0]) for step in steps[:-1]]
    assert values == sorted(values) and len(values) > 3
    assert disks.run('convert', '-p', '-q', 's.raw', 'x')[1] == ''


def test_rate_limit(disks):
    """Six megabytes of data at four a second take a second; without the limit they do not."""
    disks.file('six.raw', 6 * MiB, (0, b'\x11' * 6 * MiB))
    start = time.monotonic()
    disks.ok('convert', '-r', '4M', 'six.raw', 'x')
    assert time.monotonic() - start >= 0.9
    disks.identical('x', 'six.raw', 'raw', 'raw')


def test_source_is_not_changed(disks):
    before = {name: digest(disks.ours / name) for name in ('s.raw', 's.qcow2', 'c.qcow2')}
    for name in before:
        disks.ok('convert', '-O', 'qcow2', name, 'x')
        disks.ok('compare', name, 'x')
        disks.ok('map', '--output=json', name)
        disks.ok('info', name)
    assert before == {name: digest(disks.ours / name) for name in before}
