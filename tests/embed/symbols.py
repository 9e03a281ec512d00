#!/usr/bin/python3
# SPDX-License-Identifier: BSD-2-Clause
"""The shared object shows what the public headers declare and nothing else; the headers are C11 and C++.

symbols.py LIBRARY MAP VERSION HEADER...
"""
import os
import re
import shutil
import subprocess
import sys


def declared(headers):
    names = set()
    for header in headers:
        with open(header, encoding='utf-8') as file:
            text = re.sub(r'/\*.*?\*/', '', file.read(), flags=re.S)
        names |= set(re.findall(r'\b(weir_\w+)\s*\(', text))
    return names


def mapped(path):
    with open(path, encoding='utf-8') as file:
        return set(re.findall(r'^\s+(weir_\w+);', file.read(), flags=re.M))


def shown(library):
    out = subprocess.run(['nm', '-D', '--defined-only', library], stdout=subprocess.PIPE, text=True, check=True)
    found = {line.split()[-1].split('@')[0] for line in out.stdout.splitlines()}
    # Of the sanitizers and the profiler, where the library was built with them; and the version's own name.
    return {name for name in found if not re.match(r'_|WEIR_|lprof|llvm', name)}


def compiles(headers):
    include = os.path.dirname(os.path.dirname(headers[0]))
    for header in headers:
        for command in (['cc', '-x', 'c', '-std=c11'], ['c++', '-x', 'c++', '-std=c++11']):
            if shutil.which(command[0]):
                subprocess.run(command + ['-fsyntax-only', '-pedantic', '-Wall', '-Wextra', '-Werror', '-I', include,
                                          '-include', header, '/dev/null'], check=True)


def version(headers):
    path = next(h for h in headers if h.endswith('version.h'))
    with open(path, encoding='utf-8') as file:
        return '.'.join(re.findall(r'#define WEIR_VERSION_(?:MAJOR|MINOR|PATCH) (\d+)', file.read()))


def main(library, map_file, project_version, *headers):
    wanted = declared(headers)
    problems = []
    for title, found in (('the map', mapped(map_file)), ('the shared object', shown(library))):
        problems += [f'{title} has no {name}' for name in sorted(wanted - found)]
        problems += [f'{title} has {name}, which no header declares' for name in sorted(found - wanted)]
    if version(headers) != project_version:
        problems.append(f'version.h says {version(headers)}, the project {project_version}')
    compiles(headers)
    print('\n'.join(problems) or f'{len(wanted)} functions')
    return 1 if problems else 0


if __name__ == '__main__':
    sys.exit(main(*sys.argv[1:]))
