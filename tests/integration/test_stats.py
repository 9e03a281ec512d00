# SPDX-License-Identifier: BSD-2-Clause
"""What the daemon tells about itself: counters of nodes and exports, and the graph with its permissions."""
import time

import nbd
import pytest

from weirtest import MiB, QmpError, fill, is_peer, nbd_connect, wait_until

SIZE = 4 * MiB
ours = pytest.mark.skipif(is_peer(), reason='the peer counts nothing')


@pytest.fixture
def disk(daemon, tmp):
    """A daemon with the node n (raw over the file node f) and a client of its export e."""
    daemon.qmp('blockdev-add', {'driver': 'raw', 'node-name': 'n', 'discard': 'unmap', 'file': {
        'driver': 'file', 'node-name': 'f', 'filename': fill(tmp / 'disk.img', SIZE), 'discard': 'unmap'}})
    return daemon, nbd_connect(daemon.export('n', 'e'), strict=False)


def node_stats(daemon, node):
    return next(s for s in daemon.qmp('query-blockstats', query_nodes=True) if s['node-name'] == node)


def numbers(stats, *names):
    return tuple(stats['stats'][name] for name in names)


# ---- statistics ----

MEMBERS = set('''rd_bytes wr_bytes unmap_bytes rd_operations wr_operations flush_operations unmap_operations
    rd_total_time_ns wr_total_time_ns flush_total_time_ns unmap_total_time_ns wr_highest_offset rd_merged wr_merged
    unmap_merged failed_rd_operations failed_wr_operations failed_flush_operations failed_unmap_operations
    invalid_rd_operations invalid_wr_operations invalid_flush_operations invalid_unmap_operations account_invalid
    account_failed timed_stats'''.split())


def test_query_blockstats_form(disk):
    """Every member that clients of the interface require, and the node below as parent."""
    daemon, _ = disk
    stats = {s['node-name']: s for s in daemon.qmp('query-blockstats', query_nodes=True)}
    assert set(stats) == {'n', 'f'}
    for entry in stats.values():
        assert set(entry['stats']) - {'idle_time_ns'} == MEMBERS and entry['stats']['timed_stats'] == []
        assert 'backing' not in entry
    assert stats['n']['parent']['node-name'] == 'f' and 'parent' not in stats['f']


@ours
def test_query_blockstats(disk):
    """What went through each node, by kind."""
    daemon, handle = disk
    assert numbers(node_stats(daemon, 'n'), 'rd_operations', 'wr_operations', 'wr_highest_offset') == (0, 0, 0)
    for i in range(5):
        handle.pread(1000, i * 8192)
    handle.pwrite(b'x' * 4096, MiB)
    handle.pwrite(b'x' * 512, 0)
    handle.zero(8192, 0)
    handle.trim(MiB, 2 * MiB)
    handle.flush()
    for node in 'nf':
        stats = node_stats(daemon, node)
        assert numbers(stats, 'rd_operations', 'rd_bytes') == (5, 5000)
        assert numbers(stats, 'wr_operations', 'wr_bytes') == (3, 4096 + 512 + 8192)
        assert numbers(stats, 'unmap_operations', 'unmap_bytes') == (1, MiB)
        assert numbers(stats, 'flush_operations')[0] >= 1
        assert numbers(stats, 'wr_highest_offset') == (MiB + 4096,)
        assert not any(value for name, value in stats['stats'].items() if name.startswith(('failed', 'invalid')))
        assert stats['stats']['idle_time_ns'] < 10 * 10 ** 9
    assert node_stats(daemon, 'n')['parent']['stats']['rd_operations'] == 5


@ours
def test_blockstats_highest_offset_of_zeroes(disk):
    """Zeroes are written, too."""
    daemon, handle = disk
    handle.zero(8192, MiB)
    assert numbers(node_stats(daemon, 'n'), 'wr_highest_offset') == (MiB + 8192,)


@ours
def test_blockstats_idle_time(disk):
    """Time since the last request: it grows, and begins anew with each."""
    daemon, handle = disk
    handle.pread(512, 0)
    begin = time.monotonic()
    handle.pread(512, 0)
    wait_until(lambda: node_stats(daemon, 'n')['stats']['idle_time_ns'] > 50 * 10 ** 6, 5)
    # A loop knows the time at which it has woken up, which may be a little before the request came.
    assert node_stats(daemon, 'n')['stats']['idle_time_ns'] < (time.monotonic() - begin + 0.01) * 1e9
    handle.pread(512, 0)
    before = time.monotonic()
    handle.pread(512, 0)
    assert node_stats(daemon, 'n')['stats']['idle_time_ns'] <= (time.monotonic() - before) * 1e9


