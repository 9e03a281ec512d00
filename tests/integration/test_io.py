# SPDX-License-Identifier: BSD-2-Clause
"""weir io next to qemu-io: what it prints, what it writes, how it ends."""
import os
import re
import signal

import pytest
from weirtest import MiB
from weirtest.img import call
from weirtest.io import IoPair, commands, run

SIZE = 8 * MiB
FORMATS = ['raw', 'qcow2']


@pytest.fixture
def pair(tmp):
    both = IoPair(tmp)
    both.file('t.raw', SIZE)
    both.file('source', 1000, (0, bytes(i % 251 for i in range(1000))))
    both.peer('create', '-q', '-f', 'qcow2', 't.qcow2', SIZE)
    return both


# One row is one run. Commands that fail do not end it.
SAME = [
    ['write 0 64k', 'read 0 64k', 'read -P 0xcd 0 64k', 'read -P 1 0 64k', 'length'],
    ['write -P 0x21 0 100', 'read -v 0 100', 'readv -v 0 16 16', 'write -P 32 0 5', 'read -v 0 8'],
    ['read', 'read 0', 'read x 1', 'read 0 x', 'read 0 -1', 'read 7M 2M', 'read -z 0 1', 'read -P 300 0 512',
     'read -P 0x 0 512', 'read -P', 'read 0 512 3', 'nope'],
    ['write -z -P 1 0 512', 'write -u 0 512', 'write -n 0 512', 'write -zu 0 64k', 'write -zn 0 64k',
     'write -f 0 512'],
    ['write -s nofile 0 512', 'write -s source 0 4096', 'read -v 900 200', 'read -s 1 0 512', 'read -P 1 -s 100 0 512',
     'read -P 0xcd -s 500 -l 100 0 512', 'write 1000 513', 'write 0 0', 'read 0 0', 'write 0 3g', 'read 0 3g',
     'read -q -l 3 0 512'],
    ['write -bz 0 512', 'write -c 0 100', 'write -c 100 512', 'write -fc 0 64k', 'write -C 0 4k', 'write -q 0 4k',
     'read -C 0 64k', 'read -p 0 512', 'read -a 0 512'],
    ['discard 0 64k', 'discard -C 0 64k', 'discard 0', 'discard 8M 1', 'discard -q 0 1k', 'discard 0 3g',
     'discard x 1', 'discard 100 100'],
    ['flush', 'map', 'alloc 0', 'alloc 0 64k', 'alloc 1 2', 'alloc x', 'alloc', 'alloc 0 1 2', 'length', 'alloc 9M',
     'alloc 0 16M', 'info'],
    ['write 1M 64k', 'map', 'alloc 1M 128k', 'write -c 4M 64k', 'map', 'read -P 0xcd 4M 64k'],
    ['truncate 16M', 'length', 'truncate -m nope 9M', 'truncate', 'truncate x', 'truncate 1 2 3 4'],
    ['sleep 10', 'sleep', 'sleep x', 'sleep -1', 'help nope', 'help read readv', 'close', 'length', 'read 0 512',
     'flush', 'map'],
    ['open t.raw', 'open -x', 'close', 'open', 'open -x', 'open nofile',
     'open -r -o driver=raw,file.filename=t.raw', 'write 0 512', 'length'],
    ['close', 'open -o driver=raw -d unmap -t none t.raw', 'write 0 4k', 'length', 'close', 'open -n t.raw', 'length'],
    ['reopen -r', 'write 0 512', 'reopen -w', 'write 0 512', 'reopen -r -w', 'reopen -c nope', 'reopen -c none',
     'reopen x', 'length'],
    ['sigraise x', 'sigraise', 'sigraise 99999', 'quit', 'length'],
    ['q', 'length'],
    ['aio_write 0 64k', 'aio_flush', 'aio_read 0 4k', 'aio_flush', 'aio_write -C 0 64k', 'aio_flush',
     'aio_write -q 0 64k'],
    ['aio_write -P 3 0 64k', 'aio_flush', 'aio_read -P 4 0 64k', 'aio_flush', 'length'],
    ['aio_write -u 0 4k', 'aio_write -z 0 4k 4k', 'aio_write -zu -P 1 0 4k', 'aio_flush', 'aio_write 0',
     'aio_write x 1', 'aio_write 0 x', 'aio_write 8M 4k', 'aio_flush', 'aio_read 8M 4k', 'aio_flush',
     'aio_read -v 0 16', 'aio_flush', 'aio_flush 1'],
    ['writev x 1', 'writev 0', 'writev 0 x', 'writev 0 0', 'writev -f 0 512 512', 'writev -C 0 512',
     'writev -q 0 512', 'readv 0', 'readv x 5', 'readv -C 0 512 512', 'readv 0 0', 'readv -P 1 0 512 512',
     'writev 0 3g', 'aio_read 0 3g', 'writev 1 x 1', 'readv 8M 1', 'writev 8M 1'],
    ['read -q 1.5k 1', 'read -q 0x10 1', 'read -q 010 1', 'read -q 1b 1', 'read -q 1kk 1', 'read -q 1e3 1',
     'read -q 9223372036854775808 1', 'read -q 7E 1', 'read -q 0 7E', 'read -q 8589934592G 1'],
    ['break write_aio a', 'resume a', 'remove_break a', 'break', 'break a', 'wait_break'],
    [' ', 'write 0 64k', '  read  0   64k ', 'length'],
    ['write', 'writev', 'write 0 1 2 3', 'flush x', 'info x', 'map x', 'length 1'],
]


