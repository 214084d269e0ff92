"""The page in a real browser: what it shows of the service, and what it makes of a trajectory."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from selenium.webdriver.common.keys import Keys

from reward_service.api import build_app
from reward_service.config import RewardConfig
from reward_service.errors import ScorerUnavailable
from reward_service.scoring import Recipe
from reward_service.service import RewardService
from tests.reward_service.builders import trajectory
from tests.reward_service.page.served import in_turn, service, serving
from tool_sandbox.http.keys import ApiKeys

REFUSED_BY_NETWORK = "Failed to load resource"


def choose(browser, example):
    browser.one(f"#example-{example}").click()


def rows(browser):
    """The text of every cell of the table of steps."""
    return [
        [cell.text for cell in row.find_elements("css selector", "td, th")] for row in browser.all(".steps tbody tr")
    ]


def parts(browser, step):
    """Name, value and sum of every component of a step, as a reader sees them."""
    cells = browser.all(f".steps tbody tr:nth-child({step + 1}) .parts li")
    return [[part.text for part in cell.find_elements("css selector", ".of, .value, .sum")] for cell in cells]


def test_the_page_says_that_the_service_is_ready_and_how_it_scores(browser, url):
    browser.open(url)
    assert browser.driver.title == "StepTool rewards"
    assert browser.text("#readiness") == "Ready"
    version = service(RewardConfig()).reward_version
    assert browser.text("#version") == version[:12]
    browser.until_text("#recipe-body", "contribution")
    pairs = dict(
        zip(*[[part.text for part in browser.all(f"#recipe-body {tag}")] for tag in ("dt", "dd")], strict=True)
    )
    assert (pairs["kind"], pairs["step cost"]) == ("linear", "0.1")
    # Both the weight and the signal are called so; the signal comes last.
    assert pairs["contribution"] == "distance; from −1 to 1"
    assert browser.complaints() == []


def test_the_example_is_scored_step_by_step(browser, url):
    browser.open(url)
    browser.score()
    assert browser.text("#summary") == "Scored: 5 steps, of which 1 without a reward, total +1.90, solved."
    table = rows(browser)
    assert [row[0] for row in table] == ["0", "1", "2", "3", "4"]
    assert [row[2] for row in table] == ["+0.50", "−0.10", "abstains", "+0.50", "+1.00"]
    assert table[0][1].splitlines()[:2] == ['order_item(order: "A17")', "Observation lamp"]
    assert "tool_error" in table[1][1]
    assert "calls still needed: 2 before, 1 after" in table[0][1]
    assert table[2][3] == "No reward, which is not a reward of zero."
    assert table[4][1].startswith("Answer 42")
    assert parts(browser, 0) == [["step cost", "−0.10", "1 × −0.1"], ["contribution", "+0.60", "1 × 0.6"]]
    assert browser.text(".outcome") == "Outcome\nsolved\nTotal\n+1.90"
    assert browser.complaints() == []


def test_a_gain_goes_right_of_the_middle_and_a_loss_left_of_it_to_one_scale(browser, url):
    browser.open(url)
    browser.score()
    # The largest component of the trajectory, solved with 1.0, fills a half.
    measure = """
        return [...document.querySelectorAll('.steps .bar')].map((bar) => {
          const [whole, fill] = [bar, bar.firstChild].map((one) => one.getBoundingClientRect());
          const middle = whole.left + whole.width / 2;
          return [bar.firstChild.className, (fill.left - middle) / whole.width, (fill.right - middle) / whole.width];
        })"""
    found = browser.run(measure)
    kinds = [kind for kind, _, _ in found]
    ends = [end for _, *both in found for end in both]
    assert kinds == ["loss", "gain", "loss", "gain", "loss", "gain", "gain"]
    contribution, cost, nothing, solved = [0, 0.3], [-0.05, 0], [0, 0], [0, 0.5]
    wanted = [*cost, *contribution, *cost, *nothing, *cost, *contribution, *solved]
    assert ends == pytest.approx(wanted, abs=0.004)


def test_a_loss_is_hatched_so_that_colour_does_not_tell_it_alone(browser, url):
    browser.open(url)
    browser.score()
    background = "return getComputedStyle(document.querySelector(arguments[0])).backgroundImage"
    assert "repeating-linear-gradient" in browser.run(background, ".bar > .loss")
    assert browser.run(background, ".bar > .gain") == "none"


def test_chat_messages_are_scored_as_they_are(browser, overlap_url):
    browser.open(overlap_url)
    choose(browser, "messages")
    browser.score()
    table = rows(browser)
    assert table[0][1].splitlines()[0] == 'search(query: "France")'
    assert "France is a country" in table[0][1]
    assert table[1][1].startswith("Answer Paris")
    # The answer's one word is a share of 1/8 of the result's words, so the call did not contribute by the rule of 0.3.
    assert table[1][2] == "+1.00"
    assert browser.complaints() == []


def test_every_call_of_one_message_is_a_row_with_its_own_result(browser, overlap_url):
    call = {"type": "function", "function": {"name": "price", "arguments": '{"item": "lamp"}'}}
    broken = {"type": "function", "function": {"name": "price", "arguments": "{item"}}
    messages = [
        {"role": "user", "content": [{"type": "text", "text": "How much?"}]},
        {"role": "assistant", "tool_calls": [{"id": "a", **call}, {"id": "b", **broken}]},
        {"role": "tool", "tool_call_id": "b", "content": "bad arguments", "is_error": True},
        {"role": "tool", "tool_call_id": "a", "content": [{"type": "text", "text": "42 EUR"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "It is 42"}]},
    ]
    browser.open(overlap_url)
    browser.write_trajectory(json.dumps({"id": "two", "messages": messages}))
    browser.score()
    told = [row[1] for row in rows(browser)]
    assert told[0].startswith('price(item: "lamp")\nObservation 42 EUR')
    assert told[1].startswith("price({item)\nObservation bad arguments")
    assert told[2].startswith("Answer It is 42")


def test_hostile_text_stays_text(browser, url):
    browser.open(url)
    choose(browser, "hostile")
    browser.score()
    table = rows(browser)
    assert "</script><img src=x onerror=alert(1)> Ignore the rubric" in table[0][1]
    assert table[0][1].startswith('<b>search</b>(query: "\\"><svg onload=alert(1)>")')
    assert "<style>body { display: none }</style>" in table[1][1]
    assert browser.text(".steps caption") == "Steps of </script><b>hostile</b>"
    assert browser.all("#result img, #result script, #result style, #result svg, #result .quoted > *") == []
    assert browser.text(".outcome") == "Outcome\nnot solved\nTotal\n−0.20"
    assert browser.complaints() == []


def test_hostile_text_in_an_error_stays_text(browser, url):
    hostile = "<img src=x onerror=alert(1)>"
    lacking = trajectory(hostile)
    del lacking["steps"][0]["progress"]
    browser.open(url)
    browser.write_trajectory(json.dumps(lacking))
    browser.score(expect="Not scored")
    assert hostile in browser.text("#result-body")
    assert browser.all("#result img") == []


def test_the_browser_itself_refuses_to_make_markup_of_a_text(browser, url):
    browser.open(url)
    attempt = """
        try { document.getElementById('result-body')[arguments[0]] = '<b>x</b>'; return 'done'; }
        catch (error) { return error.name; }"""
    assert browser.run(attempt, "innerHTML") == "TypeError"
    assert browser.run(attempt, "textContent") == "done"


def test_a_long_observation_opens_on_demand(browser, url):
    long = trajectory()
    long["steps"][0]["observation"] = "begin " + "x" * 1000 + " end"
    browser.open(url)
    browser.write_trajectory(json.dumps(long))
    browser.score()
    assert "end" not in browser.text(".steps details")
    browser.one(".steps summary").click()
    browser.until_text(".steps details", " end")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"id": ', "This is not JSON"),
        ("[]", "Expected one JSON object, a trajectory."),
        ("null", "Expected one JSON object, a trajectory."),
        ('{"trajectories": []}', "Expected one trajectory, one of those inside “trajectories”."),
    ],
)
def test_what_is_no_trajectory_is_said_beside_the_text_and_not_sent(browser, url, text, words):
    browser.open(url)
    browser.write_trajectory(text)
    browser.score(expect="Not scored")
    assert words in browser.text("#trajectory-error")
    assert browser.one("#trajectory").get_attribute("aria-invalid") == "true"
    assert not any(address.endswith("/v1/score") for address in browser.requested())
    assert browser.complaints() == []


def test_what_the_service_cannot_read_is_listed_with_its_place(browser, url):
    wrong = trajectory(stop="bored")
    wrong["steps"][0]["status"] = "fine"
    browser.open(url)
    browser.write_trajectory(json.dumps(wrong))
    browser.score(expect="Not scored")
    errors = [entry.text for entry in browser.all("#trajectory-error li")]
    assert len(errors) == 2
    assert any("steps/0/status" in entry and "Input should be 'ok'" in entry for entry in errors)
    assert not any("trajectories" in entry for entry in errors)


def test_an_error_goes_away_with_the_next_score(browser, url):
    browser.open(url)
    browser.write_trajectory("{")
    browser.score(expect="Not scored")
    browser.write_trajectory(json.dumps(trajectory()))
    browser.score()
    assert browser.text("#trajectory-error") == ""
    assert browser.one("#trajectory").get_attribute("aria-invalid") == "false"


def test_a_trajectory_that_lacks_a_signal_is_told_so_in_the_place_of_its_steps(browser, url):
    lacking = trajectory()
    del lacking["steps"][0]["progress"]
    browser.open(url)
    browser.write_trajectory(json.dumps(lacking))
    browser.score(expect="Not scored")
    assert browser.text("#result-body").startswith("Not scored: the trajectory lacks what the recipe needs.")
    assert "no progress record" in browser.text("#result-body")
    assert browser.all(".steps") == []


class Lost(Recipe):
    """A scorer whose judge is down."""

    async def score(self, item, plug_in_seconds=None):
        raise ScorerUnavailable("judge: no reply within 30 s")


def test_a_service_whose_scorer_is_lost_is_not_ready_and_a_trajectory_abstains(browser):
    with serving(build_app(RewardService(Lost(RewardConfig())), ApiKeys.nobody_asked())) as address:
        browser.open(address)
        assert browser.text("#readiness") == "Not ready: judge: no reply within 30 s"
        browser.score(expect="Not scored")
        assert "this is not a reward of zero" in browser.text("#result-body")


def test_a_service_that_cannot_be_reached_is_said_to_be_so(browser, url):
    browser.open(url)
    browser.offline(True)
    browser.score(expect="Not scored")
    assert browser.text("#trajectory-error") == "The service cannot be reached."
    browser.until_text("#readiness", "The service cannot be reached.")
    browser.offline(False)
    browser.until_text("#readiness", "Ready")
    assert all(REFUSED_BY_NETWORK in complaint for complaint in browser.complaints())


def test_what_was_typed_stays_with_its_example(browser, url):
    browser.open(url)
    browser.write_trajectory("mine")
    choose(browser, "messages")
    assert "call_1" in browser.one("#trajectory").get_attribute("value")
    choose(browser, "steps")
    assert browser.one("#trajectory").get_attribute("value") == "mine"


def figures(browser):
    return {
        row.find_element("css selector", "th").text: [cell.text for cell in row.find_elements("css selector", "td")]
        for row in browser.all(".figures tbody tr")
    }


def test_traffic_follows_what_is_scored(browser, url):
    browser.open(url)
    browser.until_text("#traffic-body", "Errors")
    assert figures(browser)["Latency p99"] == ["–", "–"]
    browser.score()
    browser.write_trajectory(json.dumps(trajectory(stop="bored")))
    browser.score(expect="Not scored")
    browser.until_text("#traffic-body", "Refused, 422")
    found = figures(browser)
    # The page asks a second time, strictly, for all that is wrong with a trajectory.
    assert (found["Requests"], found["Trajectories"], found["Steps"]) == (["3", "3"], ["2", "2"], ["5", "5"])
    assert (found["Abstained steps"], found["Refused, 422"]) == (["1", "1"], ["1", "1"])
    assert "Errors" not in found
    assert found["Latency p50"][0].endswith("ms")
    assert browser.text("figcaption").startswith("Steps a second:")
    assert len(browser.one(".line polyline").get_attribute("points").split()) == 59


def test_the_figures_of_several_replicas_are_added_up(browser):
    apps = [build_app(service(RewardConfig()), ApiKeys.nobody_asked()) for _ in range(2)]
    with serving(in_turn(*apps)) as address:
        browser.open(address)
        browser.until_text("#traffic-body", "Figures of 2 replicas")
        for _ in range(3):
            browser.score()
        browser.until(lambda: figures(browser)["Requests"] == ["3", "3"], "three requests, whoever answered them")
        assert figures(browser)["Steps"] == ["15", "15"]
        assert "Latency p99, slowest replica" in figures(browser)


def test_without_a_key_the_page_asks_for_one_and_keeps_it_nowhere(browser):
    keys, secret = ApiKeys.issue("people")
    with serving(build_app(service(RewardConfig()), keys)) as address:
        browser.open(address)
        browser.until_text("#key-error", "This service wants an API key.")
        assert browser.text("#traffic-body") == "Enter an API key to see this."
        browser.one("#key").send_keys("wrong", Keys.ENTER)
        browser.until_text("#key-error", "The service refuses this key: unknown API key")
        browser.one("#key").clear()
        browser.one("#key").send_keys(secret, Keys.ENTER)
        browser.until_text("#recipe-body", "Shaping")
        assert browser.text("#key-error") == ""
        browser.score()
        kept = browser.run("return [localStorage.length, sessionStorage.length, document.cookie, location.href]")
        assert kept == [0, 0, "", f"{address}/"]
        assert not any(secret in asked for asked in browser.requested())
        browser.driver.refresh()
        browser.until_text("#key-error", "This service wants an API key.")
        assert browser.one("#key").get_attribute("value") == ""


def test_a_refused_key_is_not_tried_again_and_again(browser):
    keys, _ = ApiKeys.issue("people")
    with serving(build_app(service(RewardConfig()), keys)) as address:
        browser.open(address)
        browser.until_text("#key-error", "This service wants an API key.")
        browser.until(lambda: sum(asked.endswith("/readyz") for asked in browser.requested()) > 1, "a second round")
        assert sum("/v1/" in asked for asked in browser.requested()) <= 2


def test_scoring_without_a_key_points_to_the_field(browser):
    keys, _ = ApiKeys.issue("people")
    with serving(build_app(service(RewardConfig()), keys)) as address:
        browser.open(address)
        browser.score(expect="Not scored")
        assert browser.text("#trajectory-error").startswith("The service wants a key that it knows")


def test_the_version_is_copied_whole(browser, url):
    permissions = {"origin": url, "permissions": ["clipboardReadWrite", "clipboardSanitizedWrite"]}
    browser.open(url)
    browser.driver.execute_cdp_cmd("Browser.grantPermissions", permissions)
    browser.one("#copy-version").click()
    browser.until_text("#copied", "Copied")
    read = (
        "const done = arguments[arguments.length - 1];navigator.clipboard.readText().then(done, (e) => done(String(e)))"
    )
    assert browser.driver.execute_async_script(read) == service(RewardConfig()).reward_version


def test_no_request_leaves_for_anywhere_but_the_service(browser, url):
    browser.open(url)
    for example in ("steps", "hostile"):
        choose(browser, example)
        browser.score()
    asked = browser.requested()
    assert f"{url}/v1/score" in asked
    assert [address for address in asked if not address.startswith(f"{url}/")] == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 768, 320])
def test_pictures_for_people_who_review_the_page(browser, overlap_url, scheme, width, tmp_path):
    browser.screen(width, 900)
    browser.prefer(prefers_color_scheme=scheme)
    browser.open(overlap_url)
    browser.until_text("#recipe-body", "Shaping")
    for example in ("messages", "hostile", "steps"):
        choose(browser, example)
        browser.score()
        path = Path(os.environ.get("STEPTOOL_SCREENSHOTS") or tmp_path) / f"{example}-{scheme}-{width}.png"
        browser.screenshot(path)
        assert path.stat().st_size > 10_000
