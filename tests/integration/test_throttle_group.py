# SPDX-License-Identifier: BSD-2-Clause
"""Throttle groups, measured: limits hold, are shared, and are shared fairly. bench/throttle.py does it for longer."""
import contextlib

import pytest

from weirtest import KiB, MiB
from weirtest.load import Load, rates

SECONDS = 3.0


@pytest.fixture
def throttled(daemon):
    """throttled(limits, exports) -> URIs of so many exports of nodes in one group, each on a loop of its own."""
    def make(limits, exports=1):
        daemon.qmp('object-add', {'qom-type': 'throttle-group', 'id': 'g', 'limits': limits})
        uris = []
        for number in range(exports):
            node = f'n{number}'
            daemon.qmp('object-add', {'qom-type': 'iothread', 'id': f'io{number}'})
            daemon.qmp('blockdev-add', {'driver': 'throttle', 'node-name': node, 'throttle-group': 'g',
                                        'file': {'driver': 'null-co', 'size': 64 * MiB, 'read-zeroes': True}})
            uris.append(daemon.export(node, iothread=f'io{number}'))
        return uris
    return make


@contextlib.contextmanager
def loads(*arguments):
    running = [Load(*a) for a in arguments]
    yield running
    for load in running:
        load.finish()


@pytest.mark.parametrize('limits, depth, size, write, expected', [
    ({'iops-total': 400}, 8, 4 * KiB, False, 400),
    ({'iops-write': 300}, 1, 4 * KiB, True, 300),
    ({'iops-read': 1000}, 32, 512, False, 1000),
    ({'bps-total': 8 * MiB}, 8, 64 * KiB, True, 128),
    ({'bps-read': 4 * MiB}, 16, 16 * KiB, False, 256),
    ({'bps-write': 2 * MiB, 'iops-write': 1000}, 4, 16 * KiB, True, 128),
])
def test_throttle_group_limit_holds(throttled, limits, depth, size, write, expected):
    """What passes is the limit, within 5 percent."""
    uri, = throttled(limits)
    with loads((uri, depth, size, write)) as running:
        rate, = rates(running, SECONDS)
    assert abs(rate - expected) <= 0.05 * expected, rate


@pytest.mark.parametrize('limits, size, expected', [({'iops-total': 600}, 4 * KiB, 600),
                                                    ({'bps-total': 8 * MiB}, 16 * KiB, 512)])
@pytest.mark.parametrize('depths', [(8, 8), (32, 4)])
def test_throttle_group_shared_and_fair(throttled, limits, size, expected, depths):
    """Two exports together get the limit, within 5 percent, and each its half, within 10: also who asks for less."""
    uris = throttled(limits, 2)
    with loads(*((uri, depth, size) for uri, depth in zip(uris, depths))) as running:
        both = rates(running, SECONDS)
    assert abs(sum(both) - expected) <= 0.05 * expected, both
    assert all(abs(rate - expected / 2) <= 0.1 * expected / 2 for rate in both), both


def test_throttle_group_new_limits(daemon, throttled):
    """Limits that are changed at run time hold from then on."""
    uri, = throttled({'iops-total': 200})
    with loads((uri, 8, 4 * KiB)) as running:
        for limit in (200, 800, 100):
            daemon.qmp('qom-set', {'path': '/objects/g', 'property': 'limits', 'value': {'iops-total': limit}})
            rate, = rates(running, SECONDS)
            assert abs(rate - limit) <= 0.05 * limit, (limit, rate)