@pytest.mark.parametrize('lines', SAME, ids=lambda lines: lines[0].split()[0] if lines[0].strip() else 'blank')
@pytest.mark.parametrize('fmt', FORMATS)
def test_same_commands(pair, fmt, lines):
    pair.same_io('-f', fmt, *commands(*lines), f't.{fmt}')
    status, _, err = call(pair.ours, ['compare', f'{pair.theirs}/t.{fmt}', f't.{fmt}'])
    assert status == 0, err


@pytest.mark.parametrize('fmt', FORMATS)
def test_what_is_written(pair, fmt):
    """The two tools leave the same data behind, also in odd ranges."""
    lines = ['write -P 1 0 3M', 'write -P 2 1000 70001', 'write -zu 1M 128k', 'writev -P 3 2M 512 100 7',
             'aio_write -P 4 4M 64k', 'aio_flush', 'discard 64k 64k', 'write -s source 5000001 3333']
    pair.same_io('-f', fmt, *commands(*lines), f't.{fmt}', status=0)
    status, _, err = call(pair.ours, ['compare', f'{pair.theirs}/t.{fmt}', f't.{fmt}'])
    assert status == 0, err


def test_read_only(pair):
    lines = ['write 0 4k', 'discard 0 4k', 'truncate 4M', 'aio_write 0 4k', 'writev 0 4k', 'write -z 0 64k',
             'read 0 4k']
    pair.same_io('-r', '-f', 'qcow2', *commands(*lines), 't.qcow2', status=1)


@pytest.mark.parametrize('args', [
    ['-f', 'nope', '-c', 'length', 't.raw'],
    ['-c', 'length', 'nofile'],
    ['-c', 'length'],
    ['-c', 'length', 't.raw'],
    ['-c', 'length', 't.qcow2'],
    ['--image-opts', '-c', 'length', 'driver=raw,file.filename=t.raw'],
    ['--image-opts', '-f', 'raw', '-c', 'length', 'driver=raw,file.filename=t.raw'],
    ['--image-opts', '-c', 'length', 'driver=raw,file.filename=nofile'],
    ['-t', 'nope', '-c', 'length', 't.raw'],
    ['-d', 'nope', 't.raw'],
    ['-i', 'nope', 't.raw'],
    ['-f', 'raw', '-n', '-m', '-c', 'write 0 64k', '-c', 'read -P 0xcd 0 64k', 't.raw'],
    ['-k', '-n', '-f', 'raw', '-c', 'read 0 4k', 't.raw'],
    ['-i', 'io_uring', '-f', 'raw', '-c', 'read 0 4k', 't.raw'],
    ['-i', 'threads', '-f', 'raw', '-c', 'read 0 4k', 't.raw'],
    ['-U', '-f', 'raw', '-c', 'length', 't.raw'],
    ['-U', '-r', '-f', 'raw', '-c', 'length', 't.raw'],
    ['-t', 'writeback', '-f', 'raw', '-c', 'write 0 4k', 't.raw'],
    ['-t', 'unsafe', '-f', 'qcow2', '-c', 'write 0 4k', 't.qcow2'],
    ['-d', 'off', '-f', 'raw', '-c', 'discard 0 1M', 't.raw'],
    ['--cmd', 'length', '--format', 'raw', '--read-only', 't.raw'],
], ids=' '.join)
def test_options(pair, args):
    pair.same_io(*args)


