"""The page is one safe, complete, repeatable file."""

from __future__ import annotations

import base64
import dataclasses
import os
import re
import urllib.parse
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bids_alsmri.errors import ExitCode, RunError, SettingsError
from bids_alsmri.reports.page import (
    ErrorText,
    Figure,
    OutputFile,
    Page,
    QualityRow,
    Reference,
    Section,
    SettingRow,
    StepTime,
    render_page,
    write_page,
)
from bids_alsmri.reports.tables import LONGEST_OPEN, Finding, Table

HOSTILE = '<script>window.hacked = 1</script>"\'&<img src=x onerror="window.hacked = 1">'
VOID = {"meta", "link", "img", "input", "br", "hr", "rect"}
SVG = b'<svg xmlns="http://www.w3.org/2000/svg" width="8" height="4"><path d="M0 0h8v4z"/></svg>'


class Reader(HTMLParser):
    """Elements, text and whether every element is closed in the order of its opening."""

    def __init__(self) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.open: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def read(html: str) -> Reader:
    reader = Reader()
    reader.feed(html)
    reader.close()
    return reader


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "picture.svg"
    path.write_bytes(SVG)
    return path


@pytest.fixture
def page(picture: Path) -> Page:
    section = Section(
        pipeline="Diffusion",
        scan="sub-01 dir-AP",
        status="done",
        sources=("sub-01/dwi/sub-01_dir-AP_dwi.nii.gz",),
        warnings=("One shell only.",),
        notes=("No unringing.",),
        figures=(
            Figure("Colour FA", "Red is left-right.", (picture,)),
            Figure("Registration", "Flip.", (picture, picture), "flicker", ("T1w", "b = 0")),
        ),
        quality=(
            QualityRow("Displacement", 2.5, "mm", None, 1.0, "Motion"),
            QualityRow("SNR", 20.0, "", 10.0, None, "Signal to noise"),
            QualityRow("Residual", float("nan"), "%", None, 10.0, "Fit"),
        ),
        timing=(StepTime("fit", 65.0, 0.8), StepTime("denoise", 5.0)),
    )
    return Page(
        title="sub-01",
        software="bids_alsmri",
        version="0.1.0",
        date=datetime(2024, 5, 2, 14, 3, tzinfo=UTC),
        command_line="bids_alsmri in out participant",
        status="partial",
        sections=(
            section,
            Section("Diffusion", "sub-01 dir-PA", "failed", "bvec has 20 columns"),
            Section("Anatomy", "sub-01 T1w", "reused", "same settings"),
            Section("Sodium", "sub-01", "skipped", "no image"),
        ),
        methods="# Steps\n\nDenoised [@veraart; @avants] with *care*.\n\n- one\n- two",
        references=(
            Reference("avants", "Avants 2008", "10.1016/j.media"),
            Reference("veraart", "V"),
        ),
        settings=(SettingRow("--seed", "42", "", "command line"), SettingRow("--mode", "best")),
        errors=(ErrorText("Diffusion, dir-PA", "bvec has 20 columns", "Traceback ..."),),
        outputs=(OutputFile("sub-01/dwi/fa.nii.gz", "FA"),),
    )


@pytest.fixture
def group_page(page: Page) -> Page:
    """With a short, a long and an empty table, and findings of all kinds."""
    frame = pd.DataFrame({"region": ["CST R", "CST L"], "volume_mm3": [1204, 96]})
    tables = (
        Table("Clusters", "One per row.", frame, note="Biased upward.", path="group/clusters.tsv"),
        Table("Rows", "Many.", pd.DataFrame({"row": range(LONGEST_OPEN + 1)})),
        Table("Left out", "Scans.", frame.iloc[:0], empty="Nobody was left out."),
    )
    sections = (
        Section("als - hc", "FA", "done", tables=tables),
        Section("fast - hc", "FA", "done", tables=tables[:1]),
    )
    return dataclasses.replace(
        page,
        kind="group",
        sections=(*sections, *page.sections),
        findings=(
            Finding("FA", "als - hc", "lower", 1204, 98321, 0.0002, 6.13, -1.42),
            Finding("FA", "fast - hc", "lower", 0, 98321, 0.21, 3.0, -0.4),
            Finding("TSC", "als - hc", "higher", reason="no map"),
        ),
    )


