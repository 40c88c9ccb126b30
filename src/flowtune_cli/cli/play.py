"""``flowtune play``: plays one example, and shows every step of it."""

from __future__ import annotations

from typing import Annotated

import typer

from ..flow.errors import UsageError
from .options import (
    ConfigOption,
    DataOption,
    JsonOption,
    ModelOption,
    PresetOption,
    RunOption,
    SetOption,
    SplitOption,
)
from .output import print_json
from .phase import phase
from .programs import GoldOption, ProgramOption, ProgramTaskArgument, RewardOption, given


def play(
    task: ProgramTaskArgument = None,
    example: Annotated[
        str | None,
        typer.Option(
            metavar="ID", help="The example's id, or the start of it; default: the first."
        ),
    ] = None,
    input_: Annotated[
        str | None,
        typer.Option(
            "--input",
            metavar="JSON",
            help="Play inputs of your own, a JSON object; '-' reads it from standard input.",
        ),
    ] = None,
    data: DataOption = None,
    split: SplitOption = None,
    run: RunOption = None,
    deviate: Annotated[
        bool, typer.Option("--deviate", help="Try other outputs at each step, as in training.")
    ] = False,
    model: ModelOption = None,
    full: Annotated[bool, typer.Option("--full", help="Show prompts and outputs whole.")] = False,
    json: JsonOption = False,
    program: ProgramOption = None,
    reward: RewardOption = None,
    gold: GoldOption = None,
    preset: PresetOption = None,
    config: ConfigOption = None,
    set_: SetOption = None,
) -> int:
    """Play one example and show its unrolled graph: prompts, outputs, rewards."""
    from ..flow.deviation import Trace
    from ..flow.known_inputs import KnownInputs
    from ..registry import load_registry
    from .episode_json import trace_json
    from .episode_view import view
    from .examples import example_of_input, find_example, read_examples
    from .output import print_styled, warn
    from .player import load_player
    from .together import check_alone

    check_alone("play")
    if input_ is not None and (example, data, split) != (None, None, None):
        raise UsageError("--input is the example: leave --example, --data and --split out")
    of_program = given(program, reward, gold)
    player = load_player(load_registry(), task, run, config, set_, preset, of_program, model=model)
    if input_ is not None:
        chosen = example_of_input(player.task, input_)
        KnownInputs(player.known_inputs, warn).check(chosen)
    else:
        chosen = find_example(read_examples(player.task, data, split), example)
    session = player.set_up()
    with phase(f"playing example '{chosen.id}'", silent=True):
        if deviate:
            [(_, trace)] = session.deviate([chosen])
        else:
            [(_, episode)] = session.play([chosen])
            trace = Trace(chosen, episode)
    if json:
        print_json({"played_by": player.made_by, **trace_json(player.task, trace)})
    else:
        print_styled(view(player.task, trace, full=full))
    return 0 if trace.episode.failure is None else 1
