"""Licences of what is installed with the app: nothing that would bind its users to the GPL."""

from __future__ import annotations

import re
from importlib import metadata

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PERMISSIVE = re.compile(
    r"\b(MIT|BSD|0BSD|Apache|PSF|Python Software Foundation|ISC|MPL|Mozilla Public License|"
    r"CC0|Unlicense|Zlib|HPND)\b|^Copyright \(c\) 2001-2002 Enthought",
    re.IGNORECASE,
)
# The lesser licence leaves programs that import a library free.
LESSER = re.compile(
    r"\bLGPL[\w.+-]*|\b(?:GNU )?(?:Library or )?Lesser General Public License( v\d[\w. ()+]*)?",
    re.IGNORECASE,
)
BINDING = re.compile(r"\bA?GPL|General Public License|\bSSPL|\bnon-?commercial", re.IGNORECASE)

# Looked at one by one; each stays until its metadata or the dependency changes.
DECISIONS = {
    "frozendict": "LGPL-3.0, through pybids: imported, not changed",
    "num2words": "LGPL, through pybids: imported, not changed",
    "fslpy": "metadata name none; its LICENSE file is Apache-2.0",
}


def dependencies(root: str) -> dict[str, metadata.Distribution]:
    """Installed distributions that one needs at run time, itself included, extras left out."""
    found: dict[str, metadata.Distribution] = {}
    todo = [root]
    while todo:
        name = canonicalize_name(todo.pop())
        if name in found:
            continue
        found[name] = metadata.distribution(name)
        requirements = [Requirement(text) for text in found[name].requires or []]
        todo += [r.name for r in requirements if not r.marker or r.marker.evaluate({"extra": ""})]
    return found


def declared(distribution: metadata.Distribution) -> list[str]:
    """Licences that the metadata name: expression, field and classifiers."""
    about = distribution.metadata
    # some put a whole text there, whose head names the licence
    texts = [about.get("License-Expression"), (about.get("License") or "")[:200]]
    classifiers = [c for c in about.get_all("Classifier") or [] if c.startswith("License ::")]
    texts += [c.rpartition("::")[2] for c in classifiers if c != "License :: OSI Approved"]
    return [text.strip() for text in texts if text and text.strip()]


def verdict(texts: list[str]) -> str:
    """What licence texts mean for users: permissive, lesser, binding or unknown."""
    rest = [LESSER.sub("", text) for text in texts]
    # of a choice between licences one may take the other
    without_choice = [text for text in rest if not (" OR " in text and PERMISSIVE.search(text))]
    if any(BINDING.search(text) for text in without_choice):
        return "binding"
    if rest != texts:
        return "lesser"
    return "permissive" if any(PERMISSIVE.search(text) for text in texts) else "unknown"


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["MIT"], "permissive"),
        (["BSD-3-Clause AND Apache-2.0"], "permissive"),
        (["GPL-3.0-or-later"], "binding"),
        (["GNU General Public License v3 (GPLv3)"], "binding"),
        (["MIT", "GNU Affero General Public License v3"], "binding"),
        (["AGPLv3"], "binding"),
        (["MIT AND GPL-2.0-only"], "binding"),
        (["MIT OR GPL-2.0-only"], "permissive"),
        (["FSL licence, for non-commercial use"], "binding"),
        (["LGPL", "GNU Library or Lesser General Public License (LGPL)"], "lesser"),
        (["LGPL-3.0-only"], "lesser"),
        (["see file"], "unknown"),
        ([], "unknown"),
    ],
)
def test_verdict_on_known_licences(texts, expected):
    assert verdict(texts) == expected


@pytest.fixture(scope="module")
def installed() -> dict[str, metadata.Distribution]:
    return dependencies("bids_alsmri")


def test_all_direct_dependencies_are_walked(installed):
    assert {"numpy", "nipype", "antspyx", "pybids", "dipy", "numba"} <= set(installed)
    assert "pytest" not in installed  # of the extra for tests


def test_no_dependency_binds_users_to_the_gpl(installed):
    binding = [name for name, found in installed.items() if verdict(declared(found)) == "binding"]
    assert binding == []


def test_every_other_licence_was_decided_on(installed):
    undecided = {
        name: declared(found)
        for name, found in installed.items()
        if verdict(declared(found)) in ("lesser", "unknown") and name not in DECISIONS
    }
    assert undecided == {}


def test_decisions_are_still_needed(installed):
    needed = {name for name, found in installed.items() if verdict(declared(found)) != "permissive"}
    assert set(DECISIONS) <= needed


def test_licence_file_bears_out_the_decision_on_fslpy(installed):
    (text,) = [
        path.read_text(encoding="utf-8")
        for path in installed["fslpy"].files or []
        if path.name in ("LICENSE", "LICENSE.txt")
    ]
    assert "Apache License" in text


@pytest.mark.parametrize("name", ["sphinx", "myst-parser", "furo"])
def test_what_builds_the_pages_holds_nothing_under_the_gpl(name):
    needed = dependencies(name)
    binding = [name for name, found in needed.items() if verdict(declared(found)) == "binding"]
    # docutils declares the GPL for its mode for Emacs alone (its COPYING.rst), which pip leaves out
    assert set(binding) <= {"docutils"}
    installed = needed["docutils"].files or []
    assert installed
    assert not [path for path in installed if path.suffix == ".el"]
