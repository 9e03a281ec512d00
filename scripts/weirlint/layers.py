# SPDX-License-Identifier: BSD-2-Clause
"""Dependencies point one way, and drivers never include each other (docs/architecture.md)."""

import re

RANKS = [('base',), ('sys',), ('co',), ('graph',), ('io',), ('meta',), ('format', 'protocol', 'filter'),
         ('job', 'export'), ('embed', 'qmp'), ('tools',)]
RANK = {layer: rank for rank, layers in enumerate(RANKS) for layer in layers}
# Folders whose parts must not know each other.
DRIVERS = ('format', 'protocol', 'filter', 'export')
GENERATED = 'gen/'
# A format answers where things are: it waits for nothing and asks the system for nothing, but through io/ and meta/.
FORMAT_FORBIDDEN = ('sys', 'co')
FORMAT_CALL = re.compile(r'\bweir_(sys|co|loop|mutex|timer)_\w+\s*\(|\bweir_sys->')


def part_of(layer, names):
    """Which driver a file of a driver layer belongs to: its folder, or its name up to the first `_`."""
    return names[0] if len(names) > 1 else names[0].rsplit('.', 1)[0].split('_')[0]


def check(tree):
    for path in tree.c_files():
        for name, line, quoted in tree.c(path).includes:
            if quoted:
                message = judge(path, name)
                if message:
                    yield path, line, message
        if path.parts[:2] == ('src', 'format'):
            for number, text in enumerate(tree.c(path).code.splitlines(), 1):
                found = FORMAT_CALL.search(text)
                if found:
                    yield path, number, f'a format must not call {found.group(0)}'


def judge(path, name):
    """What is wrong with @path including @name, or None."""
    parts, target = path.parts, name.split('/')
    if name.startswith('sys/sim') and parts[0] != 'tests' and parts[:3] != ('src', 'sys', 'sim') \
            and not name == 'sys/' + path.name:
        return 'the simulator is for tests only'
    if parts[0] != 'src':
        return None
    if len(target) < 2:
        return f'include "{name}" by its path below src ("{parts[1]}/{name}")'
    layer = parts[1]
    if layer not in RANK:
        return f'src/{layer} is no layer: name it in scripts/weirlint/layers.py and docs/architecture.md'
    if name.startswith(GENERATED):
        return f'{layer} is below the layers that know the schema' if RANK[layer] < RANK['graph'] else None
    if target[0] not in RANK:
        return None
    if layer == 'format' and target[0] in FORMAT_FORBIDDEN:
        return f'a format must not use {target[0]}/: io/ and meta/ wait and move for it'
    if RANK[target[0]] > RANK[layer]:
        return f'{layer} must not depend on {target[0]}'
    if layer == target[0]:
        own, other = part_of(layer, parts[2:]), part_of(layer, target[1:])
        if layer in DRIVERS and own != other and other != layer:  # export/export*.h is what all of them share
            return f'driver {own} must not include driver {other}'
    elif RANK[target[0]] == RANK[layer]:
        return f'{layer} and {target[0]} must not know each other'
    return None
