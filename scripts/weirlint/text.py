# SPDX-License-Identifier: BSD-2-Clause
"""Width, white space, and marks of unfinished work."""
import re

WIDTH_MAX = 110
# Comments are not reflowed by clang-format, so they get a little slack.
COMMENT_WIDTH_MAX = 120
MARKS = re.compile(r'\b(T' r'ODO|F' r'IXME|X' r'XX|H' r'ACK)\b')


def check(tree):
    for path in tree.matching('.c', '.h', '.py', '.sh', '.md', '.json', '.build') + extras(tree):
        for number, line in enumerate(tree.text(path).split('\n'), 1):
            if path.suffix in ('.c', '.h') and len(line) > width_max(line):
                yield path, number, f'{len(line)} columns, limit {width_max(line)}'
            elif path.suffix == '.py' and len(line) > COMMENT_WIDTH_MAX:
                yield path, number, f'{len(line)} columns, limit {COMMENT_WIDTH_MAX}'
            if line != line.rstrip() and path.suffix != '.md':
                yield path, number, 'white space at the end of the line'
            if '\t' in line and path.name != 'Makefile':
                yield path, number, 'tabulator'
            if MARKS.search(line):
                yield path, number, 'mark of unfinished work'


def extras(tree):
    return [p for p in tree.files if not p.suffix and (p.parts[0] in ('scripts', '.ci') or p.name == 'Makefile')]


def width_max(line):
    stripped = line.lstrip()
    comment = stripped.startswith(('/*', '*', '//')) or '/*' in line[:WIDTH_MAX]
    return COMMENT_WIDTH_MAX if comment else WIDTH_MAX
