# SPDX-License-Identifier: BSD-2-Clause
"""Backing chains of qcow2 images, and where their data is."""
import json

import pytest

from weirtest.qmp import QmpError
from weirtest.tools import MiB, run

SIZE = 4 * MiB
# What the guest sees of make_three().
DATA = b'\5' * MiB + b'\6' * MiB + b'\7' * MiB + b'\5' * MiB


def make_chain(tmp, *names, size=SIZE, **options):
    """Images of the names, the first without a backing file, each of the others on top of the one before."""
    below = None
    more = [word for name, value in options.items() for word in ('-o', f'{name}={value}')]
    for name in names:
        backing = ['-b', str(tmp / f'{below}.qcow2'), '-F', 'qcow2'] if below else []
        run('qemu-img', 'create', '-q', '-f', 'qcow2', *more, *backing, tmp / f'{name}.qcow2', str(size))
        below = name


def put(tmp, name, offset, length, byte):
    """Data in one image, beside what its backing chain has there."""
    run('qemu-io', '-f', 'qcow2', '-c', f'write -q -P {byte} {offset} {length}', tmp / f'{name}.qcow2')


def layer(tmp, name, **options):
    """blockdev-add arguments of one image of a chain."""
    return dict({'driver': 'qcow2', 'node-name': name,
                 'file': {'driver': 'file', 'filename': str(tmp / f'{name}.qcow2')}}, **options)


def open_chain(daemon, tmp, *names, between=None, top=None):
    """Opens each image by itself; @between: name -> options of a filter (with node-name) above that image."""
    below = None
    for name in names:
        more = dict(top or {}) if name == names[-1] else {'read-only': True}
        daemon.qmp('blockdev-add', layer(tmp, name, backing=below, **more))
        below = name
        if between and name in between:
            daemon.qmp('blockdev-add', dict(between[name], file=name))
            below = between[name]['node-name']
    return below


def depths(tmp, name):
    """[(start, length, depth)] of what the images have, by qemu-img; ranges that nobody has are left out."""
    entries = json.loads(run('qemu-img', 'map', '-U', '--output=json', tmp / f'{name}.qcow2'))
    found = []
    for entry in entries:
        if not entry['present']:
            continue
        if found and sum(found[-1][:2]) == entry['start'] and found[-1][2] == entry['depth']:
            found[-1] = (found[-1][0], found[-1][1] + entry['length'], entry['depth'])
        else:
            found.append((entry['start'], entry['length'], entry['depth']))
    return found


def edge(daemon, child, name, parent=None):
    """(perm, shared-perm) of the edge of that name to node @child."""
    graph = daemon.qmp('x-debug-query-block-graph')
    names = {node['id']: node['name'] for node in graph['nodes']}
    found = [e for e in graph['edges'] if names[e['child']] == child and e['name'] == name
             and parent in (None, names[e['parent']])]
    assert len(found) == 1, found
    return set(found[0]['perm']), set(found[0]['shared-perm'])


def refused(call, *args, **options):
    """The text of the error that the command ends with."""
    with pytest.raises(QmpError) as caught:
        call(*args, **options)
    assert caught.value.error_class == 'GenericError'
    return caught.value.text


def make_three(daemon, tmp):
    """base, mid and top, opened: base is full of 5, mid has 6 at 1 MiB, top 7 at 2 MiB."""
    make_chain(tmp, 'base', 'mid', 'top')
    put(tmp, 'base', 0, SIZE, 5)
    put(tmp, 'mid', MiB, MiB, 6)
    put(tmp, 'top', 2 * MiB, MiB, 7)
    open_chain(daemon, tmp, 'base', 'mid', 'top')


def children(daemon, node):
    """child -> node name."""
    found = next(n for n in daemon.qmp('query-named-block-nodes') if n['node-name'] == node)
    return {child['child']: child['node-name'] for child in found['children']}


def header(tmp, name='top'):
    """Name and format of the backing file that the image stores."""
    info = json.loads(run('qemu-img', 'info', '-U', '--output=json', tmp / f'{name}.qcow2'))
    return info.get('backing-filename'), info.get('backing-filename-format')


def graph(daemon):
    return daemon.qmp('x-debug-query-block-graph')
