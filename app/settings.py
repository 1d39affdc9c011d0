"""Settings: frozen, read once from environment variables that begin with `REGISTRY_SYNC_`.

Each field is a setting and its description a row of docs/configuration.md. Only the command line and `bootstrap`
read this module; every package below gets plain values.
"""

from __future__ import annotations

import difflib
import os
import re
from datetime import time
from pathlib import Path
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from app.domain.duration import format_duration, parse_duration
from app.domain.errors import SettingsError

PREFIX = "REGISTRY_SYNC_"
CLIENT_VARIABLES = frozenset({"URL", "KEY", "CONTEXT"})
"""What client commands read to find the service; no settings of the service itself."""
_SERVICE_LINK = re.compile(r"(PORT_.*|.*SERVICE_(HOST|PORT)(_.*)?)")
"""Kubernetes puts such variables into pods beside a Service called registry-sync; `PORT` itself it sets to an URL."""


def _seconds(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return parse_duration(value)
    except ValueError as error:
        raise ValueError("it is a duration such as 30s, 5m, 1h or 2d") from error  # settings are never repeated


def _comma_separated(value: Any) -> Any:
    return tuple(part for part in re.split(r"[\s,]+", value) if part) if isinstance(value, str) else value


def _time_of_day(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    if not re.fullmatch(r"([01]\d|2[0-3]):[0-5]\d", value):
        raise ValueError("it is a time of day such as 07:00")
    return time.fromisoformat(value)


def _timezone(value: Any) -> Any:
    try:
        return ZoneInfo(value) if isinstance(value, str) else value
    except (KeyError, OSError, ValueError) as error:  # by zoneinfo: unknown name, name of a folder, no name at all
        raise ValueError("it is a time zone of the IANA database, such as Europe/Berlin") from error


_PUBLIC_URL = re.compile(r"https?://([a-z0-9._-]+|\[[0-9a-f:]+\])(:\d{1,5})?(/[a-z0-9._~%/-]*)?", re.IGNORECASE)


def _public_url(text: str) -> str:
    """Check an address of http or https, with no query and no credentials; return it without a slash at its end."""
    if not _PUBLIC_URL.fullmatch(text):
        raise ValueError("it has to be an address such as https://sync.example.com, with no credentials and no query")
    return text.rstrip("/")


Duration = Annotated[float, BeforeValidator(_seconds), Field(gt=0)]
"""Seconds, written as `30s`, `5m`, `1h` or `2d`."""
CommaSeparated = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_comma_separated)]


def _folders(paths: tuple[str, ...]) -> tuple[str, ...]:
    if not all(path.startswith("/") and path.strip("/") for path in paths):
        raise ValueError("each is the absolute path of a folder, and not of all folders")
    return paths


def _helper_names(names: tuple[str, ...]) -> tuple[str, ...]:
    if not all(re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name) for name in names):
        raise ValueError("each is a name such as ecr-login, without docker-credential- and without a path")
    return names


def _token_files(pairs: tuple[str, ...]) -> tuple[str, ...]:
    if not all(re.fullmatch(r"[A-Za-z0-9.:\[\]-]+=/.*[^/]", pair) for pair in pairs):
        raise ValueError("each is a host and the absolute path of a file, such as harbor.example.com=/run/token")
    return pairs


TokenFiles = Annotated[CommaSeparated, AfterValidator(_token_files)]
Folders = Annotated[CommaSeparated, AfterValidator(_folders)]
HelperNames = Annotated[CommaSeparated, AfterValidator(_helper_names)]
SecretKeys = Annotated[tuple[SecretStr, ...], NoDecode, BeforeValidator(_comma_separated)]


