"""What the settings say of registries: which hosts may be reached, and how they are connected to and logged in to."""

from __future__ import annotations

from dataclasses import replace

from app.domain.registry_logins import LoginRules
from app.net.address_guard import AUTO
from app.registry.limits import REQUEST_RETRIES, ClientSettings
from app.settings import Settings


def unregistered_hosts(settings: Settings) -> tuple[str, ...]:
    """Return which hosts without an entry may be copied from and to.

    Where tokens are taken, callers are known as they are by keys, and `auto` is `deny`.
    """
    is_known = settings.unregistered_hosts == AUTO and settings.oidc_file is not None
    return ("deny",) if is_known else settings.unregistered_hosts


def client_settings(settings: Settings) -> ClientSettings:
    """Return how registries are connected to and logged in to."""
    return ClientSettings(
        connect_seconds=settings.registry_connect_timeout,
        answer_seconds=settings.registry_answer_timeout,
        idle_seconds=settings.registry_idle_timeout,
        retry_policy=replace(REQUEST_RETRIES, attempts=settings.registry_attempts),
        logins=login_rules(settings),
    )


def login_rules(settings: Settings) -> LoginRules:
    """Return what of this machine logins may use."""
    token_files = (pair.partition("=") for pair in settings.token_files)
    return LoginRules(
        machine_identities=settings.machine_identities,
        docker_config_folders=settings.docker_config_folders,
        credential_helpers=settings.credential_helpers,
        token_files=tuple((host.lower(), path) for host, _, path in token_files),
    )
