"""The page for a person: what it is made of, and what it does in a real browser."""

import re
from collections.abc import Iterator

import pytest

from tests.inference.fake_engine import FakeEngine
from tests.server.browser import CHROMIUM, Browser, open_browser
from tests.server.conftest import ServerMaker

ANSWER = ["Rivers", " <b>run</b>", " down", "."]
in_a_browser = pytest.mark.skipif(not CHROMIUM, reason="needs Chromium")


def test_the_page_loads_nothing_from_elsewhere(serve: ServerMaker) -> None:
    reply = serve().get("/")
    policy, text = reply.headers["content-security-policy"], reply.body.decode()
    assert "default-src 'none'" in policy
    assert "connect-src 'self'" in policy
    assert "frame-ancestors 'none'" in policy
    assert not re.search(r"https?://|\bsrc=|\bhref=|@import|innerHTML", text)


def test_only_the_scripts_of_this_response_may_run(serve: ServerMaker) -> None:
    client = serve()
    first, second = client.get("/"), client.get("/")
    nonces = {re.findall(r'<script nonce="([^"]+)">', one.body.decode())[0] for one in (first, second)}
    assert len(nonces) == 2
    assert all(any(nonce in one.headers["content-security-policy"] for nonce in nonces) for one in (first, second))


def test_the_status_names_the_models_and_what_runs(serve: ServerMaker) -> None:
    data = serve(FakeEngine()).get("/status").data
    assert data["models"] == [{"name": "fake", "is_loaded": True, "n_ctx": 4096, "running": 0, "waiting": 0}]
    assert data["uptime"] >= 0


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with open_browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.mark.slow
@in_a_browser
@pytest.mark.parametrize(("width", "scheme"), [(1000, "light"), (360, "dark")])
def test_a_person_chats_with_the_keyboard_alone(serve: ServerMaker, browser: Browser, width: int, scheme: str) -> None:
    client = serve(FakeEngine(ANSWER, delay=0.01))
    browser.show(width, scheme)
    browser.open(f"http://localhost:{client.port}/")
    browser.until("document.querySelectorAll('#models tr').length === 1")
    browser.type("Tell me about rivers.")  # the message has the focus
    browser.press("Enter")
    browser.until("!document.getElementById('send').disabled && document.querySelectorAll('.token').length === 4")
    assert browser.run("document.querySelector('.message.assistant .text').textContent") == "".join(ANSWER)
    assert browser.run("document.querySelectorAll('.message b').length") == 0  # markup of a model is text
    assert browser.run("document.querySelector('.token').style.getPropertyValue('--heat')").startswith("hsl(")
    browser.run("document.querySelector('.token[tabindex=\"0\"]').focus()")
    browser.press("ArrowRight")
    assert "temperature 1.000" in browser.run("document.getElementById('detail').value")
    assert browser.run("document.documentElement.scrollWidth <= innerWidth")
    dark = browser.run("getComputedStyle(document.body).backgroundColor") == "rgb(23, 24, 26)"
    assert dark == (scheme == "dark")
    assert browser.errors == []


@pytest.mark.slow
@in_a_browser
def test_escape_stops_an_answer_and_its_tokens_stay(serve: ServerMaker, browser: Browser) -> None:
    client = serve(FakeEngine(["x"], ["word "] * 5000, delay=0.01))
    browser.open(f"http://localhost:{client.port}/")
    browser.type("Go on.")
    browser.press("Enter")
    browser.until("document.querySelectorAll('.token').length > 3")
    browser.press("Escape")
    browser.until("!document.getElementById('send').disabled")
    assert browser.run("document.querySelector('.message.assistant footer').textContent") == "stopped"
    (model,) = client.service.models
    assert browser.run("document.querySelectorAll('.token').length") > 3
    assert model.worker.n_running <= 1


@pytest.mark.slow
@in_a_browser
def test_an_error_is_shown_in_its_words(serve: ServerMaker, browser: Browser) -> None:
    client = serve(FakeEngine())
    browser.open(f"http://localhost:{client.port}/")
    browser.run("document.getElementById('temperature').value = '1..'")
    browser.type("Hi")
    browser.press("Enter")
    browser.until("!!document.querySelector('.message.error')")
    assert "temperature" in browser.run("document.querySelector('.message.error footer').textContent")


@pytest.mark.slow
@in_a_browser
def test_the_end_of_a_long_answer_stays_in_view(serve: ServerMaker, browser: Browser) -> None:
    client = serve(FakeEngine(["x"], ["line\n"] * 80, delay=0.002))
    browser.show(360, "light")
    browser.open(f"http://localhost:{client.port}/")
    browser.type("Go on.")
    browser.press("Enter")
    browser.until("document.querySelectorAll('.token').length === 80 && !document.getElementById('send').disabled")
    foot = "document.querySelector('.message.assistant footer').getBoundingClientRect().bottom"
    assert browser.run(f"{foot} <= document.getElementById('ask').getBoundingClientRect().top")
