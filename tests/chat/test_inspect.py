"""Which tokens an answer is made of, and what goes on from one of them."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from llmcli.chat.controller import ChatController
from llmcli.chat.conversation import Message
from llmcli.chat.inspect import AnswerInspector, last_answer
from llmcli.chat.turn import Turn
from llmcli.engine.sampling.temperature import TemperatureShift
from llmcli.errors import UsageError
from llmcli.inference.answer import Answer
from llmcli.inference.local import LocalModel, Prompt
from llmcli.params.policies.policy import Fixed
from llmcli.params.settings import Settings
from tests.chat.controllers import answer, dialogue_with, say

ASKED = "Write about a comet, a map and a coin."
XTC: dict[str, Any] = {"xtc_probability": 0.5, "xtc_threshold": 0.05}


@pytest.fixture
def controller(local: LocalModel) -> Iterator[ChatController]:
    local.open_context(Settings(n_ctx=512, n_threads=1))
    yield dialogue_with(local, n_ctx=512, max_tokens=12, temperature=Fixed(0.9))
    local.abort.clear()


def asked(controller: ChatController, **extra: Any) -> tuple[Turn, AnswerInspector]:
    turn = say(controller, ASKED, **extra)
    return turn, last_answer(controller, turn)


def probability(answered: AnswerInspector, number: int) -> float:
    """That of the drawn token when it is looked at again."""
    found = answered.dissect(number, 5)
    assert found
    return next(found.stepwise.after(one) for one in found.stepwise.candidates if one.id == found.drawn)


@pytest.mark.parametrize("extra", [{}, XTC, {"mirostat": 2}], ids=["plain", "xtc", "mirostat"])
def test_the_tokens_and_probabilities_are_those_of_the_trace(controller: ChatController, extra: dict[str, Any]) -> None:
    turn, answered = asked(controller, **extra)
    generation = turn.answer.generation
    assert answered.tokens == generation.tokens[len(generation.prompt) :]
    assert [one.i for one in answered.traces] == list(range(len(answered.tokens)))
    for number in (11, 3, 0):
        assert probability(answered, number) == pytest.approx(answered.traces[number].p, abs=1e-5)


def test_the_token_that_ended_the_answer_can_be_looked_at(controller: ChatController) -> None:
    turn, answered = asked(controller, grammar='root ::= "A comet."')
    assert turn.answer.finish_reason == "stop"
    last = len(answered.tokens) - 1
    assert answered.text(last) == "<|im_end|>"
    assert answered.ends(answered.tokens[last])
    assert not answered.ends(answered.tokens[0])
    assert probability(answered, last) == pytest.approx(answered.traces[last].p, abs=1e-5)


def test_moves_of_the_dial_are_made_again(controller: ChatController) -> None:
    controller.session.say("user", ASKED)
    turn = controller.answer(controller.session.conversation.path())
    for number, _ in enumerate(turn.parts()):
        if number == 3:
            turn.live_shift.add(0.6)
    answered = last_answer(controller, turn)
    moved = next(one.i for one in answered.traces if one.temperature == pytest.approx(1.5))
    found = answered.dissect(moved, 5)
    assert found
    assert found.trace.temperature == pytest.approx(1.5)
    assert probability(answered, moved) == pytest.approx(answered.traces[moved].p, abs=1e-5)


def test_the_least_sure_token_has_the_highest_entropy(controller: ChatController) -> None:
    _, answered = asked(controller)
    entropies = [one.entropy or 0.0 for one in answered.traces]
    assert answered.least_sure() == entropies.index(max(entropies))


def test_an_answer_of_an_earlier_chat_is_made_of_its_text(controller: ChatController) -> None:
    turn, fresh = asked(controller)
    assert turn.message
    answered = last_answer(controller, None)
    assert not answered.traces
    assert answered.made.prompt.tokens == fresh.made.prompt.tokens
    assert "".join(map(answered.text, range(len(answered.tokens)))) == turn.message.content
    assert answered.made.settings.seed == 1
    assert answered.made.settings.temperature == Fixed(0.9)
    assert answered.tokens == fresh.tokens  # these happen to be the same
    assert answered.least_sure() == fresh.least_sure()
    assert probability(answered, 5) == pytest.approx(probability(fresh, 5), abs=0.02)


def test_an_answer_keeps_the_settings_it_was_given_with(controller: ChatController) -> None:
    turn, _ = asked(controller, top_k=7, seed=3)
    controller.set("top_k", 2)
    made = last_answer(controller, None).made
    assert (made.settings.top_k, made.settings.seed) == (7, 3)
    assert turn.message
    controller.session.move(turn.message.parent)
    controller.session.say("assistant", "A comet.", finish_reason="edited")
    assert last_answer(controller, turn).made.settings.top_k == 2  # nobody knows others


def test_the_last_answer_is_that_of_the_branch_that_is_talked_in(controller: ChatController) -> None:
    first, _ = asked(controller)
    assert first.message
    controller.session.move(first.message.parent)
    second = answer(controller, seed=9)
    assert last_answer(controller, second).traces
    controller.session.move(first.message.id)
    found = last_answer(controller, second)
    assert found.message == first.message
    assert not found.traces


def test_what_follows_an_answer_does_not_hide_it(controller: ChatController) -> None:
    turn, _ = asked(controller)
    controller.session.say("user", "And then?")
    found = last_answer(controller, turn)
    assert found.message == turn.message
    assert [message.content for message in found.path] == [ASKED]


def test_a_session_without_an_answer_is_an_error(controller: ChatController) -> None:
    with pytest.raises(UsageError, match="no answer"):
        last_answer(controller, None)
    controller.session.say("user", "hi")
    with pytest.raises(UsageError, match="no answer"):
        last_answer(controller, None)


def test_an_abort_leaves_the_question_open(controller: ChatController, local: LocalModel) -> None:
    _, answered = asked(controller)
    local.abort.set()
    assert answered.dissect(3, 5) is None
    assert answered.candidate(3, 1) is None
    assert last_answer(controller, None).least_sure() is None
    local.abort.clear()
    assert answered.dissect(3, 5)


def test_looking_leaves_the_next_answer_as_it_would_have_been(controller: ChatController, local: LocalModel) -> None:
    def talk(look: bool) -> tuple[str, str, int]:
        controller.session.clear()
        local.context.prefill(0, [1])
        turn, answered = asked(controller)
        if look:
            for number in (7, 2, 0):
                assert answered.dissect(number, 5)
            assert answered.candidate(4, 3) is not None
        second = say(controller, "And then?")
        return turn.answer.text, second.answer.text, second.answer.generation.timings.prompt_n

    assert talk(True) == talk(False)


# Texts and beginnings, on a prompt that no model has read


def made_of(
    local: LocalModel, text: str, prompt: str = "Say it:", inside: bool = False, **values: Any
) -> AnswerInspector:
    """An answer of this text."""
    vocab, settings = local.model.vocab, Settings(seed=1, **values)
    made = Answer(local, Prompt(prompt, vocab.tokenize(prompt)), settings, None, None, inside, TemperatureShift(), 0)
    made.generation_options()  # lets the tags of reasoning show
    tokens = vocab.tokenize(text, parse_special=True)
    return AnswerInspector(Message(2, 1, "assistant", text), [Message(1, None, "user", prompt)], made, tokens)


def test_a_text_is_found_in_a_token_or_in_those_that_spell_it(local: LocalModel) -> None:
    answered = made_of(local, "The cat sat on the mat, the cat. Ünbelievable 🙂!")
    texts = [answered.text(number) for number in range(len(answered.tokens))]
    assert answered.find("cat") == 1
    assert answered.find("mat") == texts.index(" mat")
    assert answered.find(" the") == texts.index(" the")
    assert answered.find("on the mat") == texts.index(" on")
    assert answered.find("cat.") == len(texts[: texts.index(".")]) - 1
    unlike = answered.find("Ünb")
    assert unlike is not None
    assert "".join(texts[:unlike]).endswith("cat. ") or texts[unlike - 1] == "."
    smile = answered.find("🙂")
    assert smile is not None
    assert answered.tokens[smile:]
    assert answered.find("dog") is None


def test_a_branch_starts_with_the_text_and_the_other_token(local: LocalModel) -> None:
    answered = made_of(local, "The cat sat on the mat.")
    dog = local.model.vocab.tokenize(" dog")[0]
    assert answered.beginning(1, dog) == ("The dog", "")
    assert answered.beginning(3, dog) == ("The cat sat dog", "")
    assert made_of(local, " well.", prefill="All is").beginning(1, dog) == ("All is well dog", "")
    with_begun = replace(answered, begun=Message(2, 1, "assistant", "", reasoning="Hm."))
    assert with_begun.beginning(1, dog) == ("The dog", "Hm.")


def test_a_part_of_a_character_begins_no_branch(local: LocalModel) -> None:
    answered = made_of(local, "Look 🦖!")
    last = len(answered.tokens) - 2  # before the exclamation mark
    first = next(number for number in range(last) if answered.text(number).endswith("\ufffd"))
    with pytest.raises(UsageError, match="ends within a character"):
        answered.beginning(first, answered.tokens[first])
    assert answered.beginning(last, answered.tokens[last])[0] == "Look 🦖"


THOUGHT = "<think>\nA cat, then.\n</think>\n\nThe cat sat."


def test_a_branch_within_the_reasoning_continues_it(local: LocalModel) -> None:
    answered = made_of(local, THOUGHT)
    then, the = answered.find("then"), answered.find("The")
    assert then is not None
    assert the is not None
    dog = local.model.vocab.tokenize(" dog")[0]
    assert answered.beginning(then, dog) == ("", "A cat, dog")
    assert answered.beginning(the + 1, dog) == ("The dog", "A cat, then.")
    inside = made_of(local, " then.\n</think>\n\nThe cat.", "<think>A cat,", inside=True)
    begun = replace(inside, begun=Message(2, 1, "assistant", "", reasoning="A cat,"))
    assert begun.beginning(0, dog) == ("", "A cat, dog")


@pytest.mark.parametrize("at", [0, "The"])
def test_a_branch_before_any_text_is_refused(local: LocalModel, at: Any) -> None:
    answered = made_of(local, THOUGHT)
    number = answered.find(at) if isinstance(at, str) else at
    assert number is not None
    line_feed = local.model.vocab.tokenize("\n")[0]
    with pytest.raises(UsageError, match="no text before this token"):
        answered.beginning(number, 2 if at == 0 else line_feed)


def test_a_candidate_is_found_by_its_rank_in_the_model(controller: ChatController) -> None:
    _, answered = asked(controller)
    found = answered.dissect(4, 6)
    assert found
    by_rank = {one.rank: one.id for one in found.stepwise.candidates}
    assert [answered.candidate(4, rank) for rank in (1, 2, 6)] == [by_rank[1], by_rank[2], by_rank[6]]
    for rank in (0, 10**7):
        with pytest.raises(UsageError, match="no candidate"):
            answered.candidate(4, rank)
