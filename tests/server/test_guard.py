"""The host and the origin of requests, other web pages (CORS), and the size of what is sent."""

import http.client
import socket
from contextlib import suppress

import pytest

from llmcli.errors import LlmcliError, UsageError
from llmcli.server.addresses import allowed_names, listen, parse_hosts, parse_origins
from llmcli.server.guard import Access
from llmcli.server.keys import Keys, make_key
from llmcli.server.service import ServerOptions
from tests.inference.fake_engine import FakeEngine
from tests.server.conftest import Client, ServerMaker

ASK = {"prompt": "a"}
PREFLIGHT = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "Authorization"}


def code(client: Client, **headers: str) -> int:
    return client.post("/v1/completions", ASK, headers).code


def test_names_of_this_machine_are_answered(serve: ServerMaker) -> None:
    client = serve()
    for host in ["localhost", "localhost:80", "127.0.0.1:1", "[::1]:8080", "LOCALHOST", "localhost."]:
        assert code(client, Host=host) == 200


def test_a_name_of_another_machine_is_refused(serve: ServerMaker) -> None:
    client = serve()
    for host in [
        "evil.com",
        "localhost.evil.com",
        "127.0.0.1.evil.com",
        "evil.com:8080",
        "localhost@evil.com",
        "[::2]",
        "::1",
    ]:
        reply = client.post("/v1/completions", ASK, {"Host": host})
        assert (reply.code, reply.data["error"]["type"]) == (403, "permission_error")
        assert "--allowed-host" in reply.data["error"]["message"]
        assert client.get("/health", {"Host": host}).code == 403


def test_allowed_hosts_are_answered_too(serve: ServerMaker) -> None:
    client = serve(access=Access(hosts=allowed_names(parse_hosts("127.0.0.1", 0), ["LLM.example.com"], has_keys=False)))
    assert code(client, Host="llm.example.com:443") == 200
    assert code(client, Host="localhost") == 200
    assert code(client, Host="example.com") == 403


def test_a_public_server_answers_each_name_only_with_keys() -> None:
    addresses = parse_hosts("0.0.0.0", 0)
    with_keys = Access(hosts=allowed_names(addresses, (), has_keys=True))
    without = Access(hosts=allowed_names(addresses, (), has_keys=False))
    named = Access(hosts=allowed_names(addresses, ["llm.lan"], has_keys=True))
    assert with_keys.allows_host("any.example.com")
    assert not without.allows_host("any.example.com")
    assert without.allows_host("192.168.1.7:8080")
    assert without.allows_host(socket.gethostname())
    assert named.allows_host("llm.lan:80")
    assert not named.allows_host("any.example.com")


def test_a_page_of_another_origin_is_refused(serve: ServerMaker) -> None:
    client = serve()
    for origin in ["http://evil.com", "https://localhost", "null", "http://127.0.0.1:1", "file://"]:
        reply = client.post("/v1/completions", ASK, {"Origin": origin})
        assert (reply.code, reply.data["error"]["type"]) == (403, "permission_error")
        assert "access-control-allow-origin" not in reply.headers
        assert client.get("/v1/models", {"Origin": origin}).code == 403


def test_a_page_of_the_server_itself_is_answered(serve: ServerMaker) -> None:
    client = serve()
    assert code(client, Origin=f"http://127.0.0.1:{client.port}") == 200
    assert code(client, Origin=f"http://localhost:{client.port}", Host=f"localhost:{client.port}") == 200


def preflight(client: Client, origin: str, **headers: str) -> tuple[int, dict[str, str]]:
    reply = client.request("OPTIONS", "/completions", None, {"Origin": origin, **PREFLIGHT, **headers})
    return reply.code, dict(reply.headers)


