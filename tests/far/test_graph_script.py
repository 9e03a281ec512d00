# SPDX-License-Identifier: BSD-2-Clause
"""One script of 200 commands about nodes and their graph, good and bad, against qemu-storage-daemon and against ours.

Compared: success or failure of each command, the class of its error, and after each the graph: which node has which
children under which names, and who else uses it. Where the two differ on purpose the step says so, and docs/compat.md
why.
"""
import shutil

import pytest

from weirtest import MiB, fill, is_peer, run
from weirtest.beside import DIFFERENT, Player, Wait, differences, play_both
from weirtest.chain import SIZE, make_chain

pytestmark = pytest.mark.skipif(is_peer() or not shutil.which('qemu-storage-daemon'), reason='compares the two')


def add(driver, name, **options):
    return 'blockdev-add', dict({'driver': driver, 'node-name': name},
                                **{k.replace('_', '-'): v for k, v in options.items() if v is not None})


def delete(*names):
    return [('blockdev-del', {'node-name': name}) for name in names]


def file_of(path, **options):
    return dict({'driver': 'file', 'filename': str(path)}, **options)


def export(export_id, node, **options):
    return 'block-export-add', dict({'type': 'nbd', 'id': export_id, 'node-name': node},
                                    **{k.replace('_', '-'): v for k, v in options.items()})


def make_images(tmp):
    make_chain(tmp, 'base', 'mid', 'top')
    for name in 'over', 'over2', 'alone':
        run('qemu-img', 'create', '-q', '-f', 'qcow2', tmp / f'{name}.qcow2', str(SIZE))
    for name in 'raw', 'q1', 'q2', 'q3':
        fill(tmp / f'{name}.img', SIZE, seed=1)


# ---- parts of the script ----

def bad_nodes(tmp):
    """What blockdev-add refuses."""
    raw = file_of(tmp / 'raw.img')
    return [
        ('blockdev-add', {}), ('blockdev-add', {'driver': 'file'}), add('nope', 'x'),
        ('blockdev-add', {'driver': 'null-co'}), add('null-co', ''), add('null-co', '1x'), add('null-co', 'x y'),
        add('null-co', 'x' * 40), add('null-co', 1), add('null-co', 'x', size='8M'), add('null-co', 'x', size=1.5),
        add('null-co', 'x', nope=1), add('null-co', 'x', read_only='yes'), add('null-co', 'x', detect_zeroes='maybe'),
        add('null-co', 'x', discard='sometimes'), add('null-co', 'x', cache={'nope': True}),
        add('null-co', 'x', cache={'direct': 1}), add('null-co', 'x', latency_ns=-1),
        add('null-co', 'x', force_share='on'),
        add('null-co', 'x', auto_read_only=0), add('null-co', 'x', detect_zeroes='unmap'),
        add('file', 'x', filename=f'{tmp}/nope'), add('file', 'x', filename=str(tmp)), add('file', 'x', filename=1),
        add('file', 'x', filename=str(tmp / 'raw.img'), locking='yes'),
        add('file', 'x', filename=str(tmp / 'raw.img'), aio='nope'), add('host_device', 'x', filename=f'{tmp}/nope'),
        add('raw', 'x'), add('raw', 'x', file='nope'), add('raw', 'x', file={}),
        add('raw', 'x', file={'driver': 'nope'}),
        add('raw', 'x', file=file_of(f'{tmp}/nope')), add('raw', 'x', file=raw, offset=SIZE + MiB),
        add('raw', 'x', file=raw, size=SIZE + MiB), add('raw', 'x', file=raw, offset=-1),
        add('raw', 'x', file=raw, nope=True), add('raw', 'x', file=dict(raw, nope=True)),
        add('qcow2', 'x', file=raw), add('qcow2', 'x'),
        add('qcow2', 'x', file=file_of(tmp / 'alone.qcow2'), backing='nope'),
        add('qcow2', 'x', file=file_of(tmp / 'alone.qcow2'), l2_cache_size='1M'),
        add('qcow2', 'x', file=file_of(tmp / 'alone.qcow2'), overlap_check='some'),
        add('throttle', 'x', file=raw), add('throttle', 'x', throttle_group='nope', file=raw),
        add('throttle', 'x', throttle_group='g'), add('copy-on-read', 'x'), add('copy-on-read', 'x', file='nope'),
        add('blkdebug', 'x'), add('blkdebug', 'x', image=raw, inject_error=[{'event': 'nope'}]),
        add('blkdebug', 'x', image=raw, align=3), add('blkdebug', 'x', image=raw, nope=1),
        add('quorum', 'x', children=[raw], vote_threshold=2), add('quorum', 'x', children=[], vote_threshold=1),
        add('quorum', 'x', children=[raw], vote_threshold=0), add('quorum', 'x', children=[raw]),
        add('quorum', 'x', children=[raw, raw], vote_threshold=1, blkverify=True),
        add('quorum', 'x', children=[raw], vote_threshold=1, read_pattern='lifo'), add('blkverify', 'x', test=raw),
        add('blklogwrites', 'x', file=raw), add('nbd', 'x', server={'type': 'unix', 'path': f'{tmp}/nope'}),
        add('nbd', 'x', server={'type': 'unix'}), add('nbd', 'x'), add('nbd', 'x', server={'type': 'nope'}),
        add('compress', 'x'), add('preallocate', 'x'),
    ]


