"""The switches of the fake registry: each is off, or as the specification asks, until a test says otherwise.

A field's docstring names the registries known to behave so (see docs of the handlings in `app.registry`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from tests.support.fake_registry.quirks_content import BlobQuirks, ManifestQuirks, UploadQuirks

LinkForm = Literal[
    "relative", "absolute", "query_only", "other_host", "plain_http", "http_same_port", "to_itself", "unquoted"
]
ChallengeForm = Literal[
    "plain", "two_headers", "one_header", "odd_case", "quoted", "negotiate_first", "basic_first", "garbage", "missing"
]


@dataclass(frozen=True, kw_only=True)
class AuthQuirks:
    """Who has to show what, and how the registry asks for it."""

    auth: Literal["none", "basic", "token"] = "none"
    """`basic` is ECR and htpasswd; `token` nearly everybody else."""
    challenge: ChallengeForm = "plain"
    """Form of `WWW-Authenticate`: `two_headers` and `one_header` offer Basic beside Bearer, `missing` is gcr.io on all
    but `/v2/`, `negotiate_first` is behind a company proxy, `quoted` has commas and escaped quotes in its values."""
    challenge_from_stranger: bool = False
    """The realm lies on the `stranger` server: a hostile registry that collects credentials (CVE-2026-48978)."""
    realm: Literal["other_port", "same_host", "acr", "relative", "plain_http"] = "other_port"
    """`same_host` is Quay and GHCR, `acr` has a path of its own there; `relative` is resolved against the request
    (regclient); `plain_http` is http."""
    realm_url: str = ""
    """The realm, word for word, instead: `http://169.254.169.254/token` …"""
    service: str = "fake.registry"
    """What the registry is called there: `harbor-registry`, `container_registry` (GitLab), its host (Quay)."""
    ping_status: int | None = None
    """`/v2/` answers this whatever is sent, other paths work: 403 and 404 behind proxies, 200 on public registries."""
    token_methods: frozenset[str] = frozenset({"GET", "POST"})
    """What the token endpoint knows: only GET on old ones, only POST on some OAuth2 servers."""
    token_method_status: int = 405
    """The answer to the other method: 404, 405 or 401."""
    token_fields: tuple[str, ...] = ("token", "access_token")
    """Where the token stands: only `access_token` on ACR, only `token` on older ones; none at all on broken ones."""
    token_expires_in: int | None = 300
    """What `expires_in` says; None leaves it out (the specification then means 60)."""
    token_lives_seconds: float | None = None
    """How long a token really works, if not as long as it says."""
    token_lives_requests: int | None = None
    """How many requests a token is good for: expiry in the middle of a copy, without waiting."""
    token_issued_at: Literal["now", "missing", "future"] = "now"
    """`future` is a server whose clock is ahead."""
    token_body: Literal["json", "html", "empty", "list", "huge"] = "json"
    """Answers of 200 that carry no token."""
    token_refusal_status: int = 401
    """For wrong credentials: 400 on Google's registries, 403 on others."""
    token_redirect: Literal["", "stranger", "loop"] = ""
    """The token endpoint redirects (go-containerregistry #2349)."""
    identity_tokens_only: bool = False
    """The token endpoint takes refresh tokens, no passwords: ACR with Entra ID."""
    offline_tokens_unusable: bool = False
    """A token asked for with `offline_token` works nowhere."""
    denied_scopes: tuple[str, ...] = ()
    """Patterns of `repository:name:action` that no token is given for, whoever asks."""
    only_first_scope: bool = False
    """Only the first scope asked for is granted."""
    only_last_scope: bool = False
    """Only the last scope asked for is granted: old GitLab."""
    scopes_overwrite: bool = False
    """Of two scopes of one repository the later replaces the earlier: GitLab (kaniko #181)."""
    delete_scope_refused: bool = False
    """A scope with `delete` yields no access at all: Quay."""
    tags_need_metadata_read: bool = False
    """`tags/list` needs the action `metadata_read`, `pull` is not enough: ACR."""
    catalog_scope_refused: bool = False
    """`registry:catalog:*` is answered 400, any token will do for the catalog: Quay."""
    insufficient_scope_status: int = 401
    """For a token that lacks a scope: 401 in Distribution, 403 on Docker Hub and others."""
    cancel_needs_delete: bool = False
    """DELETE of an upload needs the action `delete`: Distribution."""


