"""The oldest turns become a summary, in a branch of its own, and nothing is lost."""

from collections.abc import Iterator
from typing import Any

import pytest

from llmcli.chat.attachments import Attachment
from llmcli.chat.compaction import Compaction
from llmcli.chat.dialogue import Dialogue
from llmcli.chat.local import LocalModel, Prompt
from llmcli.errors import ContextOverflowError, UsageError
from llmcli.params.settings import Settings
from tests.chat.dialogues import dialogue_with, open_local, say, scripted
from tests.models.tiny_models import full_attention

N_CTX = 512


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalModel]:
    local = open_local(full_attention(tmp_path_factory.mktemp("tiny") / "t.gguf"), Settings(n_ctx=N_CTX, n_threads=1))
    yield local
    local.close()


@pytest.fixture
def dialogue(tiny: LocalModel) -> Dialogue:
    return dialogue_with(tiny, n_ctx=N_CTX, max_tokens=6, system="be brief")


Asked = list[tuple[Prompt, Settings]]


@pytest.fixture
def asked(dialogue: Dialogue, monkeypatch: pytest.MonkeyPatch) -> Asked:
    """What the model is asked for a summary with; it says that all is well."""
    seen: Asked = []
    model = scripted("<think>hm</think>\n", "All ", "is well.\n")

    def generate(prompt: Prompt, settings: Settings, *more: object, **watched: object) -> Any:
        seen.append((prompt, settings))
        return model(prompt, settings, *more, **watched)

    monkeypatch.setattr(dialogue.local, "generate", generate)
    return seen


def talk(dialogue: Dialogue, *questions: str) -> None:
    for text in questions:
        dialogue.session.say("user", text)
        dialogue.session.say("assistant", f" {text * 2}")


def compact(dialogue: Dialogue, keep: int = 2) -> Compaction:
    compaction = Compaction(dialogue, dialogue.session.conversation.path(), keep)
    list(compaction.parts())
    return compaction


def texts(dialogue: Dialogue) -> list[tuple[str, str]]:
    return [(message.role, message.content) for message in dialogue.session.conversation.path()]


def test_the_conversation_goes_on_from_the_summary_and_the_last_turns(dialogue: Dialogue, asked: Asked) -> None:
    talk(dialogue, "a", "b", "c", "d")
    before, number = texts(dialogue), compact(dialogue).use()
    assert number == 4
    assert texts(dialogue) == [("summary", "All is well."), *before[4:]]


def test_the_old_branch_stays(dialogue: Dialogue, asked: Asked) -> None:
    talk(dialogue, "a", "b", "c")
    conversation = dialogue.session.conversation
    old, messages = conversation.head, dict(conversation.messages)
    compact(dialogue).use()
    assert conversation.messages | messages == conversation.messages
    assert old in conversation.leaves()
    dialogue.session.move(old)
    assert [role for role, _ in texts(dialogue)] == ["user", "assistant"] * 3


def test_the_model_reads_the_summary_with_the_system_text_and_no_longer_the_turns(
    dialogue: Dialogue, asked: Asked
) -> None:
    talk(dialogue, "a", "b", "c")
    compact(dialogue, 1).use()
    text = dialogue.prompt(dialogue.session.conversation.path()).text
    assert text.startswith("be brief\n\nWhat was said before, in summary:\nAll is well.\n\nUser: c\n")
    assert "User: a" not in text


def test_what_was_left_out_before_is_in_the_summary(dialogue: Dialogue, asked: Asked) -> None:
    talk(dialogue, "a", "b", "c")
    dialogue.first = dialogue.session.conversation.path()[4].id
    compact(dialogue, 1).use()
    assert "User: a\n\nAssistant:  aa" in asked[0][0].text
    assert dialogue.first is None