def good_nodes(tmp):
    """Nodes of all kinds, what uses them, and names that are taken."""
    return [
        ('object-add', {'qom-type': 'throttle-group', 'id': 'g', 'limits': {'iops-total': 1000}}),
        ('object-add', {'qom-type': 'throttle-group', 'id': 'g'}), ('object-add', {'qom-type': 'nope', 'id': 'y'}),
        ('object-add', {'qom-type': 'throttle-group', 'id': 'h', 'limits': {'iops-total': -1}}),
        ('object-add', {'qom-type': 'iothread', 'id': 'io0'}), ('object-add', {'qom-type': 'iothread', 'id': '1x'}),
        ('qom-get', {'path': 'g', 'property': 'limits'}), ('qom-get', {'path': 'nope', 'property': 'limits'}),
        ('qom-get', {'path': 'g', 'property': 'nope'}),
        add('file', 'f', filename=str(tmp / 'raw.img')), add('file', 'f', filename=str(tmp / 'raw.img')),
        add('raw', 'r', file='f'), add('raw', 'r2', file='f'), add('raw', 'rw', file='f', offset=MiB, size=MiB),
        add('throttle', 'th', throttle_group='g', file='r'), add('copy-on-read', 'cor', file='th'),
        add('blkdebug', 'bd', image='cor'), add('null-co', 'z', size=SIZE), add('null-co', 'z0', size=0),
        add('null-co', 'zr', size=SIZE, read_only=True), add('raw', 'ro', file='zr', read_only=True),
        add('raw', 'rx', file='zr'), add('compress', 'cm', file='z'),
        ('query-named-block-nodes', {}), ('query-named-block-nodes', {'flat': True}),
        ('query-named-block-nodes', {'flat': 1}), ('query-block', {}), ('query-blockstats', {}),
        ('query-blockstats', {'query-nodes': True}), ('x-debug-query-block-graph', {}),
        *delete('f', 'r', 'th', 'cor', 'nope', 'rx', 'ro', 'cm', 1), ('blockdev-del', {}),
        *delete('bd', 'cor', 'th', 'r2', 'rw', 'r', 'f', 'f', 'zr', 'z0'),
        ('object-del', {'id': 'nope'}), ('object-del', {'id': 'io0'}), ('object-del', {'id': 'io0'}),
    ]


def exports(tmp):
    """Who uses a node, and what that forbids."""
    return [
        export('e', 'z'), ('nbd-server-start', {'addr': {'type': 'unix', 'data': {'path': f'{tmp}/sock'}}}),
        ('nbd-server-start', {'addr': {'type': 'unix', 'data': {'path': f'{tmp}/sock2'}}}),
        export('e', 'nope'), export('e', 'z', writable=True), export('e', 'z'), export('e2', 'z', name='e2'),
        export('1x', 'z', name='e3'), export('e4', 'z', name='e2'), export('e5', 'z', type='nope'),
        export('e5', 'z', name='x' * 5000), export('e5', 'z', iothread='nope'),
        ('blockdev-del', {'node-name': 'z'}), ('block_resize', {'node-name': 'z', 'size': 2 * SIZE}),
        ('block-export-del', {'id': 'nope'}), ('block-export-del', {'id': 'e2', 'mode': 'nope'}),
        ('block-export-del', {'id': 'e2'}), ('query-block-exports', {}), ('block-export-del', {'id': 'e'}),
        ('block-export-del', {'id': 'e'}), ('nbd-server-stop', {}), ('nbd-server-stop', {}),
        ('block_resize', {'node-name': 'nope', 'size': 1}), ('block_resize', {'node-name': 'z', 'size': -1}),
        ('block_resize', {'size': 1}),
    ]


