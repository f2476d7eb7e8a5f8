"""The receiver at the end of the alert path: keeps every page Alertmanager sends.

Each page is one line of `PENSTOCK_HOME/pages.jsonl`: `{"received": time, "page": payload}`, where
the payload is Alertmanager's webhook message (version 4). `GET /pages` lists them, oldest first.
"""

from __future__ import annotations

import logging
import signal
import threading
from datetime import UTC, datetime
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import msgspec

from features.settings import settings as shared_settings
from monitoring import metrics
from serving.settings import settings as serving_settings

logger = logging.getLogger(__name__)

LONGEST_PAGE_BYTES = 1 << 20


class PageServer(ThreadingHTTPServer):
    """Listens on `host`:`port` (0 takes a free one) and appends pages to `file`."""

    daemon_threads = True

    def __init__(self, port: int, file: Path, host: str = "127.0.0.1") -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        self._file = file
        self._lock = threading.Lock()
        super().__init__((host, port), _Handler)

    def record(self, page: dict[str, Any]) -> None:
        """Appends one page with the time of its arrival."""
        received = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        line = msgspec.json.encode({"received": received, "page": page}) + b"\n"
        with self._lock, self._file.open("ab") as file:
            file.write(line)

    def pages(self) -> list[msgspec.Raw]:
        """Every page so far, each as the JSON it was written in."""
        with self._lock:
            lines = self._file.read_bytes().splitlines() if self._file.exists() else []
        return [msgspec.Raw(line) for line in lines]


class _Handler(BaseHTTPRequestHandler):
    server: PageServer

    def do_GET(self) -> None:
        if self.path == "/healthz":
            self._answer(HTTPStatus.OK, {"status": "ok"})
        elif self.path == "/pages":
            self._answer(HTTPStatus.OK, self.server.pages())
        else:
            self._answer(HTTPStatus.NOT_FOUND, {"error": "there is /pages and /healthz"})

    def do_POST(self) -> None:
        length_bytes = int(self.headers.get("Content-Length") or 0)
        if self.path != "/pages" or not 0 < length_bytes <= LONGEST_PAGE_BYTES:
            self.close_connection = True
            self._answer(HTTPStatus.BAD_REQUEST, {"error": "send a page of up to 1 MiB to /pages"})
            return
        try:
            page = msgspec.json.decode(self.rfile.read(length_bytes), type=dict[str, Any])
        except (msgspec.DecodeError, msgspec.ValidationError) as error:
            self._answer(HTTPStatus.BAD_REQUEST, {"error": f"not a page: {error}"})
            return
        self.server.record(page)
        names = sorted({str(a.get("labels", {}).get("alertname")) for a in page.get("alerts", [])})
        logger.info("page-recorder: %s %s", page.get("status"), ", ".join(names))
        self._answer(HTTPStatus.OK, {"recorded": True})

    def _answer(self, status: HTTPStatus, body: object) -> None:
        payload = msgspec.json.encode(body)
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(payload)))
        self.end_headers()
        self.wfile.write(payload)

    def log_message(self, format: str, *args: object) -> None:
        """Requests are not logged; pages are."""


def main() -> None:
    """Records pages on `PENSTOCK_PAGE_PORT` until SIGTERM."""
    shared = shared_settings()
    metrics.serve(shared.metrics_port, shared.bind_host)
    server = PageServer(serving_settings().page_port, shared.home / "pages.jsonl", shared.bind_host)
    for number in (signal.SIGTERM, signal.SIGINT):
        # shutdown() waits for serve_forever(), which this handler interrupts.
        signal.signal(number, lambda *_: threading.Thread(target=server.shutdown).start())
    logger.info("page-recorder: listening on %s:%d", *server.server_address[:2])
    with server:
        server.serve_forever(poll_interval=0.2)
