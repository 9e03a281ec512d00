# SPDX-License-Identifier: BSD-2-Clause
"""Objects: making, deleting, properties; throttle groups by their effect, with rates that are measured."""
import time

import nbd
import pytest

from weirtest import KiB, MiB, QmpError, is_peer, nbd_connect, wait_until

SIZE = 16 * MiB
# What a loaded machine may add to a time that is measured from above.
SLACK = 1.0


def error_of(call, *args, **options):
    with pytest.raises(QmpError) as caught:
        call(*args, **options)
    return caught.value


def add_group(daemon, name='g', **limits):
    limits = {key.replace('_', '-'): value for key, value in limits.items()}
    daemon.qmp('object-add', dict({'qom-type': 'throttle-group', 'id': name}, **({'limits': limits} if limits else {})))


def add_disk(daemon, node='n', group='g'):
    """A client of a throttled node."""
    daemon.qmp('blockdev-add', {'driver': 'throttle', 'node-name': node, 'throttle-group': group, 'discard': 'unmap',
                                'file': {'driver': 'null-co', 'size': SIZE, 'read-zeroes': True, 'discard': 'unmap'}})
    return nbd_connect(daemon.export(node), structured=not is_peer())


def start_requests(handle, kind, count, size, apart=1):
    """So many requests at once, each @apart times its size behind the end of the one before."""
    buffer = nbd.Buffer.from_bytearray(bytearray(b'x' * size))
    for i in range(count):
        offset = i * size * (apart + 1) % SIZE
        if kind == 'read':
            handle.aio_pread(nbd.Buffer(size), offset)
        else:
            handle.aio_pwrite(buffer, offset)


def finish(*handles, limit=20):
    end = time.monotonic() + limit
    while any(h.aio_in_flight() for h in handles):
        assert time.monotonic() < end, [h.aio_in_flight() for h in handles]
        for handle in handles:
            handle.poll(1)


def timed(handle, kind, count, size=512, apart=1):
    """Seconds that so many requests at once take."""
    begin = time.monotonic()
    start_requests(handle, kind, count, size, apart)
    finish(handle)
    return time.monotonic() - begin


# ---- objects ----

def test_object_add_del(daemon):
    """Made once, in use until the last user has gone, and then free to be made again."""
    qmp = daemon.qmp
    for _ in range(2):
        add_group(daemon)
        qmp('object-add', {'qom-type': 'iothread', 'id': 'io.0-a_b'})
        text = "attempt to add duplicate property 'g' to object (type 'container')"
        assert error_of(add_group, daemon).text == text
        assert error_of(qmp, 'object-add', {'qom-type': 'iothread', 'id': 'g'}).text == text
        handle = add_disk(daemon)
        assert handle.pread(512, 0) == bytes(512)
        assert error_of(qmp, 'object-del', id='g').text == "object 'g' is in use, can not be deleted"
        qmp('block-export-del', id='n', mode='hard')
        qmp.event('BLOCK_EXPORT_DELETED', id='n')
        qmp('blockdev-del', node_name='n')
        for name in ('g', 'io.0-a_b'):
            qmp('object-del', id=name)
            assert error_of(qmp, 'object-del', id=name).text == f"object '{name}' not found"
    for options, text in (({'qom-type': 'nonsense', 'id': 'x'},
                           "Parameter 'qom-type' does not accept value 'nonsense'"),
                          ({'qom-type': 'iothread', 'id': '1 x'}, "Parameter 'id' expects an identifier"),
                          ({'qom-type': 'iothread'}, "Parameter 'id' is missing"),
                          ({'id': 'x'}, "Parameter 'qom-type' is missing"),
                          ({'qom-type': 'iothread', 'id': 'x', 'zzz': 1}, "Parameter 'zzz' is unexpected")):
        assert error_of(qmp, 'object-add', options).text == text
    assert error_of(qmp, 'blockdev-add', {'driver': 'throttle', 'node-name': 'x', 'throttle-group': 'nope',
                                          'file': {'driver': 'null-co'}}).text == "Throttle group 'nope' does not exist"


def test_qom_get_set(daemon):
    """Limits are read and changed while requests flow; what is not named stays."""
    qmp = daemon.qmp
    add_group(daemon, iops_total=1000, iops_size=4096)
    limits = qmp('qom-get', path='g', property='limits')
    assert limits['iops-total'] == 1000 and limits['iops-size'] == 4096 and limits['bps-read'] == 0
    assert limits['iops-total-max-length'] == 1 and len(limits) == 19
    assert qmp('qom-set', path='/objects/g', property='limits', value={'bps-read': MiB}) == {}
    assert qmp('qom-get', path='/objects/g', property='limits') == dict(limits, **{'bps-read': MiB})
    qmp('qom-set', path='g', property='limits', value={'bps-read': 0, 'iops-total': 0, 'iops-size': 0})
    assert qmp('qom-get', path='g', property='type') == 'throttle-group'
    for call in (('qom-get', {'path': 'x', 'property': 'limits'}),
                 ('qom-set', {'path': 'x', 'property': 'limits', 'value': {}})):
        error = error_of(qmp, *call)
        assert (error.error_class, error.text) == ('DeviceNotFound', "Device 'x' not found")
    for call in (('qom-get', {'path': 'g', 'property': 'x'}), ('qom-set', {'path': 'g', 'property': 'x', 'value': 1})):
        assert error_of(qmp, *call).text == "Property 'throttle-group.x' not found"


