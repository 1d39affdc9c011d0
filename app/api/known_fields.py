"""Which fields and query parameters an operation has, read from the OpenAPI document: what an unknown one was to be."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from typing import Any

MAX_DEPTH = 4
"""Of objects in objects."""
_SIMILAR = 0.7
_LEAST_OF_A_BEGINNING = 3
"""Characters: `dest` begins `destination`."""
_OTHER_WORDS = {"dst": "destination", "from": "source", "src": "source", "target": "destination", "to": "destination"}

Place = tuple[str, ...]
"""The names on the way to a field; items of lists have none."""


class KnownFields:
    """The fields of one operation's body, and its query parameters.

    - `document`: the OpenAPI document
    - `operation`: one of its operations, such as `document["paths"]["/v1/jobs"]["post"]`
    """

    def __init__(self, document: Mapping[str, Any], operation: Mapping[str, Any]) -> None:
        self._document = document
        self._parameters = [one["name"] for one in operation.get("parameters", ()) if one["in"] == "query"]
        body = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
        self._places = list(dict.fromkeys(self._below(body.get("schema", {}))))

    def advice_for_parameter(self, name: str) -> str:
        """Return which parameter an unknown one may have been meant to be, or which there are."""
        if not self._parameters:
            return "there are none here"
        meant = _similar(name, self._parameters)
        return f"did you mean {meant}?" if meant else f"there are: {', '.join(self._parameters)}"

    def advice_for_field(self, path: tuple[str | int, ...]) -> str | None:
        """Return which field an unknown one may have been meant to be; None where there is none like it."""
        *above, name = [part for part in path if isinstance(part, str)]
        elsewhere = [place for place in self._places if place[-1] == name]
        siblings = [place[-1] for place in self._places if place[:-1] == tuple(above)]
        if (*above, name) in elsewhere:
            return "it belongs to another form of this body: leave it out, or the fields that are beside it"
        if elsewhere:
            return f"did you mean {'.'.join(elsewhere[0])}?"
        meant = _similar(name, siblings)
        return f"did you mean {'.'.join([*above, meant])}?" if meant else None

    def _below(self, schema: Mapping[str, Any], above: Place = ()) -> Iterator[Place]:
        """Yield the place of each field, those nearest to the top first."""
        fields = [(name, field) for form in self._forms(schema) for name, field in form.get("properties", {}).items()]
        yield from ((*above, name) for name, _ in fields)
        if len(above) < MAX_DEPTH:
            for name, field in fields:
                yield from self._below(field, (*above, name))

    def _forms(self, schema: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
        """Yield what a schema may be, references followed and lists opened."""
        while "$ref" in schema:
            schema = self._document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
        yield schema
        for form in (*schema.get("anyOf", ()), *schema.get("oneOf", ())):
            yield from self._forms(form)
        if isinstance(schema.get("items"), Mapping):
            yield from self._forms(schema["items"])


def _similar(name: str, names: list[str]) -> str | None:
    if _OTHER_WORDS.get(name) in names:
        return _OTHER_WORDS[name]
    longer = [one for one in names if len(name) >= _LEAST_OF_A_BEGINNING and one.startswith(name)]
    return next(iter(longer or get_close_matches(name, names, n=1, cutoff=_SIMILAR)), None)
