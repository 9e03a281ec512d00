# SPDX-License-Identifier: BSD-2-Clause
"""One script of 150 job commands, good and bad, against qemu-storage-daemon and against ours.

Compared: success or failure of each command, the class of its error, and for each job the order of its events. Where
the two differ on purpose the step says so, and docs/compat.md why.
"""
import shutil

import pytest

from weirtest import KiB, MiB, fill, is_peer
from weirtest.beside import DIFFERENT, Player, Wait, differences, name_of, play_both

pytestmark = pytest.mark.skipif(is_peer() or not shutil.which('qemu-storage-daemon'), reason='compares the two')

SIZE = 64 * MiB  # more than the peer has in flight before it looks at the speed
VERBS = ('pause', 'resume', 'cancel', 'complete', 'finalize', 'dismiss')
# Where the peer's order is not for us to follow: states that a graph change passes through.
PASSING = {('paused', 'running'), ('standby', 'ready')}


def verb(name, job, block=False):
    key = 'id' if not block or name in ('finalize', 'dismiss') else 'device'
    return ('block-job-' if block else 'job-') + name, {key: job}


def all_verbs(job, skip=()):
    """Both families, without those that are not to be tried."""
    return [verb(name, job, block) for block in (False, True) for name in VERBS if name not in skip]


def mirror(job, **options):
    arguments = {'job-id': job, 'device': 'n', 'target': 't', 'sync': 'full'}
    arguments.update({k.replace('_', '-'): v for k, v in options.items()})
    return 'blockdev-mirror', {k: v for k, v in arguments.items() if v is not None}


def speed(job, value):
    return 'block-job-set-speed', {'device': job, 'speed': value}


def null(name, **options):
    return 'blockdev-add', dict({'driver': 'null-co', 'node-name': name, 'size': SIZE}, **options)


def failing(name, policy_once):
    return 'blockdev-add', {'driver': 'blkdebug', 'node-name': name,
                            'inject-error': [{'event': 'none', 'iotype': 'write', 'once': policy_once}],
                            'image': {'driver': 'null-co', 'size': SIZE}}


def create(job, path, **options):
    return 'blockdev-create', {'job-id': job, 'options': dict({'driver': 'file', 'filename': path, 'size': MiB},
                                                              **options)}


def bad_starts():
    """A start that is refused leaves nothing behind, so that each can stand for itself."""
    bad = [{'device': 'nope'}, {'target': 'nope'}, {'device': None}, {'target': None}, {'sync': None}, {'sync': 'nope'},
           {'sync': 'incremental'}, {'sync': 'bitmap'}, {'sync': 1}, {'target': 'n'}, {'granularity': 1000},
           {'granularity': 256}, {'granularity': 128 * MiB}, {'granularity': -1}, {'speed': -1}, {'speed': 'fast'},
           {'buf_size': -1}, {'on_source_error': 'nope'}, {'on_target_error': 'nope'}, {'copy_mode': 'nope'},
           {'replaces': 'nope'}, {'replaces': 'x'}, {'filter_node_name': 'n'}, {'filter_node_name': '1x'},
           {'auto_finalize': 'yes'}, {'nope': 1}]
    return [mirror('j', **options) for options in bad] + [mirror('1j'), mirror(''), mirror('a b'), mirror(None)]


