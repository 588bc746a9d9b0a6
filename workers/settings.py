"""`@settings` and `@message`: how the parts of an experiment, and messages, are declared and checked."""

from collections.abc import Mapping
from typing import Any, TypeVar, dataclass_transform

from pydantic import ConfigDict, Field, ValidationError
from pydantic.dataclasses import dataclass
from pydantic_core import ErrorDetails

Settings = TypeVar("Settings", bound=type)


@dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(Field,))
def settings(cls: Settings) -> Settings:
    """Make `cls` a frozen, keyword-only dataclass that checks its values and refuses unknown fields.

    Its instances are hashable where their values are, so that a jitted function can have them as static
    arguments.
    """
    return _dataclass(cls, is_strict=False)


@dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(Field,))
def message(cls: Settings) -> Settings:
    """Like `settings`, for what comes over the network: a value must be of the field's own type."""
    return _dataclass(cls, is_strict=True)


def _dataclass(cls: Settings, *, is_strict: bool) -> Settings:
    config = ConfigDict(extra="forbid", allow_inf_nan=False, strict=is_strict)
    decorate = dataclass(frozen=True, kw_only=True, config=config)
    return decorate(cls)  # type: ignore[return-value]  # pydantic's decorator forgets the class's own type


def explain(error: ValidationError, given: object) -> list[str]:
    """One line for each mistake in `given`: the field's path, what was expected, what was found."""
    return [_explain(mistake, given) for mistake in error.errors(include_url=False)]


def _explain(mistake: ErrorDetails, given: object) -> str:
    path = _written_path(mistake["loc"], given)
    context = mistake.get("ctx", {})
    found = mistake["input"]
    match mistake["type"]:
        case "union_tag_invalid":
            path = (*path, context["discriminator"].strip("'"))
            expected, found = f"expected one of {context['expected_tags']}", context["tag"]
        case "union_tag_not_found":
            path = (*path, context["discriminator"].strip("'"))
            expected = "is missing"
        case "literal_error":
            expected = f"expected {context['expected']}"
        case "missing":
            expected = "is missing"
        case "unexpected_keyword_argument":
            expected = "is not a field that is known here"
        case _:
            expected = mistake["msg"].removeprefix("Value error, ")
            expected = expected.replace("Input should", "should")
    shown = f", got {found!r}" if isinstance(found, str | int | float) else ""
    return ": ".join(filter(None, (".".join(path), expected + shown)))


def _written_path(location: tuple[int | str, ...], given: Any) -> tuple[str, ...]:
    """The field's path as its author wrote it: without the members of unions, which pydantic adds."""
    path = []
    for place, part in enumerate(location):
        is_last = place == len(location) - 1
        if isinstance(given, Mapping) and part in given:
            given = given[part]
        elif isinstance(given, list | tuple) and isinstance(part, int):
            given = given[part] if part < len(given) else None
        elif not (isinstance(given, Mapping) and is_last):
            continue
        path.append(str(part))
    return tuple(path)
