"""The contract as generated: the same as the reviewed file, complete, and true to what the models take and give."""

import inspect
import json
import pkgutil
import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from pydantic import BaseModel

from app.api import schemas
from app.api.errors import status_of
from app.api.problems import PROBLEMS
from app.domain.errors import InvalidRequestError
from app.main import create_app
from app.settings import Settings

DOCUMENT = json.loads((Path(__file__).parent.parent / "openapi" / "openapi.json").read_text())
"""The reviewed file: it is to be had at once, and the first test holds that it is the generated one."""
SUCCESSES = {"200", "201", "202"}


def operations() -> Iterator[tuple[str, dict[str, Any]]]:
    for path, methods in DOCUMENT["paths"].items():
        for method, operation in methods.items():
            yield f"{method.upper()} {path}", operation


def test_the_document_is_the_reviewed_one() -> None:
    generated = create_app(Settings.model_construct()).openapi()

    assert generated == DOCUMENT, "run `make openapi` and look at the difference"


def test_nothing_that_callers_rely_on_has_vanished() -> None:
    promised = {
        "/v1/jobs": {"post", "get"},
        "/v1/jobs/{job_id}": {"get", "delete"},
        "/v1/jobs/{job_id}/images": {"get"},
        "/v1/jobs/{job_id}/cancel": {"post"},
        "/v1/jobs/{job_id}/retry": {"post"},
        "/v1/jobs/{job_id}/events": {"get"},
        "/v1/plan": {"post"},
        "/v1/registries": {"get"},
        "/v1/registries/{name}": {"get", "put", "patch", "delete"},
        "/v1/registries/{name}/check": {"post"},
        "/v1/keys": {"get", "post"},
        "/healthz": {"get"},
        "/readyz": {"get"},
        "/metrics": {"get"},
    }

    for path, methods in promised.items():
        assert methods <= set(DOCUMENT["paths"][path]), path


@pytest.mark.parametrize(("name", "operation"), [*operations()])
def test_an_operation_says_what_it_is_for_and_how_it_fails(name: str, operation: dict[str, Any]) -> None:
    assert operation["summary"]
    assert operation["description"]
    assert len(operation["tags"]) == 1
    assert operation["tags"][0] in {tag["name"] for tag in DOCUMENT["tags"]}
    errors = {status: answer for status, answer in operation["responses"].items() if int(status) >= 400}
    assert "500" in errors
    if operation["security"]:
        assert {"401", "403"} <= set(errors)
    for answer in errors.values():
        described = DOCUMENT["components"]["responses"][answer["$ref"].rpartition("/")[2]]
        assert list(described["content"]) == ["application/problem+json"]
    for status in SUCCESSES & set(operation["responses"]):
        assert operation["responses"][status]["description"] != "Successful Response"


def test_every_operation_says_whether_it_wants_a_key() -> None:
    public = {name for name, operation in operations() if operation["security"] == []}

    assert public == {
        "GET /healthz",
        "GET /readyz",
        "POST /v1/hooks/{registry}",
        "OPTIONS /v1/hooks/{registry}",
        "POST /v1/hooks/{registry}/{token}",
        "OPTIONS /v1/hooks/{registry}/{token}",
    }


def test_schemas_have_titles_of_their_own() -> None:
    schemas = DOCUMENT["components"]["schemas"]

    assert {name: schema.get("title") for name, schema in schemas.items()} == {name: name for name in schemas}
    assert "patternProperties" not in json.dumps(schemas)


def schema_examples(schema: dict[str, Any], where: str) -> Iterator[tuple[str, dict[str, Any], Any]]:
    for number, example in enumerate(schema.get("examples", ())):
        yield f"{where} {number}", schema, example


def all_examples() -> Iterator[tuple[str, dict[str, Any], Any]]:
    for name, schema in DOCUMENT["components"]["schemas"].items():
        yield from schema_examples(schema, name)
    for name, operation in operations():
        for media_type, content in operation.get("requestBody", {}).get("content", {}).items():
            for title, example in content.get("examples", {}).items():
                yield f"{name} {media_type} {title}", content["schema"], example["value"]
            if "example" in content:
                yield f"{name} {media_type}", content["schema"], content["example"]


@pytest.mark.parametrize(("schema", "example"), [pytest.param(*rest, id=name) for name, *rest in all_examples()])
def test_examples_are_as_their_schema_says(schema: dict[str, Any], example: Any) -> None:
    validator = Draft202012Validator({**schema, "components": DOCUMENT["components"]})

    assert [error.message for error in validator.iter_errors(example)] == []


def test_operations_have_names_of_their_own() -> None:
    names = [operation["operationId"] for _, operation in operations()]

    assert sorted(names) == sorted(set(names))


def test_nothing_is_described_that_nobody_names() -> None:
    text = json.dumps(DOCUMENT)
    for kind, described in DOCUMENT["components"].items():
        for name in described:
            if kind != "securitySchemes":
                assert f'"#/components/{kind}/{name}"' in text, f"{kind}/{name}"


def examples() -> Iterator[tuple[str, type[BaseModel], Any]]:
    for module in pkgutil.iter_modules(schemas.__path__, f"{schemas.__name__}."):
        for name, model in inspect.getmembers(import_module(module.name), inspect.isclass):
            if issubclass(model, BaseModel) and model.__module__ == module.name:
                extra = model.model_config.get("json_schema_extra")
                for example in extra.get("examples", []) if isinstance(extra, dict) else []:  # type: ignore[union-attr]  # examples are a list there
                    yield name, model, example


@pytest.mark.parametrize(
    ("name", "model", "example"), [*examples()], ids=lambda value: value if isinstance(value, str) else ""
)
def test_an_example_is_what_the_service_takes_or_gives(name: str, model: type[BaseModel], example: Any) -> None:
    read = model.model_validate(example)

    if name.endswith("Out"):
        assert json.loads(read.model_dump_json()) == example


def test_examples_of_requests_are_taken() -> None:
    body = DOCUMENT["paths"]["/v1/jobs"]["post"]["requestBody"]["content"]["application/json"]

    for example in body["examples"].values():
        schemas = import_module("app.api.schemas.jobs")
        schemas.JobIn.model_validate(example["value"])


@pytest.mark.parametrize("code", PROBLEMS)
def test_a_problem_has_the_status_that_is_described(code: str) -> None:
    assert status_of(InvalidRequestError("x", code=code)) == PROBLEMS[code].status


def test_the_document_names_no_host_but_examples() -> None:
    text = json.dumps(DOCUMENT)

    for word in ("localhost:", "/work/", "/root/", "/home/"):
        assert word not in text


def test_the_calls_to_try_first_are_calls_there_are(project: Path) -> None:
    text = (project / "openapi" / "requests.http").read_text()
    text = text.replace("{{submit.response.headers.Location}}", "/v1/jobs/{job_id}")
    calls = re.findall(r"^(GET|POST|PUT|PATCH|DELETE) \{\{api\}\}([^?\s]*)", text, flags=re.MULTILINE)

    assert len(calls) > 15
    for method, path in calls:
        template = re.sub(r"^/v1/(registries|subscriptions)/[a-z-]+", r"/v1/\1/{name}", path)
        assert method.lower() in DOCUMENT["paths"][template], f"{method} {path}"
    for block in text.split("\n###"):
        body = block.partition("\n\n")[2].strip()
        if body.startswith("{"):
            json.loads(body)
