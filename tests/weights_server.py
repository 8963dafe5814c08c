"""An HTTP server on 127.0.0.1 that stands for the authors' servers."""
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
import torch


@dataclass
class WeightsServer:
    """Files and faults of a server.

    Attributes:
        folder (Path): Files, side by side.
        url (str): Base URL.
        cuts (list[int]): Bytes after which the next responses break off.
        content_type (str): Of every file.
        claimed_length (int, optional): Content-Length in place of the true
            one.
        has_etag (bool): Whether responses carry an ETag.
        requests (list): Method, name of the file and Range of each request.
    """
    folder: Path
    url: str = ''
    cuts: list[int] = field(default_factory=list)
    content_type: str = 'application/octet-stream'
    claimed_length: int | None = None
    has_etag: bool = True
    requests: list[tuple[str, str, str | None]] = field(default_factory=list)

    def downloads(self) -> list[str]:
        return [name for method, name, _ in self.requests if method == 'GET']

    def put(self, name: str, state_dict: dict) -> Path:
        """Serve weights as a file."""
        torch.save(state_dict, self.folder / name)
        return self.folder / name


def _handler(server: WeightsServer) -> type[BaseHTTPRequestHandler]:

    class Handler(BaseHTTPRequestHandler):

        def do_HEAD(self):
            self.answer(with_body=False)

        def do_GET(self):
            self.answer(with_body=True)

        def answer(self, with_body):
            path = server.folder / self.path.rpartition('/')[2]
            wanted = self.headers.get('Range')
            server.requests.append((self.command, path.name, wanted))
            if not path.is_file():
                self.send_error(404)
                return
            content = path.read_bytes()
            tag = f'"{hashlib.md5(content).hexdigest()}"'
            start = 0
            if wanted and self.headers.get('If-Range') == tag:
                start = int(wanted.removeprefix('bytes=').rstrip('-'))
                if start >= len(content):
                    self.send_error(416)
                    return
            self.send_response(206 if start else 200)
            self.send_header('Content-Type', server.content_type)
            length = server.claimed_length or len(content) - start
            self.send_header('Content-Length', str(length))
            if server.has_etag:
                self.send_header('ETag', tag)
            self.end_headers()
            if with_body:
                end = start + server.cuts.pop(0) if server.cuts else None
                self.wfile.write(content[start:end])

        def log_message(self, *arguments):
            pass

    return Handler


class _QuietServer(ThreadingHTTPServer):

    def handle_error(self, request, client_address):
        """Clients that end early are part of the tests."""


@contextmanager
def serving(folder: Path) -> Iterator[WeightsServer]:
    """Serve the files of a folder as long as the block runs."""
    server = WeightsServer(folder)
    httpd = _QuietServer(('127.0.0.1', 0), _handler(server))
    server.url = f'http://127.0.0.1:{httpd.server_port}'
    thread = Thread(target=httpd.serve_forever, args=(0.05, ), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        httpd.shutdown()
        httpd.server_close()


@pytest.fixture
def weights_server(tmp_path, monkeypatch) -> Iterator[WeightsServer]:
    """Mirror of the official files, with an empty cache."""
    folder = tmp_path / 'served'
    folder.mkdir()
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    monkeypatch.delenv('MMHIER_WEIGHTS', raising=False)
    monkeypatch.setenv('no_proxy', '127.0.0.1')
    with serving(folder) as server:
        monkeypatch.setenv('MMHIER_WEIGHTS_URL', server.url)
        yield server


@pytest.fixture
def no_network(tmp_path, monkeypatch) -> None:
    """An empty cache, and servers that refuse connections."""
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    monkeypatch.delenv('MMHIER_WEIGHTS', raising=False)
    monkeypatch.setenv('no_proxy', '127.0.0.1')
    # Nobody listens on the port of "discard".
    monkeypatch.setenv('MMHIER_WEIGHTS_URL', 'http://127.0.0.1:9')
