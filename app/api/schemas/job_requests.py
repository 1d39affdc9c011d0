"""What is sent to make a job: a sync request in either form, a plan to be carried out, a retry."""

from __future__ import annotations

from typing import Any, Literal, Self, cast
from uuid import UUID

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    ModelWrapValidatorHandler,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from app.api.schemas.examples import FULL_FORM, PLAN_FORM, SHORT_FORM
from app.domain.job import Priority
from app.domain.notify_url import Notify
from app.domain.request import Labels, Options, Rule, SyncRequest

DRY_RUN = "Copy nothing: the job is of the kind `plan`, and its images say what a copy would do."
_RULE_FIELDS = frozenset(Rule.model_fields)


class SubmittedFields(BaseModel):
    """What is said of any job beside what it does."""

    labels: Labels = Field(default_factory=dict, description="Yours to find the job by: `?label=key:value`.")
    priority: Priority = Field(default=Priority.NORMAL, description="Which of two waiting jobs goes first.")
    notify: Notify | None = Field(
        default=None, description="Where this job's end is reported, signed with that subscription's secret."
    )


class SubmittedRequest(SubmittedFields, SyncRequest):
    """A sync request, in its short form (one rule, its fields at the top) or its full form (`rules`); never both."""

    @property
    def request(self) -> SyncRequest:
        """What the job does."""
        return SyncRequest.model_construct(rules=self.rules, options=self.options)

    @model_validator(mode="wrap")
    @classmethod
    def _from_either_form(cls, value: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        if not isinstance(value, dict) or "rules" in value:
            _refuse_mixture(value)
            return handler(value)
        rule = {name: value[name] for name in value if name in _RULE_FIELDS}
        return handler({**{name: value[name] for name in value if name not in _RULE_FIELDS}, "rules": [rule]})


class _JobFields(SubmittedFields):
    options: Options = Field(default_factory=Options)
    dry_run: bool = Field(default=False, description=DRY_RUN)


class JobShortForm(_JobFields, Rule):
    """A sync request of one rule, whose fields are at the top."""

    model_config = ConfigDict(json_schema_extra={"examples": [SHORT_FORM]})


class JobFullForm(_JobFields, SyncRequest):
    """A sync request of any number of rules."""

    model_config = ConfigDict(json_schema_extra={"examples": [FULL_FORM]})


class JobOfPlanForm(SubmittedFields):
    """A plan to be carried out: exactly what it found to be done, as far as nothing has moved since."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [PLAN_FORM]})

    plan: UUID = Field(description="The id of a job of the kind `plan` that is done.")


class JobIn(SubmittedRequest):
    """A sync request in its short or its full form, or a plan to be carried out."""

    dry_run: bool = Field(default=False, description=DRY_RUN)
    plan: UUID | None = None

    @model_validator(mode="wrap")
    @classmethod
    def _from_any_form(cls, value: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        if not isinstance(value, dict) or "plan" not in value:
            return handler(value)
        form = JobOfPlanForm.model_validate(value)
        fields = {name: getattr(form, name) for name in JobOfPlanForm.model_fields}
        return cast("Self", cls.model_construct(**fields, rules=()))

    @classmethod
    def __get_pydantic_json_schema__(cls, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """Describe the forms."""
        return described_by(core, handler, JobShortForm, JobFullForm, JobOfPlanForm)


def described_by(core: CoreSchema, handler: GetJsonSchemaHandler, *forms: type[BaseModel]) -> JsonSchemaValue:
    """Return the JSON schema of a model that is written in one of several forms."""
    schema = handler.resolve_ref_schema(handler(core))
    described = {name: schema[name] for name in ("title", "description")}
    schema.clear()
    # Within definitions each becomes a schema of its own, which client generators name; else it would be inlined.
    cores = (core_schema.definitions_schema(form.__pydantic_core_schema__, []) for form in forms)
    schema.update(described, oneOf=[handler(each) for each in cores])
    return schema


def _refuse_mixture(value: Any) -> None:
    for name in value if isinstance(value, dict) else ():
        if name in _RULE_FIELDS:
            message = "`{name}` belongs to the short form; beside `rules` it goes into a rule"
            raise PydanticCustomError("mixed_forms", message, {"name": name, "field": (name,)})


class RetryIn(BaseModel):
    """What of the job to do again."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"only": "failed"}]})

    only: Literal["failed", "all"] = "failed"