@pytest.mark.parametrize('args', [['-x'], ['t.raw', 't.qcow2'], ['-f', 'raw', '-g', 't.raw']], ids=' '.join)
def test_misused_options(pair, args):
    pair.same_io(*args, status=1, usage=True)


@pytest.mark.parametrize('args, name', [(['-s'], '--snapshot'), (['-C'], '--copy-on-read'), (['-T', 'x'], '--trace'),
                                        (['--object', 'secret,id=a'], '--object')])
def test_refused_options(pair, args, name):
    status, out, err = pair.io(*args, '-f', 'raw', '-c', 'length', 't.raw')
    assert status == 1 and out == '' and name in err and err.startswith('qemu-io: '), err


def test_refused_parts(pair):
    """What this tool has not is told, not passed over."""
    status, out, _ = pair.io('-f', 'raw', *commands('aio_read -i 0 4k', 'truncate -m full 16M', 'write -b 0 4k',
                                                    'length'), 't.raw')
    assert status == 1 and '-i is not supported' in out and out.endswith('8 MiB\n')
    assert 'write failed: Operation not supported' in out


@pytest.mark.parametrize('command, number', [('abort', signal.SIGABRT), ('sigraise 15', signal.SIGTERM)])
def test_signals(pair, command, number):
    pair.same_io('-f', 'raw', *commands(command, 'length'), 't.raw', status=-number)
    # What was printed before is not lost (there it is).
    assert pair.io('-f', 'raw', *commands('length', command), 't.raw')[:2] == (-number, '8 MiB\n')


@pytest.mark.parametrize('given', [
    'length\nread 0 512\nnope\nread -P 1 0 512\nq\nlength\n',
    'length\nread -P 1 0 512',
    'length\n\n  length\nread "0" \'512\'\nwrite -P 1 0 \\512\n\thelp help\n',
    'aio_write 0 4k\n',
    'write 0 512\nread -v 0 16\n',
    '',
])
def test_lines_of_the_input(pair, given):
    pair.same_io('-f', 'raw', 't.raw', given=given)


def test_lines_without_an_image(pair):
    pair.same_io(given='length\nopen -o driver=raw t.raw\nlength\n')
    status, out, _ = pair.io('t.raw', given='length\n')
    assert (status, out) == (0, 'qemu-io> 8 MiB\nqemu-io> ')


def test_help(pair):
    """The same commands with the same arguments."""
    ours, theirs = (side[1].splitlines() for side in (pair.io('-c', 'help'), pair.same_io('-c', '?')))
    assert ours == theirs and len(ours) > 25
    for line in ours[:-2]:
        name = line.split()[0]
        text = pair.io('-c', f'help {name}')[1]
        assert text.startswith(line + '\n'), text
    status, out, _ = pair.io('--help')
    assert status == 0 and '--image-opts' in out
    assert pair.io('--version')[1].startswith('qemu-io version ')


def test_write_through(pair):
    """Without -t every write is flushed; -t writeback leaves that to whoever flushes."""
    rule = 'driver=blkdebug,image.driver=file,image.filename=t.raw,inject-error.0.event=none,' \
           'inject-error.0.iotype=flush'
    # qemu-io's first flush is lost: nothing is known to be written then.
    status, out, _ = pair.io('--image-opts', *commands('write 0 4k', 'write -z 0 64k'), rule)
    assert status == 1 and out == 2 * 'write failed: Input/output error\n'
    pair.same_io('--image-opts', '-t', 'writeback', *commands('write 0 4k', 'write -f 4k 4k'), rule, status=1)


def test_discard_modes(pair):
    pair.same_io('-f', 'raw', *commands('write 0 8M'), 't.raw', status=0)
    assert pair.used('t.raw') == 8 * MiB
    pair.same_io('-f', 'raw', '-d', 'ignore', *commands('discard 0 4M'), 't.raw', status=0)
    assert pair.used('t.raw') == 8 * MiB
    pair.same_io('-f', 'raw', *commands('discard 0 4M'), 't.raw', status=0)
    assert pair.used('t.raw') == 4 * MiB


