"""A tiny random model, on which the tests of a plugin play and train for real in seconds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..flow.deviation import Trace
from ..flow.episode import Episode
from ..flow.example import Example
from ..flow.prompt import Prompt
from ..flow.request import Answer, Engine, Request
from ..flow.task import Task
from ..registry import load_registry

if TYPE_CHECKING:
    from torch import Tensor

    from ..config.settings import Settings
    from ..engine.adapters import Adapters
    from ..training.session import Session

CHAT_TEMPLATE = (
    "{% if tools %}<|im_start|>tools\n"
    "{% for tool in tools %}{{ tool | tojson }}\n{% endfor %}<|im_end|>\n{% endif %}"
    "{% for message in messages %}"
    "<|im_start|>{{ message['role'] }}\n{{ message['content'] }}"
    "{% for call in message['tool_calls'] or [] %}"
    '<tool_call>\n{"name": {{ call.function.name | tojson }}, '
    '"arguments": {{ call.function.arguments | tojson }}}\n</tool_call>'
    "{% endfor %}<|im_end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def make_tiny_model(directory: Path, *, context: int = 1024) -> Path:
    """Write a random Llama of 2 layers with a token a byte, and ChatML with tools as its template.

    Its weights are the same every time. It takes a fifth of a second to load, 0.6 MB, and a
    vocabulary of 258 tokens. What it generates is noise, but everything else works as with any
    model.

    Args:
        directory: created if it does not exist.
        context: its context window in tokens, that is, in bytes.

    Returns:
        ``directory``, to be used as the setting ``model.name``.
    """
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    directory.mkdir(parents=True, exist_ok=True)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|im_end|>",
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = CHAT_TEMPLATE
    fast.save_pretrained(directory)

    config = LlamaConfig(
        vocab_size=len(fast),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=context,
        # Ten times the usual: the likeliest token is then ahead by more than rounding errors.
        initializer_range=0.2,
        tie_word_embeddings=True,
        bos_token_id=fast.bos_token_id,
        eos_token_id=fast.eos_token_id,
        pad_token_id=fast.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        LlamaForCausalLM(config).save_pretrained(directory)
    return directory


class TinySession:
    """A task loaded on a tiny model, on the CPU in float32: plays, deviates and scores for real.

    Args:
        model: what ``make_tiny_model`` wrote.
        settings: by section, such as ``{"adapter": {"rank": 2}}``.
        random_adapters: give each node's adapter random weights, as if it had been trained;
            untrained, all nodes compute what the base model does.

    Attributes:
        requests: what nodes have requested so far, in order.
    """

    def __init__(
        self,
        task: Task,
        model: Path,
        settings: Mapping[str, Any] | None = None,
        *,
        random_adapters: bool = False,
    ) -> None:
        self.task = task
        self.requests: list[Request] = []
        self._session = _session(task, _settings(model, settings))
        recording: Any = _Recording(self._session.engine, self.requests)
        self._recorded = replace(self._session, engine=recording)
        if random_adapters:
            randomize(self._session.adapters)

    def play(self, examples: Sequence[Example]) -> list[Episode]:
        """Play examples greedily; one episode an example, in their order."""
        played = sorted(self._recorded.play(examples), key=lambda pair: pair[0])
        return [episode for _, episode in played]

    def deviate(self, examples: Sequence[Example]) -> list[Trace]:
        """Play examples and deviate from them; one trace an example, in their order."""
        played = sorted(self._recorded.deviate(examples), key=lambda pair: pair[0])
        return [trace for _, trace in played]

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of token ids, such as the ``completion`` of a ``Term``, special tokens kept."""
        text: str = self._session.engine.tokens.tokenizer.decode(list(tokens))
        return text

    def log_likelihood(self, node: str | None, prompt: Prompt, completion: str) -> float:
        """Of a completion after a prompt, in nats, by plain forward passes without the engine.

        Args:
            node: whose adapter is used; None is the base model.
        """
        tokens, adapters = self._session.engine.tokens, self._session.adapters
        encoded = tokens.encode(prompt, 1)
        ids = tokens.completion(completion, after=prompt)
        likelihood = plain_log_likelihood(adapters, node, encoded.ids, ids, encoded.frozen_length)
        return float(likelihood.detach())


