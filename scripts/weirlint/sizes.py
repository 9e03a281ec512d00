# SPDX-License-Identifier: BSD-2-Clause
"""Functions of at most 70 lines, files of at most 1,000; known offenders (scripts/lint-ratchet.txt) only shrink."""
import pathlib

FUNCTION_MAX = 70
FILE_AIM = 500
FILE_MAX = 1000
RATCHET = pathlib.Path('scripts/lint-ratchet.txt')


def read_ratchet(tree):
    """{(path, function): lines}"""
    known = {}
    if RATCHET in tree.files:
        for line in tree.text(RATCHET).splitlines():
            if line.strip() and not line.startswith('#'):
                path, function, lines = line.split()
                known[path, function] = int(lines)
    return known


def check(tree):
    known = read_ratchet(tree)
    for path in tree.c_files():
        lines = tree.text(path).count('\n')
        if lines > FILE_MAX:
            yield path, 1, f'{lines} lines, limit {FILE_MAX}'
        elif lines > FILE_AIM:
            tree.warnings.append(f'{path}: {lines} lines, aim {FILE_AIM}')
        for function in tree.c(path).functions:
            allowed = known.pop((str(path), function.name), None)
            if function.length <= FUNCTION_MAX:
                if allowed is not None:
                    yield path, function.line, f'{function.name} is fine now: take it out of {RATCHET}'
            elif allowed is None:
                yield path, function.line, f'{function.name} has {function.length} lines, limit {FUNCTION_MAX}'
            elif function.length != allowed:
                yield path, function.line, (f'{function.name} has {function.length} lines, {RATCHET} says '
                                            f'{allowed}: shrink it, and lower the figure when it shrank')
    for path, function in known:
        yield RATCHET, 1, f'{path} {function} is gone: take the line out'