class Settings(BaseSettings):
    """All there is to set."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, frozen=True, extra="forbid", hide_input_in_errors=True, env_ignore_empty=True
    )

    database_url: str = Field(
        default="sqlite+aiosqlite:///registry-sync.db",
        repr=False,
        description="Where jobs are kept: an SQLite file for one host, `postgresql+asyncpg://…` for many.",
    )
    host: str = Field(
        default="127.0.0.1",
        min_length=1,
        description="Address to listen on; anything but loopback needs an API key to exist.",
    )
    port: int = Field(default=8080, ge=0, le=65_535, description="Port to listen on; 0 takes a free one and logs it.")
    secret_keys: SecretKeys = Field(
        default=(),
        repr=False,
        description="Keys that seal registries' passwords, newest first, with commas between; each is 32 bytes in "
        "URL-safe base64. Without any, an embedded database gets a key file beside it.",
    )
    secret_keys_file: Path | None = Field(default=None, description="File with such keys, one a line, newest first.")
    bootstrap_key: SecretStr | None = Field(
        default=None,
        repr=False,
        description="First API key (scope `admin`), for containers: made at start unless it exists; 32 characters or "
        "more.",
    )
    bootstrap_key_file: Path | None = Field(default=None, description="File that holds that key.")
    require_key: bool = Field(
        default=False,
        description="Whether every caller needs an API key, also one on this machine while no key exists yet. Set "
        "in the image and in compose.",
    )
    oidc_file: Path | None = Field(
        default=None,
        description="File (JSON) that says which OpenID Connect issuers' tokens are taken beside API keys, and what "
        "their claims allow.",
    )
    metrics_without_key: bool = Field(
        default=False, description="Whether `/metrics` answers callers without an API key, once keys exist."
    )
    worker_metrics_port: int | None = Field(
        default=None,
        ge=1,
        le=65_535,
        description="Port at which `work` answers `/healthz`, `/readyz` and `/metrics` at `HOST`, without a key; none "
        "unless set.",
    )
    max_body_bytes: int = Field(
        default=1024 * 1024, ge=1024, description="Largest request body; larger ones are answered with 413."
    )
    max_import_bytes: int = Field(
        default=32 * 1024 * 1024,
        ge=1024,
        description="Largest body of an import, where that is more than `MAX_BODY_BYTES`: what kubectl says of some "
        "thousand pods.",
    )
    log_format: Literal["auto", "json", "console"] = Field(
        default="auto", description="`json`, `console`, or `auto`: console on a terminal, json elsewhere."
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        default="INFO", description="Least level that is logged."
    )
    tracing: bool = Field(
        default=False,
        description="Whether spans are sent (OpenTelemetry, OTLP over HTTP): where to, how many, and with which "
        "headers is said by the standard `OTEL_*` variables. Needs the extra `otel`, which the image has.",
    )
    worker_concurrency: int = Field(
        default=4, ge=1, le=256, description="Units of work (batches of images) that one process runs at once."
    )
    worker_processes: int | None = Field(
        default=None,
        ge=1,
        le=64,
        description="Worker processes of this host; by default one for each core it may use, less one where the API "
        "is, at least 1, at most 4, beside SQLite 2.",
    )
    grace_period: Duration = Field(
        default=30, description="How long running work may go on after SIGTERM before it is put back into the queue."
    )
    job_retention: Duration = Field(
        default=30 * 86_400, description="How long jobs that are done are kept, with their images and events."
    )
    job_quota: int = Field(
        default=10_000,
        ge=1,
        description="Jobs of one API key that may wait or run at once; more are answered with 429 (`quota_exceeded`).",
    )
    registry_connect_timeout: Duration = Field(
        default=10, description="Limit for a connection to a registry: resolving, connecting, TLS."
    )
    registry_answer_timeout: Duration = Field(default=60, description="Limit for a registry to begin an answer.")
    registry_idle_timeout: Duration = Field(
        default=60, description="Limit for a registry's silence in the middle of a blob, either way."
    )
    registry_attempts: int = Field(
        default=5, ge=1, le=100, description="Tries of a request to a registry, when what went wrong may pass."
    )

    unregistered_hosts: CommaSeparated = Field(
        default=("auto",),
        description="Which hosts without an entry may be copied from and to: `allow`, `sources` (from them only), "
        "`deny`, or patterns such as `docker.io,*.example.com`, with port 443. `auto` is `allow` until there is an API "
        "key, then `deny`.",
    )
    machine_identities: Annotated[
        tuple[Literal["aws", "azure", "google"], ...], NoDecode, BeforeValidator(_comma_separated)
    ] = Field(
        default=(),
        description="Clouds whose identity of this machine (role, profile, web identity, metadata) entries may log in "
        "with: `aws`, `azure`, `google`. Entries with keys or secrets of their own need none.",
    )
    docker_config_folders: Folders = Field(
        default=(),
        description="Folders that `docker_config` logins may read their file in, with commas between; none unless set.",
    )
    credential_helpers: HelperNames = Field(
        default=(),
        description="Names of docker's credential helpers that such files may have run, such as `ecr-login` for "
        "`docker-credential-ecr-login`, with commas between; none unless set.",
    )
    token_files: TokenFiles = Field(
        default=(),
        description="Which token projected to this machine may be shown to which host, as `host=path`, with commas "
        "between: `oidc` logins without a client of their own use it. None unless set.",
    )
    notify_private_hosts: CommaSeparated = Field(
        default=(),
        description="Hosts, or patterns such as `*.corp.example`, with commas between, that notifications may go to "
        "at private addresses and over plain http.",
    )

    smtp_host: str | None = Field(
        default=None, min_length=1, description="Mail server that notifications by e-mail are handed to; none without."
    )
    smtp_port: int | None = Field(
        default=None, ge=1, le=65_535, description="Its port; by default 587, with `tls` 465, with `none` 25."
    )
    smtp_tls: Literal["starttls", "tls", "none"] = Field(
        default="starttls",
        description="How it is spoken to: `starttls` (never without), `tls` from the first byte, or `none`, which no "
        "password goes over.",
    )
    smtp_from: str | None = Field(
        default=None,
        description="Whom e-mail is from: `sync@example.com`, `Registry sync <sync@example.com>`; needed with a host.",
    )
    smtp_username: str | None = Field(default=None, description="Login at the mail server; none without.")
    smtp_password: SecretStr | None = Field(default=None, repr=False, description="Password of that login.")
    smtp_password_file: Path | None = Field(default=None, description="File that holds that password.")
    summary_at: Annotated[time, BeforeValidator(_time_of_day)] = Field(
        default=time(7), description="Time of day at which `policy.summary` messages are written, such as `07:00`."
    )
    summary_timezone: Annotated[ZoneInfo, BeforeValidator(_timezone)] = Field(
        default=ZoneInfo("UTC"), description="Time zone of that time, such as `Europe/Berlin`."
    )

    public_url: Annotated[str, AfterValidator(_public_url)] | None = Field(
        default=None,
        description="Where people and programs reach this service, such as `https://sync.example.com`: links in "
        "notifications and in the console's lines to copy begin with it.",
    )

    @field_validator("log_level", mode="before")
    @classmethod
    def _any_case(cls, value: Any) -> Any:
        return value.upper() if isinstance(value, str) else value

    @field_validator("port", mode="before")
    @classmethod
    def _no_service_link(cls, value: Any) -> Any:
        return 8080 if isinstance(value, str) and value.startswith("tcp://") else value

    @field_validator("database_url")
    @classmethod
    def _known_database(cls, value: str) -> str:
        scheme, separator, rest = value.partition("://")
        drivers = {"sqlite": "sqlite+aiosqlite", "postgresql": "postgresql+asyncpg", "postgres": "postgresql+asyncpg"}
        driver = drivers.get(scheme, scheme)
        if not separator or driver not in drivers.values():
            message = "it begins with sqlite:/// or postgresql://"
            raise ValueError(message)
        return f"{driver}://{rest}"


def load_settings(**overrides: Any) -> Settings:
    """Read the environment; what is given by name goes before it. Raise `SettingsError` for anything wrong."""
    _refuse_unknown_names()
    try:
        return Settings(**{name: value for name, value in overrides.items() if value is not None})
    except ValidationError as error:
        raise SettingsError("; ".join(_line(found["loc"], found["msg"]) for found in error.errors())) from None


def settings_table() -> str:
    """Render the table of docs/configuration.md."""
    rows = [
        f"| `{PREFIX}{name.upper()}` | {_default(name)} | {field.description} |"
        for name, field in Settings.model_fields.items()
    ]
    return "\n".join(["| Variable | Default | What |", "| --- | --- | --- |", *rows])


def _refuse_unknown_names() -> None:
    known = {name.upper() for name in Settings.model_fields}
    names = {name.removeprefix(PREFIX) for name in os.environ if name.startswith(PREFIX)}
    for name in sorted(names - known - CLIENT_VARIABLES):
        if not _SERVICE_LINK.fullmatch(name):
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {PREFIX}{close[0]}?" if close else ""
            raise SettingsError(f"there is no setting {PREFIX}{name}{hint}")


def _line(location: tuple[int | str, ...], message: str) -> str:
    return f"{PREFIX}{str(location[0]).upper()}: {message.removeprefix('Value error, ')}"


def _default(name: str) -> str:
    value = Settings.model_fields[name].default
    match value:
        case None | ():
            return ""
        case time():
            return f"`{value:%H:%M}`"
        case bool():
            return f"`{str(value).lower()}`"
        case tuple():
            return f"`{','.join(map(str, value))}`"
        case float() | int() if Settings.__annotations__[name] == "Duration":
            return f"`{format_duration(int(value))}`"
        case _:
            return f"`{value}`"
