"""Dialogs with a list: choose one entry, or tick several."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.screen import ModalScreen
from textual.widgets import OptionList
from textual.widgets.option_list import Option

_CSS = """
    align: center middle;
    & > OptionList {
        width: 50; max-width: 100%; height: auto; max-height: 90%;
        background: $surface; border: round $primary;
        &:focus { border: round $primary; }
    }
"""


class List(OptionList):
    """An option list that also has the keys j and k."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("j", "cursor_down", show=False),
        Binding("k", "cursor_up", show=False),
    ]


class ChooseOne(ModalScreen["int | None"]):
    """Returns the number of the chosen entry; None if the user cancels."""

    DEFAULT_CSS = f"ChooseOne {{ {_CSS} }}"
    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "dismiss(None)", "Close")]

    def __init__(self, heading: str, names: Sequence[str], current: int) -> None:
        super().__init__()
        self.heading, self.names, self.current = heading, names, current

    def compose(self) -> ComposeResult:
        options = List(
            *(f"{'●' if n == self.current else '○'} {name}" for n, name in enumerate(self.names)),
            markup=False,
        )
        options.border_title = self.heading
        options.border_subtitle = "enter chooses, esc closes"
        options.highlighted = self.current
        yield options

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        self.dismiss(event.option_index)


@dataclass(frozen=True)
class Choice:
    """An entry to tick: it sets ``key`` to ``value``, and unticks other entries of the key."""

    key: str
    value: Hashable
    name: str


class ChooseMany(ModalScreen[dict[str, Hashable]]):
    """Returns the ticked values by key, at most one for each, when the list closes."""

    DEFAULT_CSS = f"ChooseMany {{ {_CSS} }}"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,f", "close", "Close"),
        Binding("space", "tick", "Tick"),
        Binding("backspace,delete", "clear", "Clear"),
    ]

    def __init__(
        self, heading: str, choices: Sequence[Choice], ticked: Mapping[str, Hashable]
    ) -> None:
        super().__init__()
        self.heading, self.choices, self.ticked = heading, choices, dict(ticked)

    def compose(self) -> ComposeResult:
        options = List(markup=False)
        options.border_title = self.heading
        options.border_subtitle = "enter ticks, ⌫ clears, esc applies"
        yield options

    def on_mount(self) -> None:
        self._fill(0)

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        choice = self.choices[event.option_index]
        if self.ticked.get(choice.key) == choice.value:
            del self.ticked[choice.key]
        else:
            self.ticked[choice.key] = choice.value
        self._fill(event.option_index)

    def action_tick(self) -> None:
        self.query_one(List).action_select()

    def action_clear(self) -> None:
        self.ticked = {}
        self._fill(self.query_one(List).highlighted or 0)

    def action_close(self) -> None:
        self.dismiss(self.ticked)

    def _fill(self, highlighted: int) -> None:
        options = self.query_one(List)
        options.clear_options()
        for choice in self.choices:
            on = choice.key in self.ticked and self.ticked[choice.key] == choice.value
            options.add_option(Option(f"[{'x' if on else ' '}] {choice.name}"))
        options.highlighted = highlighted
