# SPDX-License-Identifier: BSD-2-Clause
"""NBD from python (libnbd)."""
import urllib.parse

import nbd


def nbd_uri(socket_path, export=''):
    return f'nbd+unix:///{urllib.parse.quote(export)}?socket={socket_path}'


def nbd_connect(uri, contexts=('base:allocation',), structured=True, strict=True):
    """A connected libnbd handle. Without @strict it lets wrong requests through to the server."""
    handle = nbd.NBD()
    handle.set_request_structured_replies(structured)
    for context in contexts if structured else ():
        handle.add_meta_context(context)
    if not strict:
        handle.set_strict_mode(0)
    handle.connect_uri(uri)
    return handle