# ---- blkdebug ----

BLKDEBUG = 'driver=raw,file.driver=blkdebug,file.image.driver=file,file.image.filename=t.raw'


@pytest.mark.parametrize('lines', [
    ['break write_aio a', 'aio_write 0 4k', 'wait_break a', 'aio_write 4k 4k', 'resume a', 'aio_flush'],
    ['break write_aio a', 'aio_write 0 4k', 'aio_write 8k 4k', 'wait_break a', 'resume a', 'resume a', 'aio_flush'],
    ['break write_aio a', 'aio_write 0 4k', 'wait_break a', 'remove_break a', 'aio_flush'],
    ['break nope a', 'break write_aio a', 'break write_aio a', 'remove_break a', 'write 0 4k'],
    ['break write_aio a', 'break write_aio b', 'aio_write 0 4k', 'aio_write 8k 4k', 'wait_break a', 'wait_break b',
     'resume b', 'resume a', 'aio_flush'],
    ['break write_aio a', 'break write_aio a', 'aio_write 0 4k', 'aio_write 8k 4k', 'resume a', 'resume a',
     'aio_flush'],
    ['break read_aio a', 'aio_read 0 4k', 'wait_break a', 'write 0 4k', 'resume a', 'aio_flush', 'remove_break a',
     'resume a'],
], ids=lambda lines: str(len(lines)))
def test_breakpoints(pair, lines):
    """The order in which requests end is not compared where both were held."""
    args = ['--image-opts', *commands(*lines), BLKDEBUG]
    ours, theirs = ((status, sorted(out.splitlines()), err)
                    for status, out, err in (pair.io(*args), run(args, pair.theirs)))
    assert ours == theirs


def test_a_held_request_does_not_keep_the_tool(pair):
    """It is let go at the end (qemu-io waits for ever)."""
    status, out, _ = pair.io('--image-opts', *commands('break write_aio a', 'aio_write 0 4k', 'wait_break a'), BLKDEBUG)
    assert status == 0
    assert re.sub(' T', '', out) == ("blkdebug: Suspended request 'a'\nblkdebug: Resuming request 'a'\n"
                                     'wrote 4096/4096 bytes at offset 0\n4 KiB, 1\n')
    assert os.path.getsize(pair.ours / 't.raw') == SIZE
    status, out, _ = pair.io('--image-opts', *commands('wait_break nope', 'length'), BLKDEBUG)
    assert (status, out) == (1, 'Could not wait for breakpoint: No such file or directory\n8 MiB\n')


def rules(pair, text):
    for directory in pair.each():
        (directory / 'rules').write_text(text.replace('|', '\n'))


@pytest.mark.parametrize('text, lines', [
    ('[inject-error]|event = "write_aio"|errno = "28"', ['read 0 512', 'write 0 512', 'write 0 512', 'read 0 512']),
    ('[inject-error]|event = "write_aio"|once = "on"', ['write 0 512', 'write 0 512']),
    ('[set-state]|event = "write_aio"|state = "1"|new_state = "2"||[inject-error]|event = "write_aio"|state = "2"',
     ['write 0 512', 'write 0 512', 'write 0 512', 'read 0 512']),
    ('[inject-error]|event = "write_aio"|state = "1"||[set-state]|event = "write_aio"|state = "1"|new_state = "2"',
     ['write 0 512', 'read 0 512', 'write 0 512']),
    ('[inject-error]|event = "write_aio"|state = "1"|once = "on"||[set-state]|event = "write_aio"|new_state = "2"',
     ['write 0 512', 'write 0 512', 'read 0 512']),
    ('[inject-error]|event = "none"|iotype = "read"|state = "2"||[set-state]|event = "write_aio"|new_state = "2"',
     ['read 0 512', 'write 0 512', 'read 0 512']),
    ('[inject-error]|event = "none"|sector = "1"', ['read 0 512', 'read 0 1k', 'read 1k 1k']),
    ('[inject-error]|event = "none"|errno = "28"||[inject-error]|event = "none"|errno = "5"', ['read 0 512']),
    ('[inject-error]|event = "nope"', ['length']),
    ('[inject-error]|errno = "5"', ['length']),
    ('[inject-error]|event = "none"|foo = "x"', ['length']),
    ('[inject-error]|event = "none"|iotype = "bar"', ['length']),
    ('[foo]|event = "none"', ['length']),
    ('event = "none"', ['length']),
], ids=range(14))
def test_blkdebug_rules(pair, text, lines):
    """The file of rules does what it does there."""
    rules(pair, text)
    pair.same_io('--image-opts', *commands(*lines), BLKDEBUG + ',file.config=rules')