def chains(tmp):
    """Overlays, backing files and jobs that make a chain shorter."""
    def layer(name, **options):
        return add('qcow2', name, file=file_of(tmp / f'{name}.qcow2'), **options)

    def snapshot(node, overlay):
        return 'blockdev-snapshot', {'node': node, 'overlay': overlay}
    return [
        layer('base', read_only=True), layer('mid', backing='base', read_only=True), layer('top', backing='mid'),
        layer('over', backing=None), ('blockdev-add', {'driver': 'qcow2', 'node-name': 'over2', 'backing': None,
                                                       'file': file_of(tmp / 'over2.qcow2')}),
        ('nbd-server-start', {'addr': {'type': 'unix', 'data': {'path': f'{tmp}/sock3'}}}),
        export('c', 'top', writable=True), *delete('base', 'mid', 'top'),
        snapshot('nope', 'over'), snapshot('top', 'nope'), snapshot('top', 'z'), snapshot('top', 'cm'),
        ('blockdev-snapshot', {'node': 'top'}), snapshot('top', 'top'), snapshot('top', 'mid'), snapshot('top', 'over'),
        snapshot('top', 'over'),
        ('blockdev-snapshot-sync', {'node-name': 'over', 'snapshot-file': f'{tmp}/s1', 'snapshot-node-name': 'z'}),
        ('blockdev-snapshot-sync', {'node-name': 'over', 'snapshot-file': f'{tmp}/s1', 'snapshot-node-name': 's1',
                                    'format': 'nope'}),
        ('blockdev-snapshot-sync', {'node-name': 'nope', 'snapshot-file': f'{tmp}/s1', 'snapshot-node-name': 's1'}),
        ('blockdev-snapshot-sync', {'node-name': 'over', 'snapshot-file': f'{tmp}/no/dir', 'snapshot-node-name': 's1'}),
        ('blockdev-snapshot-sync', {'node-name': 'over', 'snapshot-file': f'{tmp}/s1', 'snapshot-node-name': 's1',
                                    'mode': 'nope'}),
        ('blockdev-snapshot-sync', {'node-name': 'over', 'snapshot-file': f'{tmp}/s2', 'snapshot-node-name': 's2'}),
        ('change-backing-file', {'device': 's2', 'image-node-name': 'nope', 'backing-file': 'x'}),
        ('change-backing-file', {'device': 'nope', 'image-node-name': 's2', 'backing-file': 'x'}),
        ('change-backing-file', {'device': 's2', 'image-node-name': 'z', 'backing-file': 'x'}),
        ('change-backing-file', {'device': 's2', 'image-node-name': 's2', 'backing-file': f'{tmp}/over.qcow2'}),
        ('block-commit', {'job-id': 'j', 'device': 'nope'}), ('block-commit', {'device': 's2'}),
        ('block-commit', {'job-id': '1j', 'device': 's2'}),
        ('block-commit', {'job-id': 'j', 'device': 's2', 'base-node': 'nope'}),
        ('block-commit', {'job-id': 'j', 'device': 's2', 'top-node': 'nope'}),
        ('block-commit', {'job-id': 'j', 'device': 's2', 'base-node': 's2'}),
        ('block-commit', {'job-id': 'j', 'device': 's2', 'top-node': 'mid', 'base-node': 'top'}),
        ('block-commit', {'job-id': 'j', 'device': 's2', 'base-node': 'z'}),
        ('block-commit', {'job-id': 'j', 'device': 's2', 'base-node': 'base', 'base': 'x'}),
        ('block-commit', {'job-id': 'j', 'device': 's2', 'speed': -1}),
        ('block-commit', {'job-id': 'j', 'device': 's2', 'on-error': 'nope'}),
        ('block-commit', {'job-id': 'j', 'device': 's2', 'filter-node-name': 'z'}),
        ('block-commit', {'job-id': 'j', 'device': 's2', 'backing-file': 'x'}),
        ('block-commit', {'job-id': 'c1', 'device': 's2', 'top-node': 'top', 'base-node': 'mid'}), Wait('c1', 'null'),
        ('block-commit', {'job-id': 'c2', 'device': 's2', 'base-node': 'over'}), Wait('c2', 'BLOCK_JOB_READY'),
        ('blockdev-del', {'node-name': 's2'}), ('block-commit', {'job-id': 'c2', 'device': 's2'}),
        ('job-complete', {'id': 'c2'}), Wait('c2', 'null'),
        ('block-stream', {'job-id': 'j', 'device': 'nope'}), ('block-stream', {'device': 'over'}),
        ('block-stream', {'job-id': 'j', 'device': 'over', 'base-node': 'nope'}),
        ('block-stream', {'job-id': 'j', 'device': 'over', 'base': 'nope'}),
        ('block-stream', {'job-id': 'j', 'device': 'over', 'base-node': 'base', 'base': 'x'}),
        ('block-stream', {'job-id': 'j', 'device': 'over', 'bottom': 'nope'}),
        ('block-stream', {'job-id': 'j', 'device': 'over', 'base-node': 'base', 'bottom': 'mid'}),
        ('block-stream', {'job-id': 'j', 'device': 'over', 'speed': -1}),
        ('block-stream', {'job-id': 'j', 'device': 'over', 'on-error': 'nope'}),
        ('block-stream', {'job-id': 'j', 'device': 'base'}, DIFFERENT),
        ('block-stream', {'job-id': 's1', 'device': 'over', 'base-node': 'base'}), Wait('s1', 'null'),
        ('block-stream', {'job-id': 's2', 'device': 'over'}), Wait('s2', 'null'),
        ('block-export-del', {'id': 'c', 'mode': 'hard'}), ('nbd-server-stop', {}),
        *delete('top', 'mid', 'base', 's2', 'over'),
    ]


