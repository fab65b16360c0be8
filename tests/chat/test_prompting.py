"""How templates of every temper see a conversation, and what is read before anybody asks."""

from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from llmcli.chat.controller import ChatController
from llmcli.chat.conversation import Message
from llmcli.chat.prompting import PromptBuilder, as_messages
from llmcli.engine.llama.context import common_prefix
from llmcli.errors import LlmcliError
from llmcli.inference.engine import Request
from llmcli.inference.local import LocalEngine
from llmcli.params.settings import Settings
from tests.chat.controllers import answer, ask, controller_with, open_local, scripted
from tests.models.tiny_models import full_attention

# As gemma's: no system message, and the user begins and takes turns with the model.
STRICT = """{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}
{%- for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) -%}
{{ raise_exception('Conversation roles must alternate user/assistant') }}{% endif -%}
<{{ m.role }}>{{ m.content }}
{% endfor %}<assistant>"""


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalEngine]:
    """A model without a template."""
    local = open_local(full_attention(tmp_path_factory.mktemp("tiny") / "tiny.gguf"), Settings(n_ctx=512, n_threads=1))
    yield local
    local.close()


@pytest.fixture
def controller(tiny: LocalEngine) -> ChatController:
    return controller_with(tiny, n_ctx=512, max_tokens=4)


def path(*messages: tuple[str, str]) -> list[Message]:
    return [Message(number, number - 1 or None, role, text) for number, (role, text) in enumerate(messages, 1)]


def rendered(controller: ChatController, *messages: tuple[str, str]) -> str:
    return controller.prompt(path(*messages)).text


# The messages that a template gets


def test_two_messages_of_one_role_are_one() -> None:
    """An answer that was stopped before its first word leaves two questions."""
    messages = path(("user", "a"), ("user", "b"), ("assistant", "c"), ("assistant", "d"), ("user", "e"))
    assert as_messages(messages, None) == [
        {"role": "user", "content": "a\n\nb"},
        {"role": "assistant", "content": "c\n\nd"},
        {"role": "user", "content": "e"},
    ]


def test_a_summary_becomes_part_of_the_system_text() -> None:
    messages = path(("summary", "whales"), ("user", "a"), ("summary", "and ships"), ("assistant", "b"))
    system, *rest = as_messages(messages, "be brief")
    assert system["role"] == "system"
    assert system["content"] == (
        "be brief\n\nWhat was said before, in summary:\nwhales\n\nWhat was said before, in summary:\nand ships"
    )
    assert [message["role"] for message in rest] == ["user", "assistant"]


def test_an_empty_system_text_makes_no_system_message() -> None:
    assert as_messages(path(("user", "a")), None) == as_messages(path(("user", "a")), "")
    assert as_messages([], None) == []
    assert as_messages(path(("summary", "whales")), None)[0]["role"] == "system"


def test_a_message_changes_no_other_when_they_are_joined() -> None:
    messages = path(("user", "a"), ("user", "b"))
    assert as_messages(messages, None) == as_messages(messages, None)
    assert messages[0].content == "a"


# Templates


@pytest.mark.parametrize(
    ("messages", "system", "text"),
    [
        ([("user", "a")], "sys", "<user>sys\n\na\n<assistant>"),
        ([("assistant", "ahoy"), ("user", "a")], None, "<user>Hello.\n<assistant>ahoy\n<user>a\n<assistant>"),
        ([("assistant", "ahoy"), ("user", "a")], "sys", "<user>sys\n<assistant>ahoy\n<user>a\n<assistant>"),
        (
            [("summary", "whales"), ("user", "a")],
            None,
            "<user>What was said before, in summary:\nwhales\n\na\n<assistant>",
        ),
        ([("user", "a"), ("user", "b")], None, "<user>a\n\nb\n<assistant>"),
    ],
)
def test_a_strict_template_reads_every_conversation(
    controller: ChatController, messages: list[tuple[str, str]], system: str | None, text: str
) -> None:
    controller.set("chat_template", STRICT)
    controller.set("system", system)
    assert rendered(controller, *messages) == text


def test_a_template_that_always_fails_is_an_error(controller: ChatController) -> None:
    controller.set("chat_template", "{{ raise_exception('never') }}")
    for messages in ([("user", "a")], [("assistant", "b"), ("user", "a")], []):
        with pytest.raises(LlmcliError, match="the chat template fails: never"):
            rendered(controller, *messages)


def test_another_template_applies_to_the_next_prompt(controller: ChatController) -> None:
    plain = rendered(controller, ("user", "a"))
    controller.set("chat_template", "{{ messages[-1].content }}!")
    assert rendered(controller, ("user", "a")) == "a!"
    assert not controller.prompt_builder.with_plain_stop(controller.settings).stop
    controller.reset()
    assert rendered(controller, ("user", "a")) == plain
    assert controller.prompt_builder.with_plain_stop(controller.settings).stop == ("\nUser:",)


def test_without_a_template_the_prompt_is_plain_text(controller: ChatController) -> None:
    controller.set("system", "be brief")
    text = rendered(controller, ("user", "a"), ("assistant", "b"), ("user", "c"))
    assert text == "be brief\n\nUser: a\nAssistant: b\nUser: c\nAssistant:"


def test_a_plain_answer_is_read_again_as_it_was_written(controller: ChatController) -> None:
    """It begins with the space behind the colon; a second one would make other tokens of it."""
    first = rendered(controller, ("user", "a"))
    assert rendered(controller, ("user", "a"), ("assistant", " b"), ("user", "c")) == f"{first} b\nUser: c\nAssistant:"


def test_a_plain_answer_ends_at_the_turn_of_the_user(
    controller: ChatController, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Settings] = []
    model = scripted(" yes")

    def generate(asked: Sequence[Request]) -> Any:
        seen.extend(one.settings for one in asked)
        return model(asked)

    monkeypatch.setattr(controller.engine, "generate", generate)
    controller.set("stop", ("end",))
    ask(controller, "a")
    answer(controller, chat_template="{{ messages[-1].content }}")
    answer(controller, raw=True)
    assert [settings.stop for settings in seen] == [("end", "\nUser:"), ("end",), ("end",)]


def test_raw_text_is_the_prompt_unchanged(controller: ChatController) -> None:
    controller.set("raw", True)
    controller.set("system", "unheard")
    messages = [("user", "once "), ("assistant", "upon"), ("user", " a time")]
    assert rendered(controller, *messages) == "once upon a time"


# What is known from before


def test_a_message_is_counted_once(tiny: LocalEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    counted: list[str] = []

    def count(text: str) -> int:
        counted.append(text)
        return len(text)

    monkeypatch.setattr(tiny, "count_tokens", count)
    prompt_builder = PromptBuilder(tiny)
    assert [prompt_builder.count_tokens(text) for text in ("a", "a", "bb", "a")] == [1, 1, 2, 1]
    assert counted == ["a", "bb"]


@pytest.mark.parametrize("raw", [True, False])
def test_every_next_prompt_starts_with_the_text_read_ahead(tiny: LocalEngine, raw: bool) -> None:
    controller = controller_with(tiny, n_ctx=512, max_tokens=4, raw=raw, system="be brief")
    tiny.warm([5])  # something else
    messages = path(("user", "the river"), ("assistant", " why"))
    controller.prompt_builder.read_ahead(messages, "be brief", controller.settings)
    held = tiny._context._evaluated[0] if tiny._context else []
    assert len(held) > 5
    for text in ("a", "zoe", "\n"):
        tokens = controller.prompt([*messages, Message(3, 2, "user", text)]).tokens
        assert common_prefix(held, tokens) >= len(held) - 1
