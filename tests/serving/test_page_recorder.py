"""Pages on their way from an alert to the file."""

import json
import threading
from datetime import UTC, datetime
from http.client import HTTPConnection

import httpx
import pytest

from serving.page_recorder import LONGEST_PAGE_BYTES, PageServer


@pytest.fixture
def recorder(tmp_path):
    with PageServer(0, tmp_path / "home" / "pages.jsonl") as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            with httpx.Client(base_url=f"http://127.0.0.1:{server.server_address[1]}") as client:
                yield client
        finally:
            server.shutdown()
            thread.join()


def test_pages_are_kept_in_order_with_the_time_they_came(recorder, tmp_path):
    before = datetime.now(UTC)
    for number in range(3):
        told = recorder.post("/pages", json={"status": "firing", "alerts": [], "n": number})
        assert told.status_code == 200
    pages = recorder.get("/pages").json()
    assert [page["page"]["n"] for page in pages] == [0, 1, 2]
    received = datetime.fromisoformat(pages[0]["received"])
    assert abs((received - before).total_seconds()) < 60
    lines = (tmp_path / "home" / "pages.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == pages


def test_what_is_no_page_is_refused_and_not_kept(recorder):
    assert recorder.post("/pages", content=b"not json").status_code == 400
    assert recorder.post("/pages", json=[1]).status_code == 400
    assert recorder.post("/pages").status_code == 400
    assert recorder.post("/elsewhere", json={}).status_code == 400
    assert _status_of_headers(recorder.base_url.port, LONGEST_PAGE_BYTES + 1) == 400
    assert recorder.get("/pages").json() == []
    assert recorder.get("/healthz").json() == {"status": "ok"}
    assert recorder.get("/elsewhere").status_code == 404


def _status_of_headers(port, length_bytes):
    """The answer to a request whose body is announced and not sent."""
    connection = HTTPConnection("127.0.0.1", port, timeout=10)
    connection.putrequest("POST", "/pages")
    connection.putheader("Content-Length", str(length_bytes))
    connection.endheaders()
    status = connection.getresponse().status
    connection.close()
    return status
