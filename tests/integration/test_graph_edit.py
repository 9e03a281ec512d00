# SPDX-License-Identifier: BSD-2-Clause
"""The graph is edited while a guest writes: overlays, filters put in and taken out under any user, transactions that
happen as a whole or not at all."""
import json

import pytest

from weirtest import KiB, MiB, fill, nbd_connect, run
from weirtest.chain import SIZE, children, depths, layer, make_chain, open_chain, put, refused
from weirtest.qcow2 import sound
from weirtest.writer import Writer

CLUSTER = 64 * KiB


def nodes(daemon):
    return {node['node-name']: node for node in daemon.qmp('query-named-block-nodes')}


def exported_node(daemon, export):
    return next(e['node-name'] for e in daemon.qmp('query-block-exports') if e['id'] == export)


# ---- overlays ----

def test_blockdev_snapshot(daemon, tmp):
    """Under load: what the guest wrote before stays in the node, what it writes afterwards goes to the overlay."""
    make_chain(tmp, 'base')
    run('qemu-img', 'create', '-q', '-f', 'qcow2', tmp / 'over.qcow2', str(SIZE))
    open_chain(daemon, tmp, 'base')
    daemon.qmp('blockdev-add', layer(tmp, 'over', backing=None))
    writer = Writer(daemon.export('base', 'e'))
    daemon.qmp('blockdev-snapshot', node='base', overlay='over')
    assert exported_node(daemon, 'e') == 'over' and children(daemon, 'over')['backing'] == 'base'
    assert writer.stop() > 0
    daemon.stop()
    sound(tmp / 'base.qcow2')
    sound(tmp / 'over.qcow2')


def test_blockdev_snapshot_refused(daemon, tmp):
    """What cannot be an overlay is named, and nothing changes."""
    make_chain(tmp, 'base', 'top')
    for name in 'over', 'used':
        run('qemu-img', 'create', '-q', '-f', 'qcow2', tmp / f'{name}.qcow2', str(SIZE))
        daemon.qmp('blockdev-add', layer(tmp, name, backing=None))
    open_chain(daemon, tmp, 'base', 'top')
    daemon.qmp('blockdev-add', {'driver': 'null-co', 'node-name': 'n'})
    daemon.qmp('blockdev-add', {'driver': 'copy-on-read', 'node-name': 'c', 'file': 'over'})
    daemon.export('used')
    before = nodes(daemon)

    def snapshot(node, overlay):
        return refused(daemon.qmp, 'blockdev-snapshot', node=node, overlay=overlay)
    assert snapshot('nix', 'over') == "Cannot find device='nix' nor node-name='nix'"
    assert snapshot('top', 'nix') == "Cannot find device='nix' nor node-name='nix'"
    assert snapshot('top', 'n') == 'The overlay does not support backing images'
    assert snapshot('top', 'c') == 'Filters cannot be used as overlays'
    assert snapshot('top', 'used') == 'The overlay is already in use'
    assert snapshot('over', 'top') == 'The overlay already has a backing image'
    assert snapshot('base', 'over') == "Node 'base' is busy: node is used as backing hd of 'top'"
    assert nodes(daemon) == before


def test_snapshot_under_a_job_refused(daemon, tmp):
    """A mirror goes back to its source: nothing may come between them. A smaller overlay would cut the disk."""
    make_chain(tmp, 'base')
    run('qemu-img', 'create', '-q', '-f', 'qcow2', tmp / 'over.qcow2', str(SIZE))
    run('qemu-img', 'create', '-q', '-f', 'qcow2', tmp / 'small.qcow2', str(SIZE - MiB))
    open_chain(daemon, tmp, 'base')
    for name in 'over', 'small':
        daemon.qmp('blockdev-add', layer(tmp, name, backing=None))
    assert refused(daemon.qmp, 'blockdev-snapshot', node='base', overlay='small') == (
        f"The overlay 'small' is smaller than 'base' ({SIZE - MiB} and {SIZE} bytes)")
    daemon.qmp('blockdev-add', {'driver': 'null-co', 'node-name': 'n', 'size': SIZE})
    daemon.qmp('blockdev-mirror', {'job-id': 'j', 'device': 'base', 'target': 'n', 'sync': 'none',
                                   'filter-node-name': 'm'})
    daemon.qmp.event('BLOCK_JOB_READY', 10, device='j')
    before = nodes(daemon)
    assert refused(daemon.qmp, 'blockdev-snapshot', node='base', overlay='over') == (
        "Node 'base' is busy: the filter 'm' of a block job stands on it")
    assert nodes(daemon) == before