@ours
def test_blockstats_failed(daemon):
    """Failures are counted by kind; times add up what requests took."""
    daemon.qmp('blockdev-add', {'driver': 'blkdebug', 'node-name': 'd', 'inject-error': [
        {'event': 'none', 'iotype': kind} for kind in ('read', 'write', 'discard', 'flush')],
        'discard': 'unmap', 'image': {'driver': 'null-co', 'discard': 'unmap'}})
    handle = nbd_connect(daemon.export('d'))
    for call in (lambda: handle.pread(512, 0), lambda: handle.pwrite(b'x' * 512, 0), lambda: handle.trim(512, 0),
                 handle.flush):
        with pytest.raises(nbd.Error):
            call()
    stats = node_stats(daemon, 'd')
    assert numbers(stats, *[f'failed_{kind}_operations' for kind in ('rd', 'wr', 'unmap', 'flush')]) == (1, 1, 1, 1)
    assert numbers(stats, 'rd_operations', 'wr_operations', 'rd_bytes') == (0, 0, 0)


@ours
def test_blockstats_time(daemon):
    daemon.qmp('blockdev-add', {'driver': 'null-co', 'node-name': 'n', 'latency-ns': 20 * 10 ** 6})
    handle = nbd_connect(daemon.export('n'))
    for _ in range(3):
        handle.pread(512, 0)
        handle.pwrite(b'x' * 512, 0)
    handle.flush()
    stats = node_stats(daemon, 'n')
    for name, count in (('rd_total_time_ns', 3), ('wr_total_time_ns', 3), ('flush_total_time_ns', 1)):
        assert count * 20 * 10 ** 6 <= stats['stats'][name] < 10 ** 9, name


@ours
def test_query_blockstats_export(disk):
    """Without query-nodes: the exports, each with what its own clients did."""
    daemon, handle = disk
    daemon.export('n', 'other', writable=False)
    handle.pread(4096, 0)
    handle.pwrite(b'x' * 512, 0)
    with pytest.raises(nbd.Error):
        handle.pread(512, SIZE)
    stats = {s['device']: s for s in daemon.qmp('query-blockstats')}
    assert set(stats) == {'e', 'other'} and stats['e']['node-name'] == 'n'
    assert numbers(stats['e'], 'rd_operations', 'rd_bytes', 'wr_operations', 'wr_bytes') == (1, 4096, 1, 512)
    assert numbers(stats['other'], 'rd_operations', 'wr_operations') == (0, 0)
    assert daemon.qmp('query-blockstats', {'query-nodes': False})[0]['device']
    daemon.qmp('block-export-del', id='other')
    assert [s['device'] for s in daemon.qmp('query-blockstats')] == ['e']


@ours
def test_blockstats_of_merged_requests(disk):
    """Neighbours may be merged on their way; the bytes are all there, and what was merged is counted."""
    daemon, handle = disk
    for i in range(64):
        handle.aio_pread(nbd.Buffer(512), i * 512)
    while handle.aio_in_flight():
        handle.poll(1000)
    stats = daemon.qmp('query-blockstats')[0]
    operations, merged, size = numbers(stats, 'rd_operations', 'rd_merged', 'rd_bytes')
    assert operations + merged == 64 and size == 64 * 512


# ---- the graph ----

def graph(daemon):
    """{(type of the parent, its name, edge): (child, permissions, shared permissions)}."""
    answer = daemon.qmp('x-debug-query-block-graph')
    nodes = {n['id']: n for n in answer['nodes']}
    assert len(nodes) == len(answer['nodes'])
    return {(nodes[e['parent']]['type'], nodes[e['parent']]['name'], e['name']):
            (nodes[e['child']]['name'], set(e['perm']), set(e['shared-perm'])) for e in answer['edges']}


ALL = {'consistent-read', 'write', 'write-unchanged', 'resize'}
NO_RESIZE = ALL - {'resize'}


@pytest.fixture
def nodes(daemon, tmp):
    daemon.add_file('n', fill(tmp / 'disk.img', SIZE))
    daemon.add_file('t', fill(tmp / 'target.img', SIZE))
    return daemon


def backend(daemon, export):
    """Name of an export in the graph: the peer's have none."""
    return 'block-backend', '' if is_peer() else export, 'root'


