"""Startup, before the first request: the schema, the first API key, the secret keys."""

from __future__ import annotations

import os
from collections.abc import Set as AbstractSet
from pathlib import Path

from pydantic import ValidationError

from app.clock import now
from app.domain.access import Caller, Scope, ScopePreset
from app.domain.errors import AccessError, SettingsError
from app.domain.grants import Grant
from app.domain.token_rules import TokenIssuers
from app.observability import get_logger
from app.security import Sealer
from app.services.api_keys import ApiKeyService, NewKey
from app.settings import PREFIX, Settings
from app.store.audit import AuditChain, AuditCheck, parse_head
from app.store.db.database import Database
from app.store.db.migrate import migrate
from app.store.registries import RegistryStore
from app.store.subscriptions import SubscriptionStore

COMMAND_LINE = Caller("command-line", ScopePreset.ADMIN.scopes)
LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})

log = get_logger(__name__)


async def prepare(settings: Settings) -> None:
    """Bring up an embedded database, or see that a shared one is current; make the first API key where one is set.

    Raise `UnavailableError` saying what to run, `SettingsError` for a bootstrap key that is none.
    """
    database = Database(settings.database_url)
    try:
        if database.is_sqlite:
            await migrate(settings.database_url)
        await database.check_schema()
        if text := _bootstrap_key(settings):
            try:
                await ApiKeyService(database, now=now).ensure_bootstrap(text)
            except AccessError as error:
                raise SettingsError(f"{PREFIX}BOOTSTRAP_KEY: a key has 32 characters or more") from error
    finally:
        await database.aclose()


async def check_may_listen(settings: Settings) -> None:
    """Raise `SettingsError` when the service would listen on more than loopback while no API key exists."""
    database = Database(settings.database_url)
    try:
        if await ApiKeyService(database, now=now).any_exists():
            return
    finally:
        await database.aclose()
    if settings.host not in LOOPBACK and not settings.require_key and settings.oidc_file is None:
        raise SettingsError(
            f"won't listen on {settings.host} while no API key exists: make one first (registry-sync create-key), "
            f"or set {PREFIX}BOOTSTRAP_KEY_FILE"
        )
    if settings.require_key:
        log.warning("no_api_key_exists", meaning="no caller is served until there is one: registry-sync create-key")
    else:
        log.warning("no_api_key_exists", meaning="every user of this machine is the operator; --require-key ends that")


async def create_key(
    settings: Settings, *, name: str, scopes: AbstractSet[Scope], grant: Grant, expires_seconds: int | None
) -> NewKey:
    """Make an API key from the command line."""
    await prepare(settings)
    database = Database(settings.database_url)
    try:
        keys = ApiKeyService(database, now=now)
        return await keys.create(
            name=name, scopes=scopes, grant=grant, expires_seconds=expires_seconds, caller=COMMAND_LINE
        )
    finally:
        await database.aclose()


async def reseal(settings: Settings) -> int:
    """Seal all stored secrets anew with the first secret key; return how many entries that were."""
    sealer = load_sealer(settings)
    await prepare(settings)
    database = Database(settings.database_url)
    try:
        async with database.transaction() as session:
            return await RegistryStore(session, sealer).rotate() + await SubscriptionStore(session).rotate(sealer)
    finally:
        await database.aclose()


async def verify_audit(settings: Settings, *, head: str | None = None) -> AuditCheck:
    """Check the whole audit log against its chain; raise `RegistrySyncError` for a `head` that is none."""
    expected = parse_head(head) if head is not None else None
    database = Database(settings.database_url)
    try:
        await database.check_schema()
        return await AuditChain(database, load_sealer(settings), now=now).verify(expected=expected)
    finally:
        await database.aclose()


def load_token_issuers(settings: Settings) -> TokenIssuers | None:
    """Read whose tokens are taken; None where no setting says so. Raise `SettingsError` for a file that is wrong."""
    if settings.oidc_file is None:
        return None
    try:
        return TokenIssuers.model_validate_json(_read(settings.oidc_file))
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        place = "/".join(map(str, first["loc"]))
        raise SettingsError(f"{PREFIX}OIDC_FILE: {place}: {first['msg']}") from None


def load_sealer(settings: Settings) -> Sealer:
    """Read the secret keys, or make one beside an embedded database; raise `SettingsError`."""
    keys = [key.get_secret_value() for key in settings.secret_keys]
    if keys and settings.secret_keys_file:
        raise SettingsError(f"set {PREFIX}SECRET_KEYS or {PREFIX}SECRET_KEYS_FILE, not both")
    if not keys:
        keys = _keys_in(settings.secret_keys_file or _key_file_beside(settings.database_url))
    try:
        return Sealer(keys)
    except ValueError as error:
        raise SettingsError(f"{PREFIX}SECRET_KEYS: a key is 32 bytes in URL-safe base64") from error


def database_place(settings: Settings) -> str:
    """Return where the database is, without its password; an SQLite file by its whole path: each folder has its own."""
    file = Database(settings.database_url).file
    if file is not None:
        return str(Path(file).absolute())
    scheme, _, rest = settings.database_url.partition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}"


def _key_file_beside(database_url: str) -> Path:
    scheme, _, path = database_url.partition(":///")
    if not scheme.startswith("sqlite"):
        raise SettingsError(
            f"{PREFIX}SECRET_KEYS or {PREFIX}SECRET_KEYS_FILE is needed with PostgreSQL, the same for all processes; "
            "make a key: openssl rand -base64 32 | tr '+/' '-_'"
        )
    file = Path(path.partition("?")[0]).with_suffix(".keys")
    try:
        handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return file
    except OSError as error:
        raise SettingsError(f"can't make the key file {file}: {error.strerror}") from error
    with os.fdopen(handle, "w") as made:
        made.write(f"{Sealer.make_key()}\n")
    log.info("secret_key_made", file=str(file), meaning="seals registries' passwords; keep a copy with the database")
    return file


def _keys_in(file: Path) -> list[str]:
    lines = [line.strip() for line in _read(file).splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


def _bootstrap_key(settings: Settings) -> str:
    if settings.bootstrap_key is not None:
        return settings.bootstrap_key.get_secret_value()
    return _read(settings.bootstrap_key_file).strip() if settings.bootstrap_key_file else ""


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"can't read {file}: {getattr(error, 'strerror', None) or 'not a text'}") from error
