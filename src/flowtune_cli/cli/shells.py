"""What makes a shell complete ``flowtune``'s words: a script for each shell, shown or installed.

The shell asks ``flowtune`` itself, by the variable ``_FLOWTUNE_COMPLETE``: see ``prepare``.
"""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import Any

from ..flow.errors import FlowtuneError, UsageError, unknown_name
from . import stdout
from .output import note

VARIABLE = "_FLOWTUNE_COMPLETE"

# Bash takes '=', '@' and ':' for ends of words. Ours are between spaces, so what bash takes for
# earlier words is cut off.
_BASH = """\
_flowtune_completion() {
    local IFS=$'\\n' line="${COMP_LINE:0:$COMP_POINT}"
    COMPREPLY=( $( COMP_LINE="$line" _FLOWTUNE_COMPLETE=complete_bash "$1" 2>/dev/null ) )
    local word="${line##* }"
    local before="${word%"${word##*[=@:]}"}"
    COMPREPLY=( "${COMPREPLY[@]#"$before"}" )
    if [[ ${#COMPREPLY[@]} -eq 1 && ${COMPREPLY[0]} == *[=.] ]]; then
        compopt -o nospace 2>/dev/null
    fi
    return 0
}
complete -o default -F _flowtune_completion flowtune
"""
_ZSH = """\
#compdef flowtune
_flowtune_completion() {
    eval $(env _TYPER_COMPLETE_ARGS="${words[1,$CURRENT]}" _FLOWTUNE_COMPLETE=complete_zsh \
flowtune 2>/dev/null)
}
compdef _flowtune_completion flowtune
"""
_FISH = """\
function _flowtune_complete
    env _FLOWTUNE_COMPLETE=complete_fish _TYPER_COMPLETE_FISH_ACTION=$argv[1] \
_TYPER_COMPLETE_ARGS=(commandline -cp) flowtune 2>/dev/null
end
complete --command flowtune --no-files --arguments "(_flowtune_complete get-args)" \
--condition "_flowtune_complete is-args"
"""
SCRIPTS = {"bash": _BASH, "zsh": _ZSH, "fish": _FISH}

_FILES = {
    "bash": ".bash_completions/flowtune.sh",
    "zsh": ".zfunc/_flowtune",
    "fish": ".config/fish/completions/flowtune.fish",
}
_STARTED_BY = {
    "bash": (".bashrc", "source ~/.bash_completions/flowtune.sh"),
    "zsh": (".zshrc", "fpath+=~/.zfunc; autoload -Uz compinit; compinit"),
}
"""The file that a shell reads when it starts, and the line in it that reads ours."""

THIS = "$SHELL"
"""Stands for the shell that the environment names."""


def prepare() -> None:
    """Where a shell asks for completions, make the variables ready that typer reads.

    Bash says what the line is, of which typer wants the words.
    """
    if VARIABLE not in os.environ:
        return
    from typer.completion import completion_init  # type: ignore[attr-defined]

    completion_init()
    os.environ["COLUMNS"] = "10000"  # else help is wrapped, and its second line taken for a word
    line = os.environ.get("COMP_LINE")
    if line is not None:
        os.environ["COMP_WORDS"] = line
        os.environ["COMP_CWORD"] = str(_number_of_last(line))


def show(shell: str) -> None:
    """Print the script."""
    stdout.write(SCRIPTS[_known(shell, "show")], end="")


def install(shell: str) -> None:
    """Write the script where the shell finds it, and say what to do.

    Raises:
        FlowtuneError: it cannot be written.
    """
    shell = _known(shell, "install")
    file = Path.home() / _FILES[shell]
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(SCRIPTS[shell], encoding="utf-8")
        if shell in _STARTED_BY:
            name, line = _STARTED_BY[shell]
            _add_line(Path.home() / name, line)
    except OSError as error:
        raise FlowtuneError(
            f"completion cannot be installed: {error.filename}: {error.strerror}. Have your shell"
            f" run this where it starts: flowtune --show-completion {shell}"
        ) from error
    note(f"completion for {shell} is in {file}: it works in every {shell} that is started now")


def with_shell(arguments: list[str]) -> list[str]:
    """Arguments in which an option for completion that names no shell means that of $SHELL."""
    alone = ("--show-completion", "--install-completion")
    return [*arguments, THIS] if arguments and arguments[-1] in alone else arguments


def _known(shell: str, what: str) -> str:
    if shell == THIS:
        name = Path(os.environ.get("SHELL", "")).name
        if name not in SCRIPTS:
            raise UsageError(
                f"the variable SHELL names {name or 'no shell'}, which cannot be completed: name"
                f" one of {', '.join(SCRIPTS)}, such as --{what}-completion bash"
            )
        return name
    if shell not in SCRIPTS:
        raise unknown_name("shell", shell, list(SCRIPTS))
    return shell


def _add_line(file: Path, line: str) -> None:
    """Add a line to a shell's own file, once, below what the user has there."""
    text = file.read_text(encoding="utf-8") if file.is_file() else ""
    if line not in text.splitlines():
        end = "" if not text or text.endswith("\n") else "\n"
        with open(file, "a", encoding="utf-8") as opened:
            opened.write(f"{end}{line}\n")


def _number_of_last(line: str) -> int:
    """Which word of a line is being written, from 0; it may be empty, or have an open quote."""
    lexer: Any = shlex.shlex(line, posix=True)
    lexer.whitespace_split, lexer.commenters = True, ""
    count = 0
    try:
        for _ in lexer:
            count += 1
    except ValueError:  # the last one has an open quote
        return count
    return count if line[-1:].isspace() else count - 1
