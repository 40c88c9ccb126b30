"""flowtune: online joint fine-tuning of whole flows of language-model nodes.

This is the public API: everything that a task, node type, exploration strategy, reward, evaluator,
optimizer, post-processor, tracker or command of a plugin needs. It imports neither torch nor
transformers. ``flowtune_cli.testing`` has what the tests of a plugin need.
"""

from .exploration import DiverseBeam, MultiSample
from .flow.chat import ChatAnswer
from .flow.deviation import Deviation, Evaluator, EvaluatorCall, Outcome, Preference, Trace
from .flow.episode import Episode, Failure, RewardEvent, Step, Target
from .flow.errors import DataError, FlowFailed, FlowtuneError, ReplayError, UsageError
from .flow.example import Example
from .flow.messages import ChatError
from .flow.model_source import ModelSource, cache_directory
from .flow.node import (
    LIKELIHOOD,
    Ask,
    Call,
    ChoiceDatum,
    Datum,
    Exploration,
    Head,
    Learn,
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
from .flow.prompt import Message, Prompt, Segment, Template, ToolCall
from .flow.request import (
    GREEDY,
    Answer,
    Constraint,
    Decoded,
    DecodeRequest,
    Decoding,
    Engine,
    Generation,
    Likelihood,
    Refusal,
    Request,
    Scored,
    ScoreRequest,
)
from .flow.task import Task
from .flow.text_files import read_text, read_text_lines
from .loaded_flow import LoadedFlow, load
from .nodes import Chat, Factor, Feature, Generate, Judge, Rank
from .registry.hookspecs import hookimpl
from .rewards import LLMJudge, exact_match, normalize, token_f1
from .trackers.tracker import TrackedRun, Tracker, TrackerFactory

__version__ = "0.1.0"

__all__ = [
    "GREEDY",
    "LIKELIHOOD",
    "Answer",
    "Ask",
    "Call",
    "Chat",
    "ChatAnswer",
    "ChatError",
    "ChoiceDatum",
    "Constraint",
    "DataError",
    "Datum",
    "DecodeRequest",
    "Decoded",
    "Decoding",
    "Deviation",
    "DiverseBeam",
    "Engine",
    "Episode",
    "Evaluator",
    "EvaluatorCall",
    "Example",
    "Exploration",
    "Factor",
    "Failure",
    "Feature",
    "FlowFailed",
    "FlowtuneError",
    "Generate",
    "Generation",
    "Head",
    "Judge",
    "LLMJudge",
    "Learn",
    "Likelihood",
    "LoadedFlow",
    "Message",
    "ModelSource",
    "MultiSample",
    "Node",
    "NodeOutput",
    "Outcome",
    "PostProcessor",
    "Preference",
    "PreferenceDatum",
    "Preset",
    "Prompt",
    "Rank",
    "Refusal",
    "ReplayError",
    "Request",
    "Response",
    "RewardEvent",
    "Score",
    "ScoreRequest",
    "Scored",
    "Segment",
    "SelfLearning",
    "Step",
    "Target",
    "Task",
    "Template",
    "Term",
    "TextDatum",
    "ToolCall",
    "Trace",
    "TrackedRun",
    "Tracker",
    "TrackerFactory",
    "UsageError",
    "cache_directory",
    "exact_match",
    "hookimpl",
    "load",
    "normalize",
    "read_text",
    "read_text_lines",
    "token_f1",
]
