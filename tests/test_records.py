"""The dataclasses of the program behave as those of the standard library."""

import copy
import dataclasses
import pickle
from collections.abc import Callable
from dataclasses import FrozenInstanceError, field, replace
from typing import Any

import pytest

from llmcli import records


def both(declare: Callable[[Any], Any]) -> list[Any]:
    """The results of the same declaration with both decorators."""
    return [declare(dataclasses.dataclass), declare(records.dataclass)]


def declare(dataclass: Any) -> Any:
    @dataclass(frozen=True)
    class Point:
        x: int
        tags: list[str] = field(default_factory=list)
        secret: str = field(default="", repr=False, compare=False)
        made: float = field(default=1.5, init=False)

    return Point


def test_a_record_has_the_text_and_the_values_of_a_dataclass() -> None:
    theirs, ours = both(declare)
    assert repr(ours(1, ["a"])) == repr(theirs(1, ["a"]))
    assert dataclasses.asdict(ours(1)) == dataclasses.asdict(theirs(1))
    assert ours(1).tags is not ours(1).tags
    assert ours(1).made == 1.5
    assert ours.__match_args__ == theirs.__match_args__
    assert replace(ours(1, secret="s"), x=2).secret == "s"


def test_records_with_equal_fields_are_equal_and_of_equal_hash() -> None:
    pair: Any = records.dataclass(frozen=True)(type("Pair", (), {"__annotations__": {"a": int, "b": int}}))
    assert pair(1, 2) == pair(1, 2) != pair(2, 1)
    assert len({pair(1, 2), pair(1, 2), pair(2, 1)}) == 2
    point = declare(records.dataclass)
    assert point(1, secret="a") == point(1, secret="b")
    assert point(1) != (1, [])
    with pytest.raises(TypeError, match="unhashable"):
        hash(Base(a=1))


def test_a_frozen_record_refuses_a_change() -> None:
    point = declare(records.dataclass)(1)
    with pytest.raises(FrozenInstanceError, match="cannot assign to field 'x'"):
        point.x = 2
    with pytest.raises(FrozenInstanceError):
        del point.x
    assert copy.deepcopy(point) == point


def test_a_wrong_call_of_a_record_names_its_constructor() -> None:
    theirs, ours = both(declare)
    for arguments, values in (((), {}), ((1, [], "", 2.0), {}), ((1,), {"made": 2.0})):
        errors = []
        for kind in (theirs, ours):
            with pytest.raises(TypeError) as raised:
                kind(*arguments, **values)
            errors.append(str(raised.value))
        assert errors[0] == errors[1]


@records.dataclass(kw_only=True)
class Base:
    a: int = 1


@records.dataclass(kw_only=True, eq=False)
class Derived(Base):
    b: int
    total: int = field(init=False)

    def __post_init__(self) -> None:
        self.total = self.a + self.b


def test_a_record_inherits_fields_and_finishes_itself() -> None:
    one = Derived(b=2)
    assert (one.a, one.total) == (1, 3)
    assert repr(one) == "Derived(a=1, b=2, total=3)"
    assert vars(pickle.loads(pickle.dumps(one))) == vars(one)
    assert Base(a=2) == Base(a=2)
    with pytest.raises(TypeError, match="positional"):
        Derived(1, 2)  # type: ignore[call-arg]
