"""The members of a raw record, one small class a type: what is accepted, what of it is kept.

Each knows its JSON Schema, the type of the fast reader, the value it has in a row, and, for a
record that was refused, which rule it breaks.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal

import msgspec
import pyarrow as pa

from features.coding import pack_position
from features.errors import ContractError
from features.plan import FieldPlan
from features.types import LARGEST_FLOAT, LARGEST_SCALED, LARGEST_WHOLE

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_END_US = (datetime(2262, 1, 1, tzinfo=UTC) - _EPOCH) // _MICROSECOND
"""Past it, nanoseconds since 1970 (pandas, Parquet readers) no longer fit 64 bits."""

_TIME_PATTERN = r"^\d{4}-\d{2}-\d{2}[Tt ]\d{2}:\d{2}:\d{2}(\.\d+)?([Zz]|[+-]\d{2}:?\d{2})$"


@dataclass(frozen=True)
class Member(ABC):
    """One member of the JSON object."""

    name: str

    @abstractmethod
    def reader(self) -> Any:
        """The type that msgspec decodes it into."""

    @abstractmethod
    def schema(self) -> dict[str, Any]:
        """Its JSON Schema."""

    @abstractmethod
    def broken(self, value: Any) -> ContractError | None:
        """The first rule that a plainly decoded value breaks."""

    def value(self, read: Any) -> Any:
        """What a row keeps of it.

        Raises:
            ValueError: the reader let it pass, and it is out of range still.
        """
        return read

    def column(self, read: Sequence[Any]) -> list[Any]:
        """`value` of each.

        Raises:
            ValueError: one of them is out of range still.
        """
        return list(map(self.value, read))


@dataclass(frozen=True)
class TextMember(Member):
    """A string; `smallest` is 1 where it is a key."""

    smallest: int
    largest: int

    def reader(self) -> Any:
        return Annotated[str, msgspec.Meta(min_length=self.smallest, max_length=self.largest)]

    def schema(self) -> dict[str, Any]:
        return {"type": "string", "minLength": self.smallest, "maxLength": self.largest}

    def broken(self, value: Any) -> ContractError | None:
        if not isinstance(value, str):
            return wrong_type(self.name, "a string", value)
        if self.smallest <= len(value) <= self.largest:
            return None
        return ContractError(
            "out_of_range",
            f"{self.name} has {len(value)} characters, {self.smallest} to {self.largest} fit",
        )


class TimeMember(Member):
    """An instant, kept in µs since 1970."""

    def reader(self) -> Any:
        return Annotated[datetime, msgspec.Meta(tz=True)]

    def schema(self) -> dict[str, Any]:
        return {"type": "string", "format": "date-time", "pattern": _TIME_PATTERN}

    def value(self, read: datetime) -> int:
        return self.column([read])[0]

    def column(self, read: Sequence[datetime]) -> list[int]:
        # Arrow counts microseconds ten times as fast as Python divides.
        since = pa.array([moment - _EPOCH for moment in read], pa.duration("us"))
        times_us: list[int] = since.view(pa.int64()).to_numpy().tolist()
        if times_us and not 0 <= min(times_us) <= max(times_us) < _END_US:
            raise ValueError("a time lies outside the years 1970 to 2261")
        return times_us

    def broken(self, value: Any) -> ContractError | None:
        if not isinstance(value, str):
            return wrong_type(self.name, "a string", value)
        try:
            self.value(msgspec.convert(value, self.reader()))
        except msgspec.ValidationError:
            return ContractError(
                "wrong_type", f"{self.name} is {value[:40]!r}, not an RFC 3339 time with an offset"
            )
        except ValueError:
            return ContractError(
                "out_of_range", f"{self.name} is {value[:40]}, outside the years 1970 to 2261"
            )
        return None


class BooleanMember(Member):
    """True or false."""

    def reader(self) -> Any:
        return bool

    def schema(self) -> dict[str, Any]:
        return {"type": "boolean"}

    def broken(self, value: Any) -> ContractError | None:
        return None if isinstance(value, bool) else wrong_type(self.name, "a boolean", value)


@dataclass(frozen=True)
class IntegerMember(Member):
    """A whole number within bounds."""

    smallest: int
    largest: int

    def reader(self) -> Any:
        return Annotated[int, msgspec.Meta(ge=self.smallest, le=self.largest)]

    def schema(self) -> dict[str, Any]:
        return {"type": "integer", "minimum": self.smallest, "maximum": self.largest}

    def broken(self, value: Any) -> ContractError | None:
        return self.broken_at(self.name, value)

    def broken_at(self, path: str, value: Any) -> ContractError | None:
        """The rule that the number at a path breaks."""
        if isinstance(value, bool) or not isinstance(value, int):
            return wrong_type(path, "an integer", value)
        return _outside(path, value, self.smallest, self.largest)


@dataclass(frozen=True)
class MoneyMember(IntegerMember):
    """An amount in minor units of one currency."""

    currency: str

    def reader(self) -> Any:
        return msgspec.defstruct(
            "Money",
            [("minor", super().reader()), ("currency", Literal[self.currency])],
            forbid_unknown_fields=True,
            gc=False,
        )

    def schema(self) -> dict[str, Any]:
        return {
            "type": "object",
            "description": "an amount in minor units (cents) of one currency",
            "properties": {"minor": super().schema(), "currency": {"const": self.currency}},
            "required": ["minor", "currency"],
            "additionalProperties": False,
        }

    def value(self, read: Any) -> int:
        minor: int = read.minor
        return minor

    def column(self, read: Sequence[Any]) -> list[int]:
        return [money.minor for money in read]

    def broken(self, value: Any) -> ContractError | None:
        name = self.name
        if not isinstance(value, dict):
            return wrong_type(name, "an object with minor and currency", value)
        if "minor" in value:
            broken = self.broken_at(f"{name}.minor", value["minor"])
            if broken is not None:
                return broken
        wrong_names = names_broken(f"{name}.", ("minor", "currency"), value)
        if wrong_names:
            return wrong_names[0]
        if not isinstance(value["currency"], str):
            return wrong_type(f"{name}.currency", "a string", value["currency"])
        if value["currency"] != self.currency:
            return ContractError(
                "unknown_currency",
                f"{name} is in {value['currency'][:40]!r}, not in {self.currency!r}",
            )
        return None


@dataclass(frozen=True)
class CategoryMember(Member):
    """One of some strings."""

    values: tuple[str, ...]

    def reader(self) -> Any:
        return Literal[self.values]

    def schema(self) -> dict[str, Any]:
        return {"enum": list(self.values)}

    def broken(self, value: Any) -> ContractError | None:
        if not isinstance(value, str):
            return wrong_type(self.name, "a string", value)
        if value in self.values:
            return None
        known = ", ".join(map(repr, self.values[:10]))
        return ContractError("out_of_range", f"{self.name} is {value[:40]!r}, not one of {known}")


@dataclass(frozen=True)
class FloatMember(Member):
    """A number; with decimals an integer of their unit, rounded half to even."""

    smallest: float
    largest: float
    decimals: int | None

    def reader(self) -> Any:
        return Annotated[float, msgspec.Meta(ge=self.smallest, le=self.largest)]

    def schema(self) -> dict[str, Any]:
        return {"type": "number", "minimum": self.smallest, "maximum": self.largest}

    def value(self, read: float) -> float:
        # Adding 0 turns -0 into 0: there is one zero.
        return read + 0.0 if self.decimals is None else round(read * 10**self.decimals)

    def broken(self, value: Any) -> ContractError | None:
        if isinstance(value, bool) or not isinstance(value, int | float):
            return wrong_type(self.name, "a number", value)
        return _outside(self.name, value, self.smallest, self.largest)


class PositionMember(Member):
    """Latitude and longitude in degrees, packed in millionths (`features/coding.py`)."""

    _PARTS = (("latitude", 90.0), ("longitude", 180.0))

    def reader(self) -> Any:
        return msgspec.defstruct(
            "Position",
            [
                (part, Annotated[float, msgspec.Meta(ge=-most, le=most)])
                for part, most in self._PARTS
            ],
            forbid_unknown_fields=True,
            gc=False,
        )

    def schema(self) -> dict[str, Any]:
        return {
            "type": "object",
            "description": "degrees north and east",
            "properties": {
                part: {"type": "number", "minimum": -most, "maximum": most}
                for part, most in self._PARTS
            },
            "required": [part for part, _ in self._PARTS],
            "additionalProperties": False,
        }

    def value(self, read: Any) -> int:
        return pack_position(round(read.latitude * 1e6), round(read.longitude * 1e6))

    def broken(self, value: Any) -> ContractError | None:
        if not isinstance(value, dict):
            return wrong_type(self.name, "an object with latitude and longitude", value)
        for part, most in self._PARTS:
            if part in value:
                broken = FloatMember(f"{self.name}.{part}", -most, most, None).broken(value[part])
                if broken is not None:
                    return broken
        wrong_names = names_broken(f"{self.name}.", [part for part, _ in self._PARTS], value)
        return wrong_names[0] if wrong_names else None


@dataclass(frozen=True)
class ListMember(Member):
    """Some strings."""

    most: int
    longest: int

    def reader(self) -> Any:
        text = Annotated[str, msgspec.Meta(max_length=self.longest)]
        return Annotated[list[text], msgspec.Meta(max_length=self.most)]

    def schema(self) -> dict[str, Any]:
        text = {"type": "string", "maxLength": self.longest}
        return {"type": "array", "items": text, "maxItems": self.most}

    def broken(self, value: Any) -> ContractError | None:
        if not isinstance(value, list):
            return wrong_type(self.name, "an array", value)
        if len(value) > self.most:
            return ContractError(
                "out_of_range", f"{self.name} has {len(value)} members, at most {self.most} fit"
            )
        member = TextMember(f"{self.name}[]", 0, self.longest)
        return next((broken for each in value if (broken := member.broken(each))), None)


def member_of(field: FieldPlan, is_key: bool) -> Member:
    """The member that carries a field; keys are never empty."""
    name, low, high = field.name, field.minimum, field.maximum
    if field.type == "text":
        return TextMember(name, int(is_key), field.max_length)
    if field.type == "category":
        return CategoryMember(name, field.values)
    if field.type == "boolean":
        return BooleanMember(name)
    if field.type == "timestamp":
        return TimeMember(name)
    if field.type == "position":
        return PositionMember(name)
    if field.type == "list":
        return ListMember(name, field.max_items, field.max_length)
    if field.type == "float":
        unit = 10 ** (field.decimals or 0)
        most = LARGEST_FLOAT if field.decimals is None else LARGEST_SCALED / unit
        return FloatMember(
            name,
            -most if low is None else low / unit,
            most if high is None else high / unit,
            field.decimals,
        )
    smallest = -LARGEST_WHOLE if low is None else int(low)
    largest = LARGEST_WHOLE if high is None else int(high)
    if field.type == "money":
        return MoneyMember(name, smallest, largest, field.currency)
    return IntegerMember(name, smallest, largest)


def names_broken(prefix: str, expected: Any, found: dict[str, Any]) -> list[ContractError]:
    """Members that should not be there, and those that lack."""
    unknown = [f"{prefix}{name}"[:80] for name in found if name not in expected]
    missing = [f"{prefix}{name}" for name in expected if name not in found]
    broken = []
    if unknown:
        broken.append(ContractError("unknown_field", f"unknown: {', '.join(unknown[:5])}"))
    if missing:
        broken.append(ContractError("missing_field", f"missing: {', '.join(missing)}"))
    return broken


def wrong_type(path: str, expected: str, value: Any) -> ContractError:
    """The refusal of a value of another type."""
    return ContractError("wrong_type", f"{path} is {json_type(value)}, not {expected}")


def json_type(value: Any) -> str:
    """What a value is called in JSON."""
    names = {dict: "an object", list: "an array", str: "a string", bool: "a boolean"}
    return "null" if value is None else names.get(type(value), "a number")


def _outside(path: str, value: float, low: float, high: float) -> ContractError | None:
    if low <= value <= high:
        return None
    # A number may have thousands of digits.
    return ContractError("out_of_range", f"{path} is {str(value)[:40]}, outside {low} to {high}")
