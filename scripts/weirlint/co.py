# SPDX-License-Identifier: BSD-2-Clause
"""What may wait is marked weir_co_fn, and only a weir_co_fn calls one.

A pass over declarations, definitions and `name(` calls. Function-pointer members count as waiting when every
member of that name in the tree is marked; a waiting function may not stand in a slot that is not marked.
"""
import re

ASSIGNMENT = re.compile(r'\.\s*(\w+)\s*=\s*&?\s*(\w+)\s*[,;}\n]')


def check(tree):
    paths = tree.c_files('src', 'include', 'tests', 'bench')
    public, slots = set(), {}
    for path in paths:
        source = tree.c(path)
        public |= {name for name, waits in source.prototypes if waits and path.suffix == '.h'}
        public |= {f.name for f in source.functions if f.may_wait and (path.suffix == '.h' or not f.static)}
        for name, waits in source.slots:
            slots.setdefault(name, set()).add(waits)
    public |= waiting_macros(tree, paths, public)
    waiting_slots = {name for name, kinds in slots.items() if kinds == {True}}
    plain_slots = {name for name, kinds in slots.items() if kinds == {False}}
    for path in paths:
        yield from check_file(tree.c(path), path, public, waiting_slots, plain_slots)


def waiting_macros(tree, paths, public):
    found = set()
    for path in paths:
        for name, body in tree.c(path).macros:
            if any(call in public for call in re.findall(r'(?<![>.\w])(\w+)\s*\(', body)):
                found.add(name)
    return found


def check_file(source, path, public, waiting_slots, plain_slots):
    hidden = {f.name for f in source.functions if f.static and not f.may_wait} - \
             {name for name, waits in source.prototypes if waits}
    local = {f.name for f in source.functions if f.may_wait} | {n for n, waits in source.prototypes if waits}
    waiting = (public - hidden) | local
    for function in source.functions:
        if function.name in waiting:
            continue
        parameters = set(re.findall(r'\(\s*\*\s*(\w+)\s*\)\s*\([^()]*\)\s*weir_co_fn', function.head))
        for name, line, member in function.calls():
            if name in (waiting_slots if member else waiting | parameters):
                yield path, line, f'{function.name} calls {name}(), which may wait, but is no weir_co_fn'
    for match in ASSIGNMENT.finditer(source.code):
        slot, name = match.groups()
        if name in waiting and slot in plain_slots:
            line = source.code.count('\n', 0, match.start()) + 1
            yield path, line, f'{name} may wait, but the slot {slot} is not marked weir_co_fn'
