# SPDX-License-Identifier: BSD-2-Clause
"""Fixtures that tests of several directories have in common."""
import pathlib
import shutil
import tempfile

import pytest


@pytest.fixture
def tmp():
    """A directory whose path is short enough for unix sockets."""
    path = pathlib.Path(tempfile.mkdtemp(prefix='weir-'))
    yield path
    shutil.rmtree(path, ignore_errors=True)
