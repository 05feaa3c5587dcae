"""Pages in a real Chromium, without a window; skipped where there is none."""

import io
import shutil
import tempfile

import numpy as np
import pytest
from omegaconf import OmegaConf
from PIL import Image

from evaluation.pages import comparison, report
from tests.pages import seen_by_page
from tests.quadrants import draw_split
from tests.test_report import Sloppy

webdriver = pytest.importorskip("selenium.webdriver")
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    not (BROWSER and DRIVER), reason="needs Chromium and its driver: apt-get install chromium chromium-driver"
)
QUIET = ("disable-background-networking", "disable-component-update", "disable-quic", "disable-sync", "no-first-run")


@pytest.fixture(scope="module")
def browser():
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    profile = tempfile.mkdtemp()
    for argument in ("headless", "no-sandbox", "disable-gpu", *QUIET, f"user-data-dir={profile}"):
        options.add_argument(f"--{argument}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()
    shutil.rmtree(profile, ignore_errors=True)


@pytest.fixture(scope="module")
def address(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("page")
    test, fit = draw_split("test", 9, part_maps=True), draw_split("training", 6, part_maps=True)
    report.write(folder, seen_by_page(Sloppy(), test, fit))
    return (folder / "report.html").as_uri()


@pytest.fixture
def page(browser, address):
    """The report, just opened; whatever a test does, the console stays silent."""
    browser.get(address)
    yield browser
    assert browser.get_log("browser") == []


def set_to(page, id: str, value: object) -> None:
    """As a reader would: the field, and the event that goes with it."""
    page.execute_script(
        "const field = document.getElementById(arguments[0]);"
        "field[field.type === 'checkbox' ? 'checked' : 'value'] = arguments[1];"
        "field.dispatchEvent(new Event('input')); field.dispatchEvent(new Event('change'));",
        id,
        value,
    )


def shown(page, attribute: str) -> list[str]:
    """What the visible pictures of the grid have, in their order."""
    return page.execute_script(
        "return [...document.querySelectorAll('#grid > li')].filter((item) => item.offsetParent)"
        ".map((item) => item.getAttribute(arguments[0]))",
        f"data-{attribute}",
    )


def opacity(page, kind: str) -> float:
    return float(page.execute_script(f"return getComputedStyle(document.querySelector('#grid .{kind}')).opacity"))


def test_the_slider_changes_how_much_of_the_parts_is_seen(page):
    assert opacity(page, "found") == 0.6
    set_to(page, "opacity", 0)
    assert opacity(page, "found") == 0
    set_to(page, "opacity", 100)
    assert opacity(page, "found") == 1


def test_the_slider_moves_by_keyboard(page):
    from selenium.webdriver.common.keys import Keys

    page.find_element("id", "opacity").send_keys(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
    assert opacity(page, "found") == pytest.approx(0.7)


@pytest.mark.parametrize("by", ["agreement", "area"])
def test_pictures_are_sorted_by_what_is_asked_for(page, by):
    set_to(page, "sort", by)
    values = [float(value) for value in shown(page, by)]
    assert len(values) == 9 and values == sorted(values) and len(set(values)) > 2
    set_to(page, "reversed", True)
    assert [float(value) for value in shown(page, by)] == sorted(values, reverse=True)


def test_pictures_are_sorted_by_name_and_by_the_area_of_a_part(page):
    set_to(page, "sort", "name")
    assert shown(page, "name") == sorted(shown(page, "name"))
    set_to(page, "sort", "0")
    of_part = [float(areas.split(" ")[0]) for areas in shown(page, "areas")]
    assert of_part == sorted(of_part) and len(set(of_part)) > 2


def test_a_class_is_shown_alone_and_counted(page):
    assert page.find_element("id", "count").text == "9 pictures"
    set_to(page, "class", "2")
    assert shown(page, "class") == ["2", "2", "2"]
    assert page.find_element("id", "count").text == "3 of 9 pictures"


def test_true_parts_take_the_place_of_those_found(page):
    layers = page.find_elements("css selector", "#grid li:first-child .over")
    assert [layer.is_displayed() for layer in layers] == [True, False]
    page.find_element("css selector", "input[value=true]").click()
    assert [layer.is_displayed() for layer in layers] == [False, True]


def test_the_legend_is_of_what_is_shown_in_the_grid_and_in_the_dialog(browser, tmp_path):
    test, fit = draw_split("test", 3, part_maps=True), draw_split("training", 3, part_maps=True)
    overrides = ("part_names=[wing,head,tail,belly]",)
    report.write(tmp_path, seen_by_page(Sloppy(), test, fit, overrides=overrides))
    (page := browser).get((tmp_path / "report.html").as_uri())

    def legends() -> list[list[str]]:
        return [[item.text for item in own.find_elements("tag name", "li") if item.is_displayed()] for own in lists]

    lists = page.find_elements("css selector", ".legend")
    found = ["part 1: wing", "part 2: head", "part 3: tail", "part 4: belly"]
    assert legends() == [found, []]
    page.find_element("css selector", "input[value=true]").click()
    page.find_element("css selector", "#grid button").click()
    assert legends() == [test.part_names, test.part_names] and len(lists) == 2
    assert page.switch_to.active_element.text == "Next"


def test_a_picture_opens_larger_by_keyboard_and_closes_again(page):
    from selenium.webdriver.common.keys import Keys

    button = page.find_element("css selector", "#grid button")
    button.send_keys(Keys.ENTER)
    dialog = page.find_element("id", "larger")
    assert dialog.is_displayed() and "test/0.jpg" in dialog.text
    width = "return document.querySelector(arguments[0]).getBoundingClientRect().width"
    assert page.execute_script(width, "#larger .layers") > 1.5 * page.execute_script(width, "#grid .layers")
    page.switch_to.active_element.send_keys(Keys.ESCAPE)
    assert not dialog.is_displayed()


def in_dialog(page) -> str:
    """Name of the picture that is open."""
    return page.find_element("css selector", "#larger img").get_attribute("alt").partition(":")[0]


def test_arrow_keys_go_through_the_open_pictures_as_they_are_filtered_and_sorted(page):
    from selenium.webdriver.common.keys import Keys

    set_to(page, "class", "2")
    set_to(page, "sort", "area")
    set_to(page, "reversed", True)
    names = shown(page, "name")
    assert len(names) == 3 and names != sorted(names)
    page.find_element("css selector", "#grid li:not([hidden]) button").send_keys(Keys.ENTER)
    seen = [in_dialog(page)]
    for key in (Keys.ARROW_RIGHT, Keys.ARROW_RIGHT, Keys.ARROW_RIGHT, Keys.ARROW_LEFT):
        page.switch_to.active_element.send_keys(key)
        seen.append(in_dialog(page))
    assert seen == [*names, names[2], names[1]], "there is none after the last"
    assert "2 of 3" in page.find_element("id", "larger").text
    page.find_element("css selector", "#larger button[value='-1']").click()
    assert in_dialog(page) == names[0]
    page.switch_to.active_element.send_keys(Keys.ESCAPE)
    assert page.switch_to.active_element.get_attribute("title") == names[0], "the reader is where the picture is"


def test_keypoints_are_white_and_have_their_numbers_where_the_picture_is_large(browser, tmp_path):
    report.write(tmp_path, seen_by_page(Sloppy(), draw_split("test", 3), draw_split("training", 3)))
    (page := browser).get((tmp_path / "report.html").as_uri())
    page.find_element("id", "points").click()
    page.find_element("css selector", "#grid button").click()
    style = "return getComputedStyle(document.querySelector(arguments[0]))[arguments[1]]"
    assert page.execute_script(style, "#larger circle", "fill") == "rgb(255, 255, 255)"
    numbers = page.find_elements("css selector", "#larger svg text")
    assert [number.text for number in numbers] == ["1", "2", "3", "4"]
    assert page.execute_script(style, "#grid svg text", "display") == "none"
    assert "2 b" in page.find_element("css selector", "#larger .legend").text


def test_every_picture_has_a_text_or_says_that_it_needs_none(page):
    texts = page.execute_script("return [...document.images].map((own) => own.getAttribute('alt'))")
    loaded = page.execute_script("return [...document.images].every((own) => own.complete && own.naturalWidth > 0)")
    assert texts and None not in texts and loaded
    unnamed = page.execute_script(
        "return [...document.querySelectorAll('input, select')].filter((field) => !field.closest('label')).length"
    )
    assert unnamed == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 1600])
def test_the_page_is_as_wide_as_the_window_and_readable_in_light_and_dark(page, address, width, scheme):
    page.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    )
    page.execute_cdp_cmd(
        "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    )
    page.get(address)
    assert page.execute_script("return document.documentElement.scrollWidth") <= width
    colours = page.execute_script(
        "const style = getComputedStyle(document.body); return [style.color, style.backgroundColor]"
    )
    text, ground = (luminance(colour) for colour in colours)
    assert (max(text, ground) + 0.05) / (min(text, ground) + 0.05) > 7
    assert (text > ground) == (scheme == "dark")


def test_a_chip_at_the_left_of_a_table_has_a_border_on_every_side(browser, address):
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": 1000, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    )
    browser.get(address)
    chip = browser.find_element("css selector", ".scroll tbody .chip")
    browser.execute_script("arguments[0].scrollIntoView({ block: 'center' })", chip)
    left, top, right, bottom = browser.execute_script(
        "const at = arguments[0].getBoundingClientRect(); return [at.left, at.top, at.right, at.bottom]", chip
    )
    picture = Image.open(io.BytesIO(browser.get_screenshot_as_png())).convert("RGB")
    seen = np.asarray(picture).astype(int)[round(top) - 3 : round(bottom) + 3, round(left) - 3 : round(right) + 3]
    muted = (abs(seen - seen[len(seen) // 2, len(seen[0]) // 2]).sum(-1) > 60) & (abs(seen - seen[0, 0]).sum(-1) > 60)
    middle = muted[len(muted) // 2]
    assert middle[:5].any() and middle[-5:].any() and muted[:5, 9].any() and muted[-5:, 9].any()


def luminance(colour: str) -> float:
    """That of WCAG, of ``rgb(r, g, b)``."""
    numbers = [int(value) / 255 for value in colour.removeprefix("rgb(").rstrip(")").split(",")]
    red, green, blue = (own / 12.92 if own <= 0.04045 else ((own + 0.055) / 1.055) ** 2.4 for own in numbers)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("width", [400, 1600])
def test_a_comparison_shows_photographs_in_every_column_and_has_a_slider(browser, tmp_path, width):
    samples = draw_split("test", 2, part_maps=True).samples
    maps = {sample.name: sample.part_map for sample in samples}
    config = OmegaConf.create({"opacity": 0.6})
    (page, *_) = comparison.write(tmp_path, config, samples, [comparison.Column(title, maps) for title in "abc"])
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    )
    browser.get(page.as_uri())
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    seen = browser.execute_script("return [...document.images].map((own) => [own.naturalWidth > 0, own.alt])")
    assert all(loaded for loaded, _ in seen)
    assert sum(text.startswith("test/") and "part 1" in text for _, text in seen) == 2 * 3
    over = "return getComputedStyle(document.querySelector('.over')).opacity"
    assert browser.execute_script(over) == "0.6"
    set_to(browser, "opacity", 0)
    assert browser.execute_script(over) == "0" and browser.get_log("browser") == []