@pytest.fixture(params=["page", "group_page"])
def any_page(request: pytest.FixtureRequest) -> Page:
    found: Page = request.getfixturevalue(request.param)
    return found


def with_table(head: Section, **changes: object) -> Section:
    table = Table("t", "c", pd.DataFrame({"a": ["x"]}))
    return dataclasses.replace(head, tables=(dataclasses.replace(table, **changes),))


def with_text_at(page: Page, place: str, text: str) -> Page:
    """The page with `text` in one of the places that dataset or user can fill."""
    head, *others = page.sections
    table_changes: dict[str, dict[str, object]] = {
        "table": {"title": text, "caption": text, "note": text, "path": text},
        "heading": {"headings": {"a": text}},
        "column": {"frame": pd.DataFrame({text: ["x"]})},
        "cell": {"frame": pd.DataFrame({"a": [text]})},
        "empty table": {"frame": pd.DataFrame({"a": []}), "empty": text},
    }
    if place in table_changes:
        sections = (with_table(head, **table_changes[place]), *others)
        return dataclasses.replace(page, sections=sections)
    changes = {
        "finding": {"findings": (Finding(text, text, "lower", 1, 2, effect_name=text),)},
        "reason of a finding": {"findings": (Finding("FA", "c", "lower", reason=text),)},
        "title": {"title": text},
        "command line": {"command_line": text},
        "methods": {"methods": text},
        "reference": {"references": (Reference("k", text, text),)},
        "setting": {"settings": (SettingRow(text, text, text, text),)},
        "error": {"errors": (ErrorText(text, text, text),)},
        "output": {"outputs": (OutputFile(text, text),)},
        "scan": {"sections": (dataclasses.replace(head, scan=text), *others)},
        "pipeline": {"sections": (dataclasses.replace(head, pipeline=text), *others)},
        "reason": {"sections": (dataclasses.replace(head, reason=text), *others)},
        "source": {"sections": (dataclasses.replace(head, sources=(text,)), *others)},
        "warning": {"sections": (dataclasses.replace(head, warnings=(text,)), *others)},
        "note": {"sections": (dataclasses.replace(head, notes=(text,)), *others)},
        "caption": {
            "sections": (
                dataclasses.replace(
                    head,
                    figures=tuple(
                        dataclasses.replace(figure, title=text, caption=text, labels=(text, text))
                        for figure in head.figures
                    ),
                ),
                *others,
            )
        },
        "quality": {
            "sections": (
                dataclasses.replace(head, quality=(QualityRow(text, 2.0, text, 0.0, 1.0, text),)),
                *others,
            )
        },
        "step": {
            "sections": (dataclasses.replace(head, timing=(StepTime(text, 1.0),)), *others),
        },
    }
    return dataclasses.replace(page, **changes[place])


PLACES = (
    *("title", "command line", "methods", "reference", "setting", "error", "output", "scan"),
    *("pipeline", "reason", "source", "warning", "note", "caption", "quality", "step"),
    *("table", "heading", "column", "cell", "empty table", "finding", "reason of a finding"),
)


@pytest.mark.parametrize("place", PLACES)
def test_text_of_the_dataset_is_shown_and_never_obeyed(page: Page, place: str) -> None:
    plain, hostile = read(render_page(page)), read(render_page(with_text_at(page, place, HOSTILE)))
    scripts = [attributes for tag, attributes in hostile.elements if tag == "script"]
    assert scripts == [{}]  # the page's own
    assert not any(name.startswith("on") for _, attrs in hostile.elements for name in attrs)
    assert sum(tag == "img" for tag, _ in hostile.elements) == sum(
        tag == "img" for tag, _ in plain.elements
    )
    assert HOSTILE in "".join(hostile.text)


def test_every_element_is_closed_in_order(any_page: Page) -> None:
    assert read(render_page(any_page)).open == []


