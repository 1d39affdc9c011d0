"""What who runs the service allows logins of entries to use of its machine: identities, files, programs."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class LoginRules:
    """Nothing of the machine is used unless it is named here: who enters a registry would otherwise get all it may do.

    - `machine_identities`: clouds whose identity of this machine entries may log in with
    - `docker_config_folders`: folders that docker configurations may lie in
    - `credential_helpers`: names of programs (`docker-credential-<name>`) that may be run for docker configurations
    """

    machine_identities: tuple[str, ...] = ()
    docker_config_folders: tuple[str, ...] = ()
    credential_helpers: tuple[str, ...] = ()


NOTHING = LoginRules()
"""No identity, no file and no program of the machine."""
