"""A client of an OpenAI-compatible server, by the standard library. Knows no question and no answer.

What passes (a timeout, 429, 5xx, a broken connection) is tried again; what does not (another 4xx, an answer of another form) is
a CannotRunError with the server's own words.
"""

from __future__ import annotations

import http.client
import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any
from urllib.parse import urlsplit

from backend.errors import CannotRunError, UsageError

WORDS_SHOWN = 300
"""Characters of a server's complaint."""

TRANSIENT = frozenset({408, 409, 425, 429, 500, 502, 503, 504})
"""HTTP statuses that another try may not meet."""

FIRST_PAUSE = 1.0
"""Seconds before the second try; doubled each time."""


class Api(StrEnum):
    """How a question is put. CHAT applies the model's chat template, which changes what an accuracy means."""

    COMPLETIONS = "completions"
    CHAT = "chat"


class NoAnswerError(Exception):
    """All tries failed for reasons that may pass; the last one is told."""


@dataclass(frozen=True, slots=True)
class Reply:
    """text: of the answer; truncated: it stopped at max_tokens; tries: requests that it took."""

    text: str
    truncated: bool
    tries: int


@dataclass(frozen=True, slots=True)
class Server:
    """url: with or without /v1. timeout: seconds of one request. retries: after the first try. key: sent as bearer token."""

    url: str
    api: Api = Api.COMPLETIONS
    timeout: float = 600.0
    retries: int = 4
    key: str | None = None
    pause: float = FIRST_PAUSE
    sleep: Callable[[float], None] = time.sleep

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UsageError.not_allowed("--url", self.url, "http://HOST:PORT or https://HOST[:PORT]")

    def model(self) -> str:
        """The first model that the server lists; CannotRunError where it does not answer."""
        try:
            plain, _ = self._asked("models", None)
        except NoAnswerError as error:
            raise CannotRunError(f"{self.url}: does not answer ({error}); is the server up?") from error
        try:
            return str(plain["data"][0]["id"])
        except (KeyError, IndexError, TypeError) as error:
            raise CannotRunError(f"{self.url}: lists no model; name it with --model") from error

    def answer(self, model: str, prompt: str, max_tokens: int, stop: tuple[str, ...]) -> Reply:
        """The answer at temperature 0. Raises NoAnswerError, CannotRunError."""
        body: dict[str, Any] = {"model": model, "max_tokens": max_tokens, "temperature": 0, "stop": list(stop)}
        chat = self.api is Api.CHAT
        body |= {"messages": [{"role": "user", "content": prompt}]} if chat else {"prompt": prompt}
        plain, tries = self._asked("chat/completions" if chat else "completions", body)
        try:
            choice = plain["choices"][0]
            text = choice["message"]["content"] if chat else choice["text"]
            return Reply(text or "", choice.get("finish_reason") == "length", tries)
        except (KeyError, IndexError, TypeError, AttributeError) as error:
            raise CannotRunError(f"{self.url}: an answer of another form: {json.dumps(plain)[:WORDS_SHOWN]}") from error

    def _asked(self, path: str, body: Mapping[str, Any] | None) -> tuple[Any, int]:
        """Gives the JSON answer and how many tries it took."""
        base = self.url.rstrip("/")
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {self.key}"} if self.key else {})
        request = urllib.request.Request(
            f"{base if base.endswith('/v1') else base + '/v1'}/{path}",
            None if body is None else json.dumps(body).encode(),
            headers,
        )
        reason = ""
        for tried in range(self.retries + 1):
            if tried:
                self.sleep(self.pause * 2 ** (tried - 1))
            try:
                with urllib.request.urlopen(request, timeout=self.timeout) as answer:
                    return json.loads(answer.read()), tried + 1
            except urllib.error.HTTPError as error:
                words = error.read().decode("utf-8", "replace")[:WORDS_SHOWN]
                reason = f"HTTP {error.code}: {words}"
                if error.code not in TRANSIENT:
                    raise CannotRunError(f"{self.url}: {reason}") from error
            except (OSError, http.client.HTTPException, json.JSONDecodeError) as error:
                reason = f"{type(error).__name__}: {error}"
        raise NoAnswerError(reason)