def test_an_independent_parser_finds_no_structural_error(any_page: Page) -> None:
    etree = pytest.importorskip("lxml.etree", reason="lxml is not installed")
    parser = etree.HTMLParser(recover=True)
    etree.fromstring(render_page(any_page).encode(), parser)
    # libxml2 knows HTML 4: elements that came later are "invalid tags" and no fault.
    faults = [e.message for e in parser.error_log if "Tag" not in e.message]
    assert faults == []


def test_nothing_is_fetched_from_elsewhere(any_page: Page) -> None:
    html = render_page(any_page)
    for tag, attributes in read(html).elements:
        assert attributes.get("src", "data:").startswith("data:")
        allowed = ("#", "./", "https://doi.org/") if tag == "a" else ("data:",)
        assert attributes.get("href", allowed[0]).startswith(allowed)
    without_pictures = re.sub(r"data:[^\"]*", "", html)
    assert not re.search(r"url\(|@import|fetch\(|XMLHttp|srcset", without_pictures)


def test_policy_forbids_every_fetch_but_data(any_page: Page) -> None:
    policies = [
        attributes["content"]
        for tag, attributes in read(render_page(any_page)).elements
        if attributes.get("http-equiv") == "Content-Security-Policy"
    ]
    assert len(policies) == 1
    directives = dict(part.strip().split(" ", 1) for part in policies[0].split(";"))
    assert directives["default-src"] == "'none'"
    assert directives["img-src"] == "data:"
    assert "http" not in policies[0]


@pytest.mark.parametrize("path", ["javascript:alert(1)", "//host/file", "a b/ü#?.tsv"])
def test_output_names_never_become_another_address(page: Page, path: str) -> None:
    html = render_page(dataclasses.replace(page, outputs=(OutputFile(path),)))
    links = [attrs["href"] for tag, attrs in read(html).elements if tag == "a"]
    assert links[-1].startswith("./")
    assert not set(links[-1]) & set(" #?:")


def embedded(html: str) -> list[tuple[str, bytes]]:
    """Media type and bytes of each picture, read as RFC 2397 has it."""
    found = []
    for _, attributes in read(html).elements:
        if "src" in attributes:
            head, _, content = attributes["src"].removeprefix("data:").partition(",")
            media, *parameters = head.split(";")
            raw = urllib.parse.unquote_to_bytes(content)
            found.append(
                (media, base64.b64decode(raw, validate=True) if "base64" in parameters else raw)
            )
    return found


def test_pictures_are_embedded_byte_for_byte(page: Page) -> None:
    assert embedded(render_page(page)) == [("image/svg+xml", SVG)] * 3


@given(content=st.binary(min_size=1), ending=st.sampled_from(["svg", "png", "webp"]))
@settings(max_examples=30, deadline=None)
def test_any_bytes_survive_embedding(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, ending: str
) -> None:
    path = tmp_path_factory.mktemp("picture") / f"a.{ending}"
    path.write_bytes(content)
    page = Page("p", "s", "1", datetime(2024, 5, 2, tzinfo=UTC), "c", "done")
    section = Section("D", "s", "done", figures=(Figure("t", "c", (path,)),))
    html = render_page(dataclasses.replace(page, sections=(section,)))
    assert [found for _, found in embedded(html)] == [content]


def test_every_picture_has_a_text_in_its_place(page: Page) -> None:
    pictures = [attrs for tag, attrs in read(render_page(page)).elements if "src" in attrs]
    assert pictures
    assert all(attrs["alt"] for attrs in pictures)


def test_identifiers_are_unique_and_links_arrive(any_page: Page) -> None:
    elements = read(render_page(any_page)).elements
    names = [attributes["id"] for _, attributes in elements if "id" in attributes]
    assert len(names) == len(set(names))
    anchors = {
        attributes["href"][1:]
        for _, attributes in elements
        if attributes.get("href", "").startswith("#")
    }
    assert anchors
    assert anchors <= set(names)


def test_same_page_gives_same_bytes(any_page: Page, tmp_path: Path) -> None:
    first, second = tmp_path / "first.html", tmp_path / "second.html"
    write_page(any_page, first)
    write_page(any_page, second)
    assert first.read_bytes() == second.read_bytes()


