"""States that are stored by one engine and restored by the next: answers are those of a fresh evaluation."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from llmcli.engine.events import Cancellation, Prompt, Request
from llmcli.files import cache_dir
from llmcli.inference.local import LocalEngine
from llmcli.inference.resolved_model import ResolvedModel
from llmcli.inference.state_file import read_header
from llmcli.inference.state_store import StateStore
from llmcli.models.locations import ModelFile
from llmcli.params.settings import Settings
from tests.engine.test_reuse import KINDS
from tests.models import tiny_models

SETTINGS = Settings(
    n_ctx=1024, n_threads=1, max_tokens=12, seed=1, samplers=("top_k",), top_k=1, ignore_eos=True, kv_cache_min=64
)
DOCUMENT = [3 + 7 * number % 250 for number in range(400)]
Open = Callable[..., LocalEngine]


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    found: str = request.param
    return found


@pytest.fixture(scope="module")
def path(kind: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    found: Path = getattr(tiny_models, kind)(tmp_path_factory.mktemp("tiny") / f"{kind}.gguf")
    return found


@contextmanager
def opened(path: Path, settings: Settings = SETTINGS) -> Iterator[LocalEngine]:
    """An engine, as a process has it."""
    target = ResolvedModel(ModelFile(path, (path,), "tiny", trusted=True))
    with closing(LocalEngine(target, settings, Cancellation())) as engine:
        yield engine


def answer(engine: LocalEngine, tokens: Sequence[int], settings: Settings = SETTINGS) -> tuple[list[int], int]:
    """The tokens of a greedy answer, and how many tokens of the prompt were evaluated."""
    (event,) = [
        one
        for one in engine.generate([Request(Prompt.of_tokens("", list(tokens)), settings)])
        if one.finish_reason is not None
    ]
    return event.record.tokens[len(tokens) :], event.record.timings.prompt_n


def ask(path: Path, tokens: Sequence[int], settings: Settings = SETTINGS) -> tuple[list[int], int]:
    """An answer of a process of its own, which stores what it has evaluated."""
    with opened(path, settings) as engine:
        found = answer(engine, tokens, settings)
        engine.keep_context()
    return found


def fresh(path: Path, tokens: Sequence[int], settings: Settings = SETTINGS) -> list[int]:
    return ask(path, tokens, replace(settings, kv_cache=False))[0]


@pytest.mark.usefixtures("home")
def test_a_second_question_about_a_document_reads_only_the_question(path: Path) -> None:
    questions = [[*DOCUMENT, *range(10 + 30 * n, 30 + 30 * n)] for n in range(3)]
    assert ask(path, questions[0])[1] == len(questions[0])
    for question in (questions[1], questions[2], questions[1]):
        text, n_evaluated = ask(path, question)
        assert n_evaluated < 200
        assert text == fresh(path, question)
    assert len(StateStore().entries()) == 1  # what the others would add is too little


@pytest.mark.usefixtures("home")
def test_a_short_question_behind_a_full_batch_leaves_the_batch_in_the_state(path: Path) -> None:
    """Else a memory that cannot be cut would keep nothing of these prompts, which end 78 tokens behind it."""
    settings = replace(SETTINGS, n_ubatch=256, n_batch=256)
    first, second = [*DOCUMENT[:310], *range(24)], [*DOCUMENT[:310], *range(50, 74)]
    ask(path, first, settings)
    text, n_evaluated = ask(path, second, settings)
    assert (text, n_evaluated) == (fresh(path, second, settings), 78)


@pytest.mark.usefixtures("home")
def test_a_question_that_fills_another_batch_reads_the_document_once_more(path: Path, kind: str) -> None:
    """Its micro-batches are others from some place on. From then on there is a state for each of both."""
    settings = replace(SETTINGS, n_ubatch=384, n_batch=384)
    document = [3 + 5 * number % 250 for number in range(700)]
    short, long = [*document, *range(20)], [*document, *range(90)]  # of 720 and 790 tokens: below and above 2 x 384
    ask(path, short, settings)
    assert ask(path, long, settings)[1] > 384
    for question, other in ((short, 1), (long, 2)):
        changed = [*question[:-1], other]
        text, n_evaluated = ask(path, changed, settings)
        assert text == fresh(path, changed, settings)
        assert n_evaluated < 200 or kind != "full_attention"
    assert len(StateStore().entries()) <= 2


@pytest.mark.usefixtures("home")
@pytest.mark.parametrize("settings", [{"swa_full": False}, {"n_batch": 64}, {"n_ubatch": 96, "n_batch": 300}])
def test_other_batches_and_windows_give_fresh_answers_too(path: Path, settings: dict[str, int]) -> None:
    changed = replace(SETTINGS, **settings)  # type: ignore[arg-type]
    first, second = [*DOCUMENT, *range(20)], [*DOCUMENT, *range(50, 90)]
    ask(path, first, changed)
    text, n_evaluated = ask(path, second, changed)
    assert text == fresh(path, second, changed)
    assert n_evaluated < 250


@pytest.mark.usefixtures("home")
@pytest.mark.parametrize(
    "changes",
    [
        {"cache_type_k": "f32"},
        {"flash_attn": "off"},
        {"rope_freq_base": 5000.0},
        {"override_kv": ("general.name=str:x",)},
        {"n_threads": 2},
        {"swa_full": False},
    ],
)
def test_a_state_of_other_settings_is_not_used(path: Path, changes: dict[str, object]) -> None:
    question = [*DOCUMENT, *range(20)]
    ask(path, question)
    other = replace(SETTINGS, **changes)  # type: ignore[arg-type]
    with opened(path, other) as engine:
        assert answer(engine, question, other)[1] == len(question)
        (name,) = (key.removeprefix("n_") for key in changes)
        assert engine.keep_context()[0] == f"a stored context is of other settings, and is not used: {name}"


@pytest.mark.usefixtures("home")
def test_a_state_of_another_model_is_not_used(path: Path) -> None:
    question = [*DOCUMENT, *range(20)]
    ask(path, question)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    try:
        assert ask(path, question)[1] == len(question)
    finally:
        data[-1] ^= 1
        path.write_bytes(data)


@pytest.mark.usefixtures("home")
def test_a_damaged_state_is_evaluated_again_and_replaced(path: Path) -> None:
    question = [*DOCUMENT, *range(20)]
    expected, _ = ask(path, question)
    (entry,) = StateStore().entries()
    whole = entry.path.read_bytes()
    first, last = bytes([whole[0] ^ 1]) + whole[1:], whole[:-9] + bytes([whole[-9] ^ 1]) + whole[-8:]
    for damaged in (b"", whole[:-1], first, last, b"GGUF" + whole):
        entry.path.write_bytes(damaged)
        assert ask(path, question) == (expected, len(question))
        assert ask(path, question)[1] < 200


@pytest.mark.usefixtures("home")
def test_a_disk_without_room_stores_nothing_and_leaves_nothing(path: Path) -> None:
    resource = pytest.importorskip("resource")
    question, (soft, hard) = [*DOCUMENT, *range(20)], resource.getrlimit(resource.RLIMIT_FSIZE)
    with opened(path) as engine:
        found = answer(engine, question)
        resource.setrlimit(resource.RLIMIT_FSIZE, (5000, hard))
        try:
            assert [line[:13] for line in engine.keep_context()] == ["cannot store "]
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [*(cache_dir() / "contexts").iterdir()] == []
    assert ask(path, question) == found


@pytest.mark.usefixtures("home")
def test_what_a_state_saves_is_measured_where_much_is_read(path: Path) -> None:
    """The few tokens that are read behind a restored state are slow, each for itself."""
    with opened(path) as engine:
        engine.open_context(SETTINGS)
        answer(engine, DOCUMENT)
        engine.context.read = (len(DOCUMENT), 4.0)
        engine.keep_context("novel")
    with opened(path) as engine:
        engine.open_context(SETTINGS)
        (stored,) = [read_header(entry.path) for entry in StateStore().entries()]
        assert stored
        answer(engine, [*stored.tokens, 9, 8, 7])
        engine.context.read = (3, 3.0)
        engine.keep_context("novel")
    (again,) = [read_header(entry.path) for entry in StateStore().entries()]
    assert again
    assert 4.0 < stored.seconds < again.seconds < 8.0


@pytest.mark.usefixtures("home")
def test_short_prompts_and_caches_that_are_off_store_nothing(path: Path) -> None:
    ask(path, DOCUMENT[:60])
    ask(path, DOCUMENT, replace(SETTINGS, kv_cache=False))
    ask(path, DOCUMENT, replace(SETTINGS, kv_cache_limit=0))
    ask(path, DOCUMENT, replace(SETTINGS, kv_cache_min=500))
    assert StateStore().entries() == []


@pytest.mark.usefixtures("home")
def test_a_session_continues_where_it_was_left(path: Path, kind: str) -> None:
    """Its tokens include those of answers, which were evaluated one by one."""
    with opened(path) as engine:
        engine.open_context(SETTINGS)
        said, _ = answer(engine, DOCUMENT)
        engine.keep_context("novel")
        longer = [*DOCUMENT, *said, 9, 8, 7]
        expected, n_evaluated = answer(engine, longer)
        assert n_evaluated == 4  # the last token of the answer was not evaluated
    with opened(path) as engine:
        engine.open_context(SETTINGS)
        assert answer(engine, longer) == (expected, 4)
    with opened(path) as engine:  # not a conversation: it restores only what is exact
        assert answer(engine, longer)[1] > 4
    edited = [*DOCUMENT[:350], 9, 8, 7]
    with opened(path) as engine:
        engine.open_context(SETTINGS)
        text, n_evaluated = answer(engine, edited)
        assert n_evaluated == (3 if kind == "full_attention" else len(edited))
    assert text == fresh(path, edited)


@pytest.mark.usefixtures("home")
def test_many_answers_share_what_is_stored(path: Path, kind: str) -> None:
    prompts = [[*DOCUMENT, *range(n, n + 40)] for n in range(10, 60, 10)]

    def batch() -> list[tuple[list[int], int]]:
        with opened(path) as engine:
            waiting = [Request(Prompt.of_tokens("", prompt), SETTINGS) for prompt in prompts]
            events = engine.generate_batch(lambda _is_idle: waiting.pop(0) if waiting else None, 2)
            ended = {one.index: one.record for one in events if one.finish_reason}
            return [(ended[n].tokens[len(prompts[n]) :], ended[n].timings.prompt_n) for n in range(len(prompts))]

    before = batch()
    assert before[0][1] == len(prompts[0])
    after = batch()
    if kind in ("full_attention", "sliding_window"):  # the others cannot share a beginning inside of a process either
        assert after[0][1] < 200
    assert [text for text, _ in after] == [text for text, _ in before]


@pytest.mark.usefixtures("home")
def test_scores_share_what_is_stored(path: Path, kind: str) -> None:
    continuations = [[20, 21, 22], [30]]

    def scores(settings: Settings = SETTINGS) -> tuple[list[list[float]], Sequence[str]]:
        with opened(path, settings) as engine:
            found = engine.score([*DOCUMENT, 9, 8], continuations)
            return found, engine.keep_context()

    before, stored = scores()
    after, restored = scores()
    fresh, _ = scores(replace(SETTINGS, kv_cache=False))
    assert [line.split()[0] for line in (*stored, *restored)] == ["stored", "restored"]
    for one, other in zip(before, after, strict=True):
        assert one == pytest.approx(other, abs=1e-3 if kind == "sliding_window" else 0)
    assert before == fresh


@pytest.mark.usefixtures("home")
def test_the_starter_computes_the_same_numbers_after_a_restored_beginning(short_starter: Path) -> None:
    settings = replace(SETTINGS, n_ctx=2048, logprobs=3)
    document = [100 + 37 * number % 5000 for number in range(800)]

    def answers(question: Sequence[int], kv_cache: bool = True) -> tuple[object, int]:
        with opened(short_starter, replace(settings, kv_cache=kv_cache)) as engine:
            request = Request(Prompt.of_tokens("", [*document, *question]), settings)
            (record,) = [one.record for one in engine.generate([request]) if one.finish_reason]
            engine.keep_context()
            return (record.tokens, record.logprobs, record.layout), record.timings.prompt_n

    for number, question in enumerate(([1, 2, 3], [4, 5, 6, 7], [8] * 60)):
        restored, n_evaluated = answers(question)
        assert n_evaluated == len(document) + len(question) if number == 0 else n_evaluated < 250
        assert restored == answers(question, kv_cache=False)[0]
