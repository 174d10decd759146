"""Typed reading of a JSON object, with an error that names the field.

Knows JSON values and how to refuse them; knows nothing of models. Every field that is read is
remembered, so that fields which nobody read can be refused by name instead of being dropped.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import cast


class ConfigError(ValueError):
    """A configuration file is missing, malformed, or contradicts itself."""


class UnsupportedModelError(ConfigError):
    """The configuration is well formed, and describes a model that is not served."""

    def __init__(self, field: str, value: object, supported: str) -> None:
        """Keeps the three parts of the message."""
        super().__init__(f"{field} is {value!r}; supported: {supported}")
        self.field = field
        self.value = value
        self.supported = supported


class Fields:
    """The fields of one JSON object. A field that is null counts as absent."""

    def __init__(self, raw: object, path: str = "") -> None:
        self._path = path
        if not isinstance(raw, Mapping):
            raise ConfigError(f"{path or 'the configuration'} must be an object, not {raw!r}")
        self._values: dict[str, object] = {
            str(key): value
            for key, value in cast("Mapping[object, object]", raw).items()
            if value is not None
        }
        self._read: set[str] = set()

    def __contains__(self, name: str) -> bool:
        return name in self._values

    def with_defaults(self, defaults: Mapping[str, object]) -> Fields:
        """The same object, with absent fields filled in."""
        filled = Fields({**defaults, **self._values}, self._path)
        filled._read = self._read
        return filled

    def name_of(self, name: str) -> str:
        """The field's full name, for messages."""
        return f"{self._path}.{name}" if self._path else name

    def value(self, name: str) -> object:
        """The raw value, None where absent."""
        self._read.add(name)
        return self._values.get(name)

    def section(self, name: str) -> Fields | None:
        """A nested object, None where absent."""
        value = self.value(name)
        return None if value is None else Fields(value, self.name_of(name))

    def integer(self, name: str, *, minimum: int, default: int | None = None) -> int:
        """An integer of at least `minimum`; required where there is no default."""
        value = self._required(name, default, f"an integer of at least {minimum}")
        if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
            raise ConfigError(
                f"{self.name_of(name)} must be an integer of at least {minimum}, not {value!r}"
            )
        return value

    def positive(self, name: str, *, default: float | None = None) -> float:
        """A finite number above 0; required where there is no default."""
        value = self._required(name, default, "a number above 0")
        if (
            isinstance(value, bool)
            or not isinstance(value, int | float)
            or not 0 < value < math.inf
        ):
            raise ConfigError(f"{self.name_of(name)} must be a number above 0, not {value!r}")
        return float(value)

    def optional_positive(self, name: str) -> float | None:
        """A finite number above 0, None where absent."""
        return self.positive(name) if name in self else None

    def flag(self, name: str) -> bool:
        """A boolean; false where absent."""
        value = self.value(name)
        if value is not None and not isinstance(value, bool):
            raise ConfigError(f"{self.name_of(name)} must be true or false, not {value!r}")
        return bool(value)

    def text(self, name: str, *, default: str | None = None) -> str:
        """A string; required where there is no default."""
        value = self._required(name, default, "a string")
        if not isinstance(value, str):
            raise ConfigError(f"{self.name_of(name)} must be a string, not {value!r}")
        return value

    def texts(self, name: str) -> tuple[str, ...]:
        """A required list of strings."""
        value = self._required(name, None, "a list of strings")
        items = cast("list[object]", value) if isinstance(value, list) else None
        if items is None or not all(isinstance(item, str) for item in items):
            raise ConfigError(f"{self.name_of(name)} must be a list of strings, not {value!r}")
        return tuple(cast("list[str]", items))

    def token_ids(self, name: str) -> tuple[int, ...]:
        """One token id or a list of them, without repetitions; empty where absent."""
        value = self.value(name)
        if value is None:
            return ()
        items = cast("list[object]", value) if isinstance(value, list) else [value]
        ids: list[int] = []
        for item in items:
            if isinstance(item, bool) or not isinstance(item, int) or item < 0:
                raise ConfigError(
                    f"{self.name_of(name)} must be a token id or a list of them, not {value!r}"
                )
            ids.append(item)
        return tuple(dict.fromkeys(ids))

    def only(self, name: str, supported: str, *values: object) -> None:
        """Refuses any value but `values`, which `supported` tells in words; absent is fine.

        Raises:
            UnsupportedModelError: another value.
        """
        value = self.value(name)
        if value is not None and value not in values:
            raise UnsupportedModelError(self.name_of(name), value, supported)

    def refuse_unread(self, harmless: Collection[str] = ()) -> None:
        """Refuses fields that nobody read, other than harmless ones and false ones.

        Raises:
            UnsupportedModelError: naming the first such field.
        """
        for name, value in self._values.items():
            if name not in self._read and name not in harmless and value is not False:
                raise UnsupportedModelError(
                    self.name_of(name), value, "no such field (its meaning is unknown here)"
                )

    def _required(self, name: str, default: object, kind: str) -> object:
        value = self.value(name)
        if value is None:
            value = default
        if value is None:
            raise ConfigError(f"{self.name_of(name)} is missing; it must be {kind}")
        return value
