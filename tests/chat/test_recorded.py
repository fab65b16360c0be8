"""What a replay is read from may come from anywhere: what cannot be is refused in one line, and no file is opened."""

import json
from pathlib import Path
from typing import Any

import pytest

from llmcli.chat.circumstances import Circumstances, from_data
from llmcli.chat.recorded import from_output, from_session
from llmcli.chat.records import from_event, to_event
from llmcli.chat.session import Session
from llmcli.errors import UsageError
from llmcli.params.policy.tree import Fixed

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


def test_circumstances_are_read_back_as_they_were_written() -> None:
    known = from_data(REPLAY)
    assert (known.threads, known.layout) == ((2, 4), ((20, 12, 1), (5, 5, 1)))
    assert known.to_data() == REPLAY
    assert from_data(json.loads(json.dumps(known.to_data()))) == known


def test_what_is_as_it_mostly_is_takes_no_room() -> None:
    known = Circumstances(n_ctx=512, threads=(1, 1), prompt_sha256=DIGEST, layout=())
    assert known.to_data() == {"n_ctx": 512, "threads": [1, 1], "prompt_sha256": DIGEST, "layout": []}


def test_what_a_newer_version_adds_is_left_out() -> None:
    assert from_data(REPLAY | {"phase_of_the_moon": "full"}) == from_data(REPLAY)


def test_an_output_is_read() -> None:
    (recorded,) = from_output(output(reasoning_content="hm"), "out.json")
    assert (recorded.text, recorded.reasoning, recorded.whole) == ("Yes.", "hm", True)
    assert recorded.values == {"seed": 1, "temperature": Fixed(0.5), "temp_policy_file": None}
    assert recorded.asked == [{"role": "user", "content": "Q"}]


