"""The prompts: plain instructions, the same for every model. Training does the rest."""

from __future__ import annotations

from collections.abc import Sequence

from flowtune_cli import Template

from .records import Document

NOTHING_FOUND = "(none yet)"


def scratchpad(found: Sequence[Document]) -> Sequence[Document | str]:
    """The documents found so far, as the prompts' ``{found}`` shows them."""
    return tuple(found) or (NOTHING_FOUND,)


QUERY = Template(
    system="You help to answer a question by searching step by step. Write the next search query:"
    " one short and simple question for a fact that is still missing."
    " Reply with the query alone. Do not explain.",
    user="Question: {question}\n\nDocuments found so far:\n{found}\n\nNext search query:",
    truncate=("found",),
    separator="\n\n",
)

# The document stands first and alone, so that what the model makes of it serves every query.
RETRIEVE_BY_LIKELIHOOD = Template(user="{candidate}", chat=False, truncate=("candidate",))
QUERY_AFTER_DOCUMENT = " Question: {query}"

# The candidate stands last, so that what comes before it is computed once for all candidates.
RETRIEVE_BY_CHOICE = Template(
    system="You pick the documents that a search should return. Reply Yes or No only.",
    user="Documents found so far:\n{found}\n\nSearch query: {query}\n\n"
    "Candidate document:\n{candidate}\n\n"
    "Does the candidate tell something new that helps to answer the query? Yes or No only.",
    truncate=("candidate", "found"),
    separator="\n\n",
)

STOP = Template(
    system="You decide when a search is complete. Reply Yes or No only.",
    user="Question: {question}\n\nDocuments found so far:\n{found}\n\n"
    "Do these documents hold every fact that the answer needs? Yes or No only.",
    truncate=("found",),
    separator="\n\n",
)

VERBOSE = Template(
    system="You answer a question from documents, in one or two short sentences."
    " Some of the documents may be of no use, and some facts may be missing.",
    user="Question: {question}\n\nDocuments:\n{found}\n\nAnswer:",
    truncate=("found",),
    separator="\n\n",
)

CONCISE = Template(
    system="You shorten an answer to the fewest words that still answer the question: a name,"
    " a date, a number. Reply with those words alone. Do not explain.",
    user="Question: {question}\n\nLong answer: {answer}\n\nShort answer:",
    truncate=("answer",),
)

SUFFICIENCY = Template(
    system="You decide whether a question can be answered from the given documents alone."
    " Reply Yes or No only.",
    user="Question: {question}\n\nDocuments:\n{found}\n\n"
    "Is the answer to the question in these documents? Yes or No only.",
    truncate=("found",),
    separator="\n\n",
)
