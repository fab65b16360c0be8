"""The tokens of an answer, their candidates, and branches that start at one of them."""

from pathlib import Path
from typing import Any

import pytest

from llmcli.chat.controller import ChatController
from llmcli.chat.conversation import Message
from llmcli.chat.inspect import AnswerInspector, last_answer
from llmcli.chat.sessions.session import Turn
from llmcli.engine.events import Cancellation, Prompt, Request
from llmcli.errors import UsageError
from llmcli.inference.answer import Answer
from llmcli.inference.local import LocalEngine
from llmcli.params.policies.policy import Fixed
from llmcli.params.settings import Settings
from tests.chat.controllers import answer, ask, controller_with
from tests.engine.drive import UNSTOPPED

ASKED = "Write about a comet, a map and a coin."
XTC: dict[str, Any] = {"xtc_probability": 0.5, "xtc_threshold": 0.05}


@pytest.fixture
def controller(local: LocalEngine) -> ChatController:
    local.open_context(Settings(n_ctx=512, n_threads=1))
    return controller_with(local, n_ctx=512, max_tokens=12, temperature=Fixed(0.9))


def ask_and_inspect(controller: ChatController, **extra: Any) -> tuple[Turn, AnswerInspector]:
    turn = ask(controller, ASKED, **extra)
    return turn, last_answer(controller, turn)


def probability(inspector: AnswerInspector, number: int) -> float:
    """The probability of the sampled token when it is inspected."""
    found = inspector.inspector.inspect(number, 5, *UNSTOPPED)
    assert found
    return next(found.stepwise.after(one) for one in found.stepwise.candidates if one.id == found.drawn)


@pytest.mark.parametrize("extra", [{}, XTC, {"mirostat": 2}], ids=["plain", "xtc", "mirostat"])
def test_the_tokens_and_probabilities_are_those_of_the_trace(controller: ChatController, extra: dict[str, Any]) -> None:
    turn, inspector = ask_and_inspect(controller, **extra)
    generation = turn.answer.record
    assert inspector.tokens == generation.tokens[len(turn.answer.prompt.tokens) :]
    assert [one.i for one in inspector.traces] == list(range(len(inspector.tokens)))
    for number in (11, 3, 0):
        assert probability(inspector, number) == pytest.approx(inspector.traces[number].p, abs=1e-5)


def test_the_token_that_ended_the_answer_can_be_inspected(controller: ChatController) -> None:
    turn, inspector = ask_and_inspect(controller, grammar='root ::= "A comet."')
    assert turn.answer.finish_reason == "stop"
    last = len(inspector.tokens) - 1
    assert inspector.text(last) == "<|im_end|>"
    assert inspector.answer.engine.tokenizer.ends(inspector.tokens[last])
    assert not inspector.answer.engine.tokenizer.ends(inspector.tokens[0])
    assert probability(inspector, last) == pytest.approx(inspector.traces[last].p, abs=1e-5)


def test_temperature_shifts_are_repeated(controller: ChatController) -> None:
    controller.session.add("user", ASKED)
    turn = controller.answer(controller.session.conversation.path())
    assert turn.answer.request.live_shift
    for number, _ in enumerate(turn.parts()):
        if number == 3:
            turn.answer.request.live_shift.add(0.6)
    inspector = last_answer(controller, turn)
    moved = next(one.i for one in inspector.traces if one.temperature == pytest.approx(1.5))
    found = inspector.inspector.inspect(moved, 5, *UNSTOPPED)
    assert found
    assert found.trace.temperature == pytest.approx(1.5)
    assert probability(inspector, moved) == pytest.approx(inspector.traces[moved].p, abs=1e-5)


def test_the_least_sure_token_has_the_highest_entropy(controller: ChatController) -> None:
    _, inspector = ask_and_inspect(controller)
    entropies = [one.entropy or 0.0 for one in inspector.traces]
    assert inspector.least_sure(*UNSTOPPED) == entropies.index(max(entropies))


def test_an_answer_of_an_earlier_chat_is_tokenized_again(controller: ChatController) -> None:
    turn, fresh = ask_and_inspect(controller)
    assert turn.message
    inspector = last_answer(controller, None)
    assert not inspector.traces
    assert inspector.answer.prompt.tokens == fresh.answer.prompt.tokens
    assert "".join(map(inspector.text, range(len(inspector.tokens)))) == turn.message.content
    assert inspector.answer.settings.seed == 1
    assert inspector.answer.settings.temperature == Fixed(0.9)
    assert inspector.tokens == fresh.tokens  # these happen to be the same
    assert inspector.least_sure(*UNSTOPPED) == fresh.least_sure(*UNSTOPPED)
    assert probability(inspector, 5) == pytest.approx(probability(fresh, 5), abs=0.02)


