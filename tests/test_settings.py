"""Settings: read from the environment, refused in one line."""

import os
from pathlib import Path

import pytest

from app.domain.errors import SettingsError
from app.settings import PREFIX, Settings, load_settings, settings_table


@pytest.fixture(autouse=True)
def _nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith(PREFIX)]:
        monkeypatch.delenv(name)


def test_without_any_setting_it_is_one_process_on_loopback_with_an_sqlite_file() -> None:
    settings = load_settings()

    assert (settings.host, settings.port) == ("127.0.0.1", 8080)
    assert settings.database_url == "sqlite+aiosqlite:///registry-sync.db"
    assert settings == Settings.model_construct()


def test_the_environment_sets_and_what_the_command_line_says_goes_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REGISTRY_SYNC_PORT", "9000")
    monkeypatch.setenv("REGISTRY_SYNC_HOST", "::1")
    monkeypatch.setenv("REGISTRY_SYNC_LOG_LEVEL", "debug")
    monkeypatch.setenv("REGISTRY_SYNC_GRACE_PERIOD", "5m")
    monkeypatch.setenv("REGISTRY_SYNC_SECRET_KEYS", "one, two")

    settings = load_settings(port=9001, host=None)

    assert (settings.host, settings.port, settings.log_level) == ("::1", 9001, "DEBUG")
    assert settings.grace_period == 300
    assert [key.get_secret_value() for key in settings.secret_keys] == ["one", "two"]


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("sqlite:///x.db", "sqlite+aiosqlite:///x.db"),
        ("postgres://u:p@h/d", "postgresql+asyncpg://u:p@h/d"),
        ("postgresql://u:p@h/d", "postgresql+asyncpg://u:p@h/d"),
        ("postgresql+asyncpg://u:p@h/d", "postgresql+asyncpg://u:p@h/d"),
    ],
)
def test_a_database_url_needs_no_driver(monkeypatch: pytest.MonkeyPatch, given: str, meant: str) -> None:
    monkeypatch.setenv("REGISTRY_SYNC_DATABASE_URL", given)

    assert load_settings().database_url == meant


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("PORT", "99999", "REGISTRY_SYNC_PORT: Input should be less than or equal to 65535"),
        ("PORT", "http", "REGISTRY_SYNC_PORT: Input should be a valid integer"),
        ("DATABASE_URL", "mysql://me:hunter22@db/x", "REGISTRY_SYNC_DATABASE_URL: it begins with sqlite:///"),
        ("GRACE_PERIOD", "soon", "REGISTRY_SYNC_GRACE_PERIOD: it is a duration such as 30s"),
        ("GRACE_PERIOD", "0s", "REGISTRY_SYNC_GRACE_PERIOD: Input should be greater than 0"),
        ("LOG_FORMAT", "xml", "REGISTRY_SYNC_LOG_FORMAT: Input should be 'auto', 'json' or 'console'"),
        ("PUBLIC_URL", "sync.example.com", "REGISTRY_SYNC_PUBLIC_URL: it has to be an address such as https://"),
        ("PUBLIC_URL", "https://ann:hunter22@sync.example.com", "REGISTRY_SYNC_PUBLIC_URL: it has to be an address"),
        ("PUBLIC_URL", "https://sync.example.com:port", "REGISTRY_SYNC_PUBLIC_URL: it has to be an address"),
        (
            "DATABSE_URL",
            "sqlite:///x",
            "no setting REGISTRY_SYNC_DATABSE_URL; did you mean REGISTRY_SYNC_DATABASE_URL?",
        ),
    ],
)
def test_a_wrong_setting_is_told_in_one_line_without_its_value(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, said: str
) -> None:
    monkeypatch.setenv(f"REGISTRY_SYNC_{name}", value)

    with pytest.raises(SettingsError) as refused:
        load_settings()

    assert said in str(refused.value)
    assert "\n" not in str(refused.value)
    assert "hunter22" not in str(refused.value)


def test_the_public_address_has_no_slash_at_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REGISTRY_SYNC_PUBLIC_URL", "https://sync.example.com:8443/images/")

    assert load_settings().public_url == "https://sync.example.com:8443/images"


def test_all_wrong_settings_are_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REGISTRY_SYNC_PORT", "x")
    monkeypatch.setenv("REGISTRY_SYNC_WORKER_CONCURRENCY", "0")

    with pytest.raises(SettingsError, match=r"REGISTRY_SYNC_PORT: .*; REGISTRY_SYNC_WORKER_CONCURRENCY: "):
        load_settings()


def test_variables_that_kubernetes_makes_for_a_service_of_this_name_are_no_settings(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("REGISTRY_SYNC_PORT", "tcp://10.0.0.7:8080")
    monkeypatch.setenv("REGISTRY_SYNC_PORT_8080_TCP_ADDR", "10.0.0.7")
    monkeypatch.setenv("REGISTRY_SYNC_SERVICE_HOST", "10.0.0.7")

    assert load_settings().port == 8080


def test_settings_do_not_show_their_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REGISTRY_SYNC_DATABASE_URL", "postgresql://me:canary-1@db/x")
    monkeypatch.setenv("REGISTRY_SYNC_SECRET_KEYS", "canary-2")
    monkeypatch.setenv("REGISTRY_SYNC_BOOTSTRAP_KEY", "canary-3")

    assert "canary" not in repr(load_settings())


def test_every_setting_says_what_it_is_for() -> None:
    assert [name for name, field in Settings.model_fields.items() if not field.description] == []


def test_the_configuration_page_has_the_table_of_settings(project: Path) -> None:
    begin, end = "<!-- settings: written by `make docs`, held by a test -->", "<!-- /settings -->"
    _, _, rest = (project / "docs" / "configuration.md").read_text().partition(begin)

    assert rest.partition(end)[0].strip() == settings_table(), "run `make docs`"
