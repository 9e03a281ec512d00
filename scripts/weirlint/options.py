# SPDX-License-Identifier: BSD-2-Clause
"""No option without a test: each schema entry and each optional member names one, and that test exists."""
import json
import pathlib
import re

SCHEMA = pathlib.Path('src/qmp/schema')


def load(tree):
    """(path, entry) of every schema entry."""
    for path in tree.matching('.json', under=(SCHEMA,)):
        for entry in json.loads(tree.text(path)):
            yield path, entry


def entry_name(entry):
    kinds = ('command', 'event', 'struct', 'enum', 'union', 'alternate', 'driver', 'object')
    return next((entry[k] for k in kinds if k in entry), None)


def members(entry):
    for key in ('members', 'args', 'data', 'base'):
        if isinstance(entry.get(key), dict):
            yield from entry[key].items()


def known_tests(tree):
    names = set()
    for path in tree.matching('.py', '.c', under=('tests',)):
        names |= set(re.findall(r'\btest_\w+', tree.text(path)))
    return names


def check(tree):
    tests = known_tests(tree)
    missing = {}
    for path, entry in load(tree):
        name = entry_name(entry)
        if name is None:
            continue
        named = [(name, entry.get('test'))]
        named += [(f'{name}.{member}', spec.get('test', entry.get('test')))
                  for member, spec in members(entry) if isinstance(spec, dict)]
        for what, test in named:
            line = line_of(tree.text(path), name)
            if not test:
                yield path, line, f'{what} names no test'
            elif test not in tests:
                missing.setdefault(test, []).append((path, line, what))
    for test, places in sorted(missing.items()):
        path, line, what = places[0]
        more = f' and {len(places) - 1} more' if len(places) > 1 else ''
        yield path, line, f'{what}{more}: there is no {test} below tests/'


def line_of(text, name):
    return text.count('\n', 0, max(text.find(f'"{name}"'), 0)) + 1
