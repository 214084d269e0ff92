"""One Chromium for all tests of the page, and the real application on loopback for each."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from selenium.webdriver import Chrome

from reward_service.api import build_app
from reward_service.config import RewardConfig
from tests.reward_service.page.browser import Browser, chromium
from tests.reward_service.page.served import service, serving
from tool_sandbox.http.keys import ApiKeys

OVERLAP = RewardConfig.model_validate({"signals": {"contribution": {"kind": "overlap"}}})
"""A recipe that scores conversations as well: it needs no distance."""


@pytest.fixture(scope="session")
def chrome(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    with chromium(tmp_path_factory.mktemp("chromium")) as driver:
        yield driver


@pytest.fixture
def browser(chrome: Chrome) -> Iterator[Browser]:
    tab = Browser(chrome)
    tab.screen(1280, 900)
    yield tab
    tab.close()


@pytest.fixture
def url() -> Iterator[str]:
    """A service with the default recipe that lets everybody in."""
    with serving(build_app(service(RewardConfig()), ApiKeys.nobody_asked())) as address:
        yield address


@pytest.fixture
def overlap_url() -> Iterator[str]:
    with serving(build_app(service(OVERLAP), ApiKeys.nobody_asked())) as address:
        yield address
