"""Downloads against a real server that stalls, cuts and lies: what arrives is whole and right, or does not arrive."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import re
import socket
import threading
import time
import zipfile
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from training.data.download import DownloadError, fetch
from training.data.sources import KNOWN, Download, bring, read

BODY = hashlib.sha512(b"seed").digest() * 6000  # 384,000 bytes
QUICK = {"pause": 0.01, "timeout": 0.5, "retries": 2}


class Server(ThreadingHTTPServer):
    """Answers each path by its function; remembers what was asked."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.paths: dict[str, Callable[[Handler], None]] = {}
        self.asked: list[tuple[str, str | None]] = []  # path, range
        self.url = f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_GET(self) -> None:
        self.server.asked.append((self.path, self.headers.get("range")))
        self.server.paths.get(self.path, lambda handler: handler.say(404, b"no such file"))(self)

    def say(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        for name, value in ({"content-length": str(len(body))} | names).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def serve(self, body: bytes, etag: str | None = '"v1"', cut: int | None = None) -> None:
        """A well-behaved server; `cut` ends the connection after that many bytes."""
        start, tags = 0, {"etag": etag} if etag else {}
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("range", ""))
        if asked and self.headers.get("if-range") == etag:
            start = int(asked[1])
            if start >= len(body):
                return self.say(416, content_range=f"bytes */{len(body)}")
            tags["content-range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
        self.send_response(206 if start else 200)
        for name, value in (tags | {"content-length": str(len(body) - start)}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body[start : None if cut is None else start + cut])
        if cut is not None:
            self.wfile.flush()
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True
        return None

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server():
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def get(server, tmp_path):
    """Fetches /file and says what lies in the folder then; only the file and its record, or nothing of it."""

    def get(published=None, **options):
        fetched = fetch(f"{server.url}/file", tmp_path / "file", published=published, **QUICK | options)
        assert (tmp_path / "file").read_bytes() == BODY
        assert sorted(p.name for p in tmp_path.iterdir()) == [".lock", "checksums.json", "file"]
        assert fetched.sha256 == hashlib.sha256(BODY).hexdigest()
        return fetched

    return get


def _refused(server, tmp_path, match, **options):
    with pytest.raises(DownloadError, match=match) as caught:
        fetch(f"{server.url}/file", tmp_path / "file", **QUICK | options)
    assert not (tmp_path / "file").exists()
    assert "\n" not in str(caught.value)


def _md5(body: bytes) -> bytes:
    return f"MD5 (file) = {hashlib.md5(body).hexdigest()}\n".encode()


def test_a_file_is_fetched_once_and_its_checksum_recorded(server, get, tmp_path):
    server.paths["/file"] = lambda handler: handler.serve(BODY)
    assert get().checked == "recorded on first use"
    assert get().bytes == len(BODY)
    assert server.asked == [("/file", None)]
    (entry,) = json.loads((tmp_path / "checksums.json").read_text())
    assert (entry["url"], entry["sha256"]) == (f"{server.url}/file", hashlib.sha256(BODY).hexdigest())


def test_a_connection_that_is_cut_goes_on_where_it_broke(server, get):
    cuts = iter([100_000, 0, 150_000, None])
    server.paths["/file"] = lambda handler: handler.serve(BODY, cut=next(cuts))
    told = []
    get(passing=told.append)
    assert [asked for _, asked in server.asked] == [None, "bytes=100000-", "bytes=100000-", "bytes=250000-"]
    assert any("broke off, trying again" in sentence for sentence in told)


def test_a_download_that_was_killed_goes_on(server, get, tmp_path):
    (tmp_path / "file.part").write_bytes(BODY[:50_000])
    (tmp_path / "file.part.version").write_text('"v1"')
    server.paths["/file"] = lambda handler: handler.serve(BODY)
    get()
    assert server.asked == [("/file", "bytes=50000-")]


def test_a_changed_version_begins_anew(server, get, tmp_path):
    (tmp_path / "file.part").write_bytes(b"x" * 50_000)
    (tmp_path / "file.part.version").write_text('"v0"')
    server.paths["/file"] = lambda handler: handler.serve(BODY)
    get()


def test_bytes_of_which_nobody_knows_the_version_are_not_continued(server, get, tmp_path):
    (tmp_path / "file.part").write_bytes(b"x" * 50_000)
    cuts = iter([100_000, None])
    server.paths["/file"] = lambda handler: handler.serve(BODY, etag=None, cut=next(cuts))
    get()
    assert [asked for _, asked in server.asked] == [None, None]


def test_a_server_that_ignores_range_or_answers_another_one(server, get):
    def answers(handler):
        match len(server.asked):
            case 1:
                handler.serve(BODY, cut=1000)
            case 2:  # bytes from elsewhere
                handler.say(206, BODY[5:], content_range=f"bytes 5-{len(BODY) - 1}/{len(BODY)}")
            case 3:
                handler.serve(BODY, cut=1000)
            case _:  # the whole, whatever was asked
                handler.say(200, BODY, etag='"v1"')

    server.paths["/file"] = answers
    get()


def test_a_part_that_is_longer_than_the_file_begins_anew(server, get, tmp_path):
    (tmp_path / "file.part").write_bytes(BODY + b"more")
    (tmp_path / "file.part.version").write_text('"v1"')
    server.paths["/file"] = lambda handler: handler.serve(BODY)
    get()


def test_a_server_that_stalls_is_left_and_asked_again(server, get):
    def answers(handler):
        if len(server.asked) == 1:
            handler.send_response(200)
            handler.send_header("content-length", str(len(BODY)))
            handler.send_header("etag", '"v1"')
            handler.end_headers()
            handler.wfile.write(BODY[:70_000])
            handler.wfile.flush()
            time.sleep(1.5)
            handler.close_connection = True
        else:
            handler.serve(BODY)

    server.paths["/file"] = answers
    get()
    assert server.asked[1] == ("/file", "bytes=70000-")


def test_a_server_that_only_stalls_is_given_up(server, tmp_path):
    server.paths["/file"] = lambda handler: time.sleep(1)
    _refused(server, tmp_path, "127.0.0.1 is silent, 2 times in a row", retries=1, timeout=0.2)


def test_a_busy_server_is_asked_again_when_it_says(server, get):
    answers = iter([503, 429, 200])

    def busy(handler):
        status = next(answers)
        handler.serve(BODY) if status == 200 else handler.say(status, retry_after="1")

    server.paths["/file"] = busy
    start = time.monotonic()
    get()
    assert time.monotonic() - start >= 2


def test_a_server_that_stays_busy_is_given_up(server, tmp_path):
    server.paths["/file"] = lambda handler: handler.say(503)
    _refused(server, tmp_path, "answers 503, 3 times in a row")


def test_what_is_not_there_is_told_at_once(server, tmp_path):
    _refused(server, tmp_path, "/file cannot be downloaded: 127.0.0.1 answers 404")
    assert len(server.asked) == 1


def test_redirects_are_followed_but_not_in_circles(server, get, tmp_path):
    server.paths["/file"] = lambda handler: handler.say(302, location="/elsewhere")
    server.paths["/elsewhere"] = lambda handler: handler.serve(BODY)
    get()
    (tmp_path / "file").unlink()
    server.paths["/elsewhere"] = lambda handler: handler.say(302, location="/file")
    _refused(server, tmp_path, "leads in circles")


def test_a_published_checksum_is_fetched_and_must_be_right(server, get, tmp_path):
    server.paths["/file"] = lambda handler: handler.serve(BODY)
    server.paths["/file.md5"] = lambda handler: handler.say(200, _md5(BODY))
    assert get(".md5").checked == "published md5"
    (tmp_path / "file").unlink()
    server.paths["/file.md5"] = lambda handler: handler.say(200, _md5(b"another file"))
    _refused(server, tmp_path, "has the md5 .* and its publisher says", published=".md5")
    assert not (tmp_path / "file.part").exists()  # nothing wrong is continued


def test_bytes_that_were_garbled_once_are_fetched_again(server, get):
    bodies = iter([b"x" * len(BODY), BODY])
    server.paths["/file"] = lambda handler: handler.serve(next(bodies))
    server.paths["/file.md5"] = lambda handler: handler.say(200, _md5(BODY))
    get(".md5")


def test_a_length_that_is_a_lie_is_found_by_the_checksum(server, tmp_path):
    server.paths["/file"] = lambda handler: handler.say(200, BODY, content_length="1000", connection="close")
    server.paths["/file.md5"] = lambda handler: handler.say(200, _md5(BODY))
    _refused(server, tmp_path, "has the md5", published=".md5")


def test_no_checksum_is_invented_where_none_is_published(server, get):
    server.paths["/file"] = lambda handler: handler.serve(BODY)
    assert get(".md5").checked == "recorded on first use"


def test_another_file_than_on_first_use_is_refused(server, get, tmp_path):
    server.paths["/file"] = lambda handler: handler.serve(BODY)
    get()
    (tmp_path / "file").unlink()
    server.paths["/file"] = lambda handler: handler.serve(BODY[::-1])
    _refused(server, tmp_path, "has another checksum than on .*first use")


@pytest.mark.parametrize("name", ["x.zip", "x.json.gz"])
def test_a_page_in_place_of_an_archive_is_refused(server, tmp_path, name):
    server.paths[f"/{name}"] = lambda handler: handler.say(200, b"<html>please log in</html>")
    with pytest.raises(DownloadError, match=r"is no whole (zip|gz) file"):
        fetch(f"{server.url}/{name}", tmp_path / name, **QUICK)
    assert not (tmp_path / name).exists()


def test_two_at_once_download_once(server, tmp_path):
    def slow(handler):
        time.sleep(0.3)
        handler.serve(BODY)

    server.paths["/file"] = slow
    options = QUICK | {"timeout": 5}
    workers = [
        threading.Thread(target=fetch, args=(f"{server.url}/file", tmp_path / "file"), kwargs=options) for _ in range(3)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert (tmp_path / "file").read_bytes() == BODY
    assert len(server.asked) == 1


def test_offline_is_one_sentence_that_says_what_to_do(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(DownloadError) as caught:
        bring("ml-1m", Download(cache=tmp_path, mirror=nobody, options=QUICK))
    assert "127.0.0.1 cannot be reached" in str(caught.value)
    assert "contrec data prepare ml-1m FOLDER" in str(caught.value)
    assert "\n" not in str(caught.value)


# ----------------------------------------------------------------------------------------------------- public sets


def _zip(**files: bytes) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, body in files.items():
            archive.writestr("ml-1m/" + name.replace("_", "."), body)
        archive.writestr("../../outside.txt", b"no")
    return packed.getvalue()


def test_a_public_set_is_downloaded_checked_unpacked_and_read(server, tmp_path):
    body = _zip(ratings_dat=b"1::2::5::978300760\n", movies_dat="2::Café (1990)::Drama\n".encode("latin-1"))
    path = "/files.grouplens.org/datasets/movielens/ml-1m.zip"
    server.paths[path] = lambda handler: handler.serve(body)
    server.paths[f"{path}.md5"] = lambda handler: handler.say(200, _md5(body))
    cache = tmp_path / "cache"
    for _ in range(2):
        source = read("ml-1m", None, download=Download(cache=cache, mirror=server.url))
        assert [item.title for item in source.items] == ["Café (1990)"]
        assert source.facts["origin"][0]["checked"] == "published md5"
    assert [asked for asked, _ in server.asked] == [f"{path}.md5", path]
    assert not (tmp_path / "outside.txt").exists()
    assert sorted(p.name for p in (cache / "ml-1m" / "files").iterdir()) == ["movies.dat", "ratings.dat"]


def test_a_category_of_amazon_is_downloaded(server, tmp_path):
    review = {"reviewerID": "A1", "asin": "B1", "overall": 5.0, "unixReviewTime": 1400000000}
    base = "/snap.stanford.edu/data/amazon/productGraph/categoryFiles/"
    files = {"reviews_Beauty_5.json.gz": json.dumps(review), "meta_Beauty.json.gz": "{'asin': 'B1', 'title': 'Soap'}"}
    for name, text in files.items():
        packed = gzip.compress(text.encode())
        server.paths[base + name] = lambda handler, packed=packed: handler.serve(packed)
    source = read("amazon-2014", None, download=Download("Beauty", tmp_path, server.url))
    assert source.items[0].title == "Soap"
    with pytest.raises(DownloadError, match="needs the path of its files, or a category"):
        read("amazon-2014", None, download=Download(cache=tmp_path))
    with pytest.raises(DownloadError, match="or a category to download"):
        read("amazon-2018", None, download=Download("../x", tmp_path))


def test_every_public_address_is_encrypted_and_on_a_host_of_its_publisher():
    for name, known in KNOWN.items():
        for url in known.urls:
            assert re.match(r"https://(files\.grouplens|snap\.stanford|mcauleylab\.ucsd)\.(org|edu)/", url), name
