"""What a replay is read from may come from anywhere: what cannot be is refused in one line, and no file is opened."""

import json
from pathlib import Path
from typing import Any

import pytest

from llmcli.chat.conversation import Message
from llmcli.chat.replay import from_output, from_session
from llmcli.chat.sessions.session import Session
from llmcli.errors import UsageError
from llmcli.inference.replay_manifest import ReplayManifest
from llmcli.params.policies.policy import Fixed, parse_policy

DIGEST = "0123456789abcdef" * 4
REPLAY: dict[str, Any] = {
    "model_sha256": DIGEST,
    "build": "0.3.36",
    "machine": "a mill: WATER",
    "n_ctx": 512,
    "threads": [2, 4],
    "template_sha256": DIGEST,
    "moment": 1.5e9,
    "prompt_sha256": DIGEST,
    "layout": [[20, 12, 1], [5, 5, 1]],
    "moves": [[3, 0.5], [9, -0.25]],
    "first": 3,
    "drawn": 0,
    "flushed": True,
}
OUTPUT: dict[str, Any] = {
    "text": "Yes.",
    "finish_reason": "stop",
    "params": {"seed": 1, "temperature": 0.5},
    "messages": [{"role": "user", "content": "Q"}],
    "replay": REPLAY,
}


def output(**changes: Any) -> str:
    return json.dumps(OUTPUT | changes)


def without(key: str) -> str:
    return json.dumps({name: value for name, value in OUTPUT.items() if name != key})


def replay(**changes: Any) -> str:
    return output(replay=REPLAY | changes)


# What is written is read back


def test_a_manifest_is_read_as_it_was_written() -> None:
    known = ReplayManifest.from_data(REPLAY)
    assert (known.threads, known.layout) == ((2, 4), [(20, 12, 1), (5, 5, 1)])
    assert known.to_data() == REPLAY
    assert ReplayManifest.from_data(json.loads(json.dumps(known.to_data()))) == known


def test_default_values_are_not_stored() -> None:
    known = ReplayManifest(n_ctx=512, threads=(1, 1), prompt_sha256=DIGEST, layout=())
    assert known.to_data() == {"n_ctx": 512, "threads": [1, 1], "prompt_sha256": DIGEST, "layout": []}


def test_keys_of_a_newer_version_are_ignored() -> None:
    assert ReplayManifest.from_data(REPLAY | {"phase_of_the_moon": "full"}) == ReplayManifest.from_data(REPLAY)


def test_an_output_is_read() -> None:
    (recorded,) = from_output(output(reasoning_content="hm"), "out.json")
    assert (recorded.text, recorded.reasoning, recorded.is_complete) == ("Yes.", "hm", True)
    assert recorded.values == {"seed": 1, "temperature": Fixed(0.5), "temp_policy_file": None}
    assert [(message.role, message.content) for message in recorded.path] == [("user", "Q")]


