"""ACR's exchange of a token of Microsoft Entra for a refresh token of its own.

Source: Azure/acr, `docs/AAD-OAuth.md` ("Calling POST /oauth2/exchange", "token claim sets"); three hours are in
Microsoft Learn, "Authenticate with Azure Container Registry". What a refusal looks like is not documented.
"""

from datetime import timedelta
from http import HTTPStatus
from urllib.parse import parse_qs

import jwt

from tests.support.fake_registry.messages import Answer, Request, error, json_answer
from tests.support.fake_registry.site import Site

LIFE = timedelta(hours=3)
_KEY = "only the registry itself reads what it signs"


async def exchange(request: Request, site: Site) -> Answer:
    """Give a refresh token to whoever has an account here and shows a token of Entra."""
    form = {name: values[0] for name, values in parse_qs((await request.read()).decode()).items()}
    request.entry.body_secrets = tuple({"access_token"} & form.keys())
    if request.method != "POST" or form.get("grant_type") != "access_token":
        return error(HTTPStatus.BAD_REQUEST, "UNSUPPORTED", "grant_type")
    if form.get("service") != site.urls["registry"].partition("//")[2]:
        return error(HTTPStatus.BAD_REQUEST, "UNSUPPORTED", "service")
    owner = site.entra(form.get("access_token", "")) if site.entra else None
    if owner is None:
        return error(HTTPStatus.UNAUTHORIZED, "UNAUTHORIZED", "authentication required")
    if owner not in site.accounts:
        return error(HTTPStatus.FORBIDDEN, "DENIED", "requested access to the resource is denied")
    now = site.clock()
    claims = {
        "jti": str(len(site.identity_tokens)),
        "sub": owner,
        "iat": now,
        "exp": now + LIFE,
        "iss": "Azure Container Registry",
        "aud": form["service"],
        "grant_type": "refresh_token",
        "tenant": form.get("tenant", ""),
    }
    token = jwt.encode(claims, _KEY, algorithm="HS256")
    site.identity_tokens[token] = owner
    return json_answer({"refresh_token": token})
