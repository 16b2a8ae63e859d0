"""The pages build without a warning, lead nowhere that is not, and tell what the program has."""

from __future__ import annotations

import itertools
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from bids_alsmri.cli import make_parser, parse, pipeline_options, run_options
from bids_alsmri.engine.methods import references
from bids_alsmri.engine.pipeline import registry
from bids_alsmri.phantom.__main__ import build_parser as build_phantom_parser
from bids_alsmri.stats.__main__ import build_parser as build_stats_parser

pytestmark = pytest.mark.slow

DOCS = Path(__file__).resolve().parents[2] / "docs"
OPTIONS = [*run_options(), *itertools.chain(*pipeline_options().values())]
# written by others of the project, for developers
ELSEWHERE = {"architecture.md", "benchmarks.md"}
PAGES = [page for page in sorted(DOCS.glob("*.md")) if page.name not in ELSEWHERE]
# of pip, docker, Apptainer, SLURM and Boutiques
FOREIGN_FLAGS = {
    *("--constraint", "--rm", "--network", "--read-only", "--memory", "--cpus", "--platform"),
    *("--build-arg", "--containall", "--status", "--format", "--partition", "--time", "--mem"),
    *("--cpus-per-task", "--no-container", "--force-apptainer", "--imagepath"),
}


class Page(HTMLParser):
    """What a page links to, and what can be linked to on it."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.anchors: set[str] = {""}
        self.words: list[str] = []
        self.feed(path.read_text("utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value for name, value in attrs if value is not None}
        self.anchors |= {found[name] for name in ("id", "name") if name in found}
        self.links += [found[name] for name in ("href", "src") if name in found]

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(self.words)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("docs")
    done = subprocess.run(
        [
            *(sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html"),
            *("-d", str(folder / "doctrees"), str(DOCS), str(folder / "html")),
        ],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
    )
    assert done.returncode == 0, done.stderr
    return folder / "html"


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, Page]:
    return {path: Page(path) for path in site.rglob("*.html")}


def test_every_page_is_built(pages):
    assert {path.stem for path in pages} >= {path.stem for path in DOCS.glob("*.md")}


def test_links_lead_to_what_is_there(pages):
    dead = []
    for path, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            anchor = unquote(parts.fragment)
            anchors = pages[target].anchors if target in pages else {"", anchor}
            if not target.exists() or anchor not in anchors:
                dead.append(f"{path.name}: {link}")
    assert dead == []


def test_pages_can_be_read_offline(pages):
    # links to elsewhere are for the reader; what a page needs itself must be at hand
    needed = [
        link
        for path in pages
        for link in re.findall(r'<(?:img|script)[^>]+src="(https?:[^"]+)"', path.read_text("utf-8"))
    ]
    assert needed == []


def test_every_setting_stands_on_its_page(pages, site):
    text = pages[site / "settings.html"].text
    flags = [flag for option in OPTIONS for flag in option.flags]
    missing = [f for f in flags if not re.search(rf"(?<![\w-]){re.escape(f)}(?![\w-])", text)]
    assert missing == []


def test_every_output_stands_on_its_page(pages, site):
    text = pages[site / "outputs.html"].text
    for pipeline in registry().values():
        for output in pipeline.io_spec.outputs.values():
            assert f"{output.suffix}{output.extension}" in text, output.name


def test_every_citation_is_a_link_to_its_work(pages, site):
    methods = pages[site / "methods.html"]
    assert "[@" not in methods.text
    cited = {link.partition("#work-")[2] for link in methods.links if "#work-" in link}
    assert {"smith2006", "winkler2014", "nagel2009"} <= cited <= set(references())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_flags_on_pages_exist(page):
    parsers = (make_parser(), build_stats_parser(), build_phantom_parser())
    known = {flag for parser in parsers for flag in parser._option_string_actions}
    named = set(re.findall(r"(?<![\w-])--[a-z][\w-]*", page.read_text("utf-8")))
    assert named - FOREIGN_FLAGS <= known


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_calls_on_pages_are_understood(page):
    calls = re.findall(r"^ {4}bids_alsmri ([^{\n]+)$", page.read_text("utf-8"), re.MULTILINE)
    for call in calls:
        if "--settings" not in call:
            assert parse(call.split()).level in ("participant", "group"), call


def test_pictures_are_few_and_small():
    sizes = [path.stat().st_size for path in (DOCS / "pictures").iterdir()]
    assert len(sizes) <= 11
    assert max(sizes) <= 100_000