def test_missing_picture_leaves_a_notice(page: Page, tmp_path: Path) -> None:
    section = Section("D", "s", "failed", figures=(Figure("t", "c", (tmp_path / "gone.svg",)),))
    html = render_page(dataclasses.replace(page, sections=(section,)))
    assert "The picture gone.svg was not made" in html


def test_only_the_page_is_left_in_the_folder(page: Page, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    write_page(page, folder / "sub-01.html")
    write_page(page, folder / "sub-01.html")
    assert [path.name for path in folder.iterdir()] == ["sub-01.html"]


def test_page_gets_the_permissions_of_an_ordinary_file(page: Page, tmp_path: Path) -> None:
    ordinary = tmp_path / "ordinary"
    ordinary.touch()
    write_page(page, tmp_path / "sub-01.html")
    assert (tmp_path / "sub-01.html").stat().st_mode == ordinary.stat().st_mode


def test_older_page_survives_a_full_disk(
    page: Page, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "sub-01.html").write_text("older")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunError, match=r"sub-01\.html.*No space left.*make room") as caught:
        write_page(page, folder / "sub-01.html")
    assert caught.value.exit_code == ExitCode.CANNOT_WRITE
    assert [path.read_text() for path in folder.iterdir()] == ["older"]


def test_file_names_that_are_no_text_do_not_stop_the_page(page: Page, tmp_path: Path) -> None:
    odd = os.fsdecode(b"sub-\xff.nii.gz")
    section = Section("D", "s", "failed", f"{odd} is broken", sources=(odd,))
    outputs = (OutputFile(odd),)
    write_page(dataclasses.replace(page, sections=(section,), outputs=outputs), tmp_path / "p.html")
    assert r"sub-\udcff.nii.gz" in (tmp_path / "p.html").read_text("utf-8")


@pytest.mark.parametrize(
    ("value", "low", "high", "verdict"),
    [
        (0.5, 0.0, 1.0, "inside"),
        (0.0, 0.0, 1.0, "inside"),
        (1.0, 0.0, 1.0, "inside"),
        (-0.1, 0.0, None, "outside"),
        (1.1, None, 1.0, "outside"),
        (-5.0, None, 1.0, "inside"),
        (7.0, None, None, "unjudged"),
        (float("nan"), 0.0, 1.0, "missing"),
        (float("inf"), 0.0, None, "missing"),
    ],
)
def test_value_is_judged_by_its_range(
    value: float, low: float | None, high: float | None, verdict: str
) -> None:
    assert QualityRow("n", value, "", low, high, "").verdict == verdict


def test_bad_values_are_marked_by_sign_and_listed_on_top(page: Page) -> None:
    text = "".join(read(render_page(page)).text)
    assert "▲ too high" in text
    assert "? missing" in text
    top = text[: text.index("Command line")]
    assert "Displacement: 2.5 mm (sensible: at most 1 mm)" in top
    assert "SNR" not in top[top.index("Look at these first") :]


def test_every_scan_stands_in_the_summary_with_its_reason(page: Page) -> None:
    text = "".join(read(render_page(page)).text)
    top = text[: text.index("Command line")]
    for section in page.sections:
        assert section.scan in top
        assert section.reason in top


def test_clean_run_says_so(page: Page) -> None:
    section = Section("D", "s", "done", quality=(QualityRow("n", 0.5, "", 0, 1, ""),))
    html = render_page(dataclasses.replace(page, sections=(section,), errors=()))
    assert "No error, no warning" in html
    assert "Look at these first" not in html


def test_references_are_numbered_by_first_citation(page: Page) -> None:
    text = "".join(read(render_page(page)).text)
    assert "Denoised [1, 2] with care." in text
    assert text.index("V", text.index("References")) < text.index("Avants 2008")


def test_unknown_citation_stays_visible(page: Page) -> None:
    html = render_page(dataclasses.replace(page, methods="As shown [@nobody2020]."))
    assert "As shown [@nobody2020]." in html


