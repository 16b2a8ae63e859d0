"""Sphinx configuration: `sphinx-build -W -b html docs build/docs`."""

import sys
from pathlib import Path

from bids_alsmri.version import VERSION

sys.path.insert(0, str(Path(__file__).parent))

project = "bids_alsmri"
author = "The bids_alsmri developers"
copyright = author
version = release = VERSION

extensions = ["myst_parser", "reference"]
# results below docs/ or a folder of an environment there are no pages
include_patterns = ["*.md"]
myst_enable_extensions = ["deflist", "fieldlist"]
myst_heading_anchors = 3
nitpicky = True

html_theme = "furo"
html_title = "bids_alsmri"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sphinx = False
