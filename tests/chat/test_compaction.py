"""The oldest turns become a summary in a new branch, and the old branch stays."""

from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from llmcli.chat.compaction import Compaction
from llmcli.chat.controller import ChatController
from llmcli.chat.conversation import Attachment
from llmcli.engine.events import Prompt, Request
from llmcli.errors import ContextOverflowError, UsageError
from llmcli.inference.engine import TemplateOptions
from llmcli.inference.local import LocalEngine
from llmcli.params.settings import Settings
from tests.chat.controllers import ask, controller_with, open_local, scripted
from tests.inference.fake_engine import FakeEngine
from tests.models.tiny_models import full_attention

N_CTX = 512


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalEngine]:
    local = open_local(full_attention(tmp_path_factory.mktemp("tiny") / "t.gguf"), Settings(n_ctx=N_CTX, n_threads=1))
    yield local
    local.close()


@pytest.fixture
def controller(tiny: LocalEngine) -> ChatController:
    return controller_with(tiny, n_ctx=N_CTX, max_tokens=6, system="be brief")


Requests = list[tuple[Prompt, Settings]]


@pytest.fixture
def requests(controller: ChatController, monkeypatch: pytest.MonkeyPatch) -> Requests:
    """The requests for a summary; the model always answers that all is well."""
    seen: Requests = []
    model = scripted("<think>hm</think>\n", "All ", "is well.\n")

    def generate(asked: Sequence[Request]) -> Any:
        seen.extend((one.prompt, one.settings) for one in asked)
        return model(asked)

    monkeypatch.setattr(controller.engine, "generate", generate)
    return seen


def add_turns(controller: ChatController, *questions: str) -> None:
    for text in questions:
        controller.session.add("user", text)
        controller.session.add("assistant", f" {text * 2}")


def compact(controller: ChatController, keep: int = 2) -> int:
    """Continue from the summary of the model; returns the number of messages that it replaces."""
    compaction = Compaction(controller, controller.session.conversation.path(), keep)
    list(compaction.answer.parts())
    return compaction.use(compaction.answer.text.strip())


def texts(controller: ChatController) -> list[tuple[str, str]]:
    return [(message.role, message.content) for message in controller.session.conversation.path()]


def test_the_conversation_continues_from_the_summary(controller: ChatController, requests: Requests) -> None:
    add_turns(controller, "a", "b", "c", "d")
    before, number = texts(controller), compact(controller)
    assert number == 4
    assert texts(controller) == [("summary", "All is well."), *before[4:]]


def test_the_old_branch_stays(controller: ChatController, requests: Requests) -> None:
    add_turns(controller, "a", "b", "c")
    conversation = controller.session.conversation
    old, messages = conversation.head, dict(conversation.messages)
    compact(controller)
    assert conversation.messages | messages == conversation.messages
    assert old in conversation.leaves()
    controller.session.conversation.move(old)
    assert [role for role, _ in texts(controller)] == ["user", "assistant"] * 3


def test_the_model_reads_the_summary_in_place_of_the_turns(controller: ChatController, requests: Requests) -> None:
    add_turns(controller, "a", "b", "c")
    compact(controller, 1)
    text = controller.prompt(controller.session.conversation.path()).text
    assert text.startswith("be brief\n\nWhat was said before, in summary:\nAll is well.\n\nUser: c\n")
    assert "User: a" not in text


def test_turns_that_were_dropped_are_in_the_summary(controller: ChatController, requests: Requests) -> None:
    add_turns(controller, "a", "b", "c")
    controller.window_start = controller.session.conversation.path()[4].id
    compact(controller, 1)
    assert "User: a\n\nAssistant:  aa" in requests[0][0].text
    assert controller.window_start is None


def test_an_older_summary_is_part_of_the_next_one(controller: ChatController, requests: Requests) -> None:
    add_turns(controller, "a", "b", "c")
    compact(controller, 1)
    add_turns(controller, "d", "e")
    assert compact(controller, 1) == 5
    assert "Earlier: All is well.\n\nUser: c" in requests[1][0].text
    assert [role for role, _ in texts(controller)] == ["summary", "user", "assistant"]


def test_files_of_old_turns_are_summarized_and_of_new_ones_stay(controller: ChatController, requests: Requests) -> None:
    for name in ("old.txt", "new.txt"):
        controller.session.add("user", "see", attachments=(Attachment(name, f"in {name}"),))
        controller.session.add("assistant", " yes")
    compact(controller, 1)
    assert "in old.txt" in requests[0][0].text
    assert "in new.txt" not in requests[0][0].text
    assert [one.name for one in controller.session.conversation.path()[1].attachments] == ["new.txt"]