def test_methods_know_headings_lists_and_code(page: Page) -> None:
    methods = "## A & B\nText `x < 1` **bold**.\n\n- one\n- two\n  more"
    html = render_page(dataclasses.replace(page, methods=methods))
    assert "<h3>A &amp; B</h3>" in html
    assert "<code>x &lt; 1</code> <strong>bold</strong>" in html
    assert "<li>one</li><li>two\n  more</li>" in html


def test_page_without_tables_carries_nothing_for_them(page: Page) -> None:
    html = render_page(page)
    for trace in (".findings", 'class="table"', ".table ", "Comparison"):
        assert trace not in html


def test_group_page_speaks_of_comparisons_and_parts(group_page: Page) -> None:
    text = "".join(read(render_page(group_page)).text)
    assert "Comparison" in text
    assert "some parts failed" in text
    assert "What ran: 6 parts" in text
    assert "scans" not in text[: text.index("What ran")]


def test_findings_stand_before_all_else(group_page: Page) -> None:
    text = "".join(read(render_page(group_page)).text)
    place = text.index("Results at a glance")
    assert place < text.index("Look at these first")
    assert text.index("1,204 of 98,321") > place
    assert "none of 98,321" in text
    assert "not tested: no map" in text
    assert "not asked for" in text  # TSC in the second contrast


def test_finding_leads_to_the_section_of_its_map_and_contrast(group_page: Page) -> None:
    html = render_page(group_page)
    links = dict(
        re.findall(r'<a href="#([^"]+)">(?:<strong>)?([^<]*of 98,321)', html),
    )
    assert links == {"p1-s1": "1,204 of 98,321", "p2-s1": "none of 98,321"}
    for anchor, title in (("p1-s1", "FA"), ("p2-s1", "FA")):
        assert re.search(rf'id="{anchor}-title">{title}<', html)
    assert html.index('id="p1"') < html.index('id="p1-s1"') < html.index('id="p2"')
    assert re.search(r'id="p2">fast - hc<', html)


def test_every_cell_of_a_table_is_shown_in_its_row(group_page: Page) -> None:
    html = render_page(group_page)
    body = html[html.index('id="p1-s1-t1"') : html.index('id="p1-s1-t2"')]
    rows = [re.findall(r"<td[^>]*>([^<]*)</td>", row) for row in re.findall("<tr>.*?</tr>", body)]
    assert rows == [[], ["CST R", "1,204"], ["CST L", "96"]]
    assert 'class="num">1,204' in body
    assert 'href="./group/clusters.tsv"' in body
    assert "Biased upward." in body


def test_long_table_is_folded_and_an_empty_one_says_so(group_page: Page) -> None:
    html = render_page(group_page)
    short, long, empty = (
        html[html.index(f'id="p1-s1-t{n}"') : html.index(end)]
        for n, end in ((1, 'id="p1-s1-t2"'), (2, 'id="p1-s1-t3"'), (3, 'id="p2"'))
    )
    assert "<details>" not in short
    assert f"Show all {LONGEST_OPEN + 1} rows" in long
    assert "Nobody was left out." in empty
    assert "<td" not in empty


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: Page("p", "s", "1", datetime(2024, 5, 2), "c", "done", kind="cohort"),
            "kind 'cohort'; give one of participant, group",
        ),
        (
            lambda: Page(
                *("p", "s", "1", datetime(2024, 5, 2), "c", "done"),
                findings=(Finding("FA", "c", "lower"),) * 2,
            ),
            "two findings of 'FA'",
        ),
        (lambda: Section("D", "s", "finished"), "status 'finished'.*done, reused"),
        (lambda: Figure("t", "c", (Path("a.svg"),), "flicker"), "1 files; give 2"),
        (lambda: Figure("t", "c", (Path("a.svg"),), "film"), "kind 'film'"),
        (lambda: Figure("t", "c", (Path("a.jpg"),)), r"a\.jpg is neither \.svg nor \.png"),
    ],
)
def test_impossible_content_is_refused(make: object, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        make()  # type: ignore[operator]