@dataclass(frozen=True, kw_only=True)
class PressureQuirks:
    """How much the registry bears, and what it says about it."""

    limit_requests: int | None = None
    """From this many requests on in a window, more are refused."""
    limit_window_seconds: float | None = None
    """After this the count begins again; None never."""
    limit_counts: Literal["all", "manifest_gets"] = "all"
    """What counts: on Docker Hub only GETs of manifests."""
    limit_status: int = 429
    """503 on some; 403 with TOOMANYREQUESTS on others."""
    retry_after: Literal["seconds", "date", "missing", "garbage"] = "seconds"
    retry_after_seconds: int = 1
    limit_headers: Literal["none", "docker_hub", "x", "draft", "structured"] = "none"
    """How the remaining budget is told: `ratelimit-remaining: 76;w=21600` (Docker Hub, with its source header),
    `X-RateLimit-Remaining: 76`, `RateLimit-Remaining: 76` (IETF drafts to 07), `RateLimit: "default";r=76;t=30`."""
    most_at_once: int | None = None
    """More requests than this in work at the same time are refused with 429."""
    latency_seconds: float = 0
    """Every answer waits so long."""
    closes_connections: bool = False
    """`Connection: close` with every answer."""
    warning: str = ""
    """A `Warning` header with every answer, e.g. `299 - "deprecated"`."""
    error_body: Literal["json", "html", "empty", "text", "huge"] = "json"
    """What 4xx and 5xx answers carry; the specification's JSON is optional."""


@dataclass(frozen=True, kw_only=True)
class ListQuirks:
    """Tags, catalog and referrers."""

    tags_null: bool = False
    """An empty repository lists `null`: older Distribution and others written in Go."""
    extra_tags: tuple[str | None, ...] = ()
    """Entries beside the real tags: null on Nexus, digests on Artifactory, `../x` from the hostile."""
    tags_unsorted: bool = False
    """ECR and others."""
    tags_status: int | None = None
    """`tags/list` answers this."""
    tags_extra_fields: bool = False
    """The answer has `child` and `manifest` too: Google's registries."""
    empty_repository_unknown: bool = True
    """404 NAME_UNKNOWN for a repository without content, as Distribution; False: 200 with an empty list."""
    page_cap: int | None = None
    """No page of any list is longer, whatever `n` asks for: a page shorter than `n` is not the end."""
    n_limit: int | None = None
    """A greater `n` is refused with 400: ECR above 1000, Distribution 2.8 for the catalog."""
    link: LinkForm = "relative"
    """How `Link` points on: `absolute` names the host; `other_host` the stranger (an internal name behind a proxy);
    `http_same_port` the registry itself with the wrong scheme; `to_itself` the same page for ever; `unquoted` is
    `rel=next`."""
    link_missing: bool = False
    """Full pages without `Link`; only `last` leads on."""
    link_tokens_opaque: bool = False
    """The next page is named by a token, `last` does nothing: ECR."""
    endless: bool = False
    """Lists never end: each page invents new entries and a new `Link`."""
    lists_padded_to_bytes: int | None = None
    """Tags and catalog have so many bytes."""
    lists_gzip: bool = False
    """Tags and catalog are gzip'd whatever `Accept-Encoding` says; with padding, a bomb."""
    catalog_status: int | None = None
    """`_catalog` answers this: 404, 401 or 403 on nearly all hosted registries."""
    api: Literal["none", "docker_hub", "github", "google", "harbor", "quay", "gitlab"] = "none"
    """Whose API lists repositories too. Its pages are those of the other lists, in their sizes and their links."""
    digest_list: Literal["none", "acr", "docker_hub", "gitlab", "harbor", "quay"] = "none"
    """Whose list of all tags with their digests there is; `tags_extra_fields` is Google's."""
    digest_list_lies: int = 0
    """So many of its first tags have another digest there."""
    pushed_at: Mapping[str, datetime] = field(default_factory=dict)
    """When tags were pushed, as that list tells it; of others it tells nothing."""
    api_status: int | None = None
    """That API answers this."""
    projects_needed: bool = False
    """Repositories lie in projects that have to be made first: Harbor; in repositories of projects: Google."""
    harbor_rules_refused: bool = False
    """Who makes a project may make no rules for its tags: a robot of Harbor's without that permission."""
    harbor_makers: Literal["everyone", "adminonly"] = "adminonly"
    """Who may make projects on Harbor, beside its administrators."""
    quay_organizations: tuple[str, ...] = ("team",)
    """What is an organization on Quay, beside what was made one."""
    creation_refused: bool = False
    """Nobody may make anything by that API."""
    api_private: tuple[str, ...] = ()
    """Repositories it shows to nobody who has not logged in to it."""
    api_serves_strangers: bool = False
    """It takes a wrong login for nobody in particular and shows what is public: Harbor, for public projects."""
    api_extra: tuple[Any, ...] = ()
    """Entries beside the real ones."""
    github_people: tuple[str, ...] = ()
    """Who is a person on GitHub; every other owner is an organization."""
    gitlab_projects: tuple[str, ...] = ()
    """What is a project on GitLab; what a project lies below is a group."""
    referrers: Literal["api", "missing", "html", "json_error", "manifest"] = "api"
    """`missing` answers 404 (GHCR, Docker Hub, Distribution 2), `html` and `json_error` 200 with something else (an
    application's page), `manifest` an image manifest instead of an index."""
    referrers_status: int | None = None
    """The referrers API answers this: 400, 405, 500."""
    referrers_filter: bool = True
    """`artifactType` is honoured and `OCI-Filters-Applied` says so; False: neither."""
    subject_header: bool | None = None
    """`OCI-Subject` in the answer to a manifest with a subject; None: as the API is there or not."""
    fallback_tag_is_image: bool = False
    """The tag `sha256-<hex>` answers with the image of that digest itself: GitLab (oras #2148)."""