@pytest.mark.parametrize('value, text', [
    ({'iops-total': 5, 'iops-read': 3}, 'total values and read/write values cannot be used at the same time'),
    ({'bps-total': 5, 'bps-write': 3}, 'total values and read/write values cannot be used at the same time'),
    ({'iops-total-max': 5}, 'bps_max/iops_max require corresponding bps/iops values'),
    ({'bps-write': 5, 'bps-write-max': 3}, 'bps_max/iops_max cannot be lower than bps/iops'),
    ({'iops-total': -1}, 'must be within [0, 1000000000000000]'),
    ({'iops-total': 1 << 62}, 'must be within [0, 1000000000000000]'),
    ({'bps-total': 5, 'bps-total-max-length': 5}, 'burst length set without burst rate'),
    ({'bps-total': 5, 'bps-total-max': 50, 'bps-total-max-length': 0}, 'the burst length cannot be 0'),
    ({'iops-size': 1}, 'iops size requires an iops value to be set'),
    ({'zzz': 1}, "Parameter 'limits.zzz' is unexpected"),
    ({'iops-total': 'x'}, "Invalid parameter type for 'limits.iops-total', expected: integer"),
    (5, "Invalid parameter type for 'limits', expected: object"),
])
def test_wrong_limits(daemon, value, text):
    """Refused when the group is made and when it is changed; the group keeps what it had."""
    add_group(daemon)
    before = daemon.qmp('qom-get', path='g', property='limits')
    assert text in error_of(daemon.qmp, 'qom-set', path='g', property='limits', value=value).text
    assert daemon.qmp('qom-get', path='g', property='limits') == before
    if isinstance(value, dict):
        text = text.replace("Parameter 'limits.", "Parameter 'limits.")
        error = error_of(daemon.qmp, 'object-add', {'qom-type': 'throttle-group', 'id': 'h', 'limits': value})
        assert text in error.text
        assert error_of(daemon.qmp, 'object-del', id='h')


# ---- rates ----

LIMITS = [  # option, value, kind that it limits, kind that it does not, requests of so many bytes, seconds at least
    ('iops-total', 200, 'read', None, 100, 512, 0.35),
    ('iops-total', 200, 'write', None, 100, 512, 0.35),
    ('iops-read', 200, 'read', 'write', 100, 512, 0.35),
    ('iops-write', 200, 'write', 'read', 100, 512, 0.35),
    ('bps-total', 4 * MiB, 'read', None, 32, 64 * KiB, 0.35),
    ('bps-total', 4 * MiB, 'write', None, 32, 64 * KiB, 0.35),
    ('bps-read', 4 * MiB, 'read', 'write', 32, 64 * KiB, 0.35),
    ('bps-write', 4 * MiB, 'write', 'read', 32, 64 * KiB, 0.35),
]


@pytest.mark.parametrize('option, value, kind, other, count, size, least', LIMITS)
def test_throttle(daemon, option, value, kind, other, count, size, least):
    """The rate is the limit's (after a tenth of a second's worth at once); what is not limited is not slowed."""
    add_group(daemon, **{option: value})
    handle = add_disk(daemon)
    if other:
        assert timed(handle, other, count, size) < least
    assert least <= timed(handle, kind, count, size) < least + SLACK
    daemon.qmp('qom-set', path='g', property='limits', value={option: 0})
    assert timed(handle, kind, count, size) < least


def test_throttle_one_at_a_time(daemon):
    """A client that waits for each answer gets the same rate."""
    add_group(daemon, iops_total=200)
    handle = add_disk(daemon)
    begin = time.monotonic()
    for i in range(100):
        handle.pread(512, i * 512)
    assert 0.35 <= time.monotonic() - begin < 0.5 + SLACK


def test_throttle_zero_and_trim(daemon):
    """Zeroes and discards count as writes."""
    add_group(daemon, iops_write=100)
    handle = add_disk(daemon)
    for call in (handle.zero, handle.trim):
        begin = time.monotonic()
        for i in range(40):
            call(4096, i * 4096)
        assert time.monotonic() - begin >= 0.25


@pytest.mark.parametrize('kind', ['read', 'write'])
def test_throttle_of_neighbours(daemon, kind):
    """Requests that touch each other are still requests: a limit of their number counts each."""
    add_group(daemon, iops_total=200)
    assert 0.35 <= timed(add_disk(daemon), kind, 100, apart=0) < 0.35 + SLACK


BURSTS = [  # option, usual rate, what may come at once in a burst, kind, requests, bytes of each
    ('iops-total', 50, 500, 'read', 200, 512), ('iops-read', 50, 500, 'read', 200, 512),
    ('iops-write', 50, 500, 'write', 200, 512), ('bps-total', MiB, 10 * MiB, 'write', 64, 64 * KiB),
    ('bps-read', MiB, 10 * MiB, 'read', 64, 64 * KiB), ('bps-write', MiB, 10 * MiB, 'write', 64, 64 * KiB),
]


