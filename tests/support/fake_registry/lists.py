"""Lists of the fake registry: tags, catalog, referrers, and the pages they come in."""

import gzip
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from tests.support.fake_registry.messages import Answer, Request, error, json_answer, page_answer
from tests.support.fake_registry.site import Site
from tests.support.images import OCI_INDEX, OCI_MANIFEST, fallback_tag

ENDLESS_PAGE = 5
REFERRERS_PAGE = 1000


@dataclass
class Lists:
    """Handlers of the three lists."""

    site: Site

    def tags(self, request: Request) -> Answer:
        """Answer `GET /v2/<name>/tags/list` (distribution-spec, "Listing Tags")."""
        quirks, name = self.site.quirks, request.entry.repository
        if quirks.tags_status is not None:
            return error(quirks.tags_status, "UNKNOWN")
        tags: list[str | None] = [*sorted(self.site.content.tags(name)), *quirks.extra_tags]
        if quirks.tags_unsorted:
            tags = [*tags[1::2], *tags[::2]]
        if not tags and not quirks.endless and (quirks.empty_repository_unknown and not quirks.tags_null):
            return error(404, "NAME_UNKNOWN", "repository name not known to registry", detail={"name": name})
        page, link = self._page(request, tags)
        body: dict[str, Any] = {"name": name, "tags": None if quirks.tags_null and not page else page}
        if quirks.tags_extra_fields:
            manifests: dict[str, dict[str, Any]] = {}
            for tag, digest in self._pairs(name):
                entry = manifests.setdefault(digest, {"tag": []})
                entry["tag"].append(tag)
                if time := quirks.pushed_at.get(tag):
                    entry["timeUploadedMs"] = str(int(time.timestamp() * 1000))
            body |= {"child": [], "manifest": manifests}
        return self._with_link(self._swell(json_answer(body)), link)

    def catalog(self, request: Request) -> Answer:
        """Answer `GET /v2/_catalog` (Distribution's own)."""
        if status := self.site.quirks.catalog_status:
            return error(status, "UNSUPPORTED" if status == 404 else "UNAUTHORIZED")
        names: list[str | None] = [*sorted(self.site.content.repositories)]
        page, link = self._page(request, names)
        return self._with_link(self._swell(json_answer({"repositories": page})), link)

    def referrers(self, request: Request) -> Answer:
        """Answer `GET /v2/<name>/referrers/<digest>` (distribution-spec, "Listing Referrers")."""
        quirks = self.site.quirks
        if quirks.referrers_status is not None:
            return error(quirks.referrers_status, "UNSUPPORTED")
        match quirks.referrers:
            case "missing":
                return Answer(404, [("Content-Type", "text/plain")], b"404 page not found\n")
            case "html":
                return page_answer()
            case "json_error":
                return json_answer({"errors": [{"code": "NOT_FOUND"}]})
            case "manifest":
                return json_answer({"schemaVersion": 2, "mediaType": OCI_MANIFEST}, content_type=OCI_MANIFEST)
            case "api":
                return self._referrers(request)

    def has_subject_header(self) -> bool:
        """Say whether PUT of a manifest with a subject is answered with `OCI-Subject`."""
        wanted = self.site.quirks.subject_header
        return self.site.quirks.referrers == "api" if wanted is None else wanted

    def image_of_fallback_tag(self, repository: str, reference: str) -> str | None:
        """Return the digest a tag `sha256-<hex>` spells, where the registry takes it so (GitLab)."""
        held = self.site.content.repositories.get(repository)
        if held is None or not self.site.quirks.fallback_tag_is_image or reference in held.tags:
            return None
        return next((digest for digest in held.manifests if fallback_tag(digest) == reference), None)

    def _referrers(self, request: Request) -> Answer:
        found = self.site.content.referrers(request.entry.repository, request.entry.reference)
        wanted = request.query.get("artifactType")
        filtered = wanted is not None and self.site.quirks.referrers_filter
        if filtered:
            found = [descriptor for descriptor in found if descriptor.get("artifactType") == wanted]
        page, link = self._slice(request, found, [descriptor["digest"] for descriptor in found])
        body = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": page}
        answer = json_answer(body, content_type=OCI_INDEX)
        if filtered:
            answer.headers.append(("OCI-Filters-Applied", "artifactType"))
        return self._with_link(answer, link)

    def _pairs(self, name: str) -> list[tuple[str, str]]:
        return sorted(self.site.content.tags(name).items())

    def _page(self, request: Request, items: Sequence[str | None]) -> tuple[Sequence[str | None], str]:
        """Return one page and the `Link` to the next, empty at the end."""
        if self.site.quirks.endless:
            number = int(request.query.get("page", "0"))
            page = [f"endless-{number}-{position}" for position in range(ENDLESS_PAGE)]
            return page, self._link(request, {"page": str(number + 1), "last": page[-1]})
        return self._slice(request, items, ["" if item is None else item for item in items])

    def _slice(self, request: Request, items: Sequence[Any], names: Sequence[str]) -> tuple[Sequence[Any], str]:
        quirks = self.site.quirks
        asked = request.query.get("n")
        if asked == "0":
            return [], ""
        size = min(filter(None, (int(asked) if asked else None, quirks.page_cap)), default=len(items) or 1)
        begin = self._begin(request, names)
        page = items[begin : begin + size]
        if begin + size >= len(items):
            return page, ""
        if quirks.link_tokens_opaque:
            following = {"next_token": f"opaque/{begin + size}="}
        else:
            following = {"last": names[begin + size - 1]}
        return page, self._link(request, {**({"n": asked} if asked else {}), **following})

    def _begin(self, request: Request, names: Sequence[str]) -> int:
        if self.site.quirks.link_tokens_opaque:
            return int(request.query.get("next_token", "opaque/0=").removeprefix("opaque/").rstrip("="))
        last = request.query.get("last")
        if last is None:
            return 0
        if last in names:
            return names.index(last) + 1
        return sum(1 for _ in itertools.takewhile(lambda name: name <= last, names))

    def next_url(self, request: Request, following: dict[str, str]) -> str:
        """Name the next page of a list as this registry names it."""
        quirks, path = self.site.quirks, request.path
        if existing := request.query.get("artifactType"):
            following = {"artifactType": existing, **following}
        target = f"{path}?{urlencode(following)}"
        match quirks.link:
            case "relative" | "unquoted":
                url = target
            case "absolute":
                url = f"{self.site.urls['registry']}{target}"
            case "query_only":
                url = target.removeprefix(path)
            case "other_host":
                url = f"{self.site.urls['stranger']}{target}"
            case "plain_http":
                url = f"{self.site.urls['plain']}{target}"
            case "http_same_port":
                url = f"{self.site.urls['registry'].replace('https:', 'http:')}{target}"
            case "to_itself":
                url = request.entry.target
        return url

    def _link(self, request: Request, following: dict[str, str]) -> str:
        url, quirks = self.next_url(request, following), self.site.quirks
        return f"<{url}>; rel=next" if quirks.link == "unquoted" else f'<{url}>; rel="next"'

    def _swell(self, answer: Answer) -> Answer:
        quirks = self.site.quirks
        answer.body = answer.body.ljust(quirks.lists_padded_to_bytes or 0)
        if quirks.lists_gzip:
            answer.headers.append(("Content-Encoding", "gzip"))
            answer.body = gzip.compress(answer.body)
        return answer

    def _with_link(self, answer: Answer, link: str) -> Answer:
        if link and not self.site.quirks.link_missing:
            answer.headers.append(("Link", link))
        return answer


def refuse_n(site: Site, request: Request) -> Answer | None:
    """Return the refusal of a page size beyond the registry's limit, or of one that is no number."""
    asked, limit = request.query.get("n"), site.quirks.n_limit
    if asked is None or (asked.isdigit() and (limit is None or int(asked) <= limit)):
        return None
    return error(400, "PAGINATION_NUMBER_INVALID", "invalid number of results requested", detail={"n": asked})
