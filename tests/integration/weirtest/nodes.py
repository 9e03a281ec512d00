# SPDX-License-Identifier: BSD-2-Clause
"""What a daemon says of its nodes, and the system of its files."""
import os
import re


def node_info(daemon, node):
    return next((n for n in daemon.qmp('query-named-block-nodes') if n['node-name'] == node), None)


def descriptors(daemon, path):
    """Open flags of each of the daemon's descriptors of this file."""
    flags = []
    for fd in os.listdir(f'/proc/{daemon.pid}/fd'):
        try:
            if os.readlink(f'/proc/{daemon.pid}/fd/{fd}') == str(path):
                with open(f'/proc/{daemon.pid}/fdinfo/{fd}', encoding='ascii') as info:
                    flags.append(int(re.search(r'flags:\s+0(\d+)', info.read()).group(1), 8))
        except FileNotFoundError:
            pass
    return flags