# Hostile


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "not valid JSON"),
        ("{", "not valid JSON"),
        ("[]", "must be an object"),
        ("null", "must be an object"),
        ("[" * 100_000, "not valid JSON"),
        ('{"a":' * 100_000, "not valid JSON"),
        ('{"seed": ' + "9" * 10_000 + "}", "not valid JSON"),
        (replay(moment=float("nan")), "not valid JSON"),
        (replay(moment=float("inf")), "not valid JSON"),
        ("{}", "has no replay data"),
        (output(variants=[]), "variants must be a list of length >= 1"),
        (output(variants={}), "variants must be a list"),
        (output(variants=[{}] * 65), "variants must be a list of length <= 64"),
        (output(variants=["a"]), "answer 1 of out.json: must be an object"),
        (output(variants=[json.loads(output())]), "label is missing"),
        (without("text"), "text is missing"),
        (output(text=["a"]), "text must be a string"),
        (output(reasoning_content=1), "reasoning_content must be a string"),
        (output(finish_reason=None), "finish_reason must be a string"),
        (without("params"), "params is missing"),
        (output(params=[1]), "params must be an object"),
        (output(params={}), "params have no seed"),
        (output(params={"seed": 1, "colour": "red"}), "unknown setting 'colour'"),
        (output(params={"seed": -1}), "params have no seed"),
        (output(params={"seed": 2**32}), "seed must be"),
        (replay().replace("1500000000.0", "1e999"), "not valid JSON"),
        (output().replace("0.5}", "1e999}"), "not valid JSON"),
        (output(params={"seed": 1, "temperature": "0.5.."}), "temperature must be"),
        (output(params={"seed": 1, "n_threads": 1e400}), "not valid JSON"),
        (output(params={"seed": 1, "stop": {"a": 1}}), "stop must be"),
        (without("messages"), "messages is missing"),
        (output(messages=[]), "messages must be a list of length >= 1"),
        (output(messages=[1]), "messages[0] must be an object"),
        (output(messages=[{"role": "tool", "content": "x"}]), "messages[0].role is not valid"),
        (output(messages=[{"role": ["user"], "content": "x"}]), "messages[0].role must be a string"),
        (output(messages=[{"role": "user"}]), "messages[0].content is missing"),
        (output(params={"seed": 1, "raw": True}), "prompt is missing"),
        (output(replay=None), "replay must be an object"),
        (output(replay="x"), "replay must be an object"),
        (output(replay={}), "replay.n_ctx is missing"),
        (replay(n_ctx=0), "replay.n_ctx must be an integer >= 1"),
        (replay(n_ctx=True), "replay.n_ctx must be an integer"),
        (replay(n_ctx=512.0), "replay.n_ctx must be an integer"),
        (replay(n_ctx=10**40), "replay.n_ctx must be an integer <= 16777216"),
        (replay(threads=2), "replay.threads must be a list"),
        (replay(threads=[2]), "replay.threads must be a list of length 2"),
        (replay(threads=[2, 0]), "replay.threads[1] must be an integer >= 1"),
        (replay(threads=[2, 10**9]), "replay.threads[1] must be an integer <= 4096"),
        (replay(threads={"1": 2}), "replay.threads must be a list"),
        (replay(model_sha256="../../etc/passwd"), "replay.model_sha256 is not valid"),
        (replay(model_sha256=DIGEST[:-1]), "replay.model_sha256 is not valid"),
        (replay(prompt_sha256=7), "replay.prompt_sha256 must be a string"),
        (replay(build=1), "replay.build must be a string"),
        (replay(template=["{{"]), "replay.template must be a string"),
        (replay(layout=7), "replay.layout must be a list"),
        (replay(layout="111"), "replay.layout must be a list"),
        (replay(layout=[5, 5, 1]), "replay.layout[0] must be a list"),
        (replay(layout=[[5, 5]]), "replay.layout[0] must be a list of length 3"),
        (replay(layout=[[5, 5, 1, 1]]), "replay.layout[0] must be a list of length 3"),
        (replay(layout=[["5", 5, 1]]), "replay.layout[0][0] must be an integer"),
        (replay(layout=[[0, 0, 1]]), "replay.layout[0][0] must be an integer >= 1"),
        (replay(layout=[[5, 6, 1]]), "replay.layout is not valid"),
        (replay(layout=[[5, 5, 0]]), "replay.layout[0][2] must be an integer >= 1"),
        (replay(layout=[[5, 5, -1]]), "replay.layout[0][2] must be an integer >= 1"),
        (replay(layout=[[10**9, 5, 1]]), "replay.layout[0][0] must be an integer <= 16777216"),
        (replay(layout=[[6, 5, 1]]), "replay.layout is not valid"),  # the last one would have given no logits
        (replay(layout=[[5, 5, 10**9]]), "replay.layout[0][2] must be an integer <= 16777216"),
        (replay(layout=[[1, 1, 1]] * 100_000), "replay.layout must be a list of length <= 65536"),
        (replay(settings=[1]), "replay.settings must be an object"),
        (replay(moves=[[1]]), "replay.moves[0] must be a list of length 2"),
        (replay(moves=[[-1, 0.5]]), "replay.moves[0][0] must be an integer >= 0"),
        (replay(moves=[[1, "hot"]]), "replay.moves[0][1] must be a number"),
        (replay(moves=[[1, 1e300]]), "replay.moves[0][1] must be a number <= 1000000000000.0"),
        (replay(moment="now"), "replay.moment must be a number"),
        (replay(first=0), "replay.first must be an integer >= 1"),
        (replay(drawn=-1), "replay.drawn must be an integer >= 0"),
        (replay(flushed=1), "replay.flushed must be true or false"),
    ],
)
def test_invalid_data_is_refused_in_one_line(text: str, fault: str) -> None:
    with pytest.raises(UsageError) as caught:
        from_output(text, "out.json")
    assert fault in str(caught.value)
    assert "out.json" in str(caught.value)
    assert "\n" not in str(caught.value) + caught.value.hint


def test_a_file_named_in_a_record_is_not_opened(tmp_path: Path) -> None:
    """What stood in them is in the record; these settings are not even kept."""
    place = str(tmp_path / "x.py")
    named: dict[str, Any] = {
        "chat_template": place,
        "grammar_file": place,
        "json_schema": place,
        "character": place,
        "file": [place],
    }
    named |= {"model_folders": [place], "system": f"@{place}", "preset": "mine", "pull": True}
    (recorded,) = from_output(output(params={"seed": 1} | named), "out.json")
    assert recorded.values == {"seed": 1, "temp_policy_file": None}


