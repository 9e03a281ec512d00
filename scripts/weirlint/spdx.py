# SPDX-License-Identifier: BSD-2-Clause
"""The licence stands in the first line (after a #! line the second)."""
MARK = 'SPDX-License-Identifier: BSD-2-Clause'
NAMES = {'Makefile', 'meson.build', 'meson_options.txt', 'run'}


def check(tree):
    for path in tree.files:
        source = path.suffix in ('.c', '.h', '.py', '.sh') or path.name in NAMES
        lines = tree.text(path).splitlines()[:2] if source or path.parts[0] == 'scripts' else []
        if not source and not (lines and lines[0].startswith('#!')):
            continue
        if lines and lines[0].startswith('#!'):
            lines = lines[1:]
        if not lines or MARK not in lines[0]:
            yield path, 1, f'first line lacks "{MARK}"'
