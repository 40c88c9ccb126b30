"""The world of ToyQA: facts in one sentence each, and questions that need a chain of them.

Every question has a little world of its own, so nothing can be known beforehand: the same person
may be born elsewhere in the next one.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from .names import SHAPES, Namer


@dataclass(frozen=True)
class Relation:
    """What a thing of one kind can have to do with one thing of another kind.

    Each subject has at most one object; many subjects may share it, and no relation follows from
    others, so that the facts of a world never contradict each other.

    Args:
        subject, object: kinds of things.
        document: the sentence that states it of ``{s}`` and ``{o}``.
        phrase: the object, told by a description ``{x}`` of the subject.
        question: asks for the object in the same way.
    """

    subject: str
    object: str
    document: str
    phrase: str
    question: str


RELATIONS = (
    Relation(
        "painting", "person", "{s} was painted by {o}.", "the painter of {x}", "Who painted {x}?"
    ),
    Relation(
        "painting",
        "town",
        "The painting {s} hangs in the museum of {o}.",
        "the home of {x}",
        "In which town does {x} hang?",
    ),
    Relation(
        "novel",
        "person",
        "{s} is a novel that was written by {o}.",
        "the author of {x}",
        "Who wrote {x}?",
    ),
    Relation(
        "novel",
        "town",
        "The novel {s} is set in the town of {o}.",
        "the setting of {x}",
        "In which town is {x} set?",
    ),
    Relation(
        "song",
        "person",
        "{s} is a song that was composed by {o}.",
        "the composer of {x}",
        "Who composed {x}?",
    ),
    Relation(
        "song",
        "company",
        "The song {s} was published by the company {o}.",
        "the publisher of {x}",
        "Which company published {x}?",
    ),
    Relation(
        "person",
        "town",
        "{s} was born in {o}.",
        "the birthplace of {x}",
        "In which town was {x} born?",
    ),
    Relation(
        "person",
        "company",
        "{s} works for the company {o}.",
        "the employer of {x}",
        "Which company does {x} work for?",
    ),
    Relation("person", "person", "{s} was taught by {o}.", "the teacher of {x}", "Who taught {x}?"),
    Relation(
        "company",
        "person",
        "The company {s} was founded by {o}.",
        "the founder of {x}",
        "Who founded {x}?",
    ),
    Relation(
        "company",
        "town",
        "The company {s} has its seat in {o}.",
        "the seat of {x}",
        "In which town does {x} have its seat?",
    ),
    Relation(
        "town",
        "person",
        "The town of {s} was founded by {o}.",
        "the founder of {x}",
        "Who founded {x}?",
    ),
    Relation(
        "town",
        "river",
        "The town of {s} lies on the river {o}.",
        "the river of {x}",
        "On which river does {x} lie?",
    ),
    Relation(
        "river",
        "person",
        "The river {s} was discovered by {o}.",
        "the discoverer of {x}",
        "Who discovered {x}?",
    ),
)


@dataclass(frozen=True)
class Fact:
    """One relation between two named things; ``text`` is the document that states it."""

    subject: str
    relation: Relation
    object: str

    @property
    def text(self) -> str:
        return self.relation.document.format(s=self.subject, o=self.object)


@dataclass(frozen=True)
class HopQuestion:
    """A question, the facts of its world, and the way to its answer.

    Args:
        text: the question; of all the things on the way it names ``start`` alone.
        start: the thing where the chain starts.
        path: the relations that lead from there to the answer, one a hop.
        answer: the name of the thing at the end of the chain.
        facts: all facts, shuffled.
        support: the indices into ``facts`` of the chain, in its order.
    """

    text: str
    start: str
    path: tuple[Relation, ...]
    answer: str
    facts: tuple[Fact, ...]
    support: tuple[int, ...]


def hop_question(rng: random.Random, split: str, hops: int, documents: int) -> HopQuestion:
    """Invent a world of ``documents`` facts, and a question that needs ``hops`` of them.

    The answer stands in the last fact of the chain and in no other.
    """
    namer = Namer(rng, split)
    path = _path(rng, hops)
    chain = _chain(namer, path)
    facts = [*chain, *islice(_distractors(rng, namer, chain), documents - hops)]
    rng.shuffle(facts)
    return HopQuestion(
        text=_ask(path, chain[0].subject),
        start=chain[0].subject,
        path=path,
        answer=chain[-1].object,
        facts=tuple(facts),
        support=tuple(facts.index(fact) for fact in chain),
    )


def _path(rng: random.Random, hops: int) -> tuple[Relation, ...]:
    """Relations of which each starts at the kind of thing where the one before it ends."""
    kind = rng.choice(list(SHAPES))
    path = []
    for _ in range(hops):
        path.append(rng.choice([relation for relation in RELATIONS if relation.subject == kind]))
        kind = path[-1].object
    return tuple(path)


def _chain(namer: Namer, path: Sequence[Relation]) -> list[Fact]:
    """Facts about new things that follow the path."""
    names = [namer.name(path[0].subject), *(namer.name(relation.object) for relation in path)]
    return [Fact(names[hop], relation, names[hop + 1]) for hop, relation in enumerate(path)]


def _ask(path: Sequence[Relation], start: str) -> str:
    description = start
    for relation in path[:-1]:
        description = relation.phrase.format(x=description)
    return path[-1].question.format(x=description)


def _distractors(rng: random.Random, namer: Namer, chain: list[Fact]) -> Iterator[Fact]:
    """Facts without end that are easily confused with the chain's, and never lead to its answer.

    By turns: the chain's relations between other things (that of the last hop first, so that
    something looks like the answer), and other facts about the things on the chain.
    """
    path = [fact.relation for fact in chain]
    stated = {(fact.subject, fact.relation) for fact in chain}
    while True:
        *decoys, last = _chain(namer, path)
        rng.shuffle(decoys)
        for decoy in (last, *decoys):
            yield decoy
            aside = _aside(rng, namer, chain, stated)
            stated.add((aside.subject, aside.relation))
            yield aside


def _aside(
    rng: random.Random,
    namer: Namer,
    chain: list[Fact],
    stated: set[tuple[str, Relation]],
) -> Fact:
    """Another fact about a thing on the chain, be it the subject or the object of the fact."""
    unstated = [
        (fact.subject, relation)
        for fact in chain
        for relation in RELATIONS
        if relation.subject == fact.relation.subject and (fact.subject, relation) not in stated
    ]
    if unstated and rng.random() < 0.5:
        subject, relation = rng.choice(unstated)
        return Fact(subject, relation, namer.name(relation.object))
    bridge = rng.choice(chain[:-1])
    relation = rng.choice([r for r in RELATIONS if r.object == bridge.relation.object])
    return Fact(namer.name(relation.subject), relation, bridge.object)