# Hostile


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "is no JSON"),
        ("{", "is no JSON"),
        ("[]", "is no JSON object"),
        ("null", "is no JSON object"),
        ("[" * 100_000, "is no JSON"),
        ('{"a":' * 100_000, "is no JSON"),
        ('{"seed": ' + "9" * 10_000 + "}", "is no JSON"),
        (replay(moment=float("nan")), "is no JSON"),
        (replay(moment=float("inf")), "is no JSON"),
        ("{}", "carries nothing for a replay"),
        (output(variants=[]), "holds no answers that could be compared"),
        (output(variants={}), "holds no answers that could be compared"),
        (output(variants=[{}] * 65), "holds no answers that could be compared"),
        (output(variants=["a"]), "answer 1 of out.json is no JSON object"),
        (output(variants=[json.loads(output())]), "its label is no text"),
        (without("text"), "its text is no text"),
        (output(text=["a"]), "its text is no text"),
        (output(reasoning_content=1), "its reasoning_content is no text"),
        (output(finish_reason=None), "its finish_reason is no text"),
        (without("params"), "its params are no object"),
        (output(params=[1]), "its params are no object"),
        (output(params={}), "its params have no seed"),
        (output(params={"seed": 1, "colour": "red"}), "unknown setting 'colour'"),
        (output(params={"seed": -1}), "its params have no seed"),
        (output(params={"seed": 2**32}), "seed must be"),
        (replay().replace("1500000000.0", "1e999"), "its moment cannot be"),
        (output().replace("0.5}", "1e999}"), "temperature must be"),
        (output(params={"seed": 1, "temperature": "0.5.."}), "temperature must be"),
        (output(params={"seed": 1, "n_threads": 1e400}), "is no JSON"),
        (output(params={"seed": 1, "stop": {"a": 1}}), "stop must be"),
        (without("messages"), "its messages are no list"),
        (output(messages=[]), "its messages are no list"),
        (output(messages=[1]), "one of its messages has no role"),
        (output(messages=[{"role": "tool", "content": "x"}]), "one of its messages has no role"),
        (output(messages=[{"role": ["user"], "content": "x"}]), "one of its messages has no role"),
        (output(messages=[{"role": "user"}]), "its content is no text"),
        (output(params={"seed": 1, "raw": True}), "its prompt is no text"),
        (output(replay=None), "it is no object"),
        (output(replay="x"), "it is no object"),
        (output(replay={}), "its n_ctx is missing"),
        (replay(n_ctx=0), "its n_ctx cannot be"),
        (replay(n_ctx=True), "its n_ctx cannot be"),
        (replay(n_ctx=512.0), "its n_ctx cannot be"),
        (replay(n_ctx=10**40), "its n_ctx cannot be"),
        (replay(threads=2), "its threads cannot be"),
        (replay(threads=[2]), "its threads cannot be"),
        (replay(threads=[2, 0]), "its threads cannot be"),
        (replay(threads=[2, 10**9]), "its threads cannot be"),
        (replay(threads={"1": 2}), "its threads cannot be"),
        (replay(model_sha256="../../etc/passwd"), "its model_sha256 cannot be"),
        (replay(model_sha256=DIGEST[:-1]), "its model_sha256 cannot be"),
        (replay(prompt_sha256=7), "its prompt_sha256 cannot be"),
        (replay(build=1), "its build cannot be"),
        (replay(template=["{{"]), "its template cannot be"),
        (replay(layout=7), "its layout cannot be"),
        (replay(layout="111"), "its layout cannot be"),
        (replay(layout=[5, 5, 1]), "its layout cannot be"),
        (replay(layout=[[5, 5]]), "its layout cannot be"),
        (replay(layout=[[5, 5, 1, 1]]), "its layout cannot be"),
        (replay(layout=[["5", 5, 1]]), "its layout cannot be"),
        (replay(layout=[[0, 0, 1]]), "its layout cannot be"),
        (replay(layout=[[5, 6, 1]]), "its layout cannot be"),
        (replay(layout=[[5, 5, 0]]), "its layout cannot be"),
        (replay(layout=[[5, 5, -1]]), "its layout cannot be"),
        (replay(layout=[[10**9, 5, 1]]), "its layout cannot be"),
        (replay(layout=[[6, 5, 1]]), "its layout cannot be"),  # the last one would have given no logits
        (replay(layout=[[5, 5, 10**9]]), "its layout cannot be"),
        (replay(layout=[[1, 1, 1]] * 100_000), "its layout cannot be"),
        (replay(moves=[[1]]), "its moves cannot be"),
        (replay(moves=[[-1, 0.5]]), "its moves cannot be"),
        (replay(moves=[[1, "hot"]]), "its moves cannot be"),
        (replay(moves=[[1, 1e300]]), "its moves cannot be"),
        (replay(moment="now"), "its moment cannot be"),
        (replay(first=0), "its first cannot be"),
        (replay(drawn=-1), "its drawn cannot be"),
        (replay(flushed=1), "its flushed cannot be"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(text: str, fault: str) -> None:
    with pytest.raises(UsageError) as caught:
        from_output(text, "out.json")
    assert fault in str(caught.value)
    assert "out.json" in str(caught.value)
    assert "\n" not in str(caught.value) + caught.value.hint


def test_no_file_that_a_record_names_is_opened(tmp_path: Path) -> None:
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


def test_a_policy_that_a_record_names_is_not_used_unless_the_user_names_one_too(tmp_path: Path) -> None:
    evil = tmp_path / "evil.py"
    evil.write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n\ndef hot(step): return 1.0\n")
    text = output(params={"seed": 1, "temp_policy_file": f"{evil}:hot", "temperature": "sentence:hot,0.5"})
    with pytest.raises(UsageError, match=r"a temperature policy of the user's own, .*evil.py:hot: that is code"):
        from_output(text, "out.json")
    assert not (tmp_path / "ran").exists()
    with pytest.raises(UsageError, match="drawn without a policy file"):
        from_output(output(), "out.json", "mine.py:cool")
    text = output(params={"seed": 1, "temp_policy_file": f"{evil}:hot"})
    assert from_output(text, "out.json", "mine.py:cool")[0].values["temp_policy_file"] == "mine.py:cool"


def test_a_session_keeps_no_policy_file_and_takes_none(home: Path, tmp_path: Path) -> None:
    session = Session()
    session.remember({"temp_policy_file": f"{tmp_path}/a.py:hot", "top_k": 7})
    session.say("user", "hi")
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


# Sessions


def session_with(**replay: Any) -> Session:
    session = Session(keep=False)
    session.say("user", "Why?")
    session.begin_answer(1, model="tiny", params={"seed": 3, "top_k": 2, "system": "Be brief."})
    session.end_answer("Because.", finish_reason="stop", replay=REPLAY | replay)
    return session


def test_an_answer_of_a_session_is_read() -> None:
    session = session_with()
    recorded = from_session(session, None)
    assert recorded.values == {"seed": 3, "top_k": 2, "temp_policy_file": None}
    assert (recorded.text, recorded.system, recorded.asked) == ("Because.", "Be brief.", None)
    assert [message.content for message in recorded.path] == ["Why?"]
    assert from_session(session, 2) == recorded == from_session(session, 1)


@pytest.mark.parametrize(("number", "fault"), [(0, "has no message 0"), (4, "has no message 4"), (3, "has no answer")])
def test_a_message_that_is_no_answer_is_refused(number: int, fault: str) -> None:
    session = session_with()
    session.say("user", "And?")
    with pytest.raises(UsageError, match=fault):
        from_session(session, number)


def test_an_answer_without_a_record_says_why() -> None:
    session = session_with()
    session.say("assistant", "No.", finish_reason="edited")
    with pytest.raises(UsageError, match=r"answer 3 of .* carries nothing") as caught:
        from_session(session, None)
    assert caught.value.hint == "no model gave it"
    with pytest.raises(UsageError, match="holds no answer"):
        from_session(Session(keep=False), None)


def test_an_answer_that_goes_on_with_one_that_is_not_there_is_refused() -> None:
    with pytest.raises(UsageError, match="goes on with message 77, which is not there"):
        from_session(session_with(begun=77), None)


def test_the_record_of_an_answer_is_read_back_from_its_line() -> None:
    message = session_with().conversation.path()[-1]
    event = json.loads(json.dumps(to_event(message)))
    assert from_event(event).replay == message.replay == REPLAY


@pytest.mark.parametrize("value", [None, 1, "x", [], {"n_ctx": "many"}, REPLAY | {"layout": [[0, 0, 0]]}])
def test_an_answer_with_a_record_that_cannot_be_is_kept_without_it(value: Any) -> None:
    event = to_event(session_with().conversation.path()[-1]) | {"replay": value}
    message = from_event(event)
    assert (message.content, message.replay) == ("Because.", {})
