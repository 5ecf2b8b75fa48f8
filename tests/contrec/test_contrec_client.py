"""The client against the real server: every call, every kind of refusal, and patience where it is safe."""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from contrec import calls
from contrec.calls import Call
from contrec.client import AsyncClient, Client, Event, Patience, Refused, Selection, Unreachable
from service.access import ROUTES, find_route
from service.keys import Scope, key_line, new_key
from tests.redis_server import RedisServer, free_port
from tests.service import test_service_swap as swap
from tests.service.test_service_process import ROOT, process
from tests.service.test_service_recommend import publish

KEY = new_key()


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real server with a popular bundle (i39 first) and one key for everything."""
    folder = tmp_path_factory.mktemp("client")
    publish(folder / "bundles")
    with process(folder, keys=key_line("all", Scope, KEY)) as (_, http):
        yield str(http.base_url)


@pytest.fixture
def client(url: str) -> Iterator[Client]:
    with Client(url, key=KEY) as client:
        yield client


def test_there_is_a_call_for_every_route_of_the_api() -> None:
    """But for the pages that a browser asks for."""
    made: list[Call[Any]] = [
        calls.recommend("ann"),
        calls.rank(["a"]),
        calls.tell(Event("ann", "a")),
        calls.popular(),
        calls.similar("a"),
        calls.item("a"),
        calls.put_item("a"),
        calls.withdraw("a"),
        calls.user("ann"),
        calls.erase("ann"),
        calls.bundle(),
        calls.bundles(),
        calls.activate("1"),
        calls.rollback(),
        calls.ready(),
        calls.live(),
    ]
    reached = {(find_route(call.method, call.path)[0], call.method) for call in made}
    routes = {(route, method) for route, methods in ROUTES.items() for method in methods}
    pages = {
        one for one in routes if one[0] in ("/", "/docs", "/openapi.json") or one[0].startswith(("/ui/", "/page/"))
    }
    assert reached == routes - pages


def test_a_user_from_the_first_event_to_their_erasure(client: Client) -> None:
    assert client.ready().ready
    assert client.live().status == "alive"
    assert (client.bundle().kind, client.bundle().items) == ("popular", 40)
    told = client.tell([Event("ann", "i39", "purchase"), Event("ann", "i38", "rating", value=1.0)])
    assert (told.accepted, told.repeated) == (2, 0)
    once = Event("ann", "i37", event_id="e1")
    assert client.tell(once).accepted == 1
    assert client.tell(once).repeated == 1
    unnamed = Event("ann", "i36")
    assert [client.tell(unnamed).accepted, client.tell(unnamed).accepted] == [1, 0], "the event, not the call, is named"
    answer = client.recommend("ann", k=3, deny=Selection(items=["i36"]), explain=True)
    assert len(answer.items) == 3
    assert not {item.item_id for item in answer.items} & {"i36", "i37", "i38", "i39"}
    assert answer.items[0].reasons == []
    assert client.tell(Event("ann", "i35", "click", recommendation_id=answer.recommendation_id)).accepted == 1
    ranked = client.rank(["i1", "i2", "zz"], "ann")
    assert ([item.item_id for item in ranked.items], ranked.unknown) == (["i2", "i1"], ["zz"])
    stored = client.user("ann", n=2)
    assert [event.item_id for event in stored.events] == ["i39", "i38"]
    assert stored.disliked == ["i38"]
    assert stored.next is not None
    assert len(client.user("ann", after=stored.next).events) == 3
    assert client.erase("ann").events == 5
    with pytest.raises(Refused, match="nothing is stored"):
        client.user("ann")


def test_the_pages_own_lines_run(url: str) -> None:
    (block,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "service.md").read_text(encoding="utf-8"), re.DOTALL)
    lines = block.replace('"http://127.0.0.1:8000"', f'"{url}", key="{KEY}"')
    done = subprocess.run([sys.executable, "-c", lines], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("item_id", ["n1", "with space", "ünï?&#%", "a+b"])
def test_an_item_from_its_first_word_to_its_withdrawal(client: Client, item_id: str) -> None:
    written = client.put_item(item_id, title="Solaris", categories=["Drama"], text="A planet that remembers.")
    assert written.item_id == item_id
    item = client.item(item_id)
    assert (item.title, item.categories, item.in_bundle) == ("Solaris", ["Drama"], True)
    assert [one.item_id for one in client.popular(allow=Selection(["Drama"], ["i3"])).items] == ["i3", item_id]
    assert client.similar(item_id, 3, deny=Selection(["even"])).items
    assert client.withdraw(item_id).catalogue_version > written.catalogue_version
    with pytest.raises(Refused) as caught:
        client.item(item_id)
    assert (caught.value.status, caught.value.code, caught.value.field) == (404, "not_found", "item_id")


async def test_the_same_awaited(url: str) -> None:
    async with AsyncClient(url, key=KEY) as client:
        answer = await client.send(calls.recommend(history=["i1"], k=2))
        assert [item.item_id for item in answer.items] == ["i39", "i38"]
        with pytest.raises(Refused, match="invalid_request: k"):
            await client.send(calls.recommend(k=0))
    async with AsyncClient(f"http://127.0.0.1:{free_port()}", patience=Patience(1, 0.01)) as client:
        with pytest.raises(Unreachable, match="/popular"):
            await client.send(calls.popular())


def test_versions_are_listed_activated_and_rolled_back(tmp_path: Path) -> None:
    old, new = (swap.publish(tmp_path / "bundles", first) for first in (1, 2))
    with (
        process(tmp_path, keys=key_line("all", Scope, KEY)) as (_, http),
        Client(str(http.base_url), key=KEY) as client,
    ):
        assert {one.version: one.served for one in client.bundles().bundles} == {old: False, new: False}
        with pytest.raises(Refused) as caught:
            client.rollback()
        assert (caught.value.status, caught.value.code) == (409, "bundle_refused")
        for version in (old, new, new):  # a second time changes nothing
            assert client.activate(version).bundle == f"movies/{version}"
        assert client.recommend(k=1).items[0].item_id == "i2"
        assert client.rollback().bundle == f"movies/{old}"
        assert client.recommend(k=1).items[0].item_id == "i1"
        assert {one.version: one.served for one in client.bundles().bundles} == {old: True, new: False}
        with pytest.raises(Refused, match="bundle_refused"):
            client.activate("none")

    with process(tmp_path) as (_, http), Client(str(http.base_url)) as nobody:
        for ask in (nobody.bundles, nobody.rollback, lambda: nobody.activate(old)):
            with pytest.raises(Refused, match="forbidden: this route is off"):
                ask()


async def test_versions_are_handled_the_same_awaited(tmp_path: Path) -> None:
    old, new = (swap.publish(tmp_path / "bundles", first) for first in (1, 2))
    with process(tmp_path, keys=key_line("all", Scope, KEY)) as (_, http):
        async with AsyncClient(str(http.base_url), key=KEY) as client:
            for call, served in ((calls.activate(old), old), (calls.activate(new), new), (calls.rollback(), old)):
                assert (await client.send(call)).bundle == f"movies/{served}"
            assert len((await client.send(calls.bundles())).bundles) == 2


@pytest.mark.parametrize("awaited", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize(
    "says",  # "close", as it does: a kept connection that is shut later takes the next request with it, unheard
    [b"", b"HTTP/1.1 503 No\r\nContent-Length: 2\r\nConnection: close\r\nRetry-After: 0\r\n\r\n{}"],
    ids=["hangs up", "503"],
)
async def test_a_rollback_is_sent_once_whatever_comes_of_it_and_an_activation_again(says: bytes, awaited: bool) -> None:
    sent: list[bytes] = []

    def answer(listener: socket.socket) -> None:
        while True:
            connection, _ = listener.accept()
            with connection:
                if not (asked := connection.recv(65_536)):
                    return
                sent.append(asked.split(b" ")[1])
                connection.sendall(says)

    async def ask(port: int, call: calls.Call[calls.BundleAnswer]) -> None:
        url, patience = f"http://127.0.0.1:{port}", Patience(2, 0.01)
        if awaited:
            async with AsyncClient(url, patience=patience) as client:
                await client.send(call)
        else:
            with Client(url, patience=patience) as blocking:
                await asyncio.to_thread(blocking.send, call)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        thread = threading.Thread(target=answer, args=[listener])
        thread.start()
        for call in (calls.rollback(), calls.activate("1")):
            with pytest.raises(Unreachable):
                await ask(port, call)
        socket.create_connection(("127.0.0.1", port)).close()  # which ends the thread
        thread.join()
    assert sent == [b"/admin/bundles/rollback", *[b"/admin/bundles/activate"] * 3]


def test_a_refusal_is_typed_and_told_at_once(client: Client, url: str) -> None:
    started = time.monotonic()
    with pytest.raises(Refused) as caught:
        client.tell(Event("ann", "i1", "stare"))
    assert (caught.value.status, caught.value.code, caught.value.field) == (422, "invalid_request", "events[0].type")
    with Client(url) as nobody, pytest.raises(Refused) as caught:
        nobody.recommend("ann")
    assert (caught.value.status, caught.value.code) == (401, "unauthorized")
    assert time.monotonic() - started < 3


@pytest.mark.parametrize("name", ["", "a/b", ".", ".."])
def test_what_cannot_be_named_in_a_path_is_told_before_it_is_sent(client: Client, name: str) -> None:
    for ask in (client.item, client.similar, client.withdraw, client.user, client.erase, client.put_item):
        with pytest.raises(ValueError, match="cannot be named in a path"):
            ask(name)
    with pytest.raises(ValueError, match="allow names nothing"):
        client.popular(allow=Selection())


def test_a_service_that_comes_late_is_waited_for(tmp_path: Path) -> None:
    with process(tmp_path) as (_, http):
        port = http.base_url.port
        late = free_port()
        relay = threading.Timer(0.4, _relay, [late, port])
        relay.start()
        with Client(f"http://127.0.0.1:{late}", patience=Patience(20, 0.1, 0.2)) as client:
            assert client.popular().items == []
        relay.join()


def _relay(late: int, port: int | None) -> None:
    """Listens once and passes one exchange on: a port that opens while somebody is trying it."""
    with socket.create_server(("127.0.0.1", late)) as listener:
        taken, _ = listener.accept()
        with taken, socket.create_connection(("127.0.0.1", port)) as onward:
            onward.sendall(taken.recv(65_536))
            onward.settimeout(0.5)
            with contextlib.suppress(TimeoutError):
                while part := onward.recv(65_536):
                    taken.sendall(part)


@pytest.mark.redis
def test_a_store_that_is_down_is_tried_again_and_the_event_counts_once(tmp_path: Path, own_redis: RedisServer) -> None:
    with process(tmp_path, store=own_redis.url) as (_, http):
        url = str(http.base_url)
        own_redis.stop()
        event = Event("ann", "a", event_id="e1")
        with Client(url, patience=Patience(retries=0)) as hasty, pytest.raises(Refused) as caught:
            hasty.tell(event)
        assert (caught.value.status, caught.value.code) == (503, "store_unavailable")
        back = threading.Timer(1.0, own_redis.start)
        back.start()
        with Client(url, patience=Patience(retries=8)) as patient:
            told = patient.tell(event)
        back.join()
        assert told.accepted + told.repeated == 1
        with Client(url) as client:
            assert client.tell(event).repeated == 1


def test_what_is_no_answer_of_ours_is_unreachable() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            for body in (b"<html>", b'{"items": 5}'):
                connection, _ = listener.accept()
                with connection:
                    connection.recv(65_536)
                    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))

        thread = threading.Thread(target=answer)
        thread.start()
        with Client(f"http://127.0.0.1:{listener.getsockname()[1]}") as client:
            ask: Callable[[], object]
            for ask in (client.popular, client.bundle):
                with pytest.raises(Unreachable, match="cannot read"):
                    ask()
        thread.join()


def test_pauses_grow_are_bounded_and_obey_retry_after() -> None:
    patience = Patience(retries=3, first_pause=1.0, longest_pause=3.0)
    for tried, least, most in ((1, 0.5, 1), (2, 1, 2), (3, 1.5, 3)):
        pause = patience.pause(tried)
        assert pause is not None
        assert least <= pause <= most
    assert patience.pause(4) is None
    assert patience.pause(1, "2") == 2
    assert patience.pause(1, "60") is None, "that long nobody waits here"
