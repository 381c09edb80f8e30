"""Components: choosing by kind, problems all at once, one owner per kind."""

from types import SimpleNamespace
from typing import Literal

import pytest
from pydantic import Field, ValidationError

from lorasmith.core import registry
from lorasmith.core.config import validate
from lorasmith.core.errors import ConfigError
from lorasmith.core.registry import Component, Config, load_plugins, registered


class Shape(Component, root="test shape"):
    def area(self) -> float:
        raise NotImplementedError


class Square(Shape):
    kind: Literal["square"] = "square"
    side: float = 1.0

    def area(self) -> float:
        return self.side**2


class Pair(Shape):
    kind: Literal["pair"] = "pair"
    left: Shape = Field(default_factory=Square)
    right: Shape = Field(default_factory=Square)


class Room(Config):
    shape: Shape = Field(default_factory=Square)
    others: tuple[Shape, ...] = ()
    name: str = ""


def test_a_kind_may_be_a_name_a_table_or_an_instance() -> None:
    room = validate(Room, {"shape": "square", "others": [{"kind": "square", "side": 3}, Square(side=2)]})
    assert room.shape == Square()
    assert [s.area() for s in room.others] == [9, 4]


def test_nested_components_survive_dump_and_check() -> None:
    room = Room(shape=Pair(left=Square(side=2)))
    assert validate(Room, room.model_dump()) == room


def test_all_problems_come_together_with_their_places() -> None:
    table = {"shape": {"kind": "pair", "left": {"kind": "sqare"}, "right": {"sde": 2, "kind": "square"}}, "nme": "x"}
    with pytest.raises(ConfigError) as caught:
        validate(Room, table, "room.toml")
    places = {p.where: p for p in caught.value.problems}
    assert set(places) == {"shape.left", "shape.right.sde", "nme"}
    assert places["shape.left"].remedy == 'did you mean "square"?'
    assert places["shape.right.sde"].remedy == 'did you mean "side"?'
    assert places["nme"].remedy == 'did you mean "name"?'
    assert "3 problems in room.toml" in str(caught.value)


def test_a_root_with_a_default_takes_tables_without_kind() -> None:
    class Colour(Component, root="test colour", default="red"):
        pass

    class Red(Colour):
        kind: Literal["red"] = "red"
        shade: int = 1

    class Wall(Config):
        colour: Colour = Field(default_factory=Red)

    assert validate(Wall, {"colour": {"shade": 3}}).colour == Red(shade=3)


def test_a_kind_taken_twice_is_an_error_that_names_both() -> None:
    with pytest.raises(TypeError, match=r"Square and .*Other"):

        class Other(Shape):
            kind: Literal["square"] = "square"

    assert registered(Shape)["square"] is Square


def test_a_kind_defined_later_is_accepted_by_an_older_field() -> None:
    class Late(Shape):
        kind: Literal["late"] = "late"

    assert validate(Room, {"shape": "late"}).shape == Late()


def test_a_table_without_kind_means_the_default_kind() -> None:
    class Fruit(Component, root="fruit"):
        pass

    class Apple(Fruit):
        kind: Literal["apple"] = "apple"
        sweet: int = 1

    class Basket(Config):
        fruit: Fruit = Field(default_factory=Apple)
        other: Fruit | None = None

    assert Basket.model_validate({"fruit": {"sweet": 3}}).fruit == Apple(sweet=3)
    with pytest.raises(ValidationError, match="expected a name or a table with `kind`"):
        Basket.model_validate({"other": {"sweet": 3}})


def test_plugins_of_installed_packages_are_loaded_and_searched_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    searched: list[str] = []
    loaded: list[str] = []

    def entry_points(group: str) -> list[SimpleNamespace]:
        searched.append(group)
        return [SimpleNamespace(load=lambda: loaded.append("plugin"))]

    monkeypatch.setattr(registry, "entry_points", entry_points)
    registry.installed_plugins.cache_clear()
    try:
        load_plugins()
        load_plugins()
    finally:
        registry.installed_plugins.cache_clear()
    assert searched == ["lorasmith.plugins"]
    assert loaded == ["plugin", "plugin"]
