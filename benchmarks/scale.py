"""Simulates a run on many GPUs, from the episodes of a real one and the times of a device.

    python -m benchmarks.scale --run runs/first [--gpus 1 8 64 512] [--batch 8 64 512]
    python -m benchmarks.scale --traces benchmarks/scale_traces.json

Each mini-batch is drawn with replacement from a run's episodes: how often each called its nodes,
how many tokens these read and wrote, and what its rollouts did from their steps on. GPUs get their
examples as ranks do, and with few of them share out rollouts as ranks do (here one by one, not by
step). On each, calls that can be made at once are made at once: an episode's own one after the
other, then those of all its rollouts side by side. Tools, evaluations and checkpoints are not
simulated.

The times are estimates (see ``DEVICES``) unless they are given. Nothing of this was run on a GPU.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from flowtune_cli.learning.shares import Work, assign
from flowtune_cli.training.deviating import EXAMPLES_A_PROCESS
from flowtune_cli.training.rollout_shares import ANEW, DECODED

TRACES = Path(__file__).with_name("scale_traces.json")


@dataclass(frozen=True)
class Device:
    """What a GPU takes, in seconds.

    Args:
        step: to decode a token of one row.
        row: more for each further row.
        read: to read a token of a prompt.
        learn: to learn from a token: forward and backward, and forward under the reference.
        meeting: until all processes have met once, for each doubling of their number.
        bandwidth: bytes a second that a process sends.
        adapter: bytes of an adapter's gradients, as they are summed.
    """

    step: float
    row: float
    read: float
    learn: float
    meeting: float = 2e-3
    bandwidth: float = 1e9
    adapter: float = 3 * 8 * 7e6


DEVICES = {
    # An 8B in bfloat16 on an H100, by arithmetic: the weights are read in 4.8 ms a step, and some
    # 2,300 launches make it 30; 16 Gflop a token at 400 Tflop/s; rank 8 on queries and values.
    "h100-8b": Device(step=0.030, row=1e-5, read=4e-5, learn=1.6e-4),
    # The same with decoding on vLLM, near what the memory allows.
    "h100-8b-vllm": Device(step=0.008, row=4e-5, read=4e-5, learn=1.6e-4),
}

Call = tuple[int, int]
"""Tokens that a call reads and writes."""


@dataclass(frozen=True)
class Trace:
    """What an episode did.

    Args:
        own: its calls, one after the other.
        rollouts: the calls of each, from the step on at which it deviates.
        data: by node, the tokens that it learns from.
    """

    own: tuple[Call, ...]
    rollouts: tuple[tuple[Call, ...], ...]
    data: dict[str, int]


def read_traces(store: Path) -> list[Trace]:
    """The traces of a run's store."""
    with closing(sqlite3.connect(f"file:{store}?mode=ro", uri=True)) as connection:
        episodes = [row[0] for row in connection.execute("SELECT number FROM episodes")]
        return [_trace(connection, number) for number in episodes]


def _trace(connection: sqlite3.Connection, episode: int) -> Trace:
    calls: dict[int, list[Call]] = {}
    tokens: dict[int, int] = {}
    known: set[tuple[str, bytes]] = set()
    query = """SELECT rollout, step, node, prompt, prompt_tokens, tokens, substituted FROM steps
               WHERE episode = ? ORDER BY rollout, step"""
    for rollout, step, *rest in connection.execute(query, (episode,)):
        node, prompt, read, written, substituted = rest
        if not rollout:
            tokens[step] = read + written
            known.add((node, prompt))
        elif substituted or (node, prompt) in known:
            continue  # what the episode has asked is answered from memory
        calls.setdefault(rollout, []).append((read, written))
    data: dict[str, int] = {}
    for table, outputs in (("preferences", 2), ("targets", 1)):
        query = f"SELECT step, node FROM {table} WHERE episode = ?"
        for step, node in connection.execute(query, (episode,)):
            data[node] = data.get(node, 0) + outputs * tokens[step]
    rollouts = tuple(tuple(calls[n]) for n in sorted(calls) if n)
    return Trace(tuple(calls.get(0, ())), rollouts, data)


