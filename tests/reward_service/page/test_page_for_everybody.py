"""The page without a mouse, without eyes, in a narrow window, in the dark."""

from __future__ import annotations

from itertools import pairwise

import pytest
from selenium.webdriver.common.keys import Keys

from tests.reward_service.page.test_page_scores import choose

INTERACTIVE = {"button", "link", "textbox", "radio", "DisclosureTriangle"}


@pytest.fixture
def page(browser, url):
    """The page with a scored trajectory."""
    browser.open(url)
    browser.until_text("#recipe-body", "Shaping")
    browser.score()
    return browser


def test_the_keyboard_alone_reaches_everything_in_reading_order(browser, url):
    browser.open(url)
    order = []
    for _ in range(7):
        browser.press(Keys.TAB)
        order.append(browser.focused())
    skip = ""
    assert order == [skip, "copy-version", "key", *order[3:4], "example-steps", "trajectory", "score"]


def test_the_skip_link_is_seen_when_it_has_the_focus_and_leads_to_the_playground(browser, url):
    browser.open(url)
    browser.press(Keys.TAB)
    assert browser.one(".skip").location["y"] >= 0
    browser.press(Keys.ENTER)
    assert browser.focused() == "playground"
    browser.press(Keys.TAB)
    assert browser.focused() == "example-steps"


def test_a_trajectory_is_chosen_edited_and_scored_without_a_mouse(browser, url):
    browser.open(url)
    while browser.focused() != "example-steps":
        browser.press(Keys.TAB)
    browser.press(Keys.ARROW_DOWN)
    assert "call_1" in browser.one("#trajectory").get_attribute("value")
    browser.press(Keys.ARROW_UP)
    browser.press(Keys.TAB)
    assert browser.focused() == "trajectory"
    browser.press_together(Keys.CONTROL, Keys.ENTER)
    browser.until_text("#summary", "Scored: 5 steps")
    # Ctrl+Enter neither moved the focus nor wrote a line.
    assert browser.focused() == "trajectory"
    assert browser.one("#trajectory").get_attribute("value").endswith("}")
    browser.press(Keys.TAB)
    browser.press(Keys.SPACE)
    assert browser.focused() == "score"


def test_whatever_has_the_focus_shows_it(browser, url):
    outline = "const style = getComputedStyle(document.activeElement); return [style.outlineStyle, style.outlineWidth]"
    browser.open(url)
    for _ in range(7):
        browser.press(Keys.TAB)
        assert browser.run(outline) == ["solid", "2px"]


def test_every_control_has_a_name(page):
    nodes = [node for node in page.tree() if node["role"] in INTERACTIVE]
    assert [node for node in nodes if not node["name"].strip()] == []
    names = {node["name"] for node in nodes}
    assert {"API key", "Trajectory, as JSON", "Score", "Copy", "Steps", "Skip to the playground"} <= names


def test_every_label_stands_for_a_field(page):
    labels = page.run("return [...document.querySelectorAll('label')].map((label) => label.control?.id ?? null)")
    assert len(labels) == 5
    assert None not in labels


def test_landmarks_lead_through_the_page(page):
    found = [(node["role"], node["name"]) for node in page.tree()]
    roles = [role for role, _ in found]
    assert roles.count("main") == roles.count("banner") == 1
    regions = [name for role, name in found if role == "region"]
    assert regions == ["Traffic", "Recipe", "Playground", "Result"]


def test_headings_go_down_one_level_at_a_time(page):
    levels = [node["level"] for node in page.tree() if node["role"] == "heading"]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))


@pytest.mark.parametrize(("width", "step"), [(1280, ""), (320, "Step ")])
def test_the_steps_are_a_table_for_a_screen_reader_at_any_width(browser, url, width, step):
    browser.screen(width, 900)
    browser.open(url)
    browser.score()
    found = [(node["role"], node["name"]) for node in browser.tree()]
    assert ("table", "Steps of lamp") in found
    assert [name for role, name in found if role == "columnheader"][-4:] == [
        "Step",
        "What happened",
        "Reward",
        "Made of",
    ]
    assert [name for role, name in found if role == "rowheader"][-5:] == [f"{step}{index}" for index in range(5)]
    assert sum(role == "row" for role, _ in found) >= 6


def test_a_bar_is_told_in_words_and_is_itself_silent(page):
    assert all(bar.get_attribute("aria-hidden") == "true" for bar in page.all(".bar"))
    item = page.one(".parts li").text.split()
    assert item == ["step", "cost", "−0.10", "1", "×", "−0.1"]


