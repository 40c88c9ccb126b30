"""A table that loads only the rows it shows, so that any number of rows scrolls instantly."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from rich.style import Style as RichStyle
from textual import events
from textual.binding import Binding, BindingType
from textual.content import Content
from textual.geometry import Size
from textual.message import Message
from textual.reactive import reactive
from textual.scroll_view import ScrollView
from textual.strip import Strip
from textual.visual import Visual

Row = Sequence[Content | str]
Load = Callable[[int, int], Sequence[Row]]
"""Returns the rows from the first number up to, but without, the second."""

_BLOCK, _BLOCKS = 64, 8
"""LazyTable that are loaded together, and how many such blocks are kept."""


@dataclass(frozen=True)
class Column:
    """A column. One column has the ``width`` 0 and takes the remaining space."""

    title: str
    width: int = 0
    right: bool = False


class LazyTable(ScrollView, can_focus=True):
    """A table with a cursor; posts ``Moved`` and ``Chosen``."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {
        "table--head",
        "table--cursor",
        "table--quiet-cursor",
    }
    DEFAULT_CSS = """
    LazyTable {
        background: $surface; overflow-x: hidden;
        .table--head { text-style: bold; color: $text-muted; background: $panel; }
        .table--cursor { background: $primary 40%; text-style: bold; }
        .table--quiet-cursor { background: $primary 15%; }
    }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("down,j", "move(1)", "Down", show=False),
        Binding("up,k", "move(-1)", "Up", show=False),
        Binding("pagedown,ctrl+d", "move_page(1)", "Page down", show=False),
        Binding("pageup,ctrl+u", "move_page(-1)", "Page up", show=False),
        Binding("home,g", "move_to(0)", "First", show=False),
        Binding("end,G", "move_to(-1)", "Last", show=False),
        Binding("enter", "choose", "Open"),
    ]
    cursor: reactive[int] = reactive(0)

    class Moved(Message):
        """The cursor moved, or the row at the cursor changed."""

        def __init__(self, rows: LazyTable, index: int) -> None:
            super().__init__()
            self.rows, self.index = rows, index

        @property
        def control(self) -> LazyTable:
            return self.rows

    class Chosen(Moved):
        """Enter, or a click on the row at the cursor."""

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self.count = 0
        self.columns: Sequence[Column] = ()
        self._load: Load = lambda first, last: ()
        self._blocks: OrderedDict[int, Sequence[Row]] = OrderedDict()

    def show(
        self, columns: Sequence[Column], count: int, load: Load, cursor: int | None = None
    ) -> None:
        """Show other rows, or reload them; the cursor stays if possible."""
        self.columns, self.count, self._load = columns, count, load
        self._blocks.clear()
        self.virtual_size = Size(0, count + 1)
        self.cursor = max(0, min(self.cursor if cursor is None else cursor, count - 1))
        self._scroll_to_cursor()
        self.refresh()

    def validate_cursor(self, cursor: int) -> int:
        return max(0, min(cursor, self.count - 1))

    def watch_cursor(self) -> None:
        self._scroll_to_cursor()
        self.refresh()
        if self.count:
            self.post_message(self.Moved(self, self.cursor))

    def action_move(self, by: int) -> None:
        self.cursor += by

    def action_move_page(self, pages: int) -> None:
        self.cursor += pages * max(1, self.size.height - 2)

    def action_move_to(self, index: int) -> None:
        self.cursor = index if index >= 0 else self.count + index

    def action_choose(self) -> None:
        if self.count:
            self.post_message(self.Chosen(self, self.cursor))

    def on_click(self, event: events.Click) -> None:
        index = self.scroll_offset.y + event.y - 1
        if event.y > 0 and 0 <= index < self.count:
            if index == self.cursor:
                self.action_choose()
            self.cursor = index

    def on_resize(self) -> None:
        self._scroll_to_cursor()

    def on_focus(self) -> None:
        self.refresh()

    def on_blur(self) -> None:
        self.refresh()

    def _scroll_to_cursor(self) -> None:
        height = self.size.height - 1
        if height < 1:
            return
        top = self.scroll_offset.y
        if self.cursor < top:
            self.scroll_to(y=self.cursor, animate=False, immediate=True)
        elif self.cursor >= top + height:
            self.scroll_to(y=self.cursor - height + 1, animate=False, immediate=True)

    # Rendering

    def render_line(self, y: int) -> Strip:
        width = self.scrollable_content_region.width
        if not self.columns or not width:
            return Strip.blank(width, self.rich_style)
        if y == 0:
            titles = [column.title for column in self.columns]
            return self._strip("  ", titles, width, "table--head")
        index = self.scroll_offset.y + y - 1
        if index >= self.count:
            return Strip.blank(width, self.rich_style)
        at_cursor = index == self.cursor
        part = ("table--cursor" if self.has_focus else "table--quiet-cursor") if at_cursor else ""
        return self._strip("▸ " if at_cursor else "  ", self._row(index), width, part)

    def _strip(self, lead: str, row: Row, width: int, part: str) -> Strip:
        fixed = sum(column.width + 1 for column in self.columns if column.width)
        flexible = max(1, width - len(lead) - fixed)
        cells = []
        for column, cell in zip(self.columns, row, strict=False):
            content = cell if isinstance(cell, Content) else Content(cell)
            room = column.width or flexible
            content = content.truncate(room, ellipsis=True)
            missing = room - content.cell_length
            cells.append(content.pad_left(missing) if column.right else content.pad_right(missing))
        line = Content(lead) + Content(" ").join(cells)
        style = self.get_visual_style(part) if part else self.visual_style
        (strip,) = Visual.to_strips(self, line.truncate(width), width, 1, style, pad=True)[:1] or [
            Strip.blank(width, RichStyle())
        ]
        return strip

    def _row(self, index: int) -> Row:
        first = index - index % _BLOCK
        if first not in self._blocks:
            self._blocks[first] = self._load(first, min(first + _BLOCK, self.count))
            while len(self._blocks) > _BLOCKS:
                self._blocks.popitem(last=False)
        self._blocks.move_to_end(first)
        block = self._blocks[first]
        # There may be fewer rows than counted: a resumed run deletes some.
        return block[index - first] if index - first < len(block) else ()