def test_a_summary_is_summarized_with_the_rest(dialogue: Dialogue, asked: Asked) -> None:
    talk(dialogue, "a", "b", "c")
    compact(dialogue, 1).use()
    talk(dialogue, "d", "e")
    assert compact(dialogue, 1).use() == 5
    assert "Earlier: All is well.\n\nUser: c" in asked[1][0].text
    assert [role for role, _ in texts(dialogue)] == ["summary", "user", "assistant"]


def test_files_are_summarized_and_stay_with_the_turns_that_stay(dialogue: Dialogue, asked: Asked) -> None:
    for name in ("old.txt", "new.txt"):
        dialogue.session.say("user", "see", attachments=(Attachment(name, f"in {name}"),))
        dialogue.session.say("assistant", " yes")
    compact(dialogue, 1).use()
    assert "in old.txt" in asked[0][0].text
    assert "in new.txt" not in asked[0][0].text
    assert [one.name for one in dialogue.session.conversation.path()[1].attachments] == ["new.txt"]


@pytest.mark.parametrize(("keep", "stay"), [(0, 0), (1, 2), (2, 4), (9, 4)])
def test_at_least_the_first_turn_is_summarized(dialogue: Dialogue, asked: Asked, keep: int, stay: int) -> None:
    talk(dialogue, "a", "b", "c")
    assert compact(dialogue, keep).use() == 6 - stay
    assert len(texts(dialogue)) == 1 + stay


@pytest.mark.parametrize("said", [[], ["user"], ["assistant", "user"][:1]])
def test_too_little_is_refused(dialogue: Dialogue, said: list[str]) -> None:
    for role in said:
        dialogue.session.say(role, "a")
    with pytest.raises(UsageError, match="too little"):
        Compaction(dialogue, dialogue.session.conversation.path())


def test_the_summary_is_free_of_what_answers_are_bound_to(dialogue: Dialogue, asked: Asked) -> None:
    dialogue.set("json_schema", "{}")
    dialogue.set("stop", ("All",))
    dialogue.set("prefill", "Well")
    dialogue.set("think", "show")
    dialogue.set("max_tokens", 3)
    dialogue.set("top_k", 7)
    talk(dialogue, "a", "b", "c")
    assert compact(dialogue).text == "All is well."
    settings = asked[0][1]
    assert (settings.json_schema, settings.prefill, settings.think, settings.top_k) == (None, None, "off", 7)
    assert settings.max_tokens == N_CTX // 4
    assert settings.stop == ("\nUser:",)  # of the plain template
    assert dialogue.settings.max_tokens == 3


def test_more_than_fits_loses_its_own_beginning(dialogue: Dialogue, asked: Asked) -> None:
    talk(dialogue, "a" * 60, "b" * 60, "c" * 20, "d")
    compact(dialogue, 1)
    prompt = asked[0][0]
    assert "a" * 60 not in prompt.text
    assert "c" * 20 in prompt.text
    assert len(prompt.tokens) + N_CTX // 4 < N_CTX


def test_one_message_that_is_too_long_to_be_summarized_is_an_error_and_changes_nothing(dialogue: Dialogue) -> None:
    dialogue.session.say("user", "a" * 20)
    dialogue.session.say("assistant", "b" * 600)
    before = texts(dialogue)
    with pytest.raises(ContextOverflowError):
        compact(dialogue)
    assert texts(dialogue) == before


def test_a_summary_that_was_stopped_says_so(dialogue: Dialogue) -> None:
    assert dialogue.local
    talk(dialogue, "a", "b", "c")
    compaction = Compaction(dialogue, dialogue.session.conversation.path())
    for _ in compaction.parts():
        dialogue.local.abort.set()
    dialogue.local.abort.clear()
    assert compaction.interrupted


def test_after_a_summary_the_chat_goes_on(dialogue: Dialogue) -> None:
    talk(dialogue, "a", "b", "c")
    compaction = compact(dialogue)
    compaction.text = "we sail"  # as the user changed it
    compaction.use()
    turn = say(dialogue, "d")
    assert "we sail" in turn.prompt.text
    assert turn.message
    assert turn.message.parent == dialogue.session.conversation.path()[-2].id
