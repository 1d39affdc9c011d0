"""A service with two real registries, and a page of its console in Chromium: one of each for all tests.

Starting them is most of what these tests take. What a test leaves behind lies in its own corner of the registries; one
that makes keys, kills the service or wants it empty takes `own_service`, and `own_page`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from tests.console.browsing import CHROMIUM, FLAGS
from tests.support.registries import RegistryProcess
from tests.support.service import ServiceProcess


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        yield browser
        browser.close()


@contextmanager
def running(folder: Path, source: RegistryProcess, destination: RegistryProcess) -> Iterator[ServiceProcess]:
    with ServiceProcess(folder, settings={"NOTIFY_PRIVATE_HOSTS": "127.0.0.1"}) as service:
        service.enter("source", source)
        service.enter("destination", destination)
        yield service


@pytest.fixture(scope="package")
def service(
    tmp_path_factory: pytest.TempPathFactory, source_registry: RegistryProcess, destination_registry: RegistryProcess
) -> Iterator[ServiceProcess]:
    with running(tmp_path_factory.mktemp("console"), source_registry, destination_registry) as service:
        yield service


@pytest.fixture
def own_service(
    tmp_path: Path, source_registry: RegistryProcess, destination_registry: RegistryProcess
) -> Iterator[ServiceProcess]:
    with running(tmp_path, source_registry, destination_registry) as service:
        yield service


@contextmanager
def visiting(browser: Browser, service: ServiceProcess) -> Iterator[Page]:
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


@pytest.fixture
def page(browser: Browser, service: ServiceProcess) -> Iterator[Page]:
    with visiting(browser, service) as page:
        yield page


@pytest.fixture
def own_page(browser: Browser, own_service: ServiceProcess) -> Iterator[Page]:
    with visiting(browser, own_service) as page:
        yield page