@pytest.mark.parametrize('name', ['blkdebug:rules:t.raw', 'blkdebug::t.raw', 'blkdebug:t.raw',
                                  'blkdebug:nofile:t.raw', 'blkdebug::nofile'])
def test_blkdebug_names(pair, name):
    rules(pair, '[inject-error]|event = "read_aio"|errno = "28"')
    pair.same_io('-f', 'raw', *commands('read 0 512', 'length'), name)


@pytest.mark.parametrize('option', [
    'align=1000', 'align=513', 'align=2147483648', 'align=0', 'align=512', 'max-transfer=512', 'max-transfer=0',
    'align=4096,file.max-transfer=512', 'max-transfer=4294967296', 'align=4096,file.opt-write-zero=512',
    'opt-write-zero=0', 'opt-write-zero=4294967296', 'opt-write-zero=4096,file.max-write-zero=512',
    'opt-write-zero=4096,file.max-write-zero=8192', 'opt-write-zero=4096,file.max-write-zero=10240',
    'opt-discard=1M,file.max-discard=512', 'opt-discard=1M,file.max-discard=1536k', 'max-discard=4294967296',
    'config=nofile', 'take-child-perms.0=write', 'unshare-child-perms.0=write',
])
def test_blkdebug_options(pair, option):
    pair.same_io('--image-opts', *commands('length', 'write 512 1k', 'write -z 0 64k', 'discard 0 64k'),
                 f'{BLKDEBUG},file.{option}')


EVENTS = ['l2_load', 'l2_update', 'l2_alloc_write', 'l1_update', 'cluster_alloc', 'refblock_load', 'refblock_alloc',
          'write_aio', 'pwritev', 'flush_to_os', 'flush_to_disk', 'cow_write', 'cow_read', 'refblock_update',
          'write_compressed', 'cluster_alloc_bytes', 'cluster_free', 'refblock_update_part']


@pytest.mark.parametrize('event', EVENTS)
def test_qcow2_survives_an_error_at(pair, event):
    """A write that fails at any place leaves a sound image, and the next one works."""
    image = f'driver=qcow2,file.driver=blkdebug,file.image.filename=t.qcow2,file.inject-error.0.event={event},' \
            'file.inject-error.0.once=on'
    status, out, err = pair.io('--image-opts', *commands('write -P 1 0 4k', 'write -P 2 64k 64k',
                                                         'write -cP 4 128k 64k', 'write -P 3 0 4k', 'flush',
                                                         'read -P 3 0 4k'), image)
    failed = out.count('failed: Input/output error')
    assert failed <= 1 and 'Pattern' not in out and err == '', (out, err)
    assert status == (1 if failed else 0)
    pair.sound('t.qcow2')
    status, out, _ = pair.io('-f', 'qcow2', *commands('write -P 5 0 64k', 'read -P 5 0 64k'), 't.qcow2')
    assert status == 0, out
    pair.sound('t.qcow2')


@pytest.mark.parametrize('event', ['l2_update', 'l2_alloc_write', 'l1_update', 'cluster_alloc', 'refblock_load',
                                   'write_aio', 'pwritev', 'flush_to_os', 'read_aio'])
def test_qcow2_events_hit_the_first_write(pair, event):
    """Where one write comes by in both programs, the same command fails."""
    image = f'driver=qcow2,file.driver=blkdebug,file.image.filename=t.qcow2,file.inject-error.0.event={event},' \
            'file.inject-error.0.once=on'
    lines = ['write 0 64k', 'flush', 'read -P 0xcd 0 64k' if event == 'read_aio' else 'length']
    pair.same_io('--image-opts', *commands(*lines), image, status=1)
    pair.sound('t.qcow2')
