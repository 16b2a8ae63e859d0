"""Print what setup.cfg says the app needs at run time, one requirement per line."""

from __future__ import annotations

import configparser
import sys

parser = configparser.ConfigParser()
with open(sys.argv[1], encoding="utf-8") as file:
    parser.read_file(file)
sys.stdout.write(parser["options"]["install_requires"].strip() + "\n")
