"""Reasoning is separated from the answer, in pieces of any size."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmcli.engine.reasoning import MODEL_TAGS, REASONING_TAGS, ReasoningSplitter
from tests.inference.fake_vocab import FakeVocab

PAIRS = [(opener, closer) for opener, closer in MODEL_TAGS if closer]


def test_reasoning_that_plain_words_open_is_begun_by_the_prompt_only() -> None:
    text = "Here are my reasoning steps:\nhm\n[BEGIN FINAL RESPONSE]\nYes"
    assert split(text) == ("", text)
    assert split("hm\n[BEGIN FINAL RESPONSE]\nYes", prompt="Here are my reasoning steps:\n") == ("hm", "Yes")


def split(*pieces: str, prompt: str = "") -> tuple[str, str]:
    """The reasoning and the answer of streamed pieces."""
    splitter = ReasoningSplitter(prompt)
    parts = [part for piece in pieces for part in splitter.push(piece)] + list(splitter.flush())
    assert all(text for _, text in parts)
    return "".join(text for kind, text in parts if kind == "think"), "".join(
        text for kind, text in parts if kind == "answer"
    )


@pytest.mark.parametrize(("opener", "closer"), PAIRS)
class TestEachPair:
    def test_reasoning_and_answer_are_separated(self, opener: str, closer: str) -> None:
        assert split(f"{opener}\nhm, 2\n\nso 4\n{closer}\n\n4 < 5\n") == ("hm, 2\n\nso 4", "4 < 5\n")

    def test_single_characters_give_the_same_split(self, opener: str, closer: str) -> None:
        assert split(*f"{opener}\nhm\n{closer}\n\nYes") == ("hm", "Yes")

    def test_a_prompt_with_the_opening_tag_starts_with_reasoning(self, opener: str, closer: str) -> None:
        for prompt in (f"<|assistant|>{opener}", f"<|assistant|>{opener}\n"):
            assert split(f"\nhm\n{closer}\n", "\nYes", prompt=prompt) == ("hm", "Yes")

    def test_a_prompt_with_closed_reasoning_starts_with_the_answer(self, opener: str, closer: str) -> None:
        assert split("Yes", prompt=f"{opener}\n\n{closer}\n\n") == ("", "Yes")

    def test_unclosed_reasoning_is_all_reasoning(self, opener: str, closer: str) -> None:
        assert split(f"{opener}\nhm\n{closer[:-1]}") == (f"hm\n{closer[:-1]}", "")
        assert split(opener) == ("", "")

    def test_empty_reasoning_is_omitted(self, opener: str, closer: str) -> None:
        assert split(f"{opener}\n\n{closer}\n\nYes") == ("", "Yes")
        assert split(f"{opener}{closer}Yes") == ("", "Yes")

    def test_a_tag_after_the_start_is_part_of_the_answer(self, opener: str, closer: str) -> None:
        text = f"Use {opener}x{closer}."
        assert split(text) == ("", text)
        assert split(f"{opener}a{closer}b{opener}c{closer}") == ("a", f"b{opener}c{closer}")

    @pytest.mark.slow
    @settings(max_examples=50, deadline=None)
    @given(data=st.data())
    def test_any_pieces_give_the_same_split(self, opener: str, closer: str, data: st.DataObject) -> None:
        bits = st.sampled_from(["\n", " ", "a", "<", opener, closer, opener[:-1], closer[:-1], closer[1:]])
        text = data.draw(st.sampled_from(["", opener])) + "".join(data.draw(st.lists(bits, max_size=8)))
        cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=8)))
        pieces = [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]
        prompt = data.draw(st.sampled_from(["", opener + "\n"]))
        assert split(*pieces, prompt=prompt) == split(text, prompt=prompt)


@pytest.mark.parametrize(
    ("text", "thought", "answer"),
    [
        ("", "", ""),
        ("Yes", "", "Yes"),
        ("  Yes\n", "", "  Yes\n"),
        ("\n\n", "", "\n\n"),
        (" \n<think>a</think>b", "a", "b"),
        ("<b>bold</b>", "", "<b>bold</b>"),
        ("<thin", "", "<thin"),
        ("<think", "", "<think"),
        ("<Think>a</Think>b", "", "<Think>a</Think>b"),
        ("</think>Yes", "", "</think>Yes"),
        ("<think>a</thinking>b</think>c", "a</thinking>b", "c"),
        ("<thinking>a</think>b</thinking>c", "a</think>b", "c"),
        ("<think>\n\n  a\n  b \n\n</think>\n\n  c", "  a\n  b ", "  c"),
        ("<|channel|>final<|message|>Yes", "", "Yes"),
    ],
)
def test_only_complete_tags_at_the_start_count(text: str, thought: str, answer: str) -> None:
    assert split(text) == (thought, answer)
    assert split(*text) == (thought, answer)


@pytest.mark.parametrize("text", ["<b", "< ", "[x", "<|im", "Y", "◁a"])
def test_text_that_cannot_be_a_tag_is_not_held_back(text: str) -> None:
    assert list(ReasoningSplitter().push(text)) == [("answer", text)]


def test_reasoning_is_streamed_up_to_a_possible_closing_tag() -> None:
    splitter = ReasoningSplitter()
    assert list(splitter.push("<think>")) == []
    assert list(splitter.push("\nso ")) == [("think", "so ")]
    assert list(splitter.push("a < b\n<")) == [("think", "a < b")]
    assert list(splitter.push("/thi")) == []
    assert list(splitter.push("s")) == [("think", "\n</this")]
    assert list(splitter.push("</think>\n")) == []
    assert list(splitter.push("Yes")) == [("answer", "Yes")]
    assert list(splitter.push("!")) == [("answer", "!")]


def test_control_tokens_of_tags_are_shown_except_end_tokens() -> None:
    control = ["<think>", "</think>", "<|channel|>", "<|message|>", "<|start|>", "<|end|>", "<|im_end|>", "[/THINK]"]
    vocab = FakeVocab(control, ends=["[/THINK]"])
    vocab.show_control(tag for pair in REASONING_TAGS for tag in pair)
    assert vocab.shown == {"<think>", "</think>", "<|channel|>", "<|message|>", "<|start|>"}
