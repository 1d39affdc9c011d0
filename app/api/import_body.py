"""Bodies of imports: the file alone, or in JSON beside what stood on the tool's command line."""

from __future__ import annotations

import json
import re
from typing import Any

from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from app.api.schemas.imports import IMPORTS, ImportAs, ImportFormat, ImportIn
from app.domain.errors import InvalidRequestError
from app.importers.document import check_separators

_YAML_TYPES = frozenset({"application/yaml", "application/x-yaml", "text/yaml", "text/x-yaml", "text/plain"})
_FILE_BEGINS = re.compile(r'\s*\{\s*"(?:apiVersion|items)"\s*:')


class ImportQuery(BaseModel):
    """Whose files these are, and whether to make anything of them."""

    model_config = ConfigDict(extra="forbid")

    format: ImportFormat
    dry_run: bool = Field(default=False, description="Create nothing; answer what would be created.")
    as_: ImportAs | None = Field(
        default=None, alias="as", description="`as` of the body, where that is the file alone."
    )
    destination: str | None = Field(default=None, max_length=512, description="`destination` of such a body.")
    name: str | None = Field(default=None, max_length=57, description="`name` of such a body.")
    host: str | None = Field(default=None, max_length=255, description="`host` of such a body.")

    @property
    def beside_file(self) -> dict[str, str]:
        """What belongs into the body where that is the file alone."""
        return self.model_dump(by_alias=True, exclude_none=True, exclude={"format", "dry_run"})


def import_body(content: bytes, *, content_type: str, query: ImportQuery) -> ImportIn:
    """Read a body; raise `RequestValidationError` and `InvalidRequestError` for what it should not be."""
    media_type = content_type.partition(";")[0].strip().lower()
    document: Any
    try:
        text = content.decode("utf-8-sig")
        if media_type == "application/json":
            document = _read_json(text)
        elif media_type in _YAML_TYPES:
            document = {"images" if query.format == "image-syncer" else "config": text}
        else:
            detail = "the body has to be application/json or application/yaml"
            raise InvalidRequestError(detail, code="unsupported_media_type")
        if isinstance(document, dict):
            document = query.beside_file | document
        return IMPORTS[query.format].model_validate(document)
    except ValidationError as error:
        found = [{**problem, "loc": ("body", *problem["loc"])} for problem in error.errors()]
        raise RequestValidationError(found, body=document) from error
    except (ValueError, RecursionError) as error:
        raise InvalidRequestError(f"the body can't be read: {error}", code="malformed_json") from error


def _read_json(text: str) -> Any:
    """Return the fields of an import's body; what kubectl or Harbor says is the file itself. Raise `ValueError`."""
    if text.lstrip().startswith("[") or _FILE_BEGINS.match(text):
        return {"config": text}  # a large one is read once
    check_separators(text, name="JSON")
    document = json.loads(text)
    is_file = isinstance(document, dict) and {"apiVersion", "items"} & document.keys()
    return {"config": text} if is_file else document