def transactions(tmp):
    """All of it or nothing."""
    def snapshot(node, name):
        return {'type': 'blockdev-snapshot-sync', 'data': {'node-name': node, 'snapshot-file': f'{tmp}/{name}',
                                                           'snapshot-node-name': name}}

    def together(*actions):
        return 'transaction', {'actions': list(actions)}

    abort = {'type': 'abort', 'data': {}}
    return [
        add('qcow2', 'alone', file=file_of(tmp / 'alone.qcow2')),
        ('transaction', {}), together(), together({'type': 'nope', 'data': {}}), together(abort),
        together({'type': 'abort'}),
        ('transaction', {'actions': [], 'properties': {'completion-mode': 'grouped'}}),
        ('transaction', {'actions': [], 'properties': {'completion-mode': 'nope'}}),
        ('transaction', {'actions': [snapshot('alone', 't0')], 'properties': {'completion-mode': 'grouped'}}),
        together(snapshot('alone', 't1'), abort), together(snapshot('alone', 't2'), snapshot('nope', 't3')),
        together(snapshot('alone', 't4')),
        together({'type': 'blockdev-snapshot', 'data': {'node': 't4', 'overlay': 'over2'}}),
        *delete('alone', 't4', 'over2', 't4', 'alone'),
    ]


def reopenings(tmp):
    """Other options and children for nodes in use."""
    def again(*nodes):
        return 'blockdev-reopen', {'options': list(nodes)}

    def file(name, **options):
        return dict(file_of(tmp / f'{name}.img', **options), **{'node-name': name})

    def image(name, **options):
        return dict({'driver': 'qcow2', 'node-name': name, 'file': file_of(tmp / f'{name}.qcow2')}, **options)

    def raw(child, **options):
        return dict({'driver': 'raw', 'node-name': 'rr', 'file': child}, **options)
    throttle = {'driver': 'throttle', 'node-name': 'rt', 'throttle-group': 'g', 'file': 'q1'}
    ro, direct = {'read-only': True}, {'cache': {'direct': True}}
    return [
        ('blockdev-add', file('q1')), ('blockdev-add', file('q2')), ('blockdev-add', raw('q1')),
        ('blockdev-reopen', {}), again({}), again({'driver': 'file'}), again(file_of('x', **{'node-name': 'nope'})),
        again(file('q1')), again(file('q1', **ro)), again(file('q1', **direct)), again(file('q1', aio='io_uring')),
        again(file('q1', locking='off')), again(dict(file('q1'), filename='x')), again(file('q1', nope=1)),
        again(file('q1', **ro, **{'force-share': True})), again(file('q1', discard='unmap')), again(file('q1')),
        again(raw('q1')), again(raw('nope')), again(raw(None)), again(raw('rr')), again(raw('q1', **ro)),
        again(raw(file_of(tmp / 'q1.img'))), again(raw('q1', offset=512)), again(raw('q1', size=MiB)),
        again(raw('q1', offset=2 * SIZE)), again(raw('q1', size=2 * SIZE)), again(raw('q2')), again(raw('q1')),
        again(raw('q1'), file('nope')), again(raw('q2'), dict(throttle, driver='nope')),
        ('blockdev-add', throttle), again(dict(throttle, **{'throttle-group': 'nope'})),
        again(dict(throttle, file='q2')),
        again(throttle), *delete('rt', 'rr'),
        ('blockdev-add', image('over')), again(image('over')), again(image('over', **ro)),
        again(image('over', **{'lazy-refcounts': True})), again(image('over', **{'l2-cache-size': MiB})),
        again(image('over', **{'overlap-check': 'all'})), again(image('over', **{'overlap-check': 'nope'})),
        again(image('over', backing='nope')), again(image('over', backing=None)), again(image('over', backing='q1')),
        again(image('over')), again(image('over', backing='q2')), again(image('over', backing='over')),
        again(image('over', backing=None)), again(image('over')),
        ('blockdev-add', dict(image('over2'), backing='over')), again(image('over', backing='over2')),
        again(image('over2')), again(image('over2', backing=None), image('over', backing='over2')),
        again(image('over', backing=None)), *delete('over2', 'over'),
        ('block-set-write-threshold', {'node-name': 'q1', 'write-threshold': 4096}),
        ('block-set-write-threshold', {'node-name': 'nope', 'write-threshold': 1}),
        ('block-set-write-threshold', {'node-name': 'q1'}), *delete('q2', 'q1'),
    ]


