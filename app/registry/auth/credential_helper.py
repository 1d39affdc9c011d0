"""Docker's credential helpers: `docker-credential-<name> get`, asked over standard input, never by a shell.

Only names that a setting allows are run, without this service's own settings in their environment, for a bounded time
and of a bounded output. Source: docker/docker-credential-helpers, README ("Development") and
`credentials/credentials.go`.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
from contextlib import suppress
from typing import Any

from app.registry.auth.credentials import Login

_SECONDS = 30.0
_MAX_OUTPUT = 64 * 1024
_NOT_FOUND = b"credentials not found"
"""What every helper says of a registry it has nothing for."""
_OWN_SETTINGS = "REGISTRY_SYNC_"
"""None of a helper's business: the keys that seal passwords are among them."""
_TOKEN_USERNAME = "<token>"  # noqa: S105 — docker's mark of an identity token


class HelperFailedError(Exception):
    """A helper gave no login; `temporary` says whether it may do so later."""

    def __init__(self, message: str, *, temporary: bool = False) -> None:
        super().__init__(message)
        self.temporary = temporary


async def ask_helper(name: str, server: str) -> Login:
    """Have a helper say the login for a registry; raise `HelperFailedError`."""
    program = shutil.which(f"docker-credential-{name}")
    if program is None:
        raise HelperFailedError("it is not installed here")
    try:
        code, output = await _run(program, server)
    except TimeoutError:
        raise HelperFailedError(f"it took longer than {_SECONDS:g} s", temporary=True) from None
    except OSError:
        raise HelperFailedError("it can't be run") from None
    if _NOT_FOUND in output:
        raise HelperFailedError("it has no login for this registry")
    if code:
        raise HelperFailedError(f"it failed with exit code {code}", temporary=True)
    return _read(output)


async def _run(program: str, server: str) -> tuple[int, bytes]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(_OWN_SETTINGS)}
    process = await asyncio.create_subprocess_exec(
        program,
        "get",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        env=environment,
        start_new_session=True,  # so that what it starts ends with it
    )
    try:
        async with asyncio.timeout(_SECONDS):
            return await _converse(process, server)
    finally:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()


async def _converse(process: asyncio.subprocess.Process, server: str) -> tuple[int, bytes]:
    to, answers = process.stdin, process.stdout
    if to is None or answers is None:
        raise OSError("it has no pipes")
    with suppress(BrokenPipeError, ConnectionResetError):
        to.write(f"{server}\n".encode())
        await to.drain()
    to.close()
    output = b""
    while part := await answers.read(_MAX_OUTPUT):
        output += part
        if len(output) > _MAX_OUTPUT:
            raise HelperFailedError("it says more than a login")
    return await process.wait(), output


def _read(output: bytes) -> Login:
    try:
        said: Any = json.loads(output)
        username, secret = said["Username"], said["Secret"]
    except (ValueError, RecursionError, LookupError, TypeError):
        username = secret = None
    if not isinstance(username, str) or not isinstance(secret, str) or not secret:
        raise HelperFailedError("it answered without a login")
    if username == _TOKEN_USERNAME:
        return Login(identity_token=secret)
    return Login(username=username, password=secret)