def test_block_graph(nodes):
    """Nodes, exports and edges, with what each user may do and lets others do."""
    assert nodes.qmp('x-debug-query-block-graph')['nodes']
    edges = graph(nodes)
    assert set(edges) == {('block-driver', 'n', 'file'), ('block-driver', 't', 'file')}
    assert edges['block-driver', 'n', 'file'][1:] == (set(), ALL)
    nodes.export('n', 'reader', writable=False)
    edges = graph(nodes)
    assert edges[backend(nodes, 'reader')] == ('n', {'consistent-read'}, NO_RESIZE)
    assert edges['block-driver', 'n', 'file'][1:] == ({'consistent-read'}, NO_RESIZE)
    nodes.qmp('block-export-del', id='reader')
    nodes.export('n', 'writer')
    edges = graph(nodes)
    assert edges[backend(nodes, 'writer')] == ('n', {'consistent-read', 'write'}, NO_RESIZE)
    assert edges['block-driver', 'n', 'file'][1:] == ({'consistent-read', 'write'}, NO_RESIZE)
    nodes.qmp('block-export-del', id='writer')
    assert graph(nodes)['block-driver', 'n', 'file'][1:] == (set(), ALL)


@pytest.mark.parametrize('offset', [None, 512])
def test_block_graph_of_a_format(nodes, offset):
    """Whether raw is a filter or a format, a reader above it lets others write, but not resize."""
    nodes.qmp('blockdev-add', dict({'driver': 'raw', 'node-name': 'r', 'file': 'n', 'read-only': True},
                                   **({'offset': offset} if offset else {})))
    nodes.export('r', 'reader', writable=False)
    child, perm, shared = graph(nodes)['block-driver', 'r', 'file']
    assert child == 'n' and perm == {'consistent-read'} and shared == NO_RESIZE


def test_block_graph_of_a_mirror(nodes):
    """The filter above the source, the job, and a target that is the job's alone."""
    nodes.export('n', 'writer')
    nodes.qmp('blockdev-mirror', job_id='j', device='n', target='t', sync='full', filter_node_name='top')
    nodes.qmp.event('BLOCK_JOB_READY', device='j')
    edges = graph(nodes)
    assert edges[backend(nodes, 'writer') if not is_peer() else ('block-driver', 'top', 'backing')][0] in ('top', 'n')
    child, perm, shared = edges['block-driver', 'top', 'backing']
    assert child == 'n' and perm == {'consistent-read', 'write'} and shared | {'write'} == NO_RESIZE
    assert ('block-job', 'j', 'main node') in edges and edges['block-job', 'j', 'main node'][0] == 'top'
    # The target is the mirror's alone (the edge is the filter's; the peer's an unnamed backend's).
    assert is_peer() or edges['block-driver', 'top', 'target'] == ('t', {'write'}, {'write-unchanged'})
    assert edges['block-driver', 't', 'file'][1:] == ({'write'}, {'write-unchanged'})
    nodes.qmp('job-complete', id='j')
    nodes.qmp.job_wait('j', 'null')
    edges = graph(nodes)
    assert not any(kind == 'block-job' for kind, _, _ in edges), edges
    assert edges[backend(nodes, 'writer')] == ('t', {'consistent-read', 'write'}, NO_RESIZE)


def test_permission_conflict(nodes):
    """The text names the node, the permission and both users."""
    nodes.export('n', 'writer')
    nodes.qmp('blockdev-mirror', job_id='j', device='n', target='t', sync='full')
    nodes.qmp.event('BLOCK_JOB_READY', device='j')
    with pytest.raises(Exception) as caught:
        nodes.export('t', 'second')
    text = str(caught.value)
    assert "Permission conflict on node 't'" in text and 'unshared by' in text and 'both required by' in text, text
    assert 'second' in text or is_peer(), text


@pytest.mark.skipif(is_peer(), reason='the peer hangs')
def test_query_limbo(start, tmp, fuse_disk):
    """A node that hangs in the host and that all have given up says so, until the host answers."""
    daemon = start()
    daemon.serve_nbd()
    daemon.add_file('n', fill(tmp / 'disk.img', fuse_disk.SIZE))
    daemon.add_file('t', fuse_disk.path)

    def limbo():
        return [n['node-name'] for n in daemon.qmp('query-named-block-nodes') if n.get('limbo')]
    assert not limbo()
    daemon.qmp('blockdev-mirror', job_id='j', device='n', target='t', sync='full', speed=MiB)
    wait_until(lambda: daemon.qmp.job('j')['current-progress'] > 0, 10, 'the mirror has begun')
    fuse_disk.stop()
    daemon.qmp('block-job-set-speed', device='j', speed=0)
    fuse_disk.wait_stuck(daemon)
    daemon.qmp('job-cancel', id='j')
    daemon.qmp.job_wait('j', 'null', 5)
    daemon.qmp('blockdev-del', {'node-name': 't'}, timeout=12)
    assert limbo()
    fuse_disk.go_on()
    wait_until(lambda: not limbo(), 10, 'limbo empties')