def test_a_named_origin_may_send_requests_and_read_answers(serve: ServerMaker) -> None:
    keys = Keys(None, [make_key("alice", "a" * 20)], lambda *_: None)
    client = serve(access=Access(keys, origins=parse_origins(["https://App.example.com/"])))
    status, headers = preflight(client, "https://app.example.com")
    assert status == 200, "a preflight has no key"
    assert headers["access-control-allow-origin"] == "https://app.example.com"
    assert headers["access-control-allow-credentials"] == "true"
    assert headers["access-control-allow-methods"] == "GET, POST, DELETE, OPTIONS"
    assert headers["access-control-allow-headers"] == "*"
    reply = client.post("/v1/completions", ASK, {"Origin": "https://app.example.com", "X-Api-Key": "a" * 20})
    assert (reply.code, reply.headers["access-control-allow-origin"]) == (200, "https://app.example.com")
    reply = client.post("/v1/completions", ASK, {"Origin": "https://app.example.com"})
    assert (reply.code, reply.headers["access-control-allow-origin"]) == (401, "https://app.example.com")
    assert "access-control-allow-origin" not in preflight(client, "https://evil.com")[1]
    assert preflight(client, "https://evil.com")[0] == 200


def test_localhost_stands_for_this_machine_with_any_port(serve: ServerMaker) -> None:
    client = serve(access=Access(origins=parse_origins(["localhost"])))
    for origin in ["http://localhost", "http://127.0.0.1:3000", "http://[::1]:3000", "https://localhost:1"]:
        assert preflight(client, origin)[1]["access-control-allow-origin"] == origin


def test_localhost_does_not_stand_for_other_names(serve: ServerMaker) -> None:
    client = serve(access=Access(origins=parse_origins(["localhost"])))
    for origin in ["http://web.mydomain.fr", "http://notlocalhost", "http://localhost.evil.com", "null"]:
        assert "access-control-allow-origin" not in preflight(client, origin)[1]
        assert code(client, Origin=origin) == 403


def test_a_star_stands_for_each_origin(serve: ServerMaker) -> None:
    client = serve(access=Access(origins=parse_origins(["*"])))
    assert preflight(client, "origin")[1]["access-control-allow-origin"] == "origin"
    assert code(client, Origin="https://anything.example") == 200


def test_a_private_network_is_allowed_where_the_page_is(serve: ServerMaker) -> None:
    client = serve(access=Access(origins=parse_origins(["https://a.example"])))
    asked = {"Access-Control-Request-Private-Network": "true"}
    assert preflight(client, "https://a.example", **asked)[1]["access-control-allow-private-network"] == "true"
    assert "access-control-allow-private-network" not in preflight(client, "https://b.example", **asked)[1]


@pytest.mark.parametrize("origin", ["example.com", "https://a.example/path", "https://", "https://a b", "null"])
def test_an_origin_that_is_not_valid_is_refused_at_the_start(origin: str) -> None:
    with pytest.raises(UsageError, match="--cors-origin must be"):
        parse_origins([origin])


@pytest.mark.parametrize("name", ["a b", "http://a", "a:80", "", "a/b"])
def test_an_allowed_host_that_is_not_valid_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="--allowed-host must be"):
        allowed_names(parse_hosts("127.0.0.1", 0), [name], has_keys=False)


def test_a_host_that_is_not_known_is_refused() -> None:
    for name in ("nowhere.invalid", "", "1.2.3.4.5", "a" * 300):
        with pytest.raises(UsageError, match="--host"):
            parse_hosts(name, 0)


def test_several_hosts_are_given_with_commas() -> None:
    first, second = parse_hosts("127.0.0.1, [::1]", 80)
    assert (first.host, second.host, first.is_loopback, second.is_loopback) == ("127.0.0.1", "[::1]", True, True)


def test_localhost_is_the_address_that_clients_try() -> None:
    (address,) = parse_hosts("localhost", 0)
    assert (address.name, address.number, address.is_loopback) == ("localhost", "127.0.0.1", True)


def test_a_port_in_use_is_an_error_that_says_what_to_do() -> None:
    with listen(parse_hosts("127.0.0.1", 0)[0]) as taken:
        (address,) = parse_hosts("127.0.0.1", taken.getsockname()[1])
        with pytest.raises(LlmcliError, match=r"cannot listen on 127\.0\.0\.1:.*in use") as caught:
            listen(address)
        assert "--port" in caught.value.hint
    with pytest.raises(LlmcliError, match=r"cannot listen on 192\.0\.2\.1") as caught:
        listen(parse_hosts("192.0.2.1", 0)[0])
    assert "does not have the address" in caught.value.hint


