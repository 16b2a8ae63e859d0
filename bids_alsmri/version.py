"""The version, read from the installed package so that setup.cfg is its one place."""

from __future__ import annotations

from importlib.metadata import version

VERSION = version("bids_alsmri")
