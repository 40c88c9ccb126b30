"""flowtune: online joint fine-tuning of whole flows of language-model nodes.

This is the public API that a plugin imports. It imports neither torch nor transformers.
"""

from .exploration import DiverseBeam, MultiSample
from .flow.episode import Episode
from .flow.errors import DataError, FlowtuneError, UsageError
from .flow.example import Example
from .flow.model_source import ModelSource, cache_directory
from .flow.node import (
    Call,
    ChoiceDatum,
    Datum,
    Exploration,
    Node,
    NodeOutput,
    PreferenceDatum,
    Response,
    Score,
    SelfLearning,
    Term,
    TextDatum,
)
from .flow.postprocessing import PostProcessor
from .flow.preset import Preset
from .flow.prompt import Prompt, Template
from .flow.request import Decoding
from .flow.task import Task
from .nodes import Factor, Feature, Generate, Judge, Rank
from .registry.hookspecs import hookimpl
from .rewards import LLMJudge, exact_match, normalize, token_f1

__version__ = "0.1.0"

__all__ = [
    "Call",
    "ChoiceDatum",
    "DataError",
    "Datum",
    "Decoding",
    "DiverseBeam",
    "Episode",
    "Example",
    "Exploration",
    "Factor",
    "Feature",
    "FlowtuneError",
    "Generate",
    "Judge",
    "LLMJudge",
    "ModelSource",
    "MultiSample",
    "Node",
    "NodeOutput",
    "PostProcessor",
    "PreferenceDatum",
    "Preset",
    "Prompt",
    "Rank",
    "Response",
    "Score",
    "SelfLearning",
    "Task",
    "Template",
    "Term",
    "TextDatum",
    "UsageError",
    "cache_directory",
    "exact_match",
    "hookimpl",
    "normalize",
    "token_f1",
]