def test_counters_of_filters_that_come_and_go(disk):
    """Reads that filters do not look at count for each node on their way, also after the way has changed."""
    daemon, guest = disk
    daemon.qmp('object-add', {'qom-type': 'throttle-group', 'id': 'g'})

    def reads():
        return {node['node-name']: node['stats']['rd_operations']
                for node in daemon.qmp('query-blockstats', query_nodes=True) if 'node-name' in node}
    before = reads()
    for _ in range(3):
        guest.pread(512, 0)
    daemon.qmp('blockdev-add', {'driver': 'throttle', 'node-name': 't', 'throttle-group': 'g', 'file': 'n'})
    daemon.qmp('blockdev-replace', {'parent-type': 'export', 'export-id': 'e', 'new-child': 't'})
    for _ in range(5):
        guest.pread(512, 0)
    now = reads()
    assert (now['t'], now['n'] - before['n'], now['f'] - before['f']) == (5, 8, 8)
    daemon.qmp('qom-set', path='g', property='limits', value={'iops-total': 1000000})
    for _ in range(7):
        guest.pread(512, 0)
    now = reads()
    assert (now['t'], now['n'] - before['n'], now['f'] - before['f']) == (12, 15, 15)
    daemon.qmp('blockdev-replace', {'parent-type': 'export', 'export-id': 'e', 'new-child': 'n'})
    guest.pread(512, 0)
    now = reads()
    assert (now['t'], now['n'] - before['n'], now['f'] - before['f']) == (12, 16, 16)


# ---- write thresholds ----

def test_write_threshold(daemon, tmp):
    """The first write that ends beyond it is told once, with how far; zeroes count, discards do not."""
    daemon.qmp('blockdev-add', driver='file', node_name='f', filename=str(fill(tmp / 'f.img', 4 * MiB)),
               discard='unmap')
    daemon.qmp('blockdev-add', driver='raw', node_name='r', file='f', discard='unmap')
    guest = nbd_connect(daemon.export('r'))

    def told():
        daemon.qmp('query-named-block-nodes')
        events = [e['data'] for e in daemon.qmp.events if e['event'] == 'BLOCK_WRITE_THRESHOLD']
        daemon.qmp.events.clear()
        return events

    def thresholds():
        return {n['node-name']: n['write_threshold'] for n in daemon.qmp('query-named-block-nodes')}
    daemon.qmp('block-set-write-threshold', node_name='f', write_threshold=65536)
    daemon.qmp('block-set-write-threshold', node_name='r', write_threshold=4096)
    assert thresholds() == {'f': 65536, 'r': 4096}
    guest.pwrite(b'x' * 4096, 0)
    assert told() == []
    guest.pwrite(b'x' * 512, 65536 - 512)
    assert told() == [{'node-name': 'r', 'write-threshold': 4096, 'amount-exceeded': 61440}]
    guest.pwrite(b'x' * 1024, 65536 - 512)
    assert told() == [{'node-name': 'f', 'write-threshold': 65536, 'amount-exceeded': 512}]
    guest.pwrite(b'x' * 1024, 65536 - 512)
    assert told() == [] and thresholds() == {'f': 0, 'r': 0}
    daemon.qmp('block-set-write-threshold', node_name='f', write_threshold=65536)
    guest.trim(4096, MiB)
    assert told() == []
    guest.zero(4096, MiB)
    assert told() == [{'node-name': 'f', 'write-threshold': 65536, 'amount-exceeded': MiB + 4096 - 65536}]
    daemon.qmp('block-set-write-threshold', node_name='f', write_threshold=65536)
    daemon.qmp('block-set-write-threshold', node_name='f', write_threshold=0)
    guest.pwrite(b'x' * 4096, MiB)
    assert told() == []
    with pytest.raises(QmpError) as caught:
        daemon.qmp('block-set-write-threshold', node_name='nix', write_threshold=1)
    assert caught.value.text == "Device 'nix' not found"
