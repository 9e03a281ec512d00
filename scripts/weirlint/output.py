# SPDX-License-Identifier: BSD-2-Clause
"""The library is silent and never ends the process: only the programs in src/tools print or exit."""

PRINTING = {'printf', 'fprintf', 'vprintf', 'vfprintf', 'puts', 'fputs', 'putchar', 'fputc', 'putc', 'perror',
            'dprintf', 'syslog', 'err', 'errx', 'warn', 'warnx'}
ENDING = {'exit', '_exit', 'quick_exit', '_Exit'}
# A failed assertion says what failed before it aborts.
ALLOWED = {('src/base/assert.c', 'fprintf'), ('src/base/macros.c', 'fprintf'), ('src/base/alloc.c', 'fprintf')}


def check(tree):
    for path in tree.c_files('src'):
        if path.parts[1] == 'tools':
            continue
        source = tree.c(path)
        own = {f.name for f in source.functions} | {name for name, _ in source.prototypes}
        for function in source.functions:
            for name, line, member in function.calls():
                if member or name in own or (str(path), name) in ALLOWED:
                    continue
                if name in PRINTING or (name in ENDING and path.parts[1] != 'sys'):
                    yield path, line, f'{function.name} calls {name}(): the library returns errors or emits events'
