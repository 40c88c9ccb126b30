"""What is read out of other people's classes, models and functions."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, Optional

from pydantic import BaseModel, Field

from flowtune_cli.cli.describe import Option, argument_help, options, summary, type_text


@dataclass
class Base:
    """A base.

    Args:
        first: the first,
            and so: it needs two lines.
        second, third: shared.
    """

    first: int
    second: Literal["a", "b"] = "a"
    third: list[str] = field(default_factory=lambda: ["x"])
    hidden: int = field(default=0, init=False)


@dataclass
class Derived(Base):
    """A class of its own.

    Args:
        first: told anew.

    More text: not an argument.
    """

    fourth: Optional[int] = None  # noqa: UP045


@dataclass
class Silent:
    x: int = 1


def test_a_dataclass_has_its_bases_help() -> None:
    assert options(Derived) == [
        Option("first", "int", "", "told anew."),
        Option("second", "'a' | 'b'", '"a"', "shared."),
        Option("third", "list[str]", '["x"]', "shared."),
        Option("fourth", "Optional[int]", '""', ""),
    ]
    assert argument_help(Base)["first"] == "the first, and so: it needs two lines."


def test_a_function_is_described_without_its_first_argument() -> None:
    def factory(
        parameters: Any, lr: float = 0.1, *, betas: tuple[float, float] = (0.9, 1.0)
    ) -> int:
        """Make it.

        Args:
            lr: learning rate: how fast.
        """
        return 0

    assert options(factory) == [
        Option("lr", "float", "0.1", "learning rate: how fast."),
        Option("betas", "tuple[float, float]", "[0.9, 1.0]", ""),
    ]


def test_a_pydantic_model() -> None:
    class Model(BaseModel):
        needed: int
        listed: list[int] = Field(default_factory=lambda: [1], description="Some.")

    assert options(Model) == [
        Option("needed", "int", "", ""),
        Option("listed", "list[int]", "[1]", "Some."),
    ]


def test_summary_is_the_authors_own_first_line() -> None:
    assert summary(Derived) == "A class of its own."
    assert summary(Silent) == ""
    assert summary(len).startswith("Return the number")


def test_types_are_short() -> None:
    assert type_text("collections.abc.Mapping[str, typing.Any]") == "Mapping[str, Any]"
    assert type_text(str | None) == "str | None"


def test_a_class_that_is_no_dataclass_has_its_arguments_as_options() -> None:
    class Shorter:
        """An evaluator.

        Args:
            limit: the largest gain.
        """

        def __init__(self, limit: int = 10) -> None:
            self.limit = limit

    assert options(Shorter) == [Option("limit", "int", "10", "the largest gain.")]