def test_004_19_filters_are_no_overlays(daemon, tmp):
    """A filter holds no data of its own: it cannot take what is written from now on."""
    make_chain(tmp, 'base')
    open_chain(daemon, tmp, 'base')
    daemon.qmp('object-add', {'qom-type': 'throttle-group', 'id': 'g'})
    for more in [{'driver': 'throttle', 'throttle-group': 'g', 'file': 'z'}, {'driver': 'copy-on-read', 'file': 'z'},
                 {'driver': 'blkdebug', 'image': 'z'}]:
        daemon.qmp('blockdev-add', {'driver': 'null-co', 'node-name': 'z', 'size': SIZE})
        daemon.qmp('blockdev-add', dict(more, **{'node-name': 'f'}))
        text = refused(daemon.qmp, 'blockdev-snapshot', node='base', overlay='f')
        assert text == 'Filters cannot be used as overlays'
        daemon.qmp('blockdev-del', {'node-name': 'f'})
        daemon.qmp('blockdev-del', {'node-name': 'z'})


def test_blockdev_snapshot_sync(daemon, tmp):
    """The overlay is made, names what it stands on, and takes the guest over."""
    make_chain(tmp, 'base')
    put(tmp, 'base', 0, MiB, 5)
    open_chain(daemon, tmp, 'base')
    writer = Writer(daemon.export('base', 'e'))
    daemon.qmp('blockdev-snapshot-sync', {'node-name': 'base', 'snapshot-file': str(tmp / 'o1.qcow2'),
                                          'snapshot-node-name': 'o1'})
    daemon.qmp('blockdev-snapshot-sync', {'node-name': 'o1', 'snapshot-file': str(tmp / 'o2.qcow2')})
    writer.stop()
    info = json.loads(run('qemu-img', 'info', '-U', '--output=json', tmp / 'o1.qcow2'))
    assert info['backing-filename'] == str(tmp / 'base.qcow2') and info['backing-filename-format'] == 'qcow2'
    assert info['virtual-size'] == SIZE
    before = nodes(daemon)
    assert refused(daemon.qmp, 'blockdev-snapshot-sync', {
        'node-name': 'nix', 'snapshot-file': 'x'}) == "Cannot find device='' nor node-name='nix'"
    assert refused(daemon.qmp, 'blockdev-snapshot-sync', {
        'node-name': 'base', 'snapshot-file': 'x'}) == "Node 'base' is busy: node is used as backing hd of 'o1'"
    top = exported_node(daemon, 'e')
    assert 'No such file' in refused(daemon.qmp, 'blockdev-snapshot-sync', {
        'node-name': top, 'snapshot-file': '/nix/x'})
    assert refused(daemon.qmp, 'blockdev-snapshot-sync', {
        'node-name': top, 'snapshot-file': str(tmp / 'o3'), 'snapshot-node-name': 'o1'}
    ) == 'New overlay node-name already in use'
    assert nodes(daemon) == before
    daemon.stop()
    for name in 'base', 'o1', 'o2':
        sound(tmp / f'{name}.qcow2')


def test_blockdev_snapshot_sync_formats(daemon, tmp):
    """Only a format with backing files can be laid over something."""
    daemon.add_file('n', fill(tmp / 'n.img', MiB))
    for fmt in 'raw', 'nix':
        assert refused(daemon.qmp, 'blockdev-snapshot-sync', {
            'node-name': 'n', 'snapshot-file': str(tmp / 'x'), 'format': fmt}
        ) == f"Format driver '{fmt}' does not support image creation"
    daemon.qmp('blockdev-snapshot-sync', {'node-name': 'n', 'snapshot-file': str(tmp / 'x.qcow2')})
    info = json.loads(run('qemu-img', 'info', '-U', '--output=json', tmp / 'x.qcow2'))
    assert info['backing-filename-format'] == 'raw'


