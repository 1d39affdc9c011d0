"""Quirks: what each vendor's registry does differently, by type.

And the upload strategy that one registry is found to take: whole or chunked, and the chunk size. Which vendor differs
is decided here; `auth/`, `listing/`, `creation.py` and `permissions.py` speak to vendors' own APIs.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

from app.domain.reference import DOCKER_HUB
from app.domain.registry import ECR_PUBLIC, RegistryEntry, RegistryType
from app.registry.http.message import Url
from app.registry.limits import MAX_PAGE_BYTES, MAX_WHOLE_LIST_BYTES, MIB

DigestsBy = Literal["acr", "ecr", "harbor", "google", "quay", "docker_hub", "gitlab", "nothing"]
CreatedBy = Literal["first_push", "ecr", "google", "harbor", "docker_hub", "quay", "nothing"]
ListedBy = Literal[
    "catalog", "acr", "ecr", "ecr_public", "google", "docker_hub", "harbor", "quay", "gitlab", "github", "nothing"
]
IdentifiedBy = Literal["token", "login", "harbor", "quay", "gitlab", "github"]
_MIN_CHUNK_BYTES = MIB
_TELLING_BYTES = MIB
"""Bytes sent before an upload broke off, by which a registry shows whether it keeps such."""
_MAX_READ_AHEAD = 4
"""Uploads to one registry that read ahead at the same time, in one process: 64 MiB."""
_NAME_OF_VERSION_3 = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}", re.IGNORECASE)
"""A UUID of version 7, which Distribution names uploads by since 3.1; older ones take one of version 4."""
_LIMIT = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)\s*MiB", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Quirks:
    """What is different about one type; the defaults are the distribution spec, as Distribution itself does it."""

    lists_by: ListedBy = "catalog"
    """How repositories are listed: `_catalog`, an API of its own, or not at all."""
    digests_by: DigestsBy = "nothing"
    """Which list tells the digests of all tags, a page at a time."""
    page_bytes: int = MAX_PAGE_BYTES
    """How much of one page of a list is read."""
    links_pages: bool = False
    """Whether its lists always have a `Link` where they go on, so that a page without one is the last."""
    listing_advice: str = "name the repositories in the rule, one by one"
    """What to do where a list can't be had."""
    login_advice: str = ""
    """What a login has to look like there, shown when one is refused."""
    is_known: bool = True
    """False where neither type nor host say whose it is; its answers may."""
    tag_list_action: str = ""
    """An action beside `pull` that a token needs to list tags."""
    identifies_by: IdentifiedBy = "token"
    """What says who a login is: an API, the name that logs in, or the registry's token."""
    creates_by: CreatedBy = "first_push"
    """How repositories come to be: with the first push to them, by an API, or by their owner's hand."""
    creation_fields: frozenset[str] = frozenset()
    """What of `RepositoryTemplate` its API knows."""
    creation_advice: str = "this registry makes repositories with the first push: leave create_missing out"
    """What to do where none can be made, or a login may not make one."""
    by_hand: str = ""
    """Who makes what a push finds missing, where no API does."""
    max_chunk_bytes: int | None = None
    """The largest chunk of an upload that is taken."""
    takes_chunks: bool = True
    """Whether an upload may be sent in chunks at all."""
    is_distribution: bool = False
    """Whether it may be made of Distribution, whose version 2 forgets an upload that breaks off within a request."""

    @property
    def has_creation_api(self) -> bool:
        """Whether something can be made there that a push does not make."""
        return self.creates_by not in {"first_push", "nothing"}


