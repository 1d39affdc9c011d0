"""Lists that tell the digests of all tags, a page at a time, as the references of vendors have them."""

import re
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

from tests.support.fake_registry.lists import Lists
from tests.support.fake_registry.messages import Answer, Request, error, json_answer
from tests.support.fake_registry.site import Site

_PATHS = {
    "acr": re.compile(r"/acr/v1/(?P<name>.+)/_tags"),
    "docker_hub": re.compile(r"/v2/namespaces/(?P<name>.+)/tags"),
    "gitlab": re.compile(r"/gitlab/v1/repositories/(?P<name>.+)/tags/list/"),
    "harbor": re.compile(r"/api/v2.0/projects/(?P<name>.+)/artifacts"),
    "quay": re.compile(r"/api/v1/repository/(?P<name>.+)/tag/"),
}
_SIZES = {"acr": 1000, "gitlab": 1000}


@dataclass
class DigestLists:
    """Handlers of one vendor's list, whichever `Quirks.digest_list` says."""

    site: Site
    lists: Lists

    def answer(self, request: Request) -> Answer | None:
        """Answer a page; None for what is no such list."""
        quirks = self.site.quirks
        if quirks.digest_list == "none":
            return None
        found = _PATHS[quirks.digest_list].fullmatch(request.raw_path.partition("?")[0])
        if found is None:
            return None
        if quirks.api_status is not None:
            return error(quirks.api_status, "UNKNOWN", "the API would rather not")
        name = unquote(unquote(found["name"])).replace("/repositories/", "/")
        tags = sorted(self.site.content.tags(name).items())
        lies = quirks.digest_list_lies
        tags = [
            (tag, f"sha256:{position:064x}" if position < lies else one) for position, (tag, one) in enumerate(tags)
        ]
        return self._page(request, name, tags)

    def _page(self, request: Request, name: str, tags: list[tuple[str, str]]) -> Answer:
        kind = self.site.quirks.digest_list
        size = self.site.quirks.page_cap or _SIZES.get(kind, 100)
        number = int(request.query.get("page", "1"))
        begin = (number - 1) * size
        if last := request.query.get("last"):
            begin = next((position for position, (tag, _) in enumerate(tags) if tag > last), len(tags))
        page = tags[begin : begin + size]
        items = [self._item(name, tag, digest) for tag, digest in page]
        is_last = begin + size >= len(tags)
        step = {"last": page[-1][0], "n": str(size)} if kind in _SIZES and page else {"page": str(number + 1)}
        following = "" if is_last else self.lists.next_url(request, step)
        match kind:
            case "docker_hub":
                return json_answer({"count": len(tags), "next": following or None, "results": items})
            case "quay":
                return json_answer({"tags": items, "page": number, "has_additional": not is_last})
            case "acr":
                answer = json_answer({"registry": "x", "imageName": name, "tags": items})
            case _:
                answer = json_answer(items)
        answer.headers += [("Link", f'<{following}>; rel="next"')] if following and kind != "acr" else []
        return answer

    def _item(self, name: str, tag: str, digest: str) -> dict[str, Any]:
        stored = self.site.content.manifest(name, tag)
        media_type = stored.media_type if stored else ""
        time = self.site.quirks.pushed_at.get(tag)
        pushed = time.isoformat() if time else None
        match self.site.quirks.digest_list:
            case "harbor":
                return {
                    "digest": digest,
                    "manifest_media_type": media_type,
                    "push_time": pushed,
                    "tags": [{"name": tag}],
                }
            case "quay":
                return {"name": tag, "manifest_digest": digest, "start_ts": int(time.timestamp()) if time else None}
            case "acr":
                return {"name": tag, "digest": digest, "lastUpdateTime": pushed}
            case "gitlab":
                return {"name": tag, "digest": digest, "media_type": media_type, "published_at": pushed}
            case _:
                return {"name": tag, "digest": digest, "media_type": media_type, "tag_last_pushed": pushed}
