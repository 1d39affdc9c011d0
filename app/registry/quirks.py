"""What registries do differently, by type: the one place that knows whose they are."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Literal

from app.domain.reference import DOCKER_HUB
from app.domain.registry import RegistryEntry, RegistryType
from app.registry.limits import MIB
from app.registry.url import Url

ListedBy = Literal["catalog", "docker_hub", "harbor", "quay", "gitlab", "nothing"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Quirks:
    """What is different about one type; the defaults are the distribution spec, as Distribution itself does it."""

    lists_by: ListedBy = "catalog"
    """How repositories are listed: `_catalog`, an API of its own, or not at all."""
    listing_advice: str = "name the repositories in the rule, one by one"
    """What to do where a list can't be had."""
    login_advice: str = ""
    """What a login has to look like there, told when one is not accepted."""
    is_known: bool = True
    """False where neither type nor host say whose it is; its answers may."""
    tag_list_action: str = ""
    """An action beside `pull` that a token needs to list tags."""
    max_chunk_bytes: int | None = None
    """The largest chunk of an upload that is taken."""
    takes_chunks: bool = True
    """Whether an upload may be sent in chunks at all."""


_PLAIN = Quirks()
_UNKNOWN = Quirks(
    is_known=False,
    listing_advice=(
        "name the repositories in the rule, one by one, or set the type of its entry if it is a harbor, quay or gitlab"
    ),
)
_ECR = Quirks(
    # Data after the first chunk is dropped (aws/containers-roadmap #2831).
    takes_chunks=False,
    login_advice="ECR takes the user AWS and a password of `aws ecr get-login-password`, which lasts 12 hours",
)
_QUIRKS: dict[RegistryType, Quirks] = {
    "docker_hub": Quirks(
        lists_by="docker_hub",
        listing_advice="name a namespace that is there in the rule, such as docker.io/library/**",
        login_advice="Docker Hub takes a user's name with an access token, or an organization's with one of its own",
    ),
    "acr": Quirks(
        # `pull` alone gets a 401 for tags (Azure/acr #676).
        tag_list_action="metadata_read",
        # Tokens that are bound to repositories get no catalog (Azure/acr #675).
        listing_advice="name the repositories in the rule, or use a login that is not bound to some repositories",
        login_advice="ACR takes a service principal, a token of its own, or 00000000-0000-0000-0000-000000000000 "
        "with a refresh token as the password",
    ),
    "ecr": _ECR,
    "gar": Quirks(
        # Chunks were never supported on Google's registries (containers/skopeo #1101).
        takes_chunks=False,
        login_advice="Google takes the users oauth2accesstoken (a token lasts an hour), _json_key and _json_key_base64",
    ),
    "ghcr": Quirks(
        lists_by="nothing",
        # "416 … exceeds the maximum permissible limit of 4.00MiB" (ocx #237).
        max_chunk_bytes=4 * MIB,
        login_advice="GHCR takes a user's name with a classic token that has the scope read:packages",
    ),
    "gitlab": Quirks(
        lists_by="gitlab",
        listing_advice=(
            "name a group or a project in the rule, and log in with an access token that has the scope read_api; "
            "deploy tokens can't list"
        ),
        login_advice="GitLab takes access tokens and deploy tokens with the scope read_registry",
    ),
    "harbor": Quirks(
        lists_by="harbor",
        # For a robot the list of everything has public projects only (goharbor/harbor, handler/repository.go).
        listing_advice="name a project in the rule that the login may see; a robot can't list all projects",
        login_advice="a robot's name begins with robot$, or whatever prefix this Harbor has",
    ),
    "quay": Quirks(
        lists_by="quay",
        listing_advice="name an organization in the rule",
        login_advice="Quay takes users, robots (organization+name), and $oauthtoken with a token of an application",
    ),
    "artifactory": _PLAIN,
    "nexus": _PLAIN,
    "zot": _PLAIN,
    "generic": _PLAIN,
}
_ECR_PUBLIC = "public.ecr.aws"
_HOSTS: tuple[tuple[re.Pattern[str], RegistryType], ...] = (
    (re.compile(re.escape(DOCKER_HUB)), "docker_hub"),
    (re.compile(r"[^.]+\.azurecr\.(io|cn|us)"), "acr"),
    (re.compile(r"\d+\.dkr\.ecr(-fips)?\.[^.]+\.amazonaws\.com(\.cn)?|public\.ecr\.aws"), "ecr"),
    (re.compile(r"[^.]+-docker\.pkg\.dev|([^.]+\.)?gcr\.io"), "gar"),
    (re.compile(r"ghcr\.io"), "ghcr"),
    (re.compile(r"registry\.gitlab\.com"), "gitlab"),
    (re.compile(r"quay\.io"), "quay"),
)


def quirks_of(entry: RegistryEntry) -> Quirks:
    """Return what is known of a registry: by the type it was entered with, or by its host."""
    kind = entry.type if entry.type != "auto" else _type_of_host(entry.registry)
    if kind is None:
        return _UNKNOWN
    # Amazon's public registry has no catalog; its list of repositories takes Amazon's own API.
    return replace(_ECR, lists_by="nothing") if (kind, entry.registry) == ("ecr", _ECR_PUBLIC) else _QUIRKS[kind]


def quirks_of_token_server(realm: Url, service: str) -> Quirks | None:
    """Recognise a registry on a host of its operator's by where it sends its callers for tokens; None for unknown ones.

    Harbor's service is named so (goharbor/harbor, core/service/token); GitLab's tokens are had from /jwt/auth, Quay's
    from /v2/auth, both for a service of a fixed form.
    """
    match realm.path, service:
        case "/service/token", "harbor-registry":
            return _QUIRKS["harbor"]
        case "/jwt/auth", "container_registry":
            return _QUIRKS["gitlab"]
        case "/v2/auth", _ if service.partition(":")[0] == realm.host:
            return _QUIRKS["quay"]
    return None


def _type_of_host(host: str) -> RegistryType | None:
    return next((kind for pattern, kind in _HOSTS if pattern.fullmatch(host)), None)