@dataclass(frozen=True)
class Times:
    """Seconds of a mini-batch.

    Args:
        play: of the GPU that plays longest; ``mean_play`` of one GPU alone, by their number.
        learn: of the GPU that learns longest.
        meet: gradients and traces sent, and processes waited for.
    """

    play: float
    mean_play: float
    learn: float
    meet: float

    @property
    def total(self) -> float:
        return self.play + self.learn + self.meet


def play_seconds(traces: Sequence[Trace], device: Device) -> float:
    """Of one GPU that plays these examples and their rollouts side by side."""
    chains = []
    for trace in traces:
        chains.append((0, trace.own))
        chains += [(len(trace.own), _anew(calls)) for calls in trace.rollouts]
    return _seconds(chains, device)


def _anew(calls: Sequence[Call]) -> tuple[Call, ...]:
    """The calls of a rollout, of whose prompts the most part was read with the episode's."""
    return tuple((round(ANEW * read), written) for read, written in calls)


def share_seconds(traces: Sequence[Trace], device: Device, gpus: int) -> list[float]:
    """Of each GPU: first its share of the examples, and when all have played theirs, of the
    rollouts."""
    own = [_seconds([(0, t.own) for t in traces[rank::gpus]], device) for rank in range(gpus)]
    rollouts = [(place, _anew(each)) for place, t in enumerate(traces) for each in t.rollouts]
    prompts = [max((read for read, _ in trace.own), default=0) for trace in traces]
    work = [
        Work(
            sum(read + DECODED * written for read, written in calls),
            {place: prompts[place]},
            owner=place % gpus,
        )
        for place, calls in rollouts
    ]
    chains: list[list[tuple[int, tuple[Call, ...]]]] = [[] for _ in range(gpus)]
    has_read = {(place, place % gpus) for place in range(len(traces))}
    for rank, (place, calls) in zip(assign(work, gpus), rollouts, strict=True):
        first = [] if (place, rank) in has_read else [(prompts[place], 0)]
        has_read.add((place, rank))
        chains[rank].append((0, (*first, *calls)))
    return [max(own) + _seconds(of_rank, device) for of_rank in chains]


def _seconds(chains: Sequence[tuple[int, Sequence[Call]]], device: Device) -> float:
    """Of calls one after the other, each chain from that round on."""
    rounds: list[list[Call]] = []
    for begin, calls in chains:
        for number, call in enumerate(calls, begin):
            while len(rounds) <= number:
                rounds.append([])
            rounds[number].append(call)
    seconds = 0.0
    for calls_at_once in filter(None, rounds):
        steps = max(written for _, written in calls_at_once)
        rows = len(calls_at_once) - 1
        seconds += steps * (device.step + rows * device.row)
        seconds += sum(read for read, _ in calls_at_once) * device.read
    return seconds


def learn_seconds(traces: Sequence[Trace], device: Device, gpus: int, per_datum: bool) -> float:
    """Of the GPU that learns longest: whole nodes are shared out with a step a datum, else data."""
    by_node: dict[str, list[int]] = {}
    for trace in traces:
        for node, tokens in trace.data.items():
            by_node.setdefault(node, []).append(tokens)
    nodes = [sum(tokens) for tokens in by_node.values()]
    work = nodes if per_datum else [tokens for of_node in by_node.values() for tokens in of_node]
    return _longest(work, gpus) * device.learn


def _longest(work: Sequence[float], gpus: int) -> float:
    """The load of who has most, shared out as processes share it."""
    loads = [0.0] * gpus
    for cost, rank in zip(work, assign([Work(cost) for cost in work], gpus), strict=True):
        loads[rank] += cost
    return max(loads)


