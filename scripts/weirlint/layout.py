# SPDX-License-Identifier: BSD-2-Clause
"""clang-format would change nothing."""
import concurrent.futures
import os
import re
import subprocess

TIME_LIMIT = 120


def check(tree):
    paths = tree.c_files()
    if not (tree.root / '.clang-format').exists() or not paths:
        return
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        for path, output in zip(paths, pool.map(lambda p: run(tree, p), paths)):
            lines = re.findall(r'^[^\n]*?:(\d+):\d+: (?:error|warning): ', output, re.M)
            if lines:
                yield path, int(lines[0]), f'{len(lines)} places differ from clang-format -i'
            elif output:
                yield path, 1, output.strip().splitlines()[0]


def run(tree, path):
    return subprocess.run(['clang-format', '--dry-run', '-Werror', '--ferror-limit=0', str(path)], cwd=tree.root,
                          timeout=TIME_LIMIT, capture_output=True, text=True, check=False).stderr