_PLAIN = Quirks()
_UNKNOWN = Quirks(
    is_known=False,
    is_distribution=True,
    creates_by="nothing",
    creation_advice="set the type of this entry: harbor, quay, docker_hub, ecr and gar have something to be made",
    listing_advice=(
        "name the repositories in the rule, one by one, or set the type of its entry if it is a harbor, quay or gitlab"
    ),
)
_BY_HAND = (
    "repositories for images are set up by an administrator there, and what lies below one comes with the first push"
)
_PROJECT_FIRST = "GitLab has a registry in each project: make the project first"
_SET_UP = Quirks(creates_by="nothing", by_hand=_BY_HAND, creation_advice=f"{_BY_HAND}: leave create_missing out")
_ECR = Quirks(
    lists_by="ecr",
    digests_by="ecr",
    creates_by="ecr",
    creation_fields=frozenset({"scan_on_push", "immutable_tags", "encryption_key", "tags", "lifecycle"}),
    creation_advice="making repositories takes auth.type aws, with the right ecr:CreateRepository",
    # Data after the first chunk is dropped (aws/containers-roadmap #2831).
    takes_chunks=False,
    login_advice="ECR takes an identity (auth.type aws), or the user AWS and a password of "
    "`aws ecr get-login-password`, which lasts 12 hours",
)
_GAR = Quirks(
    lists_by="google",
    creates_by="google",
    creation_fields=frozenset({"description", "immutable_tags", "encryption_key", "tags", "lifecycle"}),
    creation_advice="making repositories takes auth.type google (or the user oauth2accesstoken), with the right "
    "artifactregistry.repositories.create, such as the role roles/artifactregistry.admin has",
    listing_advice="name a project in the rule, such as europe-docker.pkg.dev/project/**",
    digests_by="google",
    page_bytes=MAX_WHOLE_LIST_BYTES,
    # Chunks were never supported on Google's registries (containers/skopeo #1101).
    takes_chunks=False,
    login_advice="Google takes an identity (auth.type google), or the users oauth2accesstoken "
    "(a token lasts an hour), _json_key and _json_key_base64",
)
_QUIRKS: dict[RegistryType, Quirks] = {
    "docker_hub": Quirks(
        digests_by="docker_hub",
        identifies_by="login",
        lists_by="docker_hub",
        listing_advice="name a namespace that is there in the rule, such as docker.io/library/**",
        creates_by="docker_hub",
        creation_fields=frozenset({"public", "description"}),
        creation_advice="making repositories takes an access token with the permission Read & Write, of a member who "
        "may create them",
        login_advice="Docker Hub takes a user's name with an access token, or an organization's with one of its own",
    ),
    "acr": Quirks(
        lists_by="acr",
        digests_by="acr",
        links_pages=True,
        # `pull` alone gets a 401 for tags (Azure/acr #676).
        tag_list_action="metadata_read",
        # Tokens that are bound to repositories get no catalog (Azure/acr #675).
        listing_advice="name the repositories in the rule, or use a login that is not bound to some repositories",
        login_advice="ACR takes an identity (auth.type azure), a service principal, a token of its own, or "
        "00000000-0000-0000-0000-000000000000 with a refresh token as the password",
    ),
    "ecr": _ECR,
    "gar": _GAR,
    "ghcr": Quirks(
        lists_by="github",
        identifies_by="github",
        listing_advice=(
            "name an owner in the rule, such as ghcr.io/owner/**, and log in with a classic token that has the scope "
            "read:packages; other tokens can't list"
        ),
        # "416 … exceeds the maximum permissible limit of 4.00MiB" (ocx #237).
        max_chunk_bytes=4 * MIB,
        login_advice="GHCR takes a user's name with a classic token that has the scope read:packages",
    ),
    "gitlab": Quirks(
        digests_by="gitlab",
        identifies_by="gitlab",
        lists_by="gitlab",
        is_distribution=True,
        creates_by="nothing",
        by_hand=_PROJECT_FIRST,
        creation_advice=f"{_PROJECT_FIRST}, and leave create_missing out",
        listing_advice=(
            "name a group or a project in the rule, and log in with an access token that has the scope read_api; "
            "deploy tokens can't list"
        ),
        login_advice="GitLab takes access tokens and deploy tokens with the scope read_registry",
    ),
    "harbor": Quirks(
        digests_by="harbor",
        is_distribution=True,
        identifies_by="harbor",
        links_pages=True,
        lists_by="harbor",
        creates_by="harbor",
        creation_fields=frozenset({"public", "scan_on_push", "quota_bytes", "immutable_tags", "lifecycle"}),
        creation_advice="making projects takes an administrator, a person where every user may make projects, or a "
        "system robot with the permission Create Project (for all projects List and Create Immutable Tag too where "
        "tags are immutable, and Read Project and Create Tag Retention for a lifecycle)",
        listing_advice=(
            "a robot needs the permissions List Repository and Pull Repository for the project (before Harbor 2.4 none "
            "can list all projects: name a project in the rule)"
        ),
        login_advice=(
            "a robot's name begins with robot$, or whatever prefix this Harbor has; it needs the permissions List "
            "Repository and Pull Repository, and Push Repository at a destination"
        ),
    ),
    "quay": Quirks(
        digests_by="quay",
        identifies_by="quay",
        lists_by="quay",
        creates_by="quay",
        creation_fields=frozenset({"public", "description"}),
        creation_advice="making repositories takes the user $oauthtoken with a token of an application that has the "
        "scope repo:create, and org:admin where the organization is missing too",
        listing_advice="name an organization in the rule",
        login_advice="Quay takes users, robots (organization+name), and $oauthtoken with a token of an application",
    ),
    "artifactory": _SET_UP,
    "nexus": _SET_UP,
    "zot": _PLAIN,
    "generic": Quirks(is_distribution=True),
}
_ECR_PUBLIC_QUIRKS = replace(
    _ECR,
    lists_by="ecr_public",
    digests_by="nothing",
    creation_fields=frozenset({"description", "tags"}),
    creation_advice="making repositories takes auth.type aws, with the rights ecr-public:CreateRepository and "
    "ecr-public:DescribeRegistries, and a name that begins with an alias of the account",
    listing_advice="name the repositories in the rule, one by one; those of an account are listed for its identity "
    "(auth.type aws, with the right ecr-public:DescribeRepositories)",
    login_advice="ECR Public takes an identity (auth.type aws), or the user AWS and a password of "
    "`aws ecr-public get-login-password --region us-east-1`, which lasts 12 hours",
)
_GCR_QUIRKS = replace(
    _GAR,
    lists_by="catalog",
    creates_by="first_push",
    creation_fields=frozenset(),
    creation_advice="gcr.io makes its repository with the first push of a login that has the role "
    "roles/artifactregistry.createOnPushWriter: leave create_missing out",
)
_HOSTS: tuple[tuple[re.Pattern[str], RegistryType], ...] = (
    (re.compile(re.escape(DOCKER_HUB)), "docker_hub"),
    (re.compile(r"\A[^.]+(\.[^.]+\.geo)?\.azurecr\.(io|cn|us)"), "acr"),
    (re.compile(r"\A\d+\.dkr\.ecr(-fips)?\.[^.]+\.amazonaws\.com(\.cn)?|\Apublic\.ecr\.aws"), "ecr"),
    (re.compile(r"\A[^.]+-docker\.pkg\.dev|\A([^.]+\.)?gcr\.io"), "gar"),
    (re.compile(r"ghcr\.io"), "ghcr"),
    (re.compile(r"registry\.gitlab\.com"), "gitlab"),
    (re.compile(r"quay\.io"), "quay"),
)