def test_an_answer_is_inspected_with_its_own_settings(controller: ChatController) -> None:
    turn, _ = ask_and_inspect(controller, top_k=7, seed=3)
    controller.set("top_k", 2)
    made = last_answer(controller, None).answer
    assert (made.settings.top_k, made.settings.seed) == (7, 3)
    assert turn.message
    controller.session.conversation.move(turn.message.parent)
    controller.session.add("assistant", "A comet.", finish_reason="edited")
    assert last_answer(controller, turn).answer.settings.top_k == 2  # nobody knows others


def test_the_last_answer_is_that_of_the_current_branch(controller: ChatController) -> None:
    first, _ = ask_and_inspect(controller)
    assert first.message
    controller.session.conversation.move(first.message.parent)
    second = answer(controller, seed=9)
    assert last_answer(controller, second).traces
    controller.session.conversation.move(first.message.id)
    found = last_answer(controller, second)
    assert found.message == first.message
    assert not found.traces


def test_a_later_message_does_not_hide_the_last_answer(controller: ChatController) -> None:
    turn, _ = ask_and_inspect(controller)
    controller.session.add("user", "And then?")
    found = last_answer(controller, turn)
    assert found.message == turn.message


def test_a_session_without_an_answer_is_an_error(controller: ChatController) -> None:
    with pytest.raises(UsageError, match="no answer"):
        last_answer(controller, None)
    controller.session.add("user", "hi")
    with pytest.raises(UsageError, match="no answer"):
        last_answer(controller, None)


def test_an_aborted_inspection_has_no_result(controller: ChatController) -> None:
    _, inspector = ask_and_inspect(controller)
    flag = Cancellation()
    flag.set()
    assert inspector.inspector.inspect(3, 5, flag, UNSTOPPED[1]) is None
    assert inspector.candidate(3, 1, flag, UNSTOPPED[1]) is None
    assert last_answer(controller, None).least_sure(flag, UNSTOPPED[1]) is None
    assert inspector.inspector.inspect(3, 5, *UNSTOPPED)


def test_an_inspection_does_not_change_the_next_answer(controller: ChatController, local: LocalEngine) -> None:
    def run_chat(inspects: bool) -> tuple[str, str, int]:
        controller.session.conversation.clear()
        local.context.prefill(0, [1])
        turn, inspector = ask_and_inspect(controller)
        if inspects:
            for number in (7, 2, 0):
                assert inspector.inspector.inspect(number, 5, *UNSTOPPED)
            assert inspector.candidate(4, 3, *UNSTOPPED) is not None
        second = ask(controller, "And then?")
        return turn.answer.text, second.answer.text, second.answer.record.timings.prompt_n

    assert run_chat(True) == run_chat(False)


# Texts and beginnings, on a prompt that no model has read


def inspector_of(
    local: LocalEngine, text: str, prompt: str = "Say it:", reasoning: str = "", **values: Any
) -> AnswerInspector:
    """An answer of this text."""
    vocab, settings = local.model.vocab, Settings(seed=1, **values)
    request = Request(Prompt.of_tokens(prompt, vocab.tokenize(prompt)), settings, reasoning=reasoning, trace=0)
    answer = Answer(local, request)
    local.start(request).close()  # lets the tags of reasoning show
    tokens = vocab.tokenize(text, parse_special=True)
    return AnswerInspector(Message(2, 1, "assistant", text), answer, tokens)


def test_a_text_is_found_in_a_token_or_in_those_that_spell_it(local: LocalEngine) -> None:
    inspector = inspector_of(local, "The cat sat on the mat, the cat. Ünbelievable 🙂!")
    texts = [inspector.text(number) for number in range(len(inspector.tokens))]
    assert inspector.find("cat") == 1
    assert inspector.find("mat") == texts.index(" mat")
    assert inspector.find(" the") == texts.index(" the")
    assert inspector.find("on the mat") == texts.index(" on")
    assert inspector.find("cat.") == len(texts[: texts.index(".")]) - 1
    unlike = inspector.find("Ünb")
    assert unlike is not None
    assert "".join(texts[:unlike]).endswith("cat. ") or texts[unlike - 1] == "."
    smile = inspector.find("🙂")
    assert smile is not None
    assert inspector.tokens[smile:]
    assert inspector.find("dog") is None


def test_a_branch_starts_with_the_text_and_the_other_token(local: LocalEngine) -> None:
    inspector = inspector_of(local, "The cat sat on the mat.")
    dog = local.model.vocab.tokenize(" dog")[0]
    assert inspector.text_before(1, dog) == ("The dog", "")
    assert inspector.text_before(3, dog) == ("The cat sat dog", "")
    assert inspector_of(local, " well.", prefill="All is").text_before(1, dog) == ("All is well dog", "")
    after_reasoning = inspector_of(local, " well.", prefill="All is", reasoning="Hm.")
    assert after_reasoning.text_before(1, dog) == ("All is well dog", "Hm.")


