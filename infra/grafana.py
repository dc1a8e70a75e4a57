"""Grafana over HTTP: what is there, and sending it something else. All of grafana-api that is used is used here."""

import functools
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

import requests
from grafana_api.grafana_api import GrafanaClientError, GrafanaException, GrafanaUnauthorizedError
from grafana_api.grafana_face import GrafanaFace

from infra.errors import InfraError
from infra.settings import Settings

_RULES, _CONTACTS, _POLICIES = (f"/v1/provisioning/{name}" for name in ("alert-rules", "contact-points", "policies"))


class Grafana:
    """A Grafana from 9.1 on. Its kinds of things are those of ``dashboards.publication``.

    Raises:
        InfraError: none is named in the settings. Every method: it does not answer, refuses the token, or refuses
            what it is sent; one line.
    """

    def __init__(self, settings: Settings, timeout: float = 30.0) -> None:
        if settings.grafana_url is None or settings.grafana_token is None:
            raise InfraError(
                "no Grafana is named: set FANPULSE_GRAFANA_URL and FANPULSE_GRAFANA_TOKEN, or look at the boards "
                "without one: fanpulse boards preview"
            )
        self.url = settings.grafana_url
        parts = urlsplit(self.url)
        token = settings.grafana_token.get_secret_value()
        user, colon, password = token.partition(":")
        prefix = parts.path.strip("/")
        host = f"[{parts.hostname}]" if ":" in str(parts.hostname) else parts.hostname
        self._face = GrafanaFace(
            auth=(user, password) if colon else token,
            host=host,
            port=parts.port,
            protocol=parts.scheme,
            url_path_prefix=f"{prefix}/" if prefix else "",
            timeout=timeout,
        )
        if parts.hostname in ("127.0.0.1", "::1", "localhost"):
            # A proxy of the environment is not in the way to this machine.
            self._face.api.s.trust_env = False

    def find(self, kind: str, uid: str) -> Mapping[str, Any] | None:
        """What it holds under an id; None: nothing."""
        api = self._face.api
        match kind:
            case "data source":
                return self._found(lambda: api.GET(f"/datasources/uid/{uid}"))
            case "folder":
                return self._found(lambda: self._face.folder.get_folder(uid))
            case "board":
                found = self._found(lambda: self._face.dashboard.get_dashboard(uid))
                board: Mapping[str, Any] | None = None if found is None else found["dashboard"]
                return board
            case "alert rule":
                return self._found(lambda: api.GET(f"{_RULES}/{uid}"))
            case "contact point":
                points: list[Mapping[str, Any]] = self._ask(lambda: api.GET(_CONTACTS))
                return next((point for point in points if point["uid"] == uid), None)
            case "policy":
                routes: list[Mapping[str, Any]] = self._ask(lambda: api.GET(_POLICIES)).get("routes") or []
                return next((route for route in routes if route.get("receiver") == uid), None)
        raise AssertionError(kind)

    def save(self, kind: str, uid: str, body: Mapping[str, Any], folder: str, new: bool) -> None:
        """Makes it, or replaces it.

        Args:
            kind: what it is.
            uid: its id.
            body: what it shall be.
            folder: id of the folder that boards are in.
            new: whether ``find`` found nothing.
        """
        api = self._face.api
        match kind:
            case "data source" if new:
                self._ask(lambda: self._face.datasource.create_datasource(body))
            case "data source":
                self._ask(lambda: api.PUT(f"/datasources/uid/{uid}", json=body))
            case "folder" if new:
                self._ask(lambda: self._face.folder.create_folder(body["title"], uid))
            case "folder":
                self._ask(lambda: self._face.folder.update_folder(uid, body["title"], overwrite=True))
            case "board":
                sent = {"dashboard": body, "folderUid": folder, "overwrite": True, "message": "fanpulse boards publish"}
                self._ask(lambda: self._face.dashboard.update_dashboard(sent))
            case "alert rule":
                self._ask(self._to(_RULES, uid, body, new))
            case "contact point":
                self._ask(self._to(_CONTACTS, uid, body, new))
            case "policy":
                # The tree of policies is one thing: ours is put beside what others have there, and it stays as open to
                # changes on Grafana's pages as it was.
                tree = dict(self._ask(lambda: api.GET(_POLICIES)))
                headers = {} if tree.pop("provenance", "") else {"X-Disable-Provenance": "true"}
                others = [route for route in tree.get("routes") or () if route.get("receiver") != uid]
                self._ask(lambda: api.PUT(_POLICIES, json={**tree, "routes": [body, *others]}, headers=headers))
            case _:
                raise AssertionError(kind)

    def _to(self, path: str, uid: str, body: Mapping[str, Any], new: bool) -> Callable[[], Any]:
        api = self._face.api
        return (
            functools.partial(api.POST, path, json=body)
            if new
            else functools.partial(api.PUT, f"{path}/{uid}", json=body)
        )

    def _found(self, call: Callable[[], Any]) -> Mapping[str, Any] | None:
        try:
            found: Mapping[str, Any] = self._ask(call, missing=True)
        except GrafanaClientError:
            return None
        return found

    def _ask(self, call: Callable[[], Any], missing: bool = False) -> Any:
        try:
            return call()
        except GrafanaUnauthorizedError:
            raise InfraError(f"Grafana at {self.url} refuses the token; check FANPULSE_GRAFANA_TOKEN") from None
        except GrafanaException as error:
            if missing and error.status_code == 404:
                raise
            if error.status_code == 403:
                raise InfraError(
                    f"Grafana at {self.url} does not let the token do this ({error.message}); give it the role Admin"
                ) from None
            raise InfraError(f"Grafana at {self.url} refuses: {error.message}", exit_code=1) from None
        except (requests.RequestException, ValueError) as error:
            text = " ".join(str(error).split())[:200]
            raise InfraError(f"Grafana at {self.url} does not answer ({text}); check FANPULSE_GRAFANA_URL") from None