def test_blockdev_snapshot_sync_existing(daemon, tmp):
    """An image that is there is used as it is, with what it holds."""
    make_chain(tmp, 'base', 'over')
    put(tmp, 'base', 0, MiB, 5)
    put(tmp, 'over', 0, CLUSTER, 6)
    open_chain(daemon, tmp, 'base')
    guest = nbd_connect(daemon.export('base', 'e'))
    daemon.qmp('blockdev-snapshot-sync', {'node-name': 'base', 'snapshot-file': str(tmp / 'over.qcow2'),
                                          'mode': 'existing', 'snapshot-node-name': 'over'})
    assert guest.pread(2 * CLUSTER, 0) == b'\6' * CLUSTER + b'\5' * CLUSTER


# ---- the name in the header ----

@pytest.mark.parametrize('options', [{}, {'cluster_size': 512}, {'compat': '0.10'}, {'cluster_size': 2 * MiB}])
def test_change_backing_file(daemon, tmp, options):
    """Shorter, longer, as long as fits: the image stays whole, and says the new name."""
    make_chain(tmp, 'base', 'top', **options)
    put(tmp, 'top', 0, MiB, 5)
    open_chain(daemon, tmp, 'base', 'top')
    room = 200 if options.get('cluster_size') == 512 else 1023
    for name in ['y' * 100, 'z' * 100] * 5 + ['b', 'x' * room, str(tmp / 'base.qcow2')]:
        daemon.qmp('change-backing-file', {'device': 'top', 'image-node-name': 'top', 'backing-file': name})
        info = json.loads(run('qemu-img', 'info', '-U', '--output=json', tmp / 'top.qcow2'))
        assert info['backing-filename'] == name and info['backing-filename-format'] == 'qcow2'
        image = nodes(daemon)['top']['image']
        assert image['backing-filename'] == name
    assert 'Could not change the backing file' in refused(
        daemon.qmp, 'change-backing-file', {'device': 'top', 'image-node-name': 'top', 'backing-file': 'x' * 1024})
    assert refused(daemon.qmp, 'change-backing-file', {'device': 'base', 'image-node-name': 'base',
                                                       'backing-file': 'x'}) == 'Need a root block node'
    daemon.stop()
    sound(tmp / 'top.qcow2')
    assert depths(tmp, 'top')[0] == (0, max(MiB, options.get('cluster_size', 0)), 0)


# ---- children replaced ----

FILTERS = {
    'throttle': {'driver': 'throttle', 'throttle-group': 'g'},
    'copy-on-read': {'driver': 'copy-on-read'},
    'blkdebug': {'driver': 'blkdebug'},
    'raw': {'driver': 'raw'},
}


def add_filter(daemon, kind, below, node='f'):
    child = 'image' if kind == 'blkdebug' else 'file'
    daemon.qmp('blockdev-add', dict(FILTERS[kind], **{'node-name': node, child: below}))


@pytest.mark.parametrize('kind', FILTERS)
def test_replace_under_export(daemon, tmp, kind):
    """A filter is put in under a running export and taken out again, many times: no write is lost."""
    make_chain(tmp, 'base', 'top')
    put(tmp, 'base', 0, SIZE, 5)
    open_chain(daemon, tmp, 'base', 'top')
    daemon.qmp('object-add', {'qom-type': 'throttle-group', 'id': 'g', 'limits': {'iops-total': 100000}})
    writer = Writer(daemon.export('top', 'e'))
    for _ in range(20):
        add_filter(daemon, kind, 'top')
        daemon.qmp('blockdev-replace', {'parent-type': 'export', 'export-id': 'e', 'new-child': 'f'})
        assert exported_node(daemon, 'e') == 'f'
        daemon.qmp('blockdev-replace', {'parent-type': 'export', 'export-id': 'e', 'new-child': 'top'})
        daemon.qmp('blockdev-del', {'node-name': 'f'})
    assert writer.stop() > 0
    daemon.stop()
    sound(tmp / 'top.qcow2')