def votes(tmp):
    """Children of a quorum come and go."""
    return [
        add('quorum', 'q', vote_threshold=2, children=[file_of(tmp / f'q{i}.img') for i in (1, 2, 3)]),
        ('x-blockdev-change', {'parent': 'nope', 'node': 'z'}), ('x-blockdev-change', {'parent': 'q'}),
        ('x-blockdev-change', {'parent': 'q', 'node': 'nope'}), ('x-blockdev-change', {'parent': 'z', 'node': 'cm'}),
        ('x-blockdev-change', {'parent': 'q', 'child': 'nope'}), ('x-blockdev-change', {'parent': 'q', 'node': 'z'}),
        ('x-blockdev-change', {'parent': 'q', 'child': 'children.0'}),
        ('x-blockdev-change', {'parent': 'q', 'child': 'children.1', 'node': 'z'}),
        ('x-blockdev-change', {'parent': 'q', 'child': 'children.3'}),
        ('x-blockdev-change', {'parent': 'q', 'child': 'children.1'}),
        *delete('q', 'cm', 'z'), ('object-del', {'id': 'g'}), ('query-named-block-nodes', {}),
    ]


def script(tmp):
    make_images(tmp)
    return (bad_nodes(tmp) + good_nodes(tmp) + exports(tmp) + chains(tmp) + transactions(tmp) + reopenings(tmp) +
            votes(tmp))


# ---- the graph ----

class GraphPlayer(Player):
    """Also keeps what the graph is like after each command."""

    def __init__(self, daemon):
        super().__init__(daemon)
        self.graphs = []

    def command(self, name, arguments):
        """The graph with a job in it is not looked at: a mirror's target is elsewhere there, and the job may end.

        Nor is it after a command to a job, whose end may be near or just over."""
        super().command(name, arguments)
        quiet = 'job-id' not in arguments and not name.startswith(('job-', 'block-job-'))
        self.graphs.append(self.graph() if quiet and not self.daemon.qmp('query-jobs') else None)
        self.events += self.daemon.qmp.events
        self.daemon.qmp.events.clear()

    def graph(self):
        """Sorted "parent -child-> node"; nodes without a name of the user's are called by their driver."""
        drivers = {node['node-name']: node['drv'] for node in self.daemon.qmp('query-named-block-nodes')}
        graph = self.daemon.qmp('x-debug-query-block-graph')
        names = {node['id']: f'({node["type"]})' if node['name'] not in drivers else
                 f'({drivers[node["name"]]})' if node['name'].startswith('#') else node['name']
                 for node in graph['nodes']}
        edges = [f'{names[e["parent"]]} -{e["name"]}-> {names[e["child"]]}' for e in graph['edges']]
        return sorted(edges) + sorted(drivers[name] for name in drivers)


def test_200_commands_beside_the_peer(tmp):
    """The same answers, the same classes, and after each command the same graph."""
    steps, peer, ours = play_both(tmp, script, GraphPlayer)
    assert len(peer.answers) >= 200
    different = differences(steps, peer, ours)
    assert not different, '\n'.join(different)
    for answer, theirs, mine in zip(peer.answers, peer.graphs, ours.graphs):
        assert None in (mine, theirs) or mine == theirs, f'{answer}: {set(theirs) ^ set(mine)}'
