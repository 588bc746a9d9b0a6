"""`@settings` and `@message`: how the parts of an experiment, and messages, are declared and checked."""

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any, TypeAlias, TypeVar, dataclass_transform, get_args, get_type_hints

from pydantic import ConfigDict, Field, Strict, ValidationError
from pydantic.dataclasses import dataclass
from pydantic_core import ErrorDetails

Settings = TypeVar("Settings", bound=type)

# Of experiments, sites and data sets.
Name: TypeAlias = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?$", max_length=63)]

# Numbers as TOML and msgpack have them: no text, no truth values, nothing that a float cannot hold.
PositiveInt: TypeAlias = Annotated[int, Strict(), Field(gt=0, lt=2**53)]
NonNegativeInt: TypeAlias = Annotated[int, Strict(), Field(ge=0, lt=2**53)]
PositiveFloat: TypeAlias = Annotated[float, Strict(), Field(gt=0)]
NonNegativeFloat: TypeAlias = Annotated[float, Strict(), Field(ge=0)]


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


def explain(error: ValidationError, given: object, kind: type | None = None) -> list[str]:
    """One line for each mistake in `given`: the field's path, what was expected, what was found.

    `kind` is what `given` should have been; with it, an unknown field is answered with those that are known.
    """
    return [_explain(mistake, given, kind) for mistake in error.errors(include_url=False)]


def _explain(mistake: ErrorDetails, given: object, kind: type | None) -> str:
    location = mistake["loc"]
    path = _written_path(location, given)
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
            known = ", ".join(_known_fields(kind, location[:-1])) if kind else ""
            expected = "is not a field that is known here" + (f"; expected one of {known}" if known else "")
        case "string_pattern_mismatch":
            expected = "expected lower-case letters, digits and hyphens, at most 63"
        case "value_error":
            field, colon, told = mistake["msg"].removeprefix("Value error, ").partition(": ")
            is_field = bool(path and colon and field.replace("_", "").replace(".", "").isalpha())
            path, expected = ((*path, field), told) if is_field else (path, f"{field}{colon}{told}")
        case _:
            expected = mistake["msg"].removeprefix("Value error, ")
            expected = expected.replace("Input should", "should").replace("a valid tuple", "a list")
    shown = f", got {_shown(found)}" if isinstance(found, str | int | float) else ""
    return ": ".join(filter(None, (".".join(path), expected + shown)))


def _shown(found: str | int | float) -> str:
    try:
        return repr(found)
    except ValueError:  # Python writes no number of more than 4300 digits, though it reads one in hexadecimal
        return "a number of thousands of digits"


def _written_path(location: tuple[int | str, ...], given: Any) -> tuple[str, ...]:
    """The field's path as its author wrote it: without the members of unions, which pydantic adds."""
    path = []
    for place, part in enumerate(location):
        is_last = place == len(location) - 1
        is_tag = place > 0 and isinstance(given, Mapping) and part in (given.get("kind"), given.get("name"))
        if isinstance(given, Mapping) and part in given and not is_tag:
            given = given[part]
        elif isinstance(given, list | tuple) and isinstance(part, int):
            given = given[part] if part < len(given) else None
        elif not (isinstance(given, Mapping) and is_last):
            continue
        path.append(str(part))
    return tuple(path)


def _known_fields(kind: type, location: tuple[int | str, ...]) -> list[str]:
    """Names of the fields that the settings at this place of `kind` have."""
    members = _members(kind)
    for part in location:
        if isinstance(part, int):  # a place in a list
            continue
        chosen = [member for member in members if part in _tags(member)]
        members = chosen or [
            inner for member in members if part in _types(member) for inner in _members(_types(member)[part])
        ]
    return [field.name for member in members for field in dataclasses.fields(member)]


def _members(kind: Any) -> list[type]:
    """The settings that an annotation allows: itself, or the members of a union."""
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return [kind]
    return [member for inner in get_args(kind) for member in _members(inner)]


def _tags(kind: type) -> list[object]:
    return [field.default for field in dataclasses.fields(kind) if field.name in ("kind", "name", "format")]


def _types(kind: type) -> dict[Any, Any]:
    return get_type_hints(kind)
