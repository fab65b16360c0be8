"""Where an answer that was given again leaves the first one is found, and what is not as it was then is named."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llmcli.chat.replay import Difference, first_difference
from llmcli.errors import UsageError
from llmcli.inference.engine import Vocab
from llmcli.inference.local import LocalEngine
from tests.chat.replays import QUESTIONS, again, given, opened, read
from tests.models import tiny_models


@pytest.fixture(scope="module")
def first(short_starter: Path) -> Iterator[LocalEngine]:
    yield from opened(short_starter)


@pytest.fixture(scope="module")
def second(short_starter: Path) -> Iterator[LocalEngine]:
    yield from opened(short_starter)


@pytest.fixture(scope="module")
def output(first: LocalEngine) -> dict[str, Any]:
    return given(first, {"temperature": 1.2, "max_tokens": 16}, QUESTIONS[3])


def changed(output: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return output | {"replay": output["replay"] | changes}


def test_a_record_has_no_empty_values(output: dict[str, Any]) -> None:
    assert [key for key, value in output["replay"].items() if not value] == []


def test_a_different_seed_is_reported(second: LocalEngine, output: dict[str, Any]) -> None:
    replay = again(second, read(output | {"params": output["params"] | {"seed": 77}}))
    there = replay.difference
    assert there
    assert there.recorded != there.replayed
    assert output["text"][there.offset :].startswith(there.recorded)
    assert replay.answer.text[there.offset :].startswith(there.replayed)
    assert output["text"][: there.offset] == replay.answer.text[: there.offset]
    assert replay.reasons == [f"seed: was {output['params']['seed']}, is 77"]


def test_a_different_template_is_reported(second: LocalEngine, output: dict[str, Any]) -> None:
    replay = again(second, read(changed(output, template="{{ messages[0].content }}")))
    assert replay.difference
    assert replay.reasons[0] == "the chat template is different"
    assert replay.reasons[1].startswith("the prompt is different: was ")


def test_a_different_model_is_reported(first: LocalEngine, output: dict[str, Any], tmp_path: Path) -> None:
    tiny = next(opened(tiny_models.full_attention(tmp_path / "tiny.gguf")))
    tiny.hasher.sha256()
    replay = again(tiny, read(changed(output, template="{{ messages[0].content }}")))
    tiny.close()
    assert replay.difference
    assert replay.reasons[0].startswith(
        f"the model is a different file (sha256 was {first.hasher.sha256()[:12]}..., is "
    )


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"build": "0.1.0"}, "llama-cpp-python: was 0.1.0, is "),
        ({"machine": "a lathe"}, "machine: was a lathe, is "),
        ({"threads": [1, 4000]}, "threads: was 1 (4000 for the prompt), is 1"),
        ({"beside": 3}, "the number of answers generated in one batch is different"),
        ({"settings_sha256": "0" * 64}, "the settings are different"),
        ({"settings_sha256": "0" * 64, "settings": {}}, "the settings are different"),  # as 0.1.0 wrote it
        ({"policy": "wave"}, "temperature policy: was wave, is none"),
        ({"policy_sha256": "0" * 64}, "the file of the temperature policy is different"),
    ],
)
def test_a_different_condition_is_reported(
    second: LocalEngine, output: dict[str, Any], changes: dict[str, Any], reason: str
) -> None:
    replay = again(second, read(changed(output, **changes)))
    assert len(replay.reasons) == 1
    assert replay.reasons[0].startswith(reason)


def test_a_layout_that_does_not_fit_its_prompt_is_refused(second: LocalEngine, output: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=r"cannot replay the answer: replay.layout: .*3 tokens"):
        again(second, read(changed(output, layout=[[3, 3, 1]])))


CAT = "The cat sat on a mat."


def texts_of(vocab: Vocab, text: str) -> list[str]:
    return [vocab.piece(token).decode() for token in vocab.tokenize(text)]


@pytest.mark.parametrize(
    ("then", "now", "there"),
    [
        (("", CAT), ("", CAT), None),
        (("", "The cat sat on the mat."), ("", CAT), Difference(4, 14, "answer", " the", " a")),
        (("", "A dog."), ("", CAT), Difference(0, 0, "answer", "A", "The")),
        (("", "The cat sat"), ("", CAT), Difference(3, 11, "answer", "", " on")),
        (("", CAT + " Oh"), ("", CAT), Difference(7, 21, "answer", " Oh", "")),
        (("", "The cat sap"), ("", CAT), Difference(2, 7, "answer", " sap", " sat")),
    ],
)
def test_the_first_difference(
    first: LocalEngine, then: tuple[str, str], now: tuple[str, str], there: Difference | None
) -> None:
    vocab = first.model.vocab
    assert first_difference(then, now, texts_of(vocab, CAT), vocab) == there


def test_the_first_difference_follows_a_continued_text(first: LocalEngine) -> None:
    vocab, prefix = first.model.vocab, ("", "The cat sat")
    tokens = texts_of(vocab, CAT)[3:]
    found = first_difference(("", "The cat sat on the mat."), ("", CAT), tokens, vocab, prefix)
    assert found == Difference(1, 14, "answer", " the", " a")
    found = first_difference(("", "The dog sat on a mat."), ("", CAT), tokens, vocab, prefix)
    assert found
    assert (found.token, found.offset) == (0, 4)


def test_the_first_difference_is_located_in_and_after_reasoning(first: LocalEngine) -> None:
    vocab, now = first.model.vocab, ("a cat", CAT)
    texts = texts_of(vocab, f"<think>\na cat\n</think>\n\n{CAT}")
    found = first_difference(("a cat", "The cat sat on the mat."), now, texts, vocab)
    assert found == Difference(len(texts) - 3, 14, "answer", " the", " a")
    found = first_difference(("a dog", CAT), now, texts, vocab)
    assert found == Difference(texts.index(" cat"), 1, "think", " dog", " cat")
