# SPDX-License-Identifier: BSD-2-Clause
"""clang-tidy with the checks of .clang-tidy, on the files of the clang build (build-clang or build)."""
import concurrent.futures
import json
import os
import pathlib
import re
import subprocess

TIME_LIMIT = 240
# The analyzer goes all ways through a function, up to a limit of nodes. With about a tenth of its own limit all files
# take 43 s instead of 221; what it would find only beyond is given up.
ANALYZER = ['--extra-arg=-Xclang', '--extra-arg=-analyzer-config', '--extra-arg=-Xclang', '--extra-arg=max-nodes=20000']


def check(tree):
    commands = tree.root / 'build-clang' / 'compile_commands.json'
    if not (tree.root / '.clang-tidy').exists():
        return
    if not commands.exists():
        yield pathlib.Path('.clang-tidy'), 1, 'build-clang is missing: make build-clang'
        return
    paths = set()
    for entry in json.loads(commands.read_text()):
        path = pathlib.Path(os.path.normpath(pathlib.Path(entry['directory'], entry['file'])))
        if path.is_relative_to(tree.root / 'src'):
            paths.add(path.relative_to(tree.root))
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        for output in pool.map(lambda p: run(tree, p), sorted(paths)):
            found = set(re.findall(r'^(\S+?):(\d+):\d+: (?:warning|error): (.*)$', output, re.M))
            for name, line, message in sorted(found):
                yield pathlib.Path(os.path.relpath(name, tree.root)), int(line), message


def run(tree, path):
    return subprocess.run(['clang-tidy', '-p', 'build-clang', '--quiet', *ANALYZER, str(path)], cwd=tree.root,
                          timeout=TIME_LIMIT, capture_output=True, text=True, check=False).stdout