def test_a_part_of_a_character_cannot_begin_a_branch(local: LocalEngine) -> None:
    inspector = inspector_of(local, "Look 🦖!")
    last = len(inspector.tokens) - 2  # before the exclamation mark
    first = next(number for number in range(last) if inspector.text(number).endswith("\ufffd"))
    with pytest.raises(UsageError, match="ends within a character"):
        inspector.text_before(first, inspector.tokens[first])
    assert inspector.text_before(last, inspector.tokens[last])[0] == "Look 🦖"


THOUGHT = "<think>\nA cat, then.\n</think>\n\nThe cat sat."


def test_a_branch_within_the_reasoning_continues_it(local: LocalEngine) -> None:
    inspector = inspector_of(local, THOUGHT)
    then, the = inspector.find("then"), inspector.find("The")
    assert then is not None
    assert the is not None
    dog = local.model.vocab.tokenize(" dog")[0]
    assert inspector.text_before(then, dog) == ("", "A cat, dog")
    assert inspector.text_before(the + 1, dog) == ("The dog", "A cat, then.")
    inside = inspector_of(local, " then.\n</think>\n\nThe cat.", "<think>A cat,", "A cat,")
    assert inside.text_before(0, dog) == ("", "A cat, dog")


@pytest.mark.parametrize("at", [0, "The"])
def test_a_branch_before_any_text_is_refused(local: LocalEngine, at: Any) -> None:
    inspector = inspector_of(local, THOUGHT)
    number = inspector.find(at) if isinstance(at, str) else at
    assert number is not None
    line_feed = local.model.vocab.tokenize("\n")[0]
    with pytest.raises(UsageError, match="no text before this token"):
        inspector.text_before(number, 2 if at == 0 else line_feed)


def test_a_candidate_is_found_by_its_rank_in_the_model(controller: ChatController) -> None:
    _, inspector = ask_and_inspect(controller)
    found = inspector.inspector.inspect(4, 6, *UNSTOPPED)
    assert found
    by_rank = {one.rank: one.id for one in found.stepwise.candidates}
    assert [inspector.candidate(4, rank, *UNSTOPPED) for rank in (1, 2, 6)] == [by_rank[1], by_rank[2], by_rank[6]]
    for rank in (0, 10**7):
        with pytest.raises(UsageError, match=r"candidate .* does not exist"):
            inspector.candidate(4, rank, *UNSTOPPED)


def test_no_file_that_a_loaded_answer_names_is_opened(controller: ChatController, tmp_path: Path) -> None:
    evil, ran = tmp_path / "evil.py", tmp_path / "ran"
    evil.write_text(f"open({str(ran)!r}, 'w')\ndef hot(step):\n    return 0.5\n")
    missing = str(tmp_path / "missing")
    controller.session.add("user", ASKED)
    named = {"seed": 1, "temp-policy-file": f"{evil}:hot", "temperature": "hot"}
    controller.session.add("assistant", "A comet.", params=named)
    with pytest.raises(UsageError, match=r"this answer needs the policy file .*evil.py:hot, which is code"):
        last_answer(controller, None)
    assert not ran.exists()
    files = {"grammar-file": missing, "json_schema": missing, "chat_template": missing, "system": f"@{missing}"}
    controller.session.add("assistant", "A comet.", params={"seed": 1, **files})
    request = last_answer(controller, None).answer.request
    assert (request.constraint, request.settings.grammar_file, request.settings.json_schema) == (None, None, None)


def test_the_own_policy_file_is_used_for_an_earlier_answer(controller: ChatController) -> None:
    controller.set("temp_policy_file", "mine.py:hot")
    controller.session.add("user", ASKED)
    controller.session.add("assistant", "A comet.", params={"seed": 1, "temp_policy_file": "theirs.py:hot"})
    assert last_answer(controller, None).answer.settings.temp_policy_file == "mine.py:hot"


def test_a_later_token_can_be_inspected_with_logprobs(local: LocalEngine) -> None:
    local.open_context(Settings(n_ctx=512, n_threads=1))
    controller = controller_with(local, n_ctx=512, max_tokens=6, logprobs=2, temperature=Fixed(0.9))
    _, inspector = ask_and_inspect(controller)
    assert inspector.inspector.token_at_rank(3, 1, *UNSTOPPED) is not None
    earlier = last_answer(controller, None)
    assert probability(earlier, 3) == pytest.approx(probability(inspector, 3), abs=0.02)