def test_replace_child(daemon, tmp):
    """Between a format and its file, and above a backing file."""
    make_chain(tmp, 'base', 'top')
    put(tmp, 'base', 0, SIZE, 5)
    open_chain(daemon, tmp, 'base', 'top')
    writer = Writer(daemon.export('top', 'e'))
    for child in 'file', 'backing':
        old = children(daemon, 'top')[child]
        add_filter(daemon, 'blkdebug', old)
        daemon.qmp('blockdev-replace', {'parent-type': 'driver', 'node-name': 'top', 'child': child, 'new-child': 'f'})
        assert children(daemon, 'top')[child] == 'f'
        daemon.qmp('blockdev-replace', {'parent-type': 'driver', 'node-name': 'top', 'child': child, 'new-child': old})
        daemon.qmp('blockdev-del', {'node-name': 'f'})
    assert writer.stop() > 0


def test_replace_refused(daemon, tmp):
    """Unknown names, another size, a loop, a job's own node."""
    daemon.add_file('a', fill(tmp / 'a.img', MiB))
    daemon.add_file('b', fill(tmp / 'b.img', 2 * MiB))
    daemon.add_file('t', fill(tmp / 't.img', MiB))
    daemon.qmp('blockdev-add', {'driver': 'raw', 'node-name': 'f', 'file': 'a'})
    daemon.export('f', 'e')
    before = nodes(daemon)

    def driver(node, child, new):
        return refused(daemon.qmp, 'blockdev-replace', {'parent-type': 'driver', 'node-name': node, 'child': child,
                                                        'new-child': new})

    def export(export, new):
        return refused(daemon.qmp, 'blockdev-replace', {'parent-type': 'export', 'export-id': export, 'new-child': new})
    assert driver('nix', 'file', 'a') == "Failed to find node with node-name='nix'"
    assert driver('f', 'nix', 'a') == "Node 'f' has no child 'nix'"
    assert driver('f', 'file', 'nix') == "Failed to find node with node-name='nix'"
    assert driver('f', 'file', 'b') == "Cannot replace 'a' by 'b': the sizes differ (1048576 and 2097152 bytes)"
    assert driver('f', 'file', 'f') == "Making 'f' a child of 'f' would create a cycle"
    assert export('nix', 'a') == "Export 'nix' is not found"
    assert export('e', 'b') == "Cannot replace 'f' by 'b': the sizes differ (1048576 and 2097152 bytes)"
    assert nodes(daemon) == before
    daemon.qmp('blockdev-mirror', {'job-id': 'j', 'device': 'f', 'target': 't', 'sync': 'full',
                                   'filter-node-name': 'm'})
    daemon.qmp.event('BLOCK_JOB_READY', 10, device='j')
    assert driver('m', 'target', 'a') == "Node 'm' belongs to a job: its children stay as they are"


def test_001_11_bottom_freezes_chain(daemon, tmp):
    """The way down to `bottom` stays as it is for as long as the filter is there; what lies below may change."""
    make_chain(tmp, 'base', 'mid', 'top')
    open_chain(daemon, tmp, 'base', 'mid', 'top')
    daemon.qmp('blockdev-add', {'driver': 'copy-on-read', 'node-name': 'c', 'file': 'top', 'bottom': 'mid'})

    def replace(node, new):
        return daemon.qmp('blockdev-replace', {'parent-type': 'driver', 'node-name': node, 'child': 'backing',
                                               'new-child': new})
    assert refused(replace, 'top', 'base') == "Cannot change 'backing' link from 'top' to 'mid'"
    daemon.qmp('blockdev-add', {'driver': 'raw', 'node-name': 'r', 'file': 'base', 'read-only': True})
    replace('mid', 'r')
    daemon.qmp('blockdev-del', {'node-name': 'c'})
    replace('top', 'base')


# ---- transactions ----

