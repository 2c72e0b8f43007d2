"""Downloads from a server on loopback that behaves, breaks off, cannot resume, or sends something else."""

import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from soda_fast.cli import main
from soda_fast.prepare import download as module
from soda_fast.prepare.download import download
from soda_fast.prepare.official import Archive

CONTENT = bytes(range(256)) * 1_000
ARCHIVE = Archive("set.zip", hashlib.md5(CONTENT).hexdigest(), None, len(CONTENT))


class Server(ThreadingHTTPServer):
    """Serves `content`. drop_after: bytes after which it hangs up, once for each item. ranges: whether it resumes."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content, self.ranges, self.status = CONTENT, True, 200
        self.drop_after: list[int] = []
        self.asked: list[str | None] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/set.zip"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        server, asked = self.server, self.headers.get("Range")
        server.asked.append(asked)
        if server.status != 200:
            self.send_error(server.status)
            return
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and server.ranges else 0
        if start and start >= len(server.content):
            self.send_error(416)
            return
        body = server.content[start:]
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(server.content) - 1}/{len(server.content)}")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: server.drop_after.pop(0)] if server.drop_after else body)

    def log_message(self, format: str, *arguments: object) -> None:
        """Quiet."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(module, "_PAUSE_S", 0.0)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with Server() as made:
        thread = threading.Thread(target=made.serve_forever, args=(0.01,))
        thread.start()
        yield made
        made.shutdown()
        thread.join()


def test_a_file_arrives_whole_and_is_not_fetched_twice(server: Server, tmp_path: Path) -> None:
    path = download(ARCHIVE, tmp_path, server.url)
    assert path.read_bytes() == CONTENT
    assert [found.name for found in tmp_path.iterdir()] == ["set.zip"]
    assert download(ARCHIVE, tmp_path, server.url) == path
    assert len(server.asked) == 1


def test_a_connection_that_breaks_off_is_taken_up_again(server: Server, tmp_path: Path) -> None:
    server.drop_after = [100_000, 50_000, 0]
    assert download(ARCHIVE, tmp_path, server.url).read_bytes() == CONTENT
    assert server.asked == ["bytes=0-", "bytes=100000-", "bytes=150000-", "bytes=150000-"]


def test_an_earlier_attempt_is_continued(server: Server, tmp_path: Path) -> None:
    (tmp_path / "set.zip.part").write_bytes(CONTENT[:200_000])
    assert download(ARCHIVE, tmp_path, server.url).read_bytes() == CONTENT
    assert server.asked == ["bytes=200000-"]
    (tmp_path / "set.zip").rename(tmp_path / "set.zip.part")
    assert download(ARCHIVE, tmp_path, server.url).read_bytes() == CONTENT
    assert len(server.asked) == 1, "all was there; only the checksum was missing"


def test_a_server_that_cannot_resume_starts_again(server: Server, tmp_path: Path) -> None:
    server.ranges = False
    (tmp_path / "set.zip.part").write_bytes(b"x" * 1_000)
    assert download(ARCHIVE, tmp_path, server.url).read_bytes() == CONTENT


def test_another_file_is_refused_and_removed(server: Server, tmp_path: Path) -> None:
    server.content = CONTENT[:-1] + b"!"
    with pytest.raises(ValueError, match=rf"MD5 is \w+, the official file's is {ARCHIVE.md5}; .* removed"):
        download(ARCHIVE, tmp_path, server.url)
    assert not list(tmp_path.iterdir())
    server.content = CONTENT * 2
    with pytest.raises(ValueError, match=r"is a file of 512,000 bytes or more, the official one has 256,000"):
        download(ARCHIVE, tmp_path, server.url)
    assert not (tmp_path / "set.zip").exists()


def test_servers_that_do_not_answer_are_told(server: Server, tmp_path: Path) -> None:
    server.status = 404
    with pytest.raises(ValueError, match=r"the server answers 404 Not Found; try later"):
        download(ARCHIVE, tmp_path, server.url)
    server.shutdown()
    server.server_close()
    with pytest.raises(ValueError, match=r"cannot be reached \(.*refused.*\); the same command goes on later"):
        download(ARCHIVE, tmp_path, server.url)


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://127.0.0.1/x", "/etc/passwd"])
def test_addresses_that_are_none_are_refused(url: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"is no http or https address"):
        download(ARCHIVE, tmp_path, url)


def test_the_command_downloads_and_refuses_what_is_not_official(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--root", str(tmp_path), "--download", "--url", server.url]
    assert main(["prepare", "cifar10", *arguments]) == 2
    assert "the official one has 170,498,071" in capsys.readouterr().err
    assert main(["prepare", "imagenet", *arguments]) == 2
    assert "need a login; download ILSVRC2012_img_train.tar" in capsys.readouterr().err
    assert main(["prepare", "folder", *arguments]) == 2
    assert "there is nothing to download" in capsys.readouterr().err
    assert main(["prepare", "cifar10", *arguments, "--source", str(tmp_path)]) == 2
    assert "exclude each other" in capsys.readouterr().err
    assert main(["prepare", "cifar10", "--url", server.url]) == 2
    assert "give both" in capsys.readouterr().err


def test_a_full_disk_is_no_fault_of_the_server(server: Server, tmp_path: Path) -> None:
    (tmp_path / "set.zip.part").symlink_to("/dev/full")
    with pytest.raises(ValueError, match=r"set\.zip\.part: cannot be written \(No space left on device\); make room"):
        download(ARCHIVE, tmp_path, server.url)
    assert len(server.asked) == 1