def script(tmp):
    done = [('blockdev-add', {'driver': 'file', 'node-name': 'n', 'filename': fill(tmp / 'n.img', SIZE)}), null('t'),
            null('x', size=SIZE // 2), failing('bad', False), failing('once', True)]
    done += all_verbs('nope') + [speed('nope', 0)]
    done += bad_starts()
    # Running: what is allowed and what is not.
    done += [mirror('run', speed=64 * KiB), mirror('run', target='x'), mirror('second', target='x'),
             verb('complete', 'run'), verb('finalize', 'run'), verb('dismiss', 'run'), verb('resume', 'run'),
             verb('complete', 'run', True), verb('finalize', 'run', True), verb('dismiss', 'run', True),
             speed('run', -1), speed('run', 32 * KiB),
             verb('pause', 'run'), verb('pause', 'run'), verb('pause', 'run', True), verb('complete', 'run'),
             ('block-job-cancel', {'device': 'run'}), verb('resume', 'run', True), verb('resume', 'run'),
             ('block-job-cancel', {'device': 'run'}), Wait('run', 'null')]
    # Ready, standby, and the end after the resume.
    done += [mirror('rdy'), Wait('rdy', 'BLOCK_JOB_READY'), verb('finalize', 'rdy'), verb('dismiss', 'rdy'),
             verb('pause', 'rdy'), Wait('rdy', 'standby'), verb('complete', 'rdy'), verb('resume', 'rdy'),
             Wait('rdy', 'null')]
    # The pivot took n's users to t; both are free.
    done += [mirror('pend', auto_finalize=False, auto_dismiss=False), Wait('pend', 'BLOCK_JOB_READY'),
             verb('complete', 'pend'), Wait('pend', 'BLOCK_JOB_PENDING')]
    done += all_verbs('pend', skip=('cancel', 'finalize')) + [speed('pend', 5)]
    done += [verb('finalize', 'pend'), Wait('pend', 'concluded')]
    done += all_verbs('pend', skip=('dismiss',)) + [speed('pend', 5)]
    done += [verb('dismiss', 'pend'), Wait('pend', 'null'), verb('dismiss', 'pend')]
    # Soft, then force.
    done += [mirror('soft', auto_dismiss=False), Wait('soft', 'BLOCK_JOB_READY'),
             ('block-job-cancel', {'device': 'soft', 'force': False}), Wait('soft', 'concluded'),
             ('block-job-cancel', {'device': 'soft'}), verb('dismiss', 'soft', True), Wait('soft', 'null')]
    done += [mirror('force', copy_mode='write-blocking'), Wait('force', 'BLOCK_JOB_READY'),
             ('block-job-cancel', {'device': 'force', 'force': True}), Wait('force', 'null')]
    done += [mirror('jc'), Wait('jc', 'BLOCK_JOB_READY'), verb('cancel', 'jc'), Wait('jc', 'null')]
    done += [mirror('fin', auto_finalize=False), Wait('fin', 'BLOCK_JOB_READY'), verb('complete', 'fin'),
             Wait('fin', 'BLOCK_JOB_PENDING'), verb('cancel', 'fin'), Wait('fin', 'null')]
    # Found by the job.
    done += [mirror('size', target='x'), Wait('size', 'null')]
    done += [mirror('err', target='bad', auto_dismiss=False), Wait('err', 'concluded'), verb('complete', 'err'),
             verb('dismiss', 'err'), Wait('err', 'null')]
    done += [mirror('stop', target='once', on_target_error='stop'), Wait('stop', 'BLOCK_JOB_ERROR'),
             Wait('stop', 'paused'), verb('complete', 'stop'), verb('resume', 'stop'), Wait('stop', 'BLOCK_JOB_READY'),
             verb('complete', 'stop'), Wait('stop', 'null')]
    # Images.
    done += [create('c1', f'{tmp}/one'), Wait('c1', 'concluded')] + all_verbs('c1', skip=('dismiss',))
    done += [create('c1', f'{tmp}/two'), verb('dismiss', 'c1', True), verb('dismiss', 'c1'), Wait('c1', 'null')]
    done += [create('c2', f'{tmp}/no/dir'), Wait('c2', 'concluded'), verb('dismiss', 'c2'), Wait('c2', 'null')]
    done += [(*create('c3', f'{tmp}/three', size=-1), DIFFERENT), create('c4', f'{tmp}/three', driver='nope'),
             create('1c', f'{tmp}/three')]
    done += [('query-jobs', {}), ('query-block-jobs', {}), ('job-pause', {}), ('block-job-cancel', {}),
             ('job-complete', {'id': 1}), ('block-job-set-speed', {'device': 'j'}), ('job-nope', {}),
             ('query-jobs', {'id': 'j'}), ('job-dismiss', {'id': None}), ('block-job-finalize', {'device': 'j'}),
             ('block-job-dismiss', {'device': 'j'}), ('job-cancel', {'id': 'j', 'force': True}),
             ('block-job-cancel', {'device': 'j', 'force': 'yes'}), ('blockdev-mirror', {}), ('blockdev-create', {})]
    return done


class JobPlayer(Player):
    """Also knows the order of a job's events."""

    def order(self, job):
        """Names of the job's events, without the states that a graph change only passes through."""
        names = []
        for event in self.events:
            name = name_of(event, job)
            if not name or (name == 'BLOCK_JOB_ERROR' and names[-1:] == [name]):
                continue  # several requests may have been under way
            names.append(name)
            if tuple(names[-2:]) in PASSING:
                del names[-2:]
        return names


def test_150_commands_beside_the_peer(tmp):
    """The same answers, the same classes, and for each job the same events in the same order."""
    steps, peer, ours = play_both(tmp, script, JobPlayer)
    assert len(peer.answers) >= 150
    different = differences(steps, peer, ours)
    assert not different, '\n'.join(different)
    for job in dict.fromkeys(step.job for step in steps if isinstance(step, Wait)):
        assert ours.order(job) == peer.order(job), job
