# SPDX-License-Identifier: BSD-2-Clause
"""The kinds of image that qemu-img create can make, and a small set of them in which all pairs of properties occur."""
import collections
import dataclasses
import itertools

from image import KiB

AXES = {
    'cluster': [1 << bits for bits in range(9, 22)],
    'width': [1, 2, 4, 8, 16, 32, 64],
    'version': [3, 2],
    'extended': [False, True],
    'compression': ['zlib', 'zstd'],
    'data': ['none', 'plain', 'raw'],
    'depth': [0, 1, 2, 3],
}


@dataclasses.dataclass(frozen=True)
class Case:
    cluster: int
    width: int
    version: int
    extended: bool
    compression: str
    data: str
    depth: int

    @property
    def name(self):
        return (f'c{self.cluster}-w{self.width}-v{self.version}-{"ext" if self.extended else "std"}-'
                f'{self.compression}-{self.data}-b{self.depth}')

    @property
    def l2_entries(self):
        return self.cluster // (16 if self.extended else 8)

    @property
    def l2_covers(self):
        """Bytes of the guest's disk that one L1 entry stands for."""
        return self.cluster * self.l2_entries

    @property
    def block_covers(self):
        """Bytes of the file that one refcount block counts."""
        return self.cluster * (self.cluster * 8 // self.width)

    @property
    def table_covers(self):
        """Bytes of the file that one cluster of the refcount table can account for."""
        return self.block_covers * (self.cluster // 8)

    @property
    def create_options(self):
        """For qemu-img create -o; the data file's name is that of the directory's own."""
        options = [f'cluster_size={self.cluster}', f'compat={"0.10" if self.version == 2 else "1.1"}']
        if self.version == 3:
            options += [f'refcount_bits={self.width}', f'compression_type={self.compression}',
                        f'extended_l2={"on" if self.extended else "off"}']
        if self.data != 'none':
            options += ['data_file=top.data', f'data_file_raw={"on" if self.data == "raw" else "off"}']
        return ','.join(options)


def valid(**axes):
    """The rules of the format and of qemu-img, for some or all axes: false only if what is given excludes itself."""
    get = axes.get
    plain_v3 = get('width', 16) == 16 and not get('extended') and get('compression') != 'zstd' \
        and get('data', 'none') == 'none'
    if get('version') == 2 and not plain_v3:
        return False
    if get('extended') and get('cluster', 16 * KiB) < 16 * KiB:
        return False
    return not (get('data') == 'raw' and get('depth'))


def product():
    for values in itertools.product(*AXES.values()):
        axes = dict(zip(AXES, values))
        if valid(**axes):
            yield Case(**axes)


def pairs_of(case):
    """Neighbouring cluster sizes count as one against the width, for 13 x 7 of these pairs alone would be 91 cases."""
    values = [(axis, getattr(case, axis)) for axis in AXES]
    pairs = set(itertools.combinations(values, 2))
    pairs.remove((('cluster', case.cluster), ('width', case.width)))
    pairs.add((('clusters', case.cluster.bit_length() // 2), ('width', case.width)))
    return pairs


def pairwise():
    """Greedy: always the case that brings most of the pairs which are still missing, among equals the one whose version
    and data file occurred least so far. The same at each call."""
    everything = [(case, pairs_of(case)) for case in product()]
    missing = set().union(*(pairs for _, pairs in everything))
    uses = collections.Counter()
    chosen = []
    while missing:
        case, pairs = max(everything, key=lambda item: (
            len(item[1] & missing), -uses[item[0].version] - uses[item[0].data]))
        chosen.append(case)
        missing -= pairs
        uses.update((case.version, case.data))
    return chosen
