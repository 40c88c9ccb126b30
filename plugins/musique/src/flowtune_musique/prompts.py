"""The prompts: plain instructions and invented examples, the same for every model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from flowtune_cli import Factor, Template

from .records import Document

NOTHING_FOUND = "(none yet)"


def scratchpad(found: Sequence[Document]) -> Sequence[Document | str]:
    """The documents found so far, as the prompts' ``{found}`` shows them."""
    return tuple(found) or (NOTHING_FOUND,)


# Documents are in frozen prefixes, which the base model encodes once for all nodes and updates that
# share them.

# Invented few-shot examples, without which a small model hardly follows instructions. Queries and
# answers have the same ones, so that they share a prefix.
_MILL = "In which country was the painter of The Blue Mill born?"
_BRIDGE = "When did the designer of Hale Bridge die?"
_HALE_BRIDGE = (
    "Title: Hale Bridge\nContent: Hale Bridge crosses the river Orm. It was designed by Ida Brandt"
)
_SEARCH = (
    f"Documents:\n{NOTHING_FOUND}\n\nQuestion: {_MILL}\nLook up: The Blue Mill\n\n"
    f"Documents:\n{NOTHING_FOUND}\n\nQuestion: Who was mayor of the town where Samuel Orde died?\n"
    "Look up: Samuel Orde\n\n"
    f"Documents:\n{_HALE_BRIDGE}.\n\nQuestion: {_BRIDGE}\nLook up: Ida Brandt\n\n"
    "Documents:\nTitle: Orrin Vale\nContent: Orrin Vale (1871-1940) was a painter from the harbour"
    " town of Lysk, known for The Blue Mill.\n\n"
    "Title: Lysk\nContent: Lysk is a harbour town in the north of Tarvia. It has 12,000"
    f" inhabitants.\n\nQuestion: {_MILL}\nAnswer: He was born in Tarvia.\n"
    "Short answer: Tarvia\n\n"
    f"Documents:\n{_HALE_BRIDGE}, who died in 1932.\n\nQuestion: {_BRIDGE}\n"
    "Answer: She died in 1932.\nShort answer: 1932\n\n"
    "Documents:\n{found}"
)

QUERY = Template(
    frozen_prefix=_SEARCH,
    user="\n\nQuestion: {question}\nLook up:",
    chat=False,
    truncate=("found",),
    separator="\n\n",
)
VERBOSE = replace(QUERY, user="\n\nQuestion: {question}\nAnswer:")
# It sees the documents, too: what the verbose answer lacks can then still be found in them.
CONCISE = replace(
    QUERY,
    user="\n\nQuestion: {question}\nAnswer: {answer}\nShort answer:",
    truncate=("found", "answer"),
)

# The document stands first and alone, so that what the model makes of it serves every query.
RETRIEVE_BY_LIKELIHOOD = Template(frozen_prefix="{candidate}", chat=False, truncate=("candidate",))
# Titles count by how likely they would be looked up next, over how likely they are anyway; that by
# half, as long titles would else win by being unlikely. Sums over a whole text differ by tens of
# nats between documents: with small weights they say how sure one can be, and measures can count.
_TITLE = " {candidate.title}\n"
RETRIEVE_FACTORS = (
    Factor("\nQuestion: {question}", weight=0.03),
    Factor("\nLook up: {query}", weight=0.03),
    Factor(_TITLE, prompt=QUERY, weight=0.06),
    Factor(_TITLE, prompt=Template(user="Title:", chat=False), weight=-0.03),
)

# Here, too, the document and the question stand before what is looked up, which alone is read anew.
RETRIEVE_BY_CHOICE = Template(
    frozen_prefix="Does the document help to answer the question? Yes or No.\n\n{candidate}\n\n"
    "Question: {question}\nLook up:",
    user=" {query}\nHelps:",
    chat=False,
    truncate=("candidate",),
)
RETRIEVE_LABELS = (" Yes", " No")

JUDGED_BY_LIKELIHOOD = Template(
    frozen_prefix="{found}", chat=False, truncate=("found",), separator="\n\n"
)
QUESTION_AFTER_DOCUMENTS = "\n\nQuestion: {question}"
# How likely the question is anyway counts less by half, as hard questions would else all seem to
# lack something.
SUFFICIENCY_FACTORS = (
    QUESTION_AFTER_DOCUMENTS,
    Factor(
        QUESTION_AFTER_DOCUMENTS,
        prompt=Template(frozen_prefix=NOTHING_FOUND, chat=False),
        weight=-0.5,
    ),
)

STOP_BY_CHOICE = Template(
    system="You decide when a search is complete. Reply Yes or No only.",
    user="Question: {question}\n\nDocuments found so far:\n{found}\n\n"
    "Do these documents hold every fact that the answer needs? Yes or No only.",
    truncate=("found",),
    separator="\n\n",
)

SUFFICIENCY_BY_CHOICE = Template(
    system="You decide whether a question can be answered from the given documents alone."
    " Reply Yes or No only.",
    user="Question: {question}\n\nDocuments:\n{found}\n\n"
    "Is the answer to the question in these documents? Yes or No only.",
    truncate=("found",),
    separator="\n\n",
)
