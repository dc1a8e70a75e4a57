"""A Grafana that holds what it is sent and answers as the real one: paths, codes, what it adds to what it has."""

import copy
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any

TOKEN = "secret-of-a-test"

_PROVISIONING = "/api/v1/provisioning/"


class FakeGrafana:
    """Runs on a free port of loopback while its ``with`` block does."""

    def __init__(self) -> None:
        self.sources: dict[str, dict[str, Any]] = {}
        self.folders: dict[str, dict[str, Any]] = {}
        self.boards: dict[str, dict[str, Any]] = {}
        self.rules: dict[str, dict[str, Any]] = {}
        self.contacts: dict[str, dict[str, Any]] = {}
        self.policy: dict[str, Any] = {"receiver": "grafana-default-email", "routes": [{"receiver": "of-others"}]}
        self.written: list[str] = []
        self.refuse: int | None = None
        self.open = False
        grafana = self

        class Handler(BaseHTTPRequestHandler):
            def _answer(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                body = json.loads(self.rfile.read(length)) if length else None
                if self.headers.get("Authorization") != f"Bearer {TOKEN}":
                    code, found = 401, {"message": "Invalid API key"}
                elif grafana.refuse is not None:
                    code, found = grafana.refuse, {"message": "no permission"}
                else:
                    grafana.open = self.headers.get("X-Disable-Provenance") == "true"
                    code, found = grafana.answer(self.command, self.path, body)
                sent = json.dumps(found).encode()
                self.send_response(code)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(sent)))
                self.end_headers()
                self.wfile.write(sent)

            def do_GET(self) -> None:
                self._answer()

            def do_POST(self) -> None:
                self._answer()

            def do_PUT(self) -> None:
                self._answer()

            def log_message(self, format: str, *args: Any) -> None:
                """Says nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> "FakeGrafana":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def answer(self, method: str, path: str, body: Any) -> tuple[int, Any]:
        """Status and JSON of an answer."""
        if method != "GET":
            self.written.append(f"{method} {path}")
        if path.startswith("/api/datasources"):
            return self._source(method, path, body)
        if path.startswith("/api/folders"):
            return self._folder(method, path, body)
        if path.startswith("/api/dashboards"):
            return self._board(method, path, body)
        if path.startswith(_PROVISIONING + "alert-rules"):
            return self._rule(method, path, body)
        if path.startswith(_PROVISIONING + "contact-points"):
            return self._contact(method, path, body)
        if path == _PROVISIONING + "policies":
            if method == "PUT":
                if self.open and self.policy.get("provenance"):
                    return 400, {"message": "cannot change provenance from 'api' to ''"}
                self.policy = body if self.open else {**body, "provenance": "api"}
                return 202, {"message": "policies updated"}
            return 200, self.policy
        return 404, {"message": "Not found"}

    def _source(self, method: str, path: str, body: Any) -> tuple[int, Any]:
        uid = path.removeprefix("/api/datasources").removeprefix("/uid/")
        if method == "GET":
            found = self.sources.get(uid)
            return (200, self._read(found)) if found else (404, {"message": "Data source not found"})
        if method == "PUT" and uid not in self.sources:
            return 404, {"message": "Data source not found"}
        if method == "POST" and body["uid"] in self.sources:
            return 409, {"message": "data source with the same uid already exists"}
        self.sources[body["uid"]] = body
        return 200, {"datasource": self._read(body), "id": 1, "message": "Datasource added", "name": body["name"]}

    def _read(self, source: dict[str, Any]) -> dict[str, Any]:
        shown = {name: value for name, value in source.items() if name != "secureJsonData"}
        return {**shown, "id": 1, "orgId": 1, "secureJsonFields": dict.fromkeys(source["secureJsonData"], True)}

    def _folder(self, method: str, path: str, body: Any) -> tuple[int, Any]:
        uid = path.removeprefix("/api/folders").removeprefix("/")
        if method == "POST":
            if body["uid"] in self.folders:
                return 412, {"message": "a folder with the same uid already exists"}
            self.folders[body["uid"]] = {**body, "id": 1, "version": 1}
            return 200, self.folders[body["uid"]]
        return (200, self.folders[uid]) if uid in self.folders else (404, {"message": "folder not found"})

    def _board(self, method: str, path: str, body: Any) -> tuple[int, Any]:
        if method == "POST":
            if body["folderUid"] not in self.folders:
                return 400, {"message": "folder not found"}
            uid = body["dashboard"]["uid"]
            before = self.boards.get(uid, {"id": len(self.boards) + 1, "version": 0})
            version = before["version"] + 1
            self.boards[uid] = {**copy.deepcopy(body["dashboard"]), "id": before["id"], "version": version}
            return 200, {"uid": uid, "version": version, "status": "success"}
        uid = path.removeprefix("/api/dashboards/uid/")
        if uid not in self.boards:
            return 404, {"message": "Dashboard not found"}
        return 200, {"dashboard": self.boards[uid], "meta": {"folderUid": "fanpulse"}}

    def _rule(self, method: str, path: str, body: Any) -> tuple[int, Any]:
        uid = path.removeprefix(_PROVISIONING + "alert-rules").removeprefix("/")
        if method == "GET":
            return (200, self.rules[uid]) if uid in self.rules else (404, {"message": "alert rule not found"})
        if method == "POST" and body["uid"] in self.rules:
            return 409, {"message": "a conflicting alert rule is found: rule UID is taken"}
        if body["folderUID"] not in self.folders or (method == "PUT" and uid not in self.rules):
            return 400, {"message": "folder does not exist"}
        added = {"id": 1, "orgID": 1, "updated": "2026-01-01T00:00:00Z", "provenance": "api"}
        data = [
            {**part, "model": {"intervalMs": 1000, "maxDataPoints": 43200, **part["model"]}} for part in body["data"]
        ]
        self.rules[body["uid"]] = {**body, **added, "data": data}
        return (201 if method == "POST" else 200), self.rules[body["uid"]]

    def _contact(self, method: str, path: str, body: Any) -> tuple[int, Any]:
        if method == "GET":
            return 200, list(self.contacts.values())
        self.contacts[body["uid"]] = {**body, "disableResolveMessage": False, "provenance": "api"}
        return 202, {"message": "contactpoint updated"} if method == "PUT" else self.contacts[body["uid"]]