@pytest.mark.parametrize(("keep", "stay"), [(0, 0), (1, 2), (2, 4), (9, 4)])
def test_at_least_the_first_turn_is_summarized(
    controller: ChatController, requests: Requests, keep: int, stay: int
) -> None:
    add_turns(controller, "a", "b", "c")
    assert compact(controller, keep) == 6 - stay
    assert len(texts(controller)) == 1 + stay


@pytest.mark.parametrize("roles", [[], ["user"], ["assistant"]])
def test_a_conversation_of_one_message_is_too_short(controller: ChatController, roles: list[str]) -> None:
    for role in roles:
        controller.session.add(role, "a")
    with pytest.raises(UsageError, match="too short"):
        Compaction(controller, controller.session.conversation.path())


def test_the_summary_ignores_constraints_of_answers(controller: ChatController, requests: Requests) -> None:
    controller.set("json_schema", "{}")
    controller.set("stop", ("All",))
    controller.set("prefill", "Well")
    controller.set("think", "show")
    controller.set("max_tokens", 3)
    controller.set("top_k", 7)
    add_turns(controller, "a", "b", "c")
    compact(controller)
    assert texts(controller)[0] == ("summary", "All is well.")
    settings = requests[0][1]
    assert (settings.json_schema, settings.prefill, settings.think, settings.top_k) == (None, None, "off", 7)
    assert settings.max_tokens == N_CTX // 4
    assert settings.stop == ("\nUser:",)  # of the plain template
    assert controller.settings.max_tokens == 3


def test_a_raw_chat_has_a_summary_under_the_template(controller: ChatController, requests: Requests) -> None:
    controller.set("raw", True)
    add_turns(controller, "a", "b", "c")
    controller.prompt_builder.with_plain_stop(controller.settings)  # as for an answer, before the summary
    compact(controller)
    prompt = requests[0][0]
    assert prompt.template
    assert prompt.text.startswith("User: Summarize")


def test_the_oldest_text_is_skipped_if_the_request_is_too_long(controller: ChatController, requests: Requests) -> None:
    add_turns(controller, "a" * 60, "b" * 60, "c" * 20, "d")
    compact(controller, 1)
    prompt = requests[0][0]
    assert "a" * 60 not in prompt.text
    assert "c" * 20 in prompt.text
    assert len(prompt.tokens) + N_CTX // 4 < N_CTX


def test_a_message_too_long_to_summarize_changes_nothing(controller: ChatController) -> None:
    controller.session.add("user", "a" * 20)
    controller.session.add("assistant", "b" * 600)
    before = texts(controller)
    with pytest.raises(ContextOverflowError):
        compact(controller)
    assert texts(controller) == before


def test_a_stopped_summary_is_marked_as_interrupted(controller: ChatController) -> None:
    assert controller.engine
    add_turns(controller, "a", "b", "c")
    compaction = Compaction(controller, controller.session.conversation.path())
    for _ in compaction.answer.parts():
        compaction.answer.request.cancellation.set()
    assert compaction.answer.finish_reason == "interrupt"


def test_the_next_answer_reads_a_summary_that_the_user_edited(controller: ChatController) -> None:
    add_turns(controller, "a", "b", "c")
    compaction = Compaction(controller, controller.session.conversation.path())
    compaction.use("we sail")  # as the user changed it
    turn = ask(controller, "d")
    assert "we sail" in turn.answer.prompt.text
    assert turn.message
    assert turn.message.parent == controller.session.conversation.path()[-2].id


@pytest.mark.parametrize("n_turns", [50, 500, 5000])
def test_a_long_conversation_is_summarized_in_linear_time(n_turns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = FakeEngine(n_ctx=4096)
    controller = controller_with(engine)
    add_turns(controller, *("hi" for _ in range(n_turns)))
    rendered: list[int] = []
    render = engine.render

    def count(asked: Any, options: TemplateOptions) -> Prompt:
        prompt = render(asked, options)
        rendered.append(len(prompt.text))
        return prompt

    monkeypatch.setattr(engine, "render", count)
    compaction = Compaction(controller, controller.session.conversation.path())
    per_turn = len("User: hi\n\nAssistant:  hihi\n\n")
    assert sum(rendered) < n_turns * per_turn + 100_000
    most = (0.75 * engine.n_ctx - 300) / per_turn  # turns: the request itself has 300 letters, each of which is a token
    assert (len(compaction.old) - compaction.n_skipped) / 2 == pytest.approx(min(n_turns - 2, most), abs=3)