def mini_batch(traces: Sequence[Trace], device: Device, gpus: int, per_datum: bool) -> Times:
    """A mini-batch on so many GPUs."""
    if gpus > 1 and len(traces) <= EXAMPLES_A_PROCESS * gpus:
        shares = share_seconds(traces, device, gpus)
    else:
        shares = [play_seconds(traces[rank::gpus], device) for rank in range(gpus)]
    nodes = len({node for trace in traces for node in trace.data})
    doublings = math.ceil(math.log2(gpus))
    meetings = 2 if per_datum else 1 + nodes
    sent = nodes * device.adapter / device.bandwidth * (2 * (gpus - 1) / gpus)
    return Times(
        play=max(shares),
        mean_play=play_seconds(traces, device) / gpus,
        learn=learn_seconds(traces, device, gpus, per_datum),
        meet=meetings * doublings * device.meeting + sent if gpus > 1 else 0.0,
    )


def simulate(
    traces: Sequence[Trace],
    device: Device,
    gpus: int,
    batch: int,
    *,
    per_datum: bool,
    batches: int = 20,
    seed: int = 0,
) -> Times:
    """The mean mini-batch of a run; the same examples for each number of GPUs."""
    draw = random.Random(f"{seed}/{batch}")
    times = [
        mini_batch(draw.choices(traces, k=batch), device, gpus, per_datum) for _ in range(batches)
    ]
    return Times(*(sum(getattr(t, name) for t in times) / batches for name in _PARTS))


_PARTS = ("play", "mean_play", "learn", "meet")


def rows(
    traces: Sequence[Trace], device: Device, gpus: Sequence[int], batches: Sequence[int]
) -> Iterator[dict[str, Any]]:
    """The efficiency of each number of GPUs, with what costs most of it."""
    for per_datum in (True, False):
        for batch in batches:
            alone = simulate(traces, device, 1, batch, per_datum=per_datum).total
            for count in gpus:
                times = simulate(traces, device, count, batch, per_datum=per_datum)
                ideal = alone / count
                lost = {
                    "uneven and small shares": times.play - times.mean_play,
                    "learning": times.learn - learn_ideal(traces, device, batch, count, per_datum),
                    "meeting": times.meet,
                }
                yield {
                    "step_per": "datum" if per_datum else "batch",
                    "batch": batch,
                    "gpus": count,
                    "seconds": round(times.total, 2),
                    "speed_up": round(alone / times.total, 1),
                    "efficiency": round(ideal / times.total, 2),
                    "lost most to": max(lost, key=lambda name: lost[name]) if count > 1 else "",
                    **{name: round(value, 2) for name, value in asdict(times).items()},
                }


def learn_ideal(
    traces: Sequence[Trace], device: Device, batch: int, gpus: int, per_datum: bool
) -> float:
    """Learning's seconds, if they could be shared out evenly."""
    return simulate(traces, device, 1, batch, per_datum=per_datum).learn / gpus


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--run", type=Path, help="a run's directory")
    parser.add_argument("--traces", type=Path, default=TRACES, help="what --save has written")
    parser.add_argument("--save", type=Path, help="write the run's traces")
    parser.add_argument("--device", choices=sorted(DEVICES), default="h100-8b")
    parser.add_argument("--gpus", type=int, nargs="+", default=[1, 8, 64, 512])
    parser.add_argument("--batch", type=int, nargs="+", default=[8, 64, 512])
    arguments = parser.parse_args()
    if arguments.run is not None:
        traces = read_traces(arguments.run / "store.sqlite")
    else:
        found = json.loads(arguments.traces.read_text())
        traces = [
            Trace(
                tuple(map(tuple, each["own"])),
                tuple(tuple(map(tuple, calls)) for calls in each["rollouts"]),
                each["data"],
            )
            for each in found
        ]
    if arguments.save is not None:
        lines = ",\n".join(json.dumps(asdict(trace)) for trace in traces)
        arguments.save.write_text(f"[\n{lines}\n]\n")
    calls = sum(len(t.own) + sum(map(len, t.rollouts)) for t in traces)
    print(f"{len(traces)} episodes, {calls / len(traces):.1f} calls each with rollouts")
    columns: list[str] = []
    for row in rows(traces, DEVICES[arguments.device], arguments.gpus, arguments.batch):
        if not columns:
            columns = list(row)
            print("\t".join(columns))
        print("\t".join(str(row[column]) for column in columns))


if __name__ == "__main__":
    main()