@dataclass(frozen=True, kw_only=True)
class Quirks(AuthQuirks, PressureQuirks, ListQuirks, ManifestQuirks, BlobQuirks, UploadQuirks):
    """All switches; the plain `Quirks()` is a registry as the specification has it, open to everybody."""

    accepts_everything: bool = False
    """A site that answers 200 and a page to whatever comes."""
    read_only: bool = False
    """Writes are answered 405 UNSUPPORTED: Distribution in maintenance, pull-through caches."""


DOCKER_HUB = Quirks(
    auth="token",
    referrers="missing",
    catalog_status=404,
    limit_headers="docker_hub",
    limit_counts="manifest_gets",
    limit_requests=100,
    immutable_tags="docker_hub",
    insufficient_scope_status=403,
)
HARBOR = Quirks(auth="token", realm="same_host", immutable_tags="harbor", missing_manifest_code="NOT_FOUND")
QUAY = Quirks(auth="token", realm="same_host", delete_scope_refused=True, mount_needs_from=True, immutable_tags="quay")
ECR = Quirks(
    auth="basic",
    chunk_status=201,
    chunk_min_enforced=True,
    chunk_min_bytes=5 * 1024 * 1024,
    later_chunks_dropped=True,
    mount="session",
    n_limit=1000,
    tags_unsorted=True,
    link_tokens_opaque=True,
    immutable_tags="ecr",
    referrers="missing",
)
GHCR = Quirks(auth="token", realm="same_host", catalog_status=404, referrers="missing", chunk_max_bytes=4 * 1024 * 1024)
GITLAB = Quirks(auth="token", only_last_scope=True, fallback_tag_is_image=True, referrers="missing", catalog_status=401)
ACR = Quirks(
    auth="token",
    realm="acr",
    token_fields=("access_token",),
    tags_need_metadata_read=True,
    blob_redirect="storage",
)
DISTRIBUTION_2 = Quirks(
    refused_range_breaks=True,
    content_range_ignored=True,
    referrers="missing",
    uploads_with_state=True,
    cut_uploads="killed",
    cancel_needs_delete=True,
    location="absolute",
)
NEXUS = Quirks(extra_tags=(None,), mount="session", referrers="missing", immutable_tags="nexus", n_limit=None)
ARTIFACTORY = Quirks(
    missing_manifest_status=403,
    extra_tags=("sha256:" + "0" * 64,),
    blobs_visible_after_puts=1,
    immutable_tags="artifactory",
)
