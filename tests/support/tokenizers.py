"""Small tokenizers of each kind that there is, made on the spot."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import PreTrainedTokenizerFast

from flowtune_cli.testing.tiny_model import CHAT_TEMPLATE

_CORPUS = [
    "Question: why so? Answer: Yes. No, the one document says Yes and the other says No.",
    "one two three four five six seven ten 1 10 100 12",
    "Answer: Yes\nQuestion: No\n\nQuestion: why\nAnswer: AB A B",
    "system user assistant Be brief. Why is it so? Because the answer is Yes.",
] * 3
SPECIAL = ("<s>", "</s>", "<|im_start|>", "<|im_end|>")
_BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
_PLAIN_SPACE = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]


def _sentencepiece_bpe(prepare: Callable[[Tokenizer], None]) -> Tokenizer:
    """With bytes for what it does not know, as Llama 2 has them."""
    trained = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    # SentencePiece merges no space with what comes before it.
    trained.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.BpeTrainer(
        vocab_size=700, special_tokens=["<unk>", *_BYTES], show_progress=False
    )
    trained.train_from_iterator(_CORPUS, trainer)
    # A new one, where the bytes are no added tokens, which would be read where a text spells them.
    made = Tokenizer(trained.model)
    prepare(made)
    return made


def _prepend(made: Tokenizer) -> None:
    made.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    made.decoder = decoders.Sequence([*_PLAIN_SPACE, decoders.Strip(" ", 1, 0)])


def _metaspace(scheme: Any) -> Callable[[Tokenizer], None]:
    def prepare(made: Tokenizer) -> None:
        made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)
        made.decoder = decoders.Sequence([*_PLAIN_SPACE, decoders.Strip(" ", 1, 0)])

    return prepare


def _unigram() -> Tokenizer:
    made = Tokenizer(models.Unigram())
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    made.decoder = decoders.Metaspace(prepend_scheme="always")
    alphabet = [chr(code) for code in range(10, 127)] + ["é", "▁"]
    trainer = trainers.UnigramTrainer(
        vocab_size=300,
        special_tokens=["<unk>"],
        unk_token="<unk>",
        initial_alphabet=alphabet,
        show_progress=False,
    )
    made.train_from_iterator(_CORPUS, trainer)
    return made


def _byte_level(add_prefix_space: bool) -> Tokenizer:
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=500,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator(_CORPUS, trainer)
    return made


KINDS: dict[str, Callable[[], Tokenizer]] = {
    "prepend": lambda: _sentencepiece_bpe(_prepend),
    "metaspace always": lambda: _sentencepiece_bpe(_metaspace("always")),
    "metaspace first": lambda: _sentencepiece_bpe(_metaspace("first")),
    "unigram": _unigram,
    "byte level": lambda: _byte_level(False),
    "byte level with a space": lambda: _byte_level(True),
}
SPACED = [kind for kind in KINDS if kind != "byte level"]
"""Those that put a space before a text."""


def make_tokenizer(
    kind: str, *, bos: bool = False, eos: bool = False, template: str | None = CHAT_TEMPLATE
) -> Any:
    """A tokenizer of transformers.

    Args:
        bos, eos: whether it puts its first and last token around a text.
    """
    made = KINDS[kind]()
    made.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in SPECIAL])
    if bos or eos:
        single = ["<s>"] * bos + ["$A"] + ["</s>"] * eos
        made.post_processor = processors.TemplateProcessing(
            single=" ".join(single),
            special_tokens=[(text, made.token_to_id(text)) for text in ("<s>", "</s>")],
        )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=made,
        bos_token="<s>",
        eos_token="</s>",
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = template
    return fast
