"""The dialog of ``e``: the file to export to; its ending is the format."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.screen import ModalScreen
from textual.widgets import Input, Static

from ...flow.errors import UsageError
from ...flow.paths import expanded
from ..screen_export import ENDINGS


class AskPath(ModalScreen["Path | None"]):
    """Returns a path whose ending is a format; None if the user cancels."""

    DEFAULT_CSS = """
    AskPath {
        align: center middle;
        & > Vertical {
            width: 76; max-width: 100%; height: auto; padding: 0 1;
            background: $surface; border: round $primary;
        }
    }
    """
    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "dismiss(None)", "Close")]

    def __init__(self, what: str, default: Path) -> None:
        super().__init__()
        self.what, self.default = what, default
        self._confirmed: Path | None = None

    def compose(self) -> ComposeResult:
        with Vertical() as box:
            box.border_title = f"Export {self.what}"
            box.border_subtitle = "enter writes, esc closes"
            yield Static("To a file that ends with .md (for reading) or .jsonl (for programs):")
            yield Input(str(self.default), compact=True, select_on_focus=False)
            yield Static(" ", id="note")

    def on_input_submitted(self, event: Input.Submitted) -> None:
        try:
            path = expanded(Path(event.value))
            wrong = self._wrong(path)
        except UsageError as error:
            wrong = str(error)
        except OSError as error:  # a name that is too long
            wrong = f"{error.strerror or error}: choose another name."
        if wrong:
            self._note(wrong)
        else:
            self.dismiss(path)

    def _wrong(self, path: Path) -> str:
        """Why the file cannot be written, or not yet; else empty."""
        if path.suffix not in ENDINGS:
            return f"'{path.name}' must end with {' or '.join(ENDINGS)}."
        if not path.parent.is_dir():
            return f"There is no directory {path.parent}."
        if path.exists() and path != self._confirmed:
            self._confirmed = path
            return "The file exists: press enter again to replace it."
        return ""

    def _note(self, text: str) -> None:
        self.query_one("#note", Static).update(text)
