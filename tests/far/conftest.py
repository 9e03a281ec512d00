# SPDX-License-Identifier: BSD-2-Clause
"""What the integration tests are written with, here too."""
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / 'integration'))

from weirtest.fixtures import tmp  # noqa: E402, F401 (needs the path above)
