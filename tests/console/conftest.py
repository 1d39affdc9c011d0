"""A service with two real registries, and a page of its console in Chromium."""

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from tests.conftest import Namespace
from tests.console.browsing import CHROMIUM, FLAGS
from tests.support.service import ServiceProcess


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        yield browser
        browser.close()


@pytest.fixture
def service(tmp_path: Path, source: Namespace, destination: Namespace) -> Iterator[ServiceProcess]:
    with ServiceProcess(tmp_path) as service:
        service.enter("source", source.registry)
        service.enter("destination", destination.registry)
        yield service


@pytest.fixture
def page(browser: Browser, service: ServiceProcess) -> Iterator[Page]:
    """Open a page of the console; it may ask nothing of another origin, and its policy is never broken."""
    context = browser.new_context(base_url=str(service.client.base_url))
    page = context.new_page()
    asked, said = [], []
    page.on("request", lambda request: asked.append(urlsplit(request.url).netloc))
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    yield page
    context.close()
    assert set(asked) <= {urlsplit(str(service.client.base_url)).netloc}
    assert [text for text in said if "Content Security Policy" in text or "Error" in text] == []