def quirks_of(entry: RegistryEntry) -> Quirks:
    """Return what is known of a registry: by the type it was entered with, or by its host."""
    kind = entry.type if entry.type != "auto" else _type_of_host(entry.registry)
    if kind is None:
        return _UNKNOWN
    if kind == "ecr" and entry.registry == ECR_PUBLIC:
        return _ECR_PUBLIC_QUIRKS
    if kind == "gar" and entry.registry.endswith("gcr.io"):
        return _GCR_QUIRKS
    return _QUIRKS[kind]


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


@lru_cache(maxsize=1024)
def _type_of_host(host: str) -> RegistryType | None:
    return next((kind for pattern, kind in _HOSTS if pattern.fullmatch(host)), None)


@dataclass(slots=True)
class UploadStrategy:
    """What one registry was found to take."""

    chunk_bytes: int
    refuses_whole: bool = False
    refuses_chunks: bool = False
    is_distribution: bool = False
    keeps_broken: bool | None = None
    """Whether what arrived of a request that broke off stays; None until that was seen."""
    _ahead: int = 0

    @classmethod
    def of(cls, entry: RegistryEntry, chunk_bytes: int) -> UploadStrategy:
        """Begin with what is known of a registry."""
        quirks = quirks_of(entry)
        return cls(
            min(chunk_bytes, quirks.max_chunk_bytes or chunk_bytes),
            refuses_chunks=not quirks.takes_chunks,
            is_distribution=quirks.is_distribution,
        )

    def makes_points(self, location: Url) -> bool:
        """Return whether a large blob goes in chunks, each of which is a point to go on from.

        One request is faster, and as good where its part that arrived stays. Until it was seen what happens, what
        shows itself as Distribution, by a `_state` in where its upload is, is taken for its version 2, which keeps
        nothing; unless the upload's name shows version 3, which does.
        """
        if self.refuses_chunks or self.keeps_broken:
            return False
        if self.keeps_broken is False:
            return True
        is_version_3 = _NAME_OF_VERSION_3.fullmatch(location.path.rpartition("/")[2]) is not None
        return self.is_distribution and "_state=" in location.query and not is_version_3

    def note_broken(self, *, sent: int, stored: int) -> None:
        """Learn from an upload that broke off after so many bytes of a request, and how many more there are now."""
        if sent >= _TELLING_BYTES:
            self.keeps_broken = stored > 0

    @contextmanager
    def reading_ahead(self) -> Iterator[bool]:
        """Say whether an upload may read ahead, while inside."""
        may = self._ahead < _MAX_READ_AHEAD
        self._ahead += may
        try:
            yield may
        finally:
            self._ahead -= may

    @property
    def can_shrink(self) -> bool:
        """Whether chunks may be smaller still."""
        return self.chunk_bytes > _MIN_CHUNK_BYTES

    def shrink(self, message: str) -> None:
        """Send smaller chunks: as small as an answer says (GHCR: 4.00MiB), or half."""
        limit = _LIMIT.search(message)
        wanted = int(float(limit[1]) * MIB) if limit else self.chunk_bytes // 2
        self.chunk_bytes = max(_MIN_CHUNK_BYTES, min(wanted, self.chunk_bytes // 2))
