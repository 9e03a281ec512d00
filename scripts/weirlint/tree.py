# SPDX-License-Identifier: BSD-2-Clause
"""The files that the lint looks at."""
import functools
import os
import pathlib

from weirlint.csource import CSource

SKIPPED = {'.git', '.cache', '__pycache__', '.pytest_cache', 'corpus', 'golden'}


class Tree:
    def __init__(self, root):
        self.root = pathlib.Path(root).resolve()
        self.warnings = []

    @functools.cached_property
    def files(self):
        """Paths relative to the root, sorted; build directories and data files of tests left out."""
        found = []
        for directory, names, files in os.walk(self.root):
            names[:] = [n for n in names if n not in SKIPPED and not n.startswith('build')]
            found += [pathlib.Path(directory, f).relative_to(self.root) for f in files]
        return sorted(found)

    def matching(self, *suffixes, under=()):
        """Files with one of the suffixes, below one of the folders in @under (anywhere when empty)."""
        return [p for p in self.files
                if p.suffix in suffixes and (not under or any(p.is_relative_to(u) for u in under))]

    @functools.lru_cache(maxsize=None)
    def text(self, path):
        return (self.root / path).read_text(errors='replace')

    @functools.lru_cache(maxsize=None)
    def c(self, path):
        return CSource(self.text(path))

    def c_files(self, *under):
        return self.matching('.c', '.h', under=under or ('src', 'include', 'tests', 'bench', 'examples'))
