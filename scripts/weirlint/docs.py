# SPDX-License-Identifier: BSD-2-Clause
"""Links in the documentation resolve, named files exist, code that is shown is that of its file, and docs/compat.md
knows every command and event."""
import os
import pathlib
import re

from weirlint import options

LINK = re.compile(r'(?<!!)\[[^\]\n]*\]\(([^)\s]+)\)')
FENCE = re.compile(r'^(```|~~~).*?^\1', re.M | re.S)
# `src/io/request.c` and the like in running text
NAMED = re.compile(r'`((?:src|docs|scripts|tests|bench|include)/[\w./-]+)`')
# A block of code that is the text of a file
CODE = re.compile(r'^<!-- code: (\S+) -->\n```c\n(.*?)^```$', re.M | re.S)
COMPAT = pathlib.Path('docs/compat.md')


def check(tree):
    for path in tree.matching('.md'):
        text = FENCE.sub(lambda m: '\n' * m.group(0).count('\n'), tree.text(path))
        for match in LINK.finditer(text):
            message = broken(tree, path, match.group(1))
            if message:
                yield path, text.count('\n', 0, match.start()) + 1, message
        for match in NAMED.finditer(text):
            if not (tree.root / match.group(1)).exists():
                yield path, text.count('\n', 0, match.start()) + 1, f'{match.group(1)} does not exist'
        yield from check_code(tree, path)
    yield from check_compat(tree)


def broken(tree, path, target):
    if re.match(r'[a-z]+:', target):
        return None
    name, _, anchor = target.partition('#')
    file = pathlib.Path(os.path.normpath(path.parent / name)) if name else path
    if not (tree.root / file).exists():
        return f'link to {target}: no such file'
    if anchor and file.suffix == '.md' and anchor not in anchors(tree.text(file)):
        return f'link to {target}: no such heading'
    return None


def check_code(tree, path):
    """Whether each block that says which file it shows is that file."""
    text = tree.text(path)
    for match in CODE.finditer(text):
        file = pathlib.Path(match.group(1))
        line = text.count('\n', 0, match.start()) + 1
        if not (tree.root / file).exists():
            yield path, line, f'code of {file}: no such file'
        elif tree.text(file) != match.group(2):
            yield path, line, f'code differs from {file}'


def anchors(text):
    found = set()
    for heading in re.findall(r'^#+\s+(.*)$', FENCE.sub('', text), re.M):
        found.add(re.sub(r'[^\w\- ]', '', heading.lower()).replace(' ', '-'))
    return found


def check_compat(tree):
    entries = [e for _, e in options.load(tree)]
    if not entries:
        return
    text = tree.text(COMPAT) if COMPAT in tree.files else ''
    for entry in entries:
        for kind in ('command', 'event'):
            if kind in entry and f'`{entry[kind]}`' not in text:
                yield COMPAT, 1, f'{kind} `{entry[kind]}` of the schema is not mentioned'
