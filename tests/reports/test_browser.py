"""The page works in a real browser, offline, from the file system."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bids_alsmri.reports.figures import draw_mosaic, draw_registration_pair, save_figure
from bids_alsmri.reports.page import (
    ErrorText,
    Figure,
    Page,
    QualityRow,
    Section,
    SettingRow,
    write_page,
)

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
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": []})
    resize(driver, 1280)
    driver.get("about:blank")
    for log in ("browser", "performance"):
        driver.get_log(log)
    driver.get(page_file.as_uri())
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


def test_console_stays_empty(opened: Any) -> None:
    assert opened.get_log("browser") == []


def test_only_the_file_itself_is_requested(opened: Any) -> None:
    events = [json.loads(entry["message"])["message"] for entry in opened.get_log("performance")]
    urls = [
        event["params"]["request"]["url"]
        for event in events
        if event["method"] == "Network.requestWillBeSent"
    ]
    outer = [url for url in urls if not url.startswith("data:")]
    assert outer == [opened.current_url]


def test_policy_stops_a_fetch(opened: Any) -> None:
    blocked = opened.execute_async_script(
        "const done = arguments[0];"
        "addEventListener('securitypolicyviolation', event => done(event.blockedURI));"
        "new Image().src = 'http://127.0.0.1:9/x.png';"
    )
    assert blocked.startswith("http://127.0.0.1:9")


def test_every_picture_is_there(opened: Any) -> None:
    widths = opened.execute_script(
        "return [...document.querySelectorAll('figure img')]"
        ".map(image => image.complete ? image.naturalWidth : 0)"
    )
    assert len(widths) == 3
    assert all(width > 0 for width in widths)


def test_script_in_the_data_does_not_run(opened: Any) -> None:
    assert opened.execute_script("return typeof window.hacked") == "undefined"
    assert HOSTILE in find(opened, "h1").text


@pytest.mark.parametrize("width", [1280, 768, 420, 320])
def test_page_never_scrolls_sideways(opened: Any, width: int) -> None:
    resize(opened, width)
    assert opened.execute_script("return document.documentElement.scrollWidth") <= width


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
