"""Messages about alerts to webhooks, as plain JSON or as the robots of DingTalk and WeCom take them.

A URL of a robot is a secret: whoever has it can write into the group. So nothing here says more of it than its host.
"""

import base64
import hashlib
import hmac
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, quote_plus, urlsplit

import orjson
import urllib3
from pydantic import SecretStr
from urllib3.exceptions import HTTPError

from infra.settings import Settings, WebhookFormat

TIMEOUT = 10.0
"""Seconds that an answer may take."""
ANSWER_BYTES = 4096
"""How much of an answer is read."""
SIGNATURE = "X-Fanpulse-Signature"
"""Header of a plain JSON message with ``sha256=`` and the HMAC of its body, hexadecimal."""
MOST_BYTES = {"dingtalk": 16_000, "wecom": 4_096}
"""How long a text the robots take."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a webhook said: whether it took the message, its HTTP status (0: none), and its words in a line."""

    taken: bool
    status: int
    text: str


class Webhook:
    """One URL. ``name`` tells it from others and gives nothing away."""

    def __init__(
        self,
        url: SecretStr,
        form: WebhookFormat,
        secret: SecretStr | None = None,
        timeout: float = TIMEOUT,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._url = url.get_secret_value()
        self._form: WebhookFormat = form
        self._secret = secret.get_secret_value() if secret is not None else None
        self._timeout = timeout
        self._clock = clock
        self.name = f"{urlsplit(self._url).hostname}#{hashlib.blake2b(self._url.encode(), digest_size=3).hexdigest()}"

    @property
    def robot(self) -> bool:
        """Whether it takes only some messages a minute."""
        return self._form != "json"

    def post(self, message: Mapping[str, Any]) -> Answer:
        """Sends a message (``Alert.message``) once. A redirect is not followed, and what cannot be verified by TLS is
        not spoken to. Never raises for what the other side does."""
        content = body(self._form, message)
        headers = {"Content-Type": "application/json; charset=utf-8", "User-Agent": "fanpulse", "Connection": "close"}
        url = self._url
        if self._secret is not None and self._form == "json":
            headers[SIGNATURE] = f"sha256={hmac.digest(self._secret.encode(), content, 'sha256').hex()}"
        elif self._secret is not None:
            url += ("&" if "?" in url else "?") + signature(self._secret, int(self._clock() * 1000))
        end = time.monotonic() + self._timeout
        try:
            with (
                urllib3.PoolManager(
                    timeout=urllib3.Timeout(connect=self._timeout / 2, read=self._timeout), cert_reqs="CERT_REQUIRED"
                ) as pool,
                pool.request(
                    "POST", url, body=content, headers=headers, redirect=False, retries=False, preload_content=False
                ) as response,
            ):
                said = b""
                while len(said) < ANSWER_BYTES and (part := response.read1(ANSWER_BYTES - len(said))):
                    said += part
                    if time.monotonic() > end:
                        return Answer(False, response.status, "the answer does not end")
                return self._read(response.status, said)
        except (HTTPError, OSError) as error:
            # The words of the error may have the URL in them.
            return Answer(False, 0, f"no answer: {type(error).__name__}")

    def _read(self, status: int, said: bytes) -> Answer:
        text = self._hide("".join(char if char.isprintable() else " " for char in said.decode(errors="replace")))[:200]
        if not 200 <= status < 300:
            return Answer(False, status, text)
        if self._form == "json":
            return Answer(True, status, text)
        try:
            found = orjson.loads(said)
            taken = isinstance(found, dict) and found.get("errcode") == 0
        except orjson.JSONDecodeError:
            taken = False
        return Answer(taken, status, text)

    def _hide(self, text: str) -> str:
        parts = urlsplit(self._url)
        secrets = [
            self._url,
            self._secret or "",
            *(value for _, value in parse_qsl(parts.query)),
            *parts.path.split("/"),
        ]
        for secret in sorted((each for each in secrets if len(each) >= 8), key=len, reverse=True):
            text = text.replace(secret, "***")
        return text


def webhooks(settings: Settings) -> list[Webhook]:
    """Those of the settings."""
    if settings.webhook_urls is None or not settings.webhook_urls.get_secret_value():
        return []
    urls = settings.webhook_urls.get_secret_value().split(",")
    secrets: list[str | None] = [None]
    if settings.webhook_secret is not None:
        secrets = [*settings.webhook_secret.get_secret_value().split(",")]
    each = secrets * len(urls) if len(secrets) == 1 else secrets
    return [
        Webhook(SecretStr(url), settings.webhook_format, SecretStr(secret) if secret is not None else None)
        for url, secret in zip(urls, each, strict=True)
    ]


def signature(secret: str, at: int) -> str:
    """What DingTalk wants in the URL of a robot with 加签: the time (UTC ms) and the HMAC of it and the secret."""
    signed = hmac.digest(secret.encode(), f"{at}\n{secret}".encode(), "sha256")
    return f"timestamp={at}&sign={quote_plus(base64.b64encode(signed))}"


def body(form: WebhookFormat, message: Mapping[str, Any]) -> bytes:
    """A message as a webhook takes it: the same bytes for the same message."""
    if form == "json":
        return orjson.dumps(message)
    over = message["state"] == "resolved"
    title = f"{'Resolved' if over else 'Alert'}: {message['title']}"
    whom = _plain(" ".join(part for part in (message["creator_id"], message["subject"]) if part))
    where = f"**{whom}** ({message['platform']}), {message['day']}"
    said = (message["resolved_said"] if over else message["said"]).translate(_SAID)
    advice = [] if over else [f"- {each}" for each in message["advice"]]
    sender = f"fanpulse {_plain(message['id'])}"
    if form == "dingtalk":
        text = _cut([f"### {title}", where, said, "\n".join(advice), sender], "\n\n", MOST_BYTES[form])
        return orjson.dumps({"msgtype": "markdown", "markdown": {"title": title, "text": text}})
    colour = "info" if over else "warning"
    lines = [f'### <font color="{colour}">{title}</font>', where, f"> {said}", *advice]
    content = _cut([*lines, f'<font color="comment">{sender}</font>'], "\n", MOST_BYTES[form])
    return orjson.dumps({"msgtype": "markdown", "markdown": {"content": content}})


_PLAIN = str.maketrans("[]()<>*`#!@\\", "［］（）＜＞＊｀＃！＠＼")

_SAID = {char: plain for char, plain in _PLAIN.items() if chr(char) not in "()"}
"""Of a sentence, which may quote ids and names: brackets are no link without the square ones."""


def _plain(text: str) -> str:
    """An id such that it is not taken for a link, a mention or the like: producers choose it, the group reads it."""
    return text.translate(_PLAIN)


def _cut(parts: list[str], between: str, most: int) -> str:
    """The parts joined, at most so many bytes: from the last but one on they are left out until it fits."""
    kept = [part for part in parts if part]
    while len(between.join(kept).encode()) > most and len(kept) > 1:
        kept.pop(-2 if len(kept) > 2 else -1)
    return between.join(kept).encode()[:most].decode(errors="ignore")
