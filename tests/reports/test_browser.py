"""The page works in a real browser, offline, from the file system."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from bids_alsmri.reports.figures import draw_mosaic, draw_registration_pair, save_figure
from bids_alsmri.reports.group_maps import Effect, Volume, draw_effect, draw_significant
from bids_alsmri.reports.group_plots import GroupPanel, draw_groups
from bids_alsmri.reports.page import (
    ErrorText,
    Figure,
    Page,
    QualityRow,
    Section,
    SettingRow,
    write_page,
)
from bids_alsmri.reports.tables import Finding, Table

pytestmark = [pytest.mark.browser, pytest.mark.slow]

FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
HOSTILE = '<script>window.hacked = 1</script><img src=x onerror="window.hacked = 1">'


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    rng = np.random.default_rng(0)
    fixed, moved = rng.random((2, 12, 14, 10))
    before, after = draw_registration_pair(fixed, moved, (2.0, 2.0, 3.0), n_slices=3)
    pictures = {"mosaic.svg": draw_mosaic(fixed, (2.0, 2.0, 3.0), n_slices=3)}
    pictures |= {"before.svg": before, "after.png": after}
    for name, figure in pictures.items():
        save_figure(figure, folder / name)
    section = Section(
        "Diffusion",
        f"sub-01 {HOSTILE}",
        "done",
        figures=(
            Figure("Mosaic", HOSTILE, (folder / "mosaic.svg",)),
            Figure(
                "Registration",
                "Flip.",
                (folder / "before.svg", folder / "after.png"),
                "flicker",
                ("T1w", "b = 0"),
            ),
        ),
        quality=(QualityRow("A measure with quite a long name", 2.0, "mm", None, 1.0, "x " * 60),),
    )
    page = Page(
        title=f"sub-01{HOSTILE}",
        software="bids_alsmri",
        version="0.1.0",
        date=datetime(2024, 5, 2, tzinfo=UTC),
        command_line="bids_alsmri " + "/a/very/long/path" * 20,
        status="partial",
        sections=(section, Section("Anatomy", "sub-01", "failed", "no_break" * 40)),
        methods="Text.",
        settings=(SettingRow("--" + "a-long-name" * 8, "1"),),
        errors=(ErrorText("Anatomy", HOSTILE, HOSTILE),),
    )
    write_page(page, folder / "sub-01.html")
    # The page alone: were a picture not inside, it would be missing now.
    for name in pictures:
        (folder / name).unlink()
    return folder / "sub-01.html"


@pytest.fixture(scope="module")
def group_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("group")
    rng = np.random.default_rng(0)
    values = rng.normal(size=(12, 14, 10))
    affine = np.diag([2.0, 2.0, 3.0, 1.0])
    maps = [Volume(array, affine) for array in (values, values < 9, abs(values) > 1)]
    effect = Effect("FA, als - hc", "d", *maps, 0.001, 0.05, ("als > hc", "als < hc"))
    figures = {
        "effect.webp": draw_effect(effect, maps[0], background_label="FA", n_slices=3),
        "significant.webp": draw_significant(effect, maps[0], background_label="FA", n_slices=3),
        "regions.svg": draw_groups(
            [GroupPanel("CST", "FA", {"als": [0.4], "hc": [0.5]})], title="R"
        ),
    }
    for name, figure in figures.items():
        save_figure(figure, folder / name)
    regions = pd.DataFrame(
        {
            "region": [f"region {n} {'of a long name ' * 5}" for n in range(80)],
            "t": values[:8, :10, 0].ravel(),
        }
        | {f"column {n}": rng.random(80) for n in range(12)}
    )
    section = Section(
        "als - hc",
        "FA",
        "done",
        figures=(
            Figure("Effect", "c", (folder / "effect.webp", folder / "significant.webp"), "flicker"),
            Figure("Regions", "c", (folder / "regions.svg",)),
        ),
        tables=(
            Table("Short", HOSTILE, pd.DataFrame({"who": [HOSTILE], "t": [1.5]})),
            Table("Long", "c", regions),
        ),
    )
    findings = [
        Finding("FA", contrast, side, 12345, 235910, 0.0002, 12.34, -1.28)
        for contrast in ("als - hc", "fast - hc", "slow - hc", "fast - slow")
        for side in ("higher", "lower")
    ]
    page = Page(
        *(
            "Group analysis",
            "bids_alsmri",
            "0.1.0",
            datetime(2024, 5, 2, tzinfo=UTC),
            "bids_alsmri",
        ),
        status="done",
        sections=(section,),
        kind="group",
        findings=tuple(findings),
    )
    write_page(page, folder / "group.html")
    for name in figures:
        (folder / name).unlink()
    return folder / "group.html"


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    browser, agent = shutil.which("chromium"), shutil.which("chromedriver")
    if browser is None or agent is None:
        pytest.skip("chromium or chromedriver is not installed (Debian: chromium-driver)")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = browser
    profile = tmp_path_factory.mktemp("profile")
    for flag in (*FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    # The path is given: selenium would else look for a driver on the network.
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(agent))
    yield driver
    driver.quit()


@pytest.fixture
def opened(driver: Any, page_file: Path) -> Any:
    """The browser with the page freshly loaded, 1280 pixels wide, with empty logs."""
    return load(driver, page_file)


@pytest.fixture
def group(driver: Any, group_file: Path) -> Any:
    """The same with the page of a group."""
    return load(driver, group_file)


@pytest.fixture(params=["opened", "group"])
def either(request: pytest.FixtureRequest) -> Any:
    """The one and the other."""
    return request.getfixturevalue(request.param)


def load(driver: Any, file: Path) -> Any:
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": []})
    resize(driver, 1280)
    driver.get("about:blank")
    for log in ("browser", "performance"):
        driver.get_log(log)
    driver.get(file.as_uri())
    return driver


def resize(driver: Any, width: int) -> None:
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)


def find(driver: Any, selector: str) -> Any:
    return driver.find_element("css selector", selector)


def is_above(first: Any, second: Any) -> bool:
    # Heights come as whole pixels.
    return bool(first.rect["y"] + first.rect["height"] <= second.rect["y"] + 1)


def shown_opacity(driver: Any) -> float:
    """Opacity of the second picture: 0 shows the first, 1 the second."""
    frame = find(driver, ".flicker .frame + .frame")
    return float(frame.value_of_css_property("opacity"))


def test_console_stays_empty(either: Any) -> None:
    assert either.get_log("browser") == []


def test_only_the_file_itself_is_requested(either: Any) -> None:
    events = [json.loads(entry["message"])["message"] for entry in either.get_log("performance")]
    urls = [
        event["params"]["request"]["url"]
        for event in events
        if event["method"] == "Network.requestWillBeSent"
    ]
    outer = [url for url in urls if not url.startswith("data:")]
    assert outer == [either.current_url]


def test_policy_stops_a_fetch(opened: Any) -> None:
    blocked = opened.execute_async_script(
        "const done = arguments[0];"
        "addEventListener('securitypolicyviolation', event => done(event.blockedURI));"
        "new Image().src = 'http://127.0.0.1:9/x.png';"
    )
    assert blocked.startswith("http://127.0.0.1:9")


def test_every_picture_is_there(either: Any) -> None:
    widths = either.execute_script(
        "return [...document.querySelectorAll('figure img')]"
        ".map(image => image.complete ? image.naturalWidth : 0)"
    )
    assert len(widths) == 3
    assert all(width > 0 for width in widths)


def test_script_in_the_data_does_not_run(opened: Any) -> None:
    assert opened.execute_script("return typeof window.hacked") == "undefined"
    assert HOSTILE in find(opened, "h1").text


@pytest.mark.parametrize("width", [1280, 768, 420, 320])
def test_page_never_scrolls_sideways(either: Any, width: int) -> None:
    resize(either, width)
    either.execute_script("document.querySelectorAll('details').forEach(part => part.open = true)")
    assert either.execute_script("return document.documentElement.scrollWidth") <= width


def test_buttons_and_click_flip_the_picture(opened: Any) -> None:
    assert shown_opacity(opened) == 1
    find(opened, ".flicker .show[value='0']").click()
    assert shown_opacity(opened) == 0
    assert find(opened, ".show[value='0']").get_attribute("aria-pressed") == "true"
    assert find(opened, ".show[value='1']").get_attribute("aria-pressed") == "false"
    opened.execute_script("document.querySelector('.stage').click()")
    assert shown_opacity(opened) == 1


def test_keyboard_flips_and_blends(opened: Any) -> None:
    from selenium.webdriver.common.keys import Keys

    find(opened, ".flicker .show[value='0']").send_keys(Keys.SPACE)
    assert shown_opacity(opened) == 0
    find(opened, ".flicker .mix").send_keys(Keys.ARROW_RIGHT)
    assert shown_opacity(opened) == pytest.approx(0.05)  # one step of the slider


def seen_during(driver: Any, milliseconds: int) -> list[str]:
    """Values that the slider took, each once."""
    return sorted(
        driver.execute_async_script(
            "const done = arguments[1], seen = new Set(), mix = document.querySelector('.mix');"
            "const timer = setInterval(() => seen.add(mix.value), 20);"
            "setTimeout(() => { clearInterval(timer); done([...seen]); }, arguments[0]);",
            milliseconds,
        )
    )


def test_flicker_runs_until_stopped(opened: Any) -> None:
    button = find(opened, ".play")
    opened.execute_script("arguments[0].click()", button)
    assert button.get_attribute("aria-pressed") == "true"
    assert seen_during(opened, 1500) == ["0", "1"]  # two and a half periods of 600 ms
    opened.execute_script("arguments[0].click()", button)
    assert len(seen_during(opened, 800)) == 1


def test_flicker_waits_for_the_reader(opened: Any) -> None:
    assert seen_during(opened, 800) == ["1"]


def test_mouse_over_the_picture_flickers_it(opened: Any) -> None:
    from selenium.webdriver import ActionChains

    ActionChains(opened).move_to_element(find(opened, ".stage")).perform()
    assert seen_during(opened, 1500) == ["0", "1"]
    ActionChains(opened).move_to_element(find(opened, "h4")).perform()
    assert len(seen_during(opened, 800)) == 1


def test_reduced_motion_is_honoured(opened: Any) -> None:
    from selenium.webdriver import ActionChains

    reduce = [{"name": "prefers-reduced-motion", "value": "reduce"}]
    opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": reduce})
    assert not find(opened, ".play").is_displayed()
    ActionChains(opened).move_to_element(find(opened, ".stage")).perform()
    assert len(seen_during(opened, 800)) == 1
    find(opened, ".flicker .show[value='0']").click()
    assert shown_opacity(opened) == 0


def test_print_shows_both_pictures_and_no_controls(opened: Any) -> None:
    find(opened, ".flicker .show[value='0']").click()
    opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    frames = opened.find_elements("css selector", ".flicker .frame")
    assert shown_opacity(opened) == 1
    assert is_above(*frames)
    assert not find(opened, ".controls").is_displayed()
    assert not find(opened, "nav").is_displayed()


def test_picture_can_be_enlarged_and_closed(opened: Any) -> None:
    opened.execute_script("document.querySelector('button.still').click()")
    dialog = find(opened, "dialog")
    assert dialog.is_displayed()
    assert find(opened, "dialog strong").text == "Mosaic"
    find(opened, "dialog button").click()
    assert not dialog.is_displayed()


def test_without_script_both_pictures_are_shown(opened: Any, page_file: Path) -> None:
    opened.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        opened.get(page_file.as_uri())
        frames = opened.find_elements("css selector", ".flicker .frame")
        assert is_above(*frames)
        assert frames[1].value_of_css_property("opacity") == "1"
    finally:
        opened.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


def test_script_in_a_table_does_not_run(group: Any) -> None:
    assert group.execute_script("return typeof window.hacked") == "undefined"
    assert HOSTILE in find(group, "#p1-s1-t1 tbody").text


def test_findings_are_on_the_first_screen_and_lead_to_their_section(group: Any) -> None:
    link = find(group, ".findings td a")
    assert link.rect["y"] + link.rect["height"] < 900
    link.click()
    assert group.current_url.endswith("#p1-s1")
    top = group.execute_script(
        "return document.getElementById('p1-s1').getBoundingClientRect().top"
    )
    assert abs(top) < 60


def test_matrix_of_four_contrasts_fits_the_screen(group: Any) -> None:
    hidden = group.execute_script(
        "const box = document.querySelector('.findings .scroll');"
        "return box.scrollWidth - box.clientWidth;"
    )
    assert hidden == 0


def test_long_table_opens_at_a_click_and_keeps_its_head_in_sight(group: Any) -> None:
    table = "#p1-s1-t2"
    assert not find(group, f"{table} table").is_displayed()
    find(group, f"{table} summary").click()
    assert find(group, f"{table} table").is_displayed()
    scrolled = (
        "const box = document.querySelector(arguments[0] + ' .scroll'); box.scrollTop = 1e6;"
        "box.scrollLeft = 1e6; const top = box.getBoundingClientRect();"
        "const place = s => document.querySelector(arguments[0] + s).getBoundingClientRect();"
        "return [box.scrollTop, box.scrollLeft, place(' thead th').top - top.top,"
        "place(' tbody tr:last-child td').left - top.left];"
    )
    down, right, head_top, name_left = group.execute_script(scrolled, table)
    assert down > 100
    assert right > 100
    assert abs(head_top) <= 1
    assert abs(name_left) <= 1


def test_numbers_end_where_their_heading_ends(group: Any) -> None:
    find(group, "#p1-s1-t2 summary").click()
    rights = group.execute_script(
        "return [...document.querySelectorAll('#p1-s1-t2 tr')].map(row => { const range ="
        "document.createRange(); range.selectNodeContents(row.children[1]);"
        "return range.getBoundingClientRect().right; })"
    )
    assert len(rights) == 81
    assert max(rights) - min(rights) < 1


def test_print_shows_all_rows_of_a_long_table(group: Any) -> None:
    group.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    group.execute_script("dispatchEvent(new Event('beforeprint'))")
    hidden = group.execute_script(
        "const box = document.querySelector('#p1-s1-t2 .scroll');"
        "return box.scrollHeight - box.clientHeight;"
    )
    assert hidden <= 1