# Code of the user's own


def test_a_recorded_policy_file_needs_permission(tmp_path: Path) -> None:
    evil = tmp_path / "evil.py"
    evil.write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n\ndef hot(step): return 1.0\n")
    text = output(params={"seed": 1, "temp_policy_file": f"{evil}:hot", "temperature": "sentence:hot,0.5"})
    with pytest.raises(UsageError, match=r"needs the policy file .*evil.py:hot, which is code"):
        from_output(text, "out.json")
    assert not (tmp_path / "ran").exists()
    with pytest.raises(UsageError, match="has no policy file"):
        from_output(output(), "out.json", "mine.py:cool")
    text = output(params={"seed": 1, "temp_policy_file": f"{evil}:hot"})
    assert from_output(text, "out.json", "mine.py:cool")[0].values["temp_policy_file"] == "mine.py:cool"


def test_a_session_saves_no_policy_file_and_loads_none(home: Path, tmp_path: Path) -> None:
    session = Session()
    session.save_flags({"temp_policy_file": f"{tmp_path}/a.py:hot", "top_k": 7})
    session.add("user", "hi")
    session.set("temp_policy_file", f"{tmp_path}/b.py:hot")
    session.set("top_k", 9)
    session.unset("temp_policy_file")
    assert session.overrides == {"top_k": 9}
    session.set("temp_policy_file", f"{tmp_path}/b.py:hot")
    session.close()
    (path,) = (home / "data" / "sessions").glob("*.jsonl")
    lines = path.read_text()
    assert ".py" not in lines
    path.write_text(lines + '{"type":"set","key":"temp-policy-file","value":"evil.py:hot"}\n')
    again = Session.load(session.name or path.stem)
    assert again.overrides == {"top_k": 9}
    assert len(again.notes) == 1
    assert "skipped a line: a session file cannot set temp_policy_file" in again.notes[0]
    again.close()


def test_a_session_keeps_a_temperature_of_a_user_function(home: Path) -> None:
    session = Session()
    session.set("temperature", parse_policy("sentence:hot:1,0.5"))
    session.add("user", "hi")
    session.close()
    again = Session.load(session.name or "")
    assert (again.overrides, again.notes) == ({"temperature": parse_policy("sentence:hot:1,0.5")}, [])
    again.close()


# Sessions


def session_with(**replay: Any) -> Session:
    session = Session(keep=False)
    session.add("user", "Why?")
    session.begin_answer(1, model="tiny", params={"seed": 3, "top_k": 2, "system": "Be brief."})
    session.end_answer("Because.", finish_reason="stop", replay=REPLAY | replay)
    return session


def test_an_answer_of_a_session_is_read() -> None:
    session = session_with()
    recorded = from_session(session, None)
    assert recorded.values == {"seed": 3, "top_k": 2, "temp_policy_file": None}
    assert (recorded.text, recorded.system) == ("Because.", "Be brief.")
    assert [message.content for message in recorded.path] == ["Why?"]
    assert from_session(session, 2) == recorded == from_session(session, 1)


@pytest.mark.parametrize(("number", "fault"), [(0, "has no message 0"), (4, "has no message 4"), (3, "has no answer")])
def test_a_message_that_is_not_an_answer_is_refused(number: int, fault: str) -> None:
    session = session_with()
    session.add("user", "And?")
    with pytest.raises(UsageError, match=fault):
        from_session(session, number)


def test_the_error_for_missing_replay_data_has_the_reason() -> None:
    session = session_with()
    session.add("assistant", "No.", finish_reason="edited")
    with pytest.raises(UsageError, match=r"answer 3 of .* has no replay data: no model wrote it") as caught:
        from_session(session, None)
    assert caught.value.hint == "choose another answer"
    with pytest.raises(UsageError, match="has no answer"):
        from_session(Session(keep=False), None)


def test_an_answer_that_continues_a_missing_one_is_refused() -> None:
    with pytest.raises(UsageError, match="continues message 77, which does not exist"):
        from_session(session_with(begun=77), None)


def test_the_manifest_of_an_answer_is_read_from_its_line() -> None:
    message = session_with().conversation.path()[-1]
    event = json.loads(json.dumps(message.to_data()))
    assert Message.from_data(event).replay == message.replay == REPLAY


@pytest.mark.parametrize("value", [None, 1, "x", [], {"n_ctx": "many"}, REPLAY | {"layout": [[0, 0, 0]]}])
def test_an_answer_with_invalid_replay_data_is_kept_without_it(value: Any) -> None:
    event = session_with().conversation.path()[-1].to_data() | {"replay": value}
    message = Message.from_data(event)
    assert (message.content, message.replay) == ("Because.", {})
