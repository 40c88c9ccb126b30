"""How much work does a training take? Operations, not seconds, so that every machine agrees.

    python -m benchmarks.work             fails if any figure grew by more than 5 % since work.json
    python -m benchmarks.work --update    writes the figures of now to work.json

A few episodes of a small flow (its nodes write with diverse beams, rank by likelihood and judge)
are played, deviated from and learned from, in two mini-batches on a tiny random Llama. It is the
trainer's loop without what it writes to disk. Counted for each part are forward passes, tokens
through the decoder (rows times columns, padding included), steps of decoding, and floating point
operations as torch counts them.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar
from unittest.mock import patch

from flowtune_cli import Episode, Example, Generate, Judge, Rank, Task, Template, token_f1
from flowtune_cli.registry import load_registry
from flowtune_cli.runs.atomic import write_json

STORED = Path(__file__).with_name("work.json")
ALLOWED_GROWTH = 0.05
BATCHES = 2
BATCH_SIZE = 3

TINY = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}

Work = dict[str, dict[str, int]]
"""Parts of training ("play and deviate", "learn") with their figures."""


class Small(Task):
    """Find one of six facts, say whether it will do, and write an answer."""

    name: ClassVar[str] = "small"
    nodes = (
        Generate(
            name="query",
            prompt=Template("Look for {question}:", chat=False),
            reward="hit",
            alternatives=2,
            max_new_tokens=6,
        ),
        Rank(
            name="retrieve",
            prompt=Template("{candidate}\n", chat=False),
            score="likelihood",
            text="{query}",
            reward="hit",
        ),
        Judge(name="enough", prompt=Template("{found} and {question}?"), reward="f1"),
        Generate(
            name="answer",
            prompt=Template(system="Be brief.", user="{found} {enough} {question}"),
            reward="f1",
            alternatives=3,
            exploration={"name": "diverse_beam", "beams": 6},
            pairs="best",
            max_new_tokens=10,
        ),
        Generate(
            name="shorten",
            prompt=Template("{answer} for short:", chat=False),
            reward="f1",
            learn="supervised",
            max_new_tokens=4,
        ),
    )

    async def run(self, episode: Episode, example: Example) -> Mapping[str, Any]:
        question = example.question
        query = await episode.call("query", question=question)
        found = await episode.call("retrieve", query=query, candidates=list(example.documents))
        episode.reward("hit", example.documents.index(found))
        enough = await episode.call("enough", found=found, question=question)
        answer = await episode.call("answer", found=found, enough=enough, question=question)
        short = await episode.call("shorten", answer=answer)
        episode.target("shorten", example.gold)
        # A random model is never right: it is judged by the letters that it writes.
        episode.reward("f1", token_f1(" ".join(short), [" ".join(example.gold)]))
        return {"answer": short}

    def examples(self, source: Path | None, split: str) -> Iterable[Example]:
        """Questions with facts of unlike lengths."""
        for number in range(BATCHES * BATCH_SIZE):
            facts = [f"Thing {n} is {'very ' * (n % 3)}red." for n in range(number, number + 6)]
            inputs = {"question": f"the colour of thing {number}", "documents": facts}
            yield Example(f"e{number}", inputs, gold="red and blue")


def measure() -> Work:
    """Train for a few episodes on a tiny random model, and count."""
    with tempfile.TemporaryDirectory() as directory:
        save_tiny_model(Path(directory))
        return _train(Path(directory))


def _train(model: Path) -> Work:
    import torch
    from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

    from benchmarks.throughput.meter import Meter
    from benchmarks.throughput.meter import Work as Counts
    from flowtune_cli.config.settings import Settings
    from flowtune_cli.training.data import collect
    from flowtune_cli.training.session import set_up

    settings = Settings.model_validate(
        {
            "model": {"name": str(model), "device": "cpu", "dtype": "float32"},
            "adapter": {"rank": 2},
            "learning": {"optimizer": {"name": "adam", "lr": 1e-3}},
            "training": {"batch_size": BATCH_SIZE},
        }
    )
    # Weights as they are: torch does not count the products of others.
    with patch("flowtune_cli.training.session.block_weights"):
        session = set_up(Small(), settings, load_registry())
    learner = session.learner()
    meter = Meter(session.adapters.model)
    work: Work = {}

    def attention(query: Any, key: Any, value: Any, *args: Any, **more: Any) -> int:
        return int(sdpa_flop_count(query, key, value))

    # torch knows the attention kernels of GPUs alone.
    kernel: Any = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu

    def counted(part: str, run: Any) -> Any:
        meter.work = Counts()
        with FlopCounterMode(display=False, custom_mapping={kernel: attention}) as flops:
            result = run()
        now = {**asdict(meter.work), "flops": flops.get_total_flops()}
        work[part] = {name: work.get(part, {}).get(name, 0) + n for name, n in now.items()}
        return result

    def learn(data: Mapping[str, Any]) -> None:
        every = (datum for of_node in data.values() for datum in of_node.data)
        session.engine.forget(keep=learner.losses.frozen_prefixes(every))
        for name, of_node in data.items():
            if of_node.data:
                learner.update(name, {name: of_node.data})

    every = list(session.task.examples(None, "train"))
    for start in range(0, len(every), BATCH_SIZE):
        batch = every[start : start + BATCH_SIZE]
        session.engine.forget()
        found = dict(counted("play and deviate", lambda batch=batch: list(session.deviate(batch))))
        data = collect(session.task.nodes, [found[place] for place in range(len(batch))])
        for kind in ("preferences", "targets"):
            count = sum(len(getattr(of_node, kind)) for of_node in data.values())
            work.setdefault("data", {})[kind] = work.get("data", {}).get(kind, 0) + count
        counted("learn", lambda data=data: learn(data))
    return work


def save_tiny_model(directory: Path, context: int = 512, shape: Mapping[str, int] = TINY) -> None:
    """A random Llama with a token a byte, in the format that transformers reads.

    Args:
        context: the most tokens that it reads.
        shape: the sizes in its configuration.
    """
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    from flowtune_cli.models.quiet import quiet

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    numbers = {letter: number for number, letter in enumerate(letters)}
    tokenizer = Tokenizer(models.BPE(vocab=numbers, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>", pad_token="<end>")
    fast.chat_template = "{% for m in messages %}{{ m['content'] }}\n{% endfor %}"
    fast.save_pretrained(directory)
    config = LlamaConfig(
        vocab_size=len(fast),
        **shape,
        max_position_embeddings=context,
        # Ten times the usual: the likeliest token is then ahead by more than rounding errors.
        initializer_range=0.2,
        bos_token_id=None,
        eos_token_id=fast.eos_token_id,
        pad_token_id=fast.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]), quiet():
        torch.manual_seed(0)
        LlamaForCausalLM(config).save_pretrained(directory)


def grown(stored: Work, now: Work) -> list[str]:
    """What grew by more than is allowed, in words.

    The data that were learned from must be the same: with less of them there is less work to do.
    """
    found = []
    for part, figures in stored.items():
        for name, before in figures.items():
            after = now[part][name]
            if part == "data" and after != before:
                found.append(f"{part}, {name}: {before} before, {after} now: not the same training")
            elif after > before * (1 + ALLOWED_GROWTH):
                found.append(f"{part}, {name}: {before} before, {after} now")
    return found


def table(stored: Work, now: Work) -> str:
    lines = [f"{'':30}{'stored':>14}{'now':>14}{'change':>9}"]
    for part, figures in now.items():
        for name, after in figures.items():
            before = stored.get(part, {}).get(name, 0)
            change = f"{after / before - 1:+.1%}" if before else ""
            lines.append(f"{part + ', ' + name:30}{before:>14}{after:>14}{change:>9}")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--update", action="store_true", help="store the figures of now")
    options = parser.parse_args(arguments)
    now = measure()
    stored: Work = json.loads(STORED.read_text()) if STORED.exists() else {}
    print(table(stored, now))
    if options.update:
        write_json(STORED, now)
        return 0
    found = grown(stored, now)
    for line in found:
        print(f"more work than before: {line}", file=sys.stderr)
    if found:
        print("If that is meant: python -m benchmarks.work --update", file=sys.stderr)
    return bool(found)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    raise SystemExit(main())