def test_transaction_edits(daemon, tmp):
    """Filters for two disks at one moment, an overlay, and a node that goes, in one step under load."""
    make_chain(tmp, 'a')
    make_chain(tmp, 'b')
    open_chain(daemon, tmp, 'a')
    open_chain(daemon, tmp, 'b')
    daemon.qmp('object-add', {'qom-type': 'throttle-group', 'id': 'g', 'limits': {'iops-total': 100000}})
    writers = [Writer(daemon.export(name, f'e{name}')) for name in 'ab']
    daemon.qmp('transaction', actions=[
        {'type': 'blockdev-add', 'data': dict(FILTERS['throttle'], **{'node-name': 'fa', 'file': 'a'})},
        {'type': 'blockdev-add', 'data': dict(FILTERS['throttle'], **{'node-name': 'fb', 'file': 'b'})},
        {'type': 'blockdev-replace', 'data': {'parent-type': 'export', 'export-id': 'ea', 'new-child': 'fa'}},
        {'type': 'blockdev-replace', 'data': {'parent-type': 'export', 'export-id': 'eb', 'new-child': 'fb'}}])
    assert exported_node(daemon, 'ea') == 'fa' and exported_node(daemon, 'eb') == 'fb'
    daemon.qmp('transaction', actions=[
        {'type': 'blockdev-replace', 'data': {'parent-type': 'export', 'export-id': 'ea', 'new-child': 'a'}},
        {'type': 'blockdev-del', 'data': {'node-name': 'fa'}},
        {'type': 'blockdev-snapshot-sync', 'data': {'node-name': 'fb', 'snapshot-file': str(tmp / 'over.qcow2'),
                                                    'snapshot-node-name': 'over'}}])
    assert exported_node(daemon, 'ea') == 'a' and 'fa' not in nodes(daemon)
    assert exported_node(daemon, 'eb') == 'over' and children(daemon, 'over')['backing'] == 'fb'
    assert all(writer.stop() for writer in writers)
    daemon.qmp('transaction', actions=[])


def test_transaction_abort(daemon, tmp):
    """Whatever step fails, all of the others are undone: the graph is what it was."""
    make_chain(tmp, 'a', 'b')
    open_chain(daemon, tmp, 'a', 'b')
    daemon.export('b', 'e')
    before = nodes(daemon)
    steps = [
        {'type': 'blockdev-add', 'data': {'driver': 'raw', 'node-name': 'f', 'file': 'b'}},
        {'type': 'blockdev-replace', 'data': {'parent-type': 'export', 'export-id': 'e', 'new-child': 'f'}},
        {'type': 'blockdev-snapshot-sync', 'data': {'node-name': 'f', 'snapshot-file': str(tmp / 'over.qcow2')}}]
    replace = {'type': 'blockdev-replace', 'data': {'parent-type': 'export', 'export-id': 'e', 'new-child': 'f'}}
    assert refused(daemon.qmp, 'transaction', actions=[
        steps[0], {'type': 'blockdev-del', 'data': {'node-name': 'f'}}, replace]) == 'Node f is in use'
    for end, text in [
            ({'type': 'abort', 'data': {}}, 'Transaction aborted using Abort action'),
            ({'type': 'blockdev-del', 'data': {'node-name': 'b'}}, 'Node b is in use'),
            ({'type': 'blockdev-del', 'data': {'node-name': 'nix'}}, "Failed to find node with node-name='nix'"),
            ({'type': 'blockdev-add', 'data': {'driver': 'raw', 'node-name': 'f', 'file': 'b'}}, None),
            ({'type': 'blockdev-replace', 'data': {'parent-type': 'export', 'export-id': 'nix', 'new-child': 'b'}},
             "Export 'nix' is not found")]:
        got = refused(daemon.qmp, 'transaction', actions=steps + [end])
        assert text is None or got == text
        assert nodes(daemon) == before and exported_node(daemon, 'e') == 'b'
    assert refused(daemon.qmp, 'transaction', actions=[{'type': 'nix', 'data': {}}]
                   ) == "Parameter 'type' does not accept value 'nix'"


def test_transaction_properties(daemon):
    """`grouped` is for steps that start jobs; others refuse it."""
    snapshot = {'type': 'blockdev-snapshot', 'data': {'node': 'x', 'overlay': 'y'}}
    for mode in 'individual', 'grouped':
        daemon.qmp('transaction', actions=[], properties={'completion-mode': mode})
    daemon.qmp('transaction', actions=[], properties={})
    assert refused(daemon.qmp, 'transaction', actions=[snapshot], properties={'completion-mode': 'grouped'}) == \
        "Action 'blockdev-snapshot' does not support Transaction property completion-mode = grouped"
    assert 'does not accept value' in refused(daemon.qmp, 'transaction', actions=[],
                                              properties={'completion-mode': 'nope'})