def test_what_happens_is_told_without_taking_the_focus(page):
    live = {
        "summary": "status",
        "readiness": "status",
        "copied": "status",
        "trajectory-error": "alert",
        "key-error": "alert",
    }
    assert {name: page.one(f"#{name}").get_attribute("role") for name in live} == live
    assert page.focused() == "score"


def test_an_error_belongs_to_its_field(page):
    page.write_trajectory("{")
    page.score(expect="Not scored")
    described = page.one("#trajectory").get_attribute("aria-describedby").split()
    assert "trajectory-error" in described
    (field,) = [node for node in page.tree() if node["name"] == "Trajectory, as JSON" and node["role"] == "textbox"]
    assert field["invalid"] == "true"


@pytest.mark.parametrize("example", ["steps", "hostile"])
@pytest.mark.parametrize(("width", "scale"), [(320, 1.0), (640, 2.0)], ids=["320 px", "1280 px at 200 %"])
def test_nothing_runs_over_the_side_of_a_narrow_window(browser, url, example, width, scale):
    browser.screen(width, 450, scale)
    browser.open(url)
    choose(browser, example)
    browser.score()
    assert browser.run("return document.documentElement.scrollWidth") <= width
    assert overflowing(browser) == []


def test_text_of_twice_the_size_still_fits(page):
    page.run("document.documentElement.style.fontSize = '200%'")
    assert page.run("return document.documentElement.scrollWidth") <= 1280
    assert overflowing(page) == []


def overflowing(browser):
    """Elements whose text is cut or lies beyond the window."""
    return browser.run("""
        const shown = [...document.querySelectorAll('main *, header *')].filter((one) => one.checkVisibility()
          && !one.closest('textarea, svg, .steps thead, .bar'));
        return shown.filter((one) => one.getBoundingClientRect().right > window.innerWidth + 0.5
          || (one.scrollWidth > one.clientWidth + 1 && one.clientWidth > 0
              && getComputedStyle(one).display !== 'inline'))
          .map((one) => one.outerHTML.slice(0, 120))""")


CONTRAST = """
    const canvas = new OffscreenCanvas(1, 1).getContext('2d', { willReadFrequently: true });
    const bytes = (color, under) => {
      canvas.fillStyle = `rgb(${under})`; canvas.fillRect(0, 0, 1, 1);
      canvas.fillStyle = color; canvas.fillRect(0, 0, 1, 1);
      return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3);
    };
    const linear = (v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
    const luminance = (rgb) => rgb.map((v) => linear(v / 255))
      .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
    const ground = (one) => one === null ? [255, 255, 255]
      : bytes(getComputedStyle(one).backgroundColor, ground(one.parentElement));
    const ratio = (a, b) => (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    const found = [];
    while (texts.nextNode()) {
      const one = texts.currentNode.parentElement;
      if (!texts.currentNode.data.trim() || !one.checkVisibility() || one.closest(':disabled, noscript')) continue;
      const under = ground(one);
      const text = luminance(bytes(getComputedStyle(one).color, under));
      found.push([texts.currentNode.data.trim().slice(0, 40), ratio(text, luminance(under))]);
    }
    return found"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_stands_out_from_its_ground(browser, url, scheme):
    browser.prefer(prefers_color_scheme=scheme)
    browser.open(url)
    browser.until_text("#recipe-body", "Shaping")
    browser.score()
    browser.run("document.getElementById('key-error').textContent = 'an error'")
    found = browser.run(CONTRAST)
    assert len(found) > 60
    assert [entry for entry in found if entry[1] < 4.5] == []


def test_the_two_schemes_differ(browser, url):
    grounds = set()
    for scheme in ("light", "dark"):
        browser.prefer(prefers_color_scheme=scheme)
        browser.open(url)
        grounds.add(browser.run("return getComputedStyle(document.body).backgroundColor"))
    assert len(grounds) == 2


def test_nothing_moves(page):
    moving = page.run("""
        return [...document.querySelectorAll('*')].filter((one) => {
          const style = getComputedStyle(one);
          return style.animationName !== 'none' || parseFloat(style.transitionDuration) > 0;
        }).length""")
    assert moving == 0


def test_figures_line_up(page):
    numerals = page.run("""
        return [...document.querySelectorAll('.reward, .value, .figures td')]
          .map((one) => getComputedStyle(one).fontVariantNumeric)""")
    assert set(numerals) == {"tabular-nums"}
