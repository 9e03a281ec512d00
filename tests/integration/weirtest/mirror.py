# SPDX-License-Identifier: BSD-2-Clause
"""What tests of mirrors are written with: job j from node n to node t, n.img and t.img in the test's directory."""
import random
import subprocess

import pytest

from weirtest.qmp import QmpError
from weirtest.tools import MiB, file_bytes, run

SIZE = 8 * MiB
MODES = ['background', 'write-blocking']


def mirror(daemon, **options):
    arguments = {'job-id': 'j', 'device': 'n', 'target': 't', 'sync': 'full'}
    arguments.update({key.replace('_', '-'): value for key, value in options.items()})
    daemon.qmp('blockdev-mirror', arguments)


def ready(daemon):
    return daemon.qmp.event('BLOCK_JOB_READY', 30, device='j')['data']


def soft_cancel(daemon):
    """Ends the job well, without pivot."""
    daemon.qmp('block-job-cancel', device='j')
    data = daemon.qmp.event('BLOCK_JOB_COMPLETED', 30, device='j')['data']
    assert 'error' not in data and data['len'] == data['offset'], data
    daemon.qmp.job_wait('j', 'null')
    return data


def block_job(daemon):
    return next((j for j in daemon.qmp('query-block-jobs') if j['device'] == 'j'), None)


def change(daemon, mode, job='j'):
    daemon.qmp('block-job-change', {'id': job, 'type': 'mirror', 'copy-mode': mode})


def synced(daemon):
    return block_job(daemon)['actively-synced']


def same(tmp, one='n.img', other='t.img'):
    run('cmp', tmp / one, tmp / other)


def error_text(call, *args, **options):
    with pytest.raises(QmpError) as caught:
        call(*args, **options)
    assert caught.value.error_class == 'GenericError'
    return caught.value.text


def exported(daemon, export='n'):
    return next(e['node-name'] for e in daemon.qmp('query-block-exports') if e['id'] == export)


def fio(uri, directory, *options):
    return subprocess.Popen(
        ['fio', '--name=load', '--ioengine=nbd', f'--uri={uri}', '--size=8M', '--time_based', '--thread', '--minimal',
         '--output=/dev/null', *options], cwd=directory, stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def any_write(path, seed=1):
    """Whether the image is no more what it was made with."""
    expected = random.Random(seed).randbytes(MiB)
    return file_bytes(path, 0, MiB) != expected


def add_blkdebug(daemon, node, path, *rules):
    daemon.qmp('blockdev-add', dict(
        {'driver': 'blkdebug', 'node-name': node, 'image': {'driver': 'file', 'filename': str(path)}},
        **({'inject-error': [dict({'event': 'none'}, **rule) for rule in rules]} if rules else {})))


def bad_target(daemon, tmp, *rules):
    """The node bad, a target on the file bad.img, with errors."""
    with open(tmp / 'bad.img', 'wb') as file:
        file.truncate(SIZE)
    add_blkdebug(daemon, 'bad', tmp / 'bad.img', *rules)


def failure(daemon):
    """What BLOCK_JOB_ERROR says."""
    return daemon.qmp.event('BLOCK_JOB_ERROR', 10, device='j')['data']
