"""Choices from a registry, checked against the member's options as its source declares them; nothing is imported.

A member's options become a pydantic model made on the spot, so that registering a member is all it takes to have its
options checked, suggested and listed.
"""

import builtins
import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, GetCoreSchemaHandler, create_model
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from sslcut.errors import InputError, UsageError, suggestion
from sslcut.libraries import check_named
from sslcut.names import is_named
from sslcut.registry import UPDATES, Option, Registry


class Section(BaseModel):
    """A mapping of a recipe: no unknown keys, no `"20"` for 20, nothing infinite, nothing changed afterwards."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False, validate_default=True)


@dataclass(frozen=True)
class Choice:
    """A member of a registry and all its options, by name."""

    name: str
    options: dict[str, Any]

    def mapping(self) -> dict[str, Any]:
        """The choice as a recipe writes it: `{name: …}` and the options."""
        return {"name": self.name, **self.options}


@dataclass(frozen=True)
class DataChoice(Choice):
    """A data set, its loader's options, and the share of the training images that is held out for validation."""

    validation: float

    def mapping(self) -> dict[str, Any]:
        """The choice as a recipe writes it."""
        return {**super().mapping(), "validation": self.validation}


@dataclass(frozen=True, eq=False)  # were marks equal, typing would take one Annotated for another
class Chosen:
    """Marks a field as a choice from `registry`; a bare string stands for `{name: …}`."""

    registry: Registry

    def model(self, value: Any) -> type[Section] | None:
        """The model of the member that `value` names; None where it names none."""
        name = value.get("name") if isinstance(value, dict) else value
        if not isinstance(name, str) or name not in self.registry:
            return None
        name_itself = Option("name", "str", name)
        return _section(name, Section, _annotations([name_itself, *self._options(name).values()]))

    def check(self, value: Any) -> Choice:
        """The choice that `value` means, with every option; a fault in an option is a ValidationError of its own."""
        written = {"name": value} if isinstance(value, str) else value
        if not isinstance(written, dict):
            raise wanted("a name, or a mapping with a `name`")
        model = self.model(written)
        if model is None:
            raise self._unknown(written.get("name"))
        defaults = {name: option.default for name, option in self._options(written["name"]).items()}
        checked = model.model_validate_json(json.dumps({**defaults, **written}))
        return self._made(written["name"], checked.model_dump(mode="json", exclude={"name"}))

    def _options(self, name: str) -> dict[str, Option]:
        return self.registry.options(name)

    def _made(self, name: str, options: dict[str, Any]) -> Choice:
        return Choice(name, options)

    def _unknown(self, name: Any) -> PydanticCustomError:
        if name is None:
            return told(
                f"no `name` for the {self.registry.kind}", f"write `name:` and one of {', '.join(self.registry)}"
            )
        return told(f"unknown {self.registry.kind} `{name}`", suggestion(str(name), self.registry))

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(
            self.check, serialization=core_schema.plain_serializer_function_ser_schema(_mapping)
        )


_ANNOTATIONS = {
    **vars(builtins),
    "Any": Any,
    "Annotated": Annotated,
    "Literal": Literal,
    "Field": Field,
    "Mode": Annotated[Choice, Chosen(UPDATES)],  # an update's option that is an update itself
}


@dataclass(frozen=True, eq=False)
class ChosenData(Chosen):
    """Marks the field of the data set, which takes `validation` and `group` beside the loader's options.

    A `group` of null is fine with every loader, another value only where the loader has the option.
    """

    def _options(self, name: str) -> dict[str, Option]:
        validation = Option("validation", "Annotated[float, Field(gt=0, lt=1)]", 0.1)
        return {"validation": validation, "group": Option("group", "str | None", None), **super()._options(name)}

    def _made(self, name: str, options: dict[str, Any]) -> Choice:
        if "group" not in self.registry.options(name) and options.pop("group") is not None:
            grouped = [each for each in self.registry if "group" in self.registry.options(each)]
            raise told(f"`data.group` is not for the data set `{name}`", f"with groups: {', '.join(grouped)}")
        return DataChoice(name, options, options.pop("validation"))


@dataclass(frozen=True, eq=False)
class ChosenNetwork(Chosen):
    """Marks the field of the backbone, which may be a network that a library knows by its name."""

    def _made(self, name: str, options: dict[str, Any]) -> Choice:
        if is_named(name):
            try:
                check_named(name)
            except UsageError as error:  # that the library is absent is no fault of the recipe's
                raise told(error.faults[0].what, error.faults[0].hint) from error
            except InputError:
                pass
        return Choice(name, options)


@dataclass(frozen=True, eq=False)
class OptionsOf:
    """Marks a field as the options of one fixed function of `registry`, as a plain dict; they have no `name`."""

    registry: Registry
    member: str
    base: type[Section] = Section  # options that have no default

    def model(self, value: Any) -> type[Section] | None:
        """The model of the function's options."""
        return _section(self.member, self.base, _annotations(self.registry.options(self.member).values()))

    def check(self, value: Any) -> dict[str, Any]:
        """Every option, by name."""
        model = self.model(value)
        assert model is not None
        defaults = {name: option.default for name, option in self.registry.options(self.member).items()}
        written = {**defaults, **value} if isinstance(value, dict) else value
        return model.model_validate_json(json.dumps(written)).model_dump(mode="json")

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(self.check)


def told(what: str, hint: str = "") -> PydanticCustomError:
    """An error for pydantic to carry, in words that need nothing added."""
    return PydanticCustomError("told", "{what}", {"what": what, "hint": hint})


def wanted(what: str) -> PydanticCustomError:
    """An error for pydantic to carry, which says that the value must be `what`."""
    return PydanticCustomError("wanted", "{wanted}", {"wanted": what})


def _annotations(options: Iterable[Option]) -> tuple[tuple[str, str], ...]:
    return tuple((option.name, option.annotation) for option in options)


@cache
def _section(name: str, base: type[Section], annotations: tuple[tuple[str, str], ...]) -> type[Section]:
    """A section whose fields have the annotations that this package's own source gives them."""
    fields: dict[str, Any] = {field: (eval(text, dict(_ANNOTATIONS)), ...) for field, text in annotations}
    return create_model(name, __base__=base, **fields)


def _mapping(choice: Choice) -> dict[str, Any]:
    return choice.mapping()
