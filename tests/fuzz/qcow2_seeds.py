#!/usr/bin/python3
# SPDX-License-Identifier: BSD-2-Clause
"""Makes the seeds of fuzz_qcow2 from images of qemu-img: tests/fuzz/qcow2_seeds.py DIRECTORY."""
import pathlib
import struct
import subprocess
import sys
import tempfile

SECTOR, WORD = 512, 8
FIX, WRITE, COMPRESS, RESIZE, DATA_FILE = 6, 8, 16, 32, 64
SNAPSHOT = ('write -P 1 0 2k', 'snapshot -c one @', 'write -P 2 0 1k')
# Name: options, size, what is written, what is done with it.
KINDS = {
    'empty': ('', '64k', (), WRITE),
    'plain': ('', '64k', ('write -P 1 0 2k',), WRITE),
    'fix': ('', '64k', ('write -P 1 0 2k',), FIX),
    'grow': ('', '64k', ('write -P 1 0 2k',), WRITE | RESIZE),
    'version-2': ('compat=0.10', '64k', SNAPSHOT, WRITE | FIX),
    'snapshot': ('', '64k', SNAPSHOT, WRITE),
    'packed': ('', '64k', ('write -c -P 3 0 4k', 'write -P 1 8k 1k'), WRITE | COMPRESS),
    'packed-zstd': ('compression_type=zstd', '64k', ('write -c -P 3 0 4k',), WRITE | COMPRESS),
    'zeroes': ('', '64k', ('write -P 1 0 2k', 'write -z 0 1k', 'write -zu 4k 1k'), WRITE),
    'lazy': ('lazy_refcounts=on', '64k', ('write -P 1 0 2k',), WRITE | FIX),
    'bitmaps': ('', '64k', ('bitmap --add -g 512 @ zero', 'bitmap --add @ one', 'write -P 1 0 1k'), WRITE | FIX),
    'extended': ('cluster_size=16k,extended_l2=on', '256k',
                 ('write 0 512', 'write -z 1k 512', 'write -c 32k 16k'), WRITE),
    'data-file': ('data_file=@', '64k', ('write 0 2k',), WRITE | DATA_FILE),
    'data-file-raw': ('data_file=@,data_file_raw=on', '64k', ('write 0 2k',), WRITE | DATA_FILE | FIX),
    'backing': ('backing_file=/nowhere,backing_fmt=raw', '64k', (), WRITE),
    **{f'bits-{bits}': (f'refcount_bits={bits}', '64k', ('write -P 1 0 2k',), WRITE | FIX)
       for bits in (1, 2, 4, 8, 32, 64)},
}


def run(*command):
    subprocess.run([str(word) for word in command], check=True, stdout=subprocess.DEVNULL)


def make(directory, options, size, writes):
    image, data = directory / 'image', directory / 'data'
    for path in (image, data):
        path.unlink(missing_ok=True)
    if 'cluster_size' not in options:
        options = ','.join(filter(None, ['cluster_size=512', options]))
    unsafe = ['-u'] if 'backing_file' in options else []
    run('qemu-img', 'create', '-q', '-f', 'qcow2', *unsafe, '-o', options.replace('@', str(data)), image, size)
    for write in writes:
        tool, *words = write.split()
        if tool in ('snapshot', 'bitmap'):
            run('qemu-img', tool, *(image if word == '@' else word for word in words))
        else:
            run('qemu-io', '-f', 'qcow2', '-c', write, image)
    return image.read_bytes()


def pieces(image):
    """The words that are not zero, as pieces; what guests wrote is cut short."""
    image += bytes(-len(image) % SECTOR)
    for sector in range(len(image) // SECTOR):
        content = image[sector * SECTOR:(sector + 1) * SECTOR]
        if len(set(content)) == 1:
            content = content[:WORD]
        words = [content[i:i + WORD] for i in range(0, len(content), WORD)]
        start = None
        for index in range(len(words) + 1):
            used = index < len(words) and any(any(word) for word in words[index:index + 2])
            if used and start is None:
                start = index
            elif not used and start is not None:
                yield struct.pack('<HBB', sector, start, index - start - 1) + b''.join(words[start:index])
                start = None


def main():
    target = pathlib.Path(sys.argv[1])
    with tempfile.TemporaryDirectory() as name:
        for kind, (options, size, writes, what) in KINDS.items():
            image = make(pathlib.Path(name), options, size, writes)
            head = struct.pack('<BBH', what, len(kind), -(-len(image) // SECTOR))
            (target / f'seed-{kind}').write_bytes(head + b''.join(pieces(image)))


if __name__ == '__main__':
    main()
