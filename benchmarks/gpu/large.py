"""Speed at the shapes of large models, with random weights made on the device, in bfloat16.

Reading, scoring, decoding and learning by the engine, and decoding by transformers' ``generate``
on the same work, beside what the card can do at best: products for what is bound by them, and the
bandwidth of its memory for decoding, which reads all weights and the rows' keys and values for
every token of a row.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from transformers import AutoModelForCausalLM, LlamaConfig, Phi3Config

from benchmarks.gpu.about import synchronize
from benchmarks.gpu.cards import Card, card
from benchmarks.gpu.result import Result
from benchmarks.gpu.stages import Options
from benchmarks.throughput.meter import Meter, Work
from flowtune_cli.config.settings import AdapterSettings
from flowtune_cli.engine.adapters import Adapters
from flowtune_cli.engine.cascade import replace_attention, restore_attention
from flowtune_cli.engine.decoding import Decoder
from flowtune_cli.engine.likelihoods import Completion, likelihoods
from flowtune_cli.engine.limits import Limits
from flowtune_cli.engine.packing import Ids
from flowtune_cli.engine.prefix_cache import PrefixCache
from flowtune_cli.engine.proof import prove
from flowtune_cli.engine.rows import TokenizedRequest
from flowtune_cli.engine.scoring import score
from flowtune_cli.flow.request import GREEDY
from flowtune_cli.models.targets import AUTO, resolve_targets
from flowtune_cli.models.tokens import Tokens

NODE = "node"
TO_END = 8.0
"""Seconds before the stage is stopped in which nothing new is begun."""


def _llama(**sizes: Any) -> LlamaConfig:
    shape = {
        "vocab_size": 128256,
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "max_position_embeddings": 8192,
        "rope_parameters": {"rope_type": "default", "rope_theta": 500000.0},
    }
    return LlamaConfig(**{**shape, **sizes})


def _phi(**sizes: Any) -> Phi3Config:
    shape = {
        "vocab_size": 32064,
        "hidden_size": 5120,
        "intermediate_size": 17920,
        "num_hidden_layers": 40,
        "num_attention_heads": 40,
        "num_key_value_heads": 10,
        "max_position_embeddings": 4096,
        "pad_token_id": None,
    }
    return Phi3Config(**{**shape, **sizes})


SHAPES: dict[str, Callable[..., Any]] = {"llama-8b": _llama, "phi-14b": _phi}
TINY = {
    "vocab_size": 320,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
}


@dataclass(frozen=True)
class Sizes:
    """How much is measured, in tokens and texts."""

    context: int = 4096
    prompts: int = 8
    prompt: int = 2048
    shared: int = 512
    documents: int = 160
    document: int = 100
    completion: int = 20
    before: int = 256
    new: int = 65
    rows: tuple[int, ...] = (1, 8, 64, 256)
    generate_rows: tuple[int, ...] = (1, 8, 64)
    pairs: int = 16
    seconds: float = 2.0


SMALL = Sizes(128, 2, 40, 20, 4, 5, 3, 16, 4, (1, 2), (1, 2), 2, 0.0)


def run(result: Result, options: Options) -> None:
    sizes = SMALL if options.tiny else Sizes()
    config = SHAPES[options.stage](**(TINY if options.tiny else {}))
    start = time.perf_counter()
    torch.manual_seed(0)
    with torch.device(options.device):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model = model.eval().requires_grad_(False)
    synchronize(options.device)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    result.add(
        parameters=parameters,
        weights_gb=round(2 * parameters / 1e9, 2),
        seconds_to_make=round(time.perf_counter() - start, 1),
    )
    settings = AdapterSettings(rank=8, targets=resolve_targets(model, AUTO))
    start = time.perf_counter()
    proof = prove(model, settings, sizes.context)
    result.add(
        run_by=proof.paths.text,
        slower_because="; ".join(proof.found),
        seconds_to_prove=round(time.perf_counter() - start, 1),
    )
    limits = Limits.for_model(model)
    result.add(
        tokens_per_batch=limits.tokens_per_batch,
        learning_tokens_per_batch=limits.learning_tokens_per_batch,
        prefix_cache_mb=limits.prefix_cache_bytes // 2**20,
    )
    adapters = Adapters(model, {NODE: {}}, settings, 0)
    prefixes = PrefixCache(adapters, limits, proof.paths)
    measured = Measured(result, options, sizes, prefixes)
    measured.reading()
    measured.scoring()
    for rows in sizes.rows:
        measured.decoding(rows)
        if rows in sizes.generate_rows:
            measured.generate(rows)
    measured.learning()


@dataclass
class Measured:
    """Measurements of one model, each a step that may fail by itself."""

    result: Result
    options: Options
    sizes: Sizes
    prefixes: PrefixCache
    rows: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.model = self.prefixes.adapters.model
        self.meter = Meter(self.model)
        self.generator = torch.Generator().manual_seed(0)
        self.best: Card | None = None
        if self.options.device == "cuda":
            self.best = card(torch.cuda.get_device_name())

    def reading(self) -> None:
        """Prompts that have nothing in common."""
        prompts = [self._text(self.sizes.prompt) for _ in range(self.sizes.prompts)]

        def read() -> None:
            self.prefixes.prefill(NODE, prompts, keep=False)

        tokens = self.sizes.prompts * self.sizes.prompt
        self._measure("reading", self.sizes.prompts, lambda row: self._repeat(row, read, tokens))

    def scoring(self) -> None:
        """Documents after what they share, and a completion after each."""
        sizes = self.sizes
        shared = self._text(sizes.shared)
        end = self._text(sizes.completion)
        completions = [
            Completion((*shared, *self._text(sizes.document)), 0, end)
            for _ in range(sizes.documents)
        ]

        def scored() -> None:
            score(self.prefixes, NODE, completions, keep=False)

        each = sizes.document + sizes.completion - 1
        tokens = sizes.shared + sizes.documents * each
        self._measure("scoring", sizes.documents, lambda row: self._repeat(row, scored, tokens))

    def decoding(self, rows: int) -> None:
        """The engine's decoding of prompts that have nothing in common."""
        prompts = [self._text(self.sizes.before) for _ in range(rows)]
        decoder = Decoder(self.prefixes, cast(Tokens, _NoTexts()), frozenset())

        def decode(new: int) -> None:
            requests = [TokenizedRequest(prompt, new, (), GREEDY, ()) for prompt in prompts]
            decoder.decode(NODE, requests)

        self._measure("decoding", rows, lambda row: self._decoded(row, decode, rows))

    def generate(self, rows: int) -> None:
        """The same by transformers' ``generate``."""
        prompts = [self._text(self.sizes.before) for _ in range(rows)]
        ids = torch.tensor(prompts, device=self.model.device)

        @torch.inference_mode()
        def decode(new: int) -> None:
            with self.prefixes.adapters.using(NODE) as model:
                model.generate(
                    ids,
                    attention_mask=torch.ones_like(ids),
                    do_sample=False,
                    max_new_tokens=new,
                    eos_token_id=None,
                    pad_token_id=0,
                )

        def measure(row: dict[str, Any]) -> None:
            restore_attention(self.model)
            try:
                self._decoded(row, decode, rows)
            finally:
                if self.prefixes.paths.playing == "cascade":
                    replace_attention(self.model)

        self._measure("transformers.generate", rows, measure)

    def learning(self) -> None:
        """Gradients of pairs of outputs, each pair after a prompt of its own."""
        sizes = self.sizes
        completions = []
        for _ in range(sizes.pairs):
            prompt = self._text(sizes.shared)
            completions += [Completion(prompt, 0, self._text(sizes.completion)) for _ in range(2)]
        adapters = self.prefixes.adapters
        most = self.prefixes.limits.learning_tokens_per_batch

        def learn() -> None:
            with torch.enable_grad():
                values = likelihoods(self.prefixes, NODE, completions, max_graph_tokens=most)
                with adapters.using(NODE):
                    values.sum().backward()
            for parameter in adapters.parameters(NODE):
                parameter.grad = None

        tokens = sizes.pairs * (sizes.shared + 2 * (sizes.completion - 1))
        self._measure("learning", len(completions), lambda row: self._repeat(row, learn, tokens))

    # How it is measured

    def _measure(self, what: str, rows: int, work: Callable[[dict[str, Any]], None]) -> None:
        """A row of the table; an error fails this row alone."""
        row: dict[str, Any] = {"what": what, "rows": rows}
        cuda = self.options.device == "cuda"
        with self.result.step(f"{what}, {rows} rows"):
            if time.perf_counter() - self.result.start > self.options.seconds - TO_END:
                raise TimeoutError("too little time is left")
            if cuda:
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats()
            work(row)
            if cuda:
                row["peak GB"] = round(torch.cuda.max_memory_allocated() / 1e9, 2)
            self.rows.append(row)
            self.result.add(measurements=self.rows)

    def _repeat(self, row: dict[str, Any], work: Callable[[], None], tokens: int) -> None:
        """Once to warm up, then as often as fits into the time; figures are of one time."""
        work()
        self.prefixes.clear()
        self.meter.work = Work()
        times, total = 0, 0.0
        while not times or total < self.sizes.seconds:
            total += self._timed(work)
            times += 1
            self.prefixes.clear()
        row["tokens"], row["seconds"] = tokens, total / times
        row["tokens/s"] = tokens * times / total
        flops = self.meter.work.flops / total
        row["TFLOP/s"] = flops / 1e12
        if self.best is not None:
            row["of the best"] = f"{flops / self.best.flops:.1%} of products"

    def _decoded(self, row: dict[str, Any], decode: Callable[[int], None], rows: int) -> None:
        """What the tokens after the first take: the first one's share is reading the prompts."""
        steps = self.sizes.new - 1
        decode(2)
        self.prefixes.clear()
        first = self._timed(lambda: decode(1))
        self.prefixes.clear()
        self.meter.work = Work()
        whole = self._timed(lambda: decode(self.sizes.new))
        self.prefixes.clear()
        step = max(whole - first, 1e-9) / steps
        row["tokens"], row["seconds"] = rows * self.sizes.new, whole
        row["tokens/s"] = rows / step
        row["ms a step"] = 1e3 * step
        row["TFLOP/s"] = self.meter.work.flops / whole / 1e12
        if self.best is not None:
            share = self._bytes_of_a_step(rows) / step / self.best.bandwidth
            row["of the best"] = f"{share:.1%} of bandwidth"

    def _bytes_of_a_step(self, rows: int) -> float:
        """Weights but for the embeddings, and the rows' keys and values in the middle."""
        config = self.model.config
        embeddings = self.model.get_input_embeddings().weight.numel()
        weights = sum(p.numel() for p in self.model.parameters()) - embeddings
        size = config.hidden_size // config.num_attention_heads
        token = 2 * config.num_hidden_layers * config.num_key_value_heads * size
        return 2.0 * (weights + rows * token * (self.sizes.before + self.sizes.new / 2))

    def _timed(self, work: Callable[[], None]) -> float:
        synchronize(self.options.device)
        start = time.perf_counter()
        work()
        synchronize(self.options.device)
        return time.perf_counter() - start

    def _text(self, length: int) -> Ids:
        vocabulary = self.model.config.vocab_size
        return tuple(torch.randint(3, vocabulary, (length,), generator=self.generator).tolist())


class _NoTexts:
    """In the place of a tokenizer, where no text is wanted."""

    def decode(self, ids: Any) -> str:
        return ""