def train(
    task: Task,
    examples: Sequence[Example],
    model: Path,
    run: Path,
    settings: Mapping[str, Any] | None = None,
) -> list[Mapping[str, float]]:
    """Train a task on a tiny model for real, as ``flowtune train`` does.

    Args:
        model: what ``make_tiny_model`` wrote.
        run: the run's directory, which must not exist.
        settings: by section, such as ``{"training": {"batch_size": 2}, "adapter": {"rank": 2}}``.

    Returns:
        The metrics of each mini-batch, as trackers get them, see ``flowtune_cli.Tracker``.

    Raises:
        UsageError: there is nothing to train on, or a setting or name is wrong.
    """
    from ..runs.directory import RunDirectory
    from ..trackers.metrics import batch_metrics
    from ..training.loop import Report, Trainer

    chosen = _settings(model, settings)
    session = _session(task, chosen)
    directory = RunDirectory.create(
        run.parent,
        run.name,
        task=task.name,
        model=chosen.model.name,
        settings=chosen.model_dump(mode="json"),
    )
    logged: list[Mapping[str, float]] = []

    def log(report: Report) -> None:
        if report.record is not None:
            logged.append(batch_metrics(report.record))

    Trainer(session, directory, examples, on_report=log).train()
    return logged


@dataclass
class _Recording:
    """An engine that records its requests."""

    engine: Engine
    requests: list[Request]

    def answer(self, requests: list[Request]) -> list[Answer]:
        self.requests += requests
        return self.engine.answer(requests)


def _settings(model: Path, settings: Mapping[str, Any] | None) -> Settings:
    from ..config.settings import Settings

    tiny = {"name": str(model), "device": "cpu", "dtype": "float32"}
    chosen = dict(settings or {})
    return Settings.model_validate({**chosen, "model": {**tiny, **chosen.get("model", {})}})


def _session(task: Task, settings: Settings) -> Session:
    from ..training.session import set_up

    return set_up(task, settings, load_registry())


def randomize(adapters: Adapters, seed: int = 0) -> None:
    """Give every adapter weights of its own, large enough to change what the model generates."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name in adapters.versions:
            for parameter in adapters.parameters(name):
                if parameter.dim() > 1:  # not a head
                    # Drawn on the processor: the same weights whatever the device.
                    parameter.copy_(
                        torch.empty(parameter.shape).normal_(0, 0.1, generator=generator)
                    )


def plain_logits(
    adapters: Adapters, name: str | None, ids: Sequence[int], frozen_length: int = 0
) -> Tensor:
    """The model's logits at every position of one text, shape (tokens, vocabulary).

    The first ``frozen_length`` tokens are encoded by the base model, in a pass of their own.
    """
    import torch
    from transformers import DynamicCache

    from ..engine.forward import with_cache

    cache = DynamicCache()
    device = adapters.model.device
    parts = []
    with torch.no_grad(), adapters.using(None) as model:
        if frozen_length:
            begin = torch.tensor([list(ids[:frozen_length])], device=device)
            parts.append(model(begin, **with_cache(model, cache)).logits[0])
    with adapters.using(name) as model:
        if ids[frozen_length:]:
            rest = torch.tensor([list(ids[frozen_length:])], device=device)
            parts.append(model(rest, **with_cache(model, cache)).logits[0])
    return torch.cat(parts).float()


def plain_log_likelihood(
    adapters: Adapters,
    name: str | None,
    prompt: Sequence[int],
    completion: Sequence[int],
    frozen_length: int = 0,
) -> Tensor:
    """The log-likelihood of a completion, by forward passes of its own over the whole text."""
    import torch

    ids = [*prompt, *completion]
    logprobs = plain_logits(adapters, name, ids, frozen_length).log_softmax(-1)
    places = range(len(prompt) - 1, len(ids) - 1)
    return torch.stack([logprobs[place, ids[place + 1]] for place in places]).sum()
