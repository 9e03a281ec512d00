# SPDX-License-Identifier: BSD-2-Clause
"""The checks of scripts/lint: one module each, standard library only."""
