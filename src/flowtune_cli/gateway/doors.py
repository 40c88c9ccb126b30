"""Which episodes can be reached from outside: each by an id and a token that cannot be guessed."""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from ..flow.episode import Episode
from .door import Door
from .errors import WireError
from .parked import ParkedCalls


@dataclass(frozen=True)
class Admitted:
    """An episode that can be reached, and its calls under way."""

    id: str
    token: str = field(repr=False)
    door: Door
    parked: ParkedCalls


class Doors:
    """The episodes that can be reached now; used from several threads.

    Args:
        kept_seconds: how long a call whose connection is gone waits for a retry.
    """

    def __init__(self, kept_seconds: float) -> None:
        self._kept_seconds = kept_seconds
        self._admitted: dict[str, Admitted] = {}
        self._nobody = secrets.token_urlsafe(32)

    @contextmanager
    def admitted(
        self, episode: Episode, known: tuple[str, str] | None = None
    ) -> Iterator[Admitted]:
        """Let an episode be reached, within; its flow must run.

        Args:
            known: the id and token of an earlier one, to be used again; None makes new ones.

        Raises:
            ValueError: the earlier one can still be reached.
        """
        door = Door(episode)
        parked = ParkedCalls(lambda: door.over, self._kept_seconds)
        name, token = known or (secrets.token_hex(16), secrets.token_urlsafe(32))
        if name in self._admitted:
            raise ValueError("two episodes at a time cannot be reached at one address")
        one = Admitted(name, token, door, parked)
        self._admitted[one.id] = one
        try:
            yield one
        finally:
            del self._admitted[one.id]

    def find(self, episode_id: str, authorization: str) -> Admitted:
        """The episode of that id, if the token is its own.

        Raises:
            WireError: there is no such episode, or the token is another's: which, is not said.
        """
        one = self._admitted.get(episode_id)
        kind, _, token = authorization.partition(" ")
        wanted = self._nobody if one is None else one.token
        same = hmac.compare_digest(token.strip().encode(), wanted.encode())
        if one is None or not same or kind.lower() != "bearer":
            raise WireError(
                "no such episode, or the key is not its own: use OPENAI_BASE_URL and OPENAI_API_KEY"
                " as they are given to the program; they are good until its episode ends",
                code="invalid_api_key",
                status=401,
            )
        return one
