"""Health and metrics of a worker over HTTP, on loopback."""

from collections.abc import Callable
from typing import Any

import orjson
from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from infra.errors import FanpulseError
from infra.home import Home
from infra.settings import Settings
from pipeline.metrics import Metrics


class Health:
    """``GET /metrics`` in Prometheus' format, ``GET /health`` as JSON: 200 while there is progress, else 503.

    The port is written in the home as ``worker-<index>``, so that others of this home find it.
    """

    def __init__(self, settings: Settings, index: int, metrics: Metrics, status: Callable[[], dict[str, Any]]) -> None:
        self._settings = settings
        self._index = index
        self._metrics = metrics
        self._status = status
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        """Listens on 127.0.0.1. FanpulseError if the port of the settings is taken."""
        app = web.Application()
        app.router.add_get("/metrics", self._get_metrics)
        app.router.add_get("/health", self._get_health)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        # A named port is the first worker's; the others follow it.
        port = self._settings.health_port and self._settings.health_port + self._index
        try:
            await web.TCPSite(self._runner, "127.0.0.1", port).start()
        except (OSError, OverflowError):
            raise FanpulseError(
                f"port {port} is in use: set another FANPULSE_HEALTH_PORT, or 0 for a free one"
            ) from None
        Home(self._settings.home).write_port(f"worker-{self._index}", self._runner.addresses[0][1])

    async def stop(self) -> None:
        """Stops listening."""
        if self._runner is not None:
            await self._runner.cleanup()

    async def _get_metrics(self, request: web.Request) -> web.Response:
        return web.Response(body=generate_latest(self._metrics.registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def _get_health(self, request: web.Request) -> web.Response:
        status = self._status()
        good = status["seconds_since_progress"] < self._settings.watchdog
        return web.Response(status=200 if good else 503, body=orjson.dumps(status), content_type="application/json")