@pytest.mark.parametrize('option, rate, burst, kind, count, size', BURSTS)
def test_throttle_burst(daemon, option, rate, burst, kind, count, size):
    """A second's worth of the higher rate comes at once; without it the same takes seconds."""
    add_group(daemon, **{option: rate, f'{option}-max': burst, f'{option}-max-length': 1})
    amount = count * (size if option.startswith('bps') else 1)
    handle = add_disk(daemon)
    assert timed(handle, kind, count, size) < amount / rate - 2
    assert timed(handle, kind, count, size) < amount / rate - 2
    # Now it is used up but for a fifth.
    assert timed(handle, kind, count, size) > amount / rate / 4


def test_throttle_burst_ends(daemon):
    """A burst of the given length, and then the usual rate; a longer one lasts longer."""
    took = {}
    for length in (1, 2):
        add_group(daemon, f'g{length}', iops_total=100, iops_total_max=500, iops_total_max_length=length)
        took[length] = timed(add_disk(daemon, f'n{length}', f'g{length}'), 'read', 700)
    # 500 (and what leaks meanwhile) at 500 a second, the rest at 100 a second; or all at 500 a second.
    assert 1.6 < took[1] < 3.5 and 1.2 < took[2] < 1.6 + SLACK and took[2] < took[1], took


@pytest.mark.parametrize('size, least, most', [(4 * KiB, 0, 0.3), (64 * KiB, 0.6, 1.8)])
def test_throttle_iops_size(daemon, size, least, most):
    """A request counts as often as iops-size fits into it."""
    add_group(daemon, iops_total=200, iops_size=4 * KiB)
    assert least <= timed(add_disk(daemon), 'write', 10, size) < most


def test_throttle_group_shared(daemon):
    """Nodes of one group share its rate, and each gets its part of it; another group has its own."""
    add_group(daemon, iops_total=200)
    add_group(daemon, 'h', iops_total=200)
    first, second, apart = add_disk(daemon, 'a'), add_disk(daemon, 'b'), add_disk(daemon, 'c', 'h')
    begin = time.monotonic()
    start_requests(first, 'read', 60, 512)
    start_requests(second, 'read', 60, 512)
    start_requests(apart, 'read', 40, 512)
    finish(apart)
    assert time.monotonic() - begin < 0.45 and first.aio_in_flight() and second.aio_in_flight()
    done = {60 - h.aio_in_flight() for h in (first, second)}
    assert max(done) - min(done) <= 25, done
    finish(first, second)
    assert 0.45 <= time.monotonic() - begin < 0.5 + SLACK


def test_throttle_release(daemon):
    """Requests that wait are let go when the limits go."""
    add_group(daemon, iops_total=1)
    handle = add_disk(daemon)
    start_requests(handle, 'read', 50, 512)
    begin = time.monotonic()
    daemon.qmp('qom-set', path='g', property='limits', value={'iops-total': 0})
    finish(handle)
    assert time.monotonic() - begin < SLACK


def test_removal_with_throttled_requests(daemon):
    """Export, node and group go, in bounded time, while requests wait in the group."""
    add_group(daemon, iops_total=20)
    handle = add_disk(daemon)
    start_requests(handle, 'write', 50, 512)
    wait_until(lambda: handle.poll(10) and handle.aio_in_flight() < 50, 10, 'the first is answered')
    daemon.qmp('block-export-del', id='n', mode='hard')
    daemon.qmp.event('BLOCK_EXPORT_DELETED', 5, id='n')
    daemon.qmp('blockdev-del', node_name='n')
    daemon.qmp('object-del', id='g')


def test_stop_with_throttled_requests(daemon):
    add_group(daemon, iops_total=20)
    handle = add_disk(daemon)
    start_requests(handle, 'write', 50, 512)
    wait_until(lambda: handle.poll(10) and handle.aio_in_flight() < 50, 10, 'the first is answered')
    begin = time.monotonic()
    daemon.stop()
    assert time.monotonic() - begin < 5


def test_qom_list(daemon):
    """The tree of objects from its root to their properties."""
    daemon.qmp('object-add', {'qom-type': 'throttle-group', 'id': 'g'})
    daemon.qmp('object-add', {'qom-type': 'iothread', 'id': 'io'})

    def names(path):
        return {entry['name']: entry['type'] for entry in daemon.qmp('qom-list', path=path)}
    assert names('/')['objects'] == 'child<container>'
    listed = names('/objects')
    assert (listed['g'], listed['io']) == ('child<throttle-group>', 'child<iothread>')
    assert 'limits' in names('/objects/g') and 'limits' in names('g') and names('io')['type'] == 'string'
    with pytest.raises(QmpError) as caught:
        daemon.qmp('qom-list', path='/objects/nix')
    assert (caught.value.error_class, caught.value.text) == ('DeviceNotFound', "Device '/objects/nix' not found")