def test_a_body_that_is_too_long_gets_413(serve: ServerMaker) -> None:
    client = serve(access=Access(max_body=1 << 20))
    body = b'{"prompt": "' + b"a" * (1 << 20) + b'"}'
    reply = client.request("POST", "/v1/completions", body)
    assert (reply.code, reply.data["error"]["message"]) == (413, "the body has more than 1 MiB")
    connection = http.client.HTTPConnection("127.0.0.1", client.port, timeout=60)
    connection.request("POST", "/v1/completions", iter([body[:1000], body[1000:]]), {}, encode_chunked=True)
    assert connection.getresponse().status == 413
    connection.close()
    assert code(client) == 200


def test_a_body_is_not_asked_for_if_it_is_too_long(serve: ServerMaker) -> None:
    client = serve()
    with socket.create_connection(("127.0.0.1", client.port), 60) as connection:
        head = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\n"
        connection.sendall(head + b"Content-Length: 99999999\r\n\r\n")
        assert connection.recv(1000).startswith(b"HTTP/1.1 413 ")


def test_many_headers_are_refused(serve: ServerMaker) -> None:
    client = serve()
    for count in [129, 10_000]:
        with socket.create_connection(("127.0.0.1", client.port), 60) as connection:
            connection.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n" + b"a: b\r\n" * count + b"\r\n")
            assert connection.recv(1000)[:13] in (b"HTTP/1.1 431 ", b"HTTP/1.1 400 ")
        assert client.get("/health").code == 200


def test_a_long_header_is_refused(serve: ServerMaker) -> None:
    client = serve()
    for size in (100_000, 3_000_000):
        with socket.create_connection(("127.0.0.1", client.port), 60) as connection:
            with suppress(OSError):  # the server closes the connection before it has read all
                connection.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\na: " + b"b" * size)
            reply = connection.recv(1000)
        assert reply.startswith(b"HTTP/1.1 400 ")
    assert client.get("/health").code == 200


def test_more_answers_than_ever_wait_are_a_fault_of_the_request(serve: ServerMaker) -> None:
    client = serve(FakeEngine(["x"]), options=ServerOptions(n_parallel=2, n_queued=3))
    reply = client.post("/v1/completions", {"prompt": ["a"] * 3, "n": 2})
    assert (reply.code, reply.data["error"]["message"]) == (
        400,
        "the request asks for 6 answers, and the server takes 5 at a time",
    )
    assert client.post("/v1/completions", {"prompt": ["a"] * 5}).code == 200
    assert "at most 2048 prompts" in client.post("/v1/completions", {"prompt": ["a"] * 5000}).data["error"]["message"]


def test_headers_have_a_limit_also_where_they_come_in_one_piece(serve: ServerMaker) -> None:
    client = serve()
    assert client.get("/health", {"A": "b" * 60_000}).code == 200
    for headers in ({"A": "b" * 100_000}, {f"A{n}": "b" * 1000 for n in range(100)}):
        assert client.get("/health", headers).code in (400, 431), "h11 counts only what is not complete"


def test_an_origin_without_a_host_is_another_one(serve: ServerMaker) -> None:
    client = serve()
    for origin in ("null", "x://"):
        with socket.create_connection(("127.0.0.1", client.port), 60) as connection:
            connection.sendall(b"GET /v1/models HTTP/1.0\r\nOrigin: %s\r\n\r\n" % origin.encode())
            assert connection.recv(100).startswith(b"HTTP/1.1 403 ")


def test_a_path_with_a_slash_at_its_end_is_no_redirect(serve: ServerMaker) -> None:
    assert serve().post("/v1/completions/", {"prompt": "a"}).code == 404


def test_an_image_of_another_page_loads_nothing(serve: ServerMaker) -> None:
    """It has no origin."""
    client = serve()
    for site, expected in {"cross-site": 403, "same-site": 403, "same-origin": 200, "none": 200}.items():
        assert client.get("/props", {"Sec-Fetch-Site": site}).code == expected
        assert client.get("/", {"Sec-Fetch-Site": site}).code == 200
    client = serve(access=Access(origins=frozenset(("https://app.example",))))
    headers = {"Sec-Fetch-Site": "cross-site", "Origin": "https://app.example"}
    assert client.get("/props", headers).code == 200
