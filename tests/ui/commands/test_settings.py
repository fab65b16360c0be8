"""Commands that change settings, presets and characters, without a model."""

import io
from pathlib import Path

import pytest

from llmcli.errors import UsageError
from llmcli.files import config_dir
from llmcli.params.policies.policy import Fixed
from llmcli.ui.chat.app import ChatApp
from llmcli.ui.commands.registry import dispatch, suggest
from llmcli.ui.input.piped import LineReader
from llmcli.ui.terminal import clipboard


def output_of(chat: ChatApp, capfd: pytest.CaptureFixture[str], name: str, argument: str = "") -> str:
    """What a command prints."""
    capfd.readouterr()
    dispatch(chat, name, argument)
    return capfd.readouterr().err


def system_of(chat: ChatApp) -> str | None:
    return chat.controller.settings.system


@pytest.mark.parametrize("argument", ["9", "2.1", "0.3..9"])
def test_a_very_high_temperature_gets_a_warning(
    chat: ChatApp, capfd: pytest.CaptureFixture[str], argument: str
) -> None:
    text = output_of(chat, capfd, "temp", argument)
    assert text.startswith(f"temperature = {argument}\n")
    assert "warning: at temperature " in text
    assert "  hint: try 0.8 (usual) or 1.2 (bold)" in text


@pytest.mark.parametrize(
    ("key", "value"), [("top_p", "0.95"), ("n_ctx", "0 (default)"), ("prefill", ""), ("raw", "false")]
)
def test_a_setting_alone_shows_its_value(
    chat: ChatApp, capfd: pytest.CaptureFixture[str], key: str, value: str
) -> None:
    assert output_of(chat, capfd, key).startswith(f"{key} = {value}")


@pytest.mark.parametrize("argument", ["0", "1.2", "2", "0.3..1.3", "sentence:1.1,0.7"])
def test_a_usual_temperature_gets_no_warning(chat: ChatApp, capfd: pytest.CaptureFixture[str], argument: str) -> None:
    assert "warning" not in output_of(chat, capfd, "temp", argument)


def test_a_step_changes_a_fixed_temperature(chat: ChatApp, capfd: pytest.CaptureFixture[str]) -> None:
    for argument, after in (("0.8", 0.8), ("+0.2", 1.0), ("-0.3", 0.7), ("-5", 0.0)):
        output_of(chat, capfd, "temp", argument)
        assert chat.controller.settings.temperature == Fixed(after)
    output_of(chat, capfd, "temp", "0.3..1.3")
    with pytest.raises(UsageError, match="needs a fixed temperature"):
        dispatch(chat, "temp", "+0.1")


def test_a_model_setting_tells_that_the_model_is_reloaded(
    chat: ChatApp, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert output_of(chat, capfd, "n_ctx", "2048") == "n_ctx = 2048\n", "no model is loaded yet"
    monkeypatch.setattr(type(chat.controller), "needs_reload", property(lambda _controller: True))
    assert output_of(chat, capfd, "n_ctx", "4096") == "n_ctx = 4096\nthe model is loaded again with the next answer\n"
    assert output_of(chat, capfd, "top_k", "5") == "top_k = 5\n"


def test_the_list_of_presets_begins_with_their_purpose(chat: ChatApp, capfd: pytest.CaptureFixture[str]) -> None:
    dispatch(chat, "preset", "creative")
    lines = output_of(chat, capfd, "preset").splitlines()
    (row,) = [line for line in lines if line.startswith("creative*")]
    assert row.split(maxsplit=1)[1].startswith("stories, freer words (temperature 1.2, ")


def test_a_character_answers_until_none(chat: ChatApp, capfd: pytest.CaptureFixture[str]) -> None:
    assert "no character" in output_of(chat, capfd, "character")
    text = output_of(chat, capfd, "character", "pirate")
    assert text.splitlines()[0] == "character: Captain Redbeard (temperature 1.1, min_p 0.05)"
    assert "Ahoy!" in text
    assert system_of(chat)
    assert "character: Captain Redbeard" in output_of(chat, capfd, "characters")
    assert output_of(chat, capfd, "character", "none") == "no character\n"
    assert system_of(chat) is None
    assert chat.path() == []


def test_character_alone_lists_names_with_their_purpose(chat: ChatApp, capfd: pytest.CaptureFixture[str]) -> None:
    folder = config_dir() / "characters"
    folder.mkdir(parents=True)
    (folder / "captain.toml").write_text('purpose = "Sails."\nsystem = "You are a captain."\n')
    text = output_of(chat, capfd, "character")
    rows = {line.split()[0]: line for line in text.splitlines()[1:-2]}
    assert set(rows) == {"captain", "editor", "pirate", "tutor"}
    assert rows["captain"].endswith("Sails.")
    assert str(folder) in text
    assert chat.session.character == ""


def test_an_unknown_character_is_an_error_and_changes_nothing(chat: ChatApp) -> None:
    with pytest.raises(UsageError) as caught:
        dispatch(chat, "character", "pirrate")
    assert "pirate" in caught.value.hint
    assert system_of(chat) is None


def test_a_character_file_is_taken_from_its_path(chat: ChatApp, tmp_path: Path) -> None:
    (tmp_path / "grump.toml").write_text('name = "Grump"\nsystem = "You grumble."\n')
    dispatch(chat, "character", "grump.toml")
    assert chat.session.character == "Grump"
    assert system_of(chat) == "You grumble."


def test_a_character_with_a_model_must_have_it(chat: ChatApp, tmp_path: Path) -> None:
    (tmp_path / "far.toml").write_text('system = "Hi."\n[settings]\nmodel = "owner/far"\n')

    def bring(settings: object) -> None:
        raise UsageError(f"{settings.model} is missing")  # type: ignore[attr-defined]

    chat.ensure_model = bring
    with pytest.raises(UsageError, match="owner/far is missing"):
        dispatch(chat, "character", "far.toml")
    assert chat.session.character == ""


def test_character_completes_names_with_their_purpose(chat: ChatApp) -> None:
    offered = {text: note for text, _, note in suggest(chat, "/character ")}
    assert set(offered) == {"editor", "pirate", "tutor", "none"}
    assert offered["pirate"].startswith("Tells stories")
    assert [text for text, _, _ in suggest(chat, "/character pi")] == ["pirate"]


@pytest.mark.parametrize(
    ("taken_by", "note"),
    [
        ("clipboard", "copied 2 characters to the clipboard\n"),
        ("terminal", "copied 2 characters (the terminal puts them on the clipboard)\n"),
    ],
)
def test_copy_reports_where_the_text_is(
    chat: ChatApp, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, taken_by: str, note: str
) -> None:
    chat.session.add("user", "hi")
    monkeypatch.setattr(clipboard, "copy", lambda *_: taken_by)
    assert output_of(chat, capfd, "copy", "1") == note


def test_words_of_a_session_name_are_joined(chat: ChatApp, capfd: pytest.CaptureFixture[str]) -> None:
    chat.session.add("user", "hi")
    assert output_of(chat, capfd, "save", "ghost story").startswith("saved as ghost-story ")
    assert output_of(chat, capfd, "rename", "old ghost") == "renamed to old-ghost\n"
    assert "saved a copy as new-ghost; " in output_of(chat, capfd, "save", "new ghost")
    with pytest.raises(UsageError, match="session old-ghost is already open"):
        dispatch(chat, "load", "old ghost")


def test_load_opens_a_session_by_the_end_of_its_name(chat: ChatApp, capfd: pytest.CaptureFixture[str]) -> None:
    chat.session.add("user", "hi")
    chat.session.rename("2026-11-28-comet")
    dispatch(chat, "fork", "other")
    assert "session 2026-11-28-comet, 1 message" in output_of(chat, capfd, "load", "comet")


def test_params_shows_the_settings_with_a_word_in_their_names(chat: ChatApp, capfd: pytest.CaptureFixture[str]) -> None:
    text = output_of(chat, capfd, "params", "repeat-")
    assert "repeat_penalty" in text
    assert "top_k" not in text
    with pytest.raises(UsageError, match="no setting has 'nosuch' in its name"):
        dispatch(chat, "params", "nosuch")


def test_stats_count_tokens_in_singular_and_plural(chat: ChatApp, capfd: pytest.CaptureFixture[str]) -> None:
    chat.session.add("user", "hi")
    timings = {"prompt_n": 7, "prompt_per_second": 10.0, "predicted_n": 1, "predicted_per_second": 2.0}
    chat.session.add("assistant", "a", timings=timings)
    text = " ".join(output_of(chat, capfd, "stats").split())
    assert "prompt 7 tokens evaluated, 10.0 tokens/s" in text
    assert "answer 1 token, 2.0 tokens/s" in text
    assert "session 1 answer, 1 token" in text


def test_stats_show_drafts_where_there_were_any(chat: ChatApp, capfd: pytest.CaptureFixture[str]) -> None:
    chat.session.add("user", "hi")
    chat.session.add(
        "assistant", "a", timings={"predicted_n": 9, "draft_n": 12, "draft_n_accepted": 7, "draft_gain": 1.318}
    )
    text = " ".join(output_of(chat, capfd, "stats").split())
    assert "drafts 12 tokens drafted, 7 accepted, 1.32 times as fast" in text
    chat.session.add("assistant", "b", timings={"predicted_n": 9})
    assert "drafts" not in output_of(chat, capfd, "stats")


def test_the_reader_switches_between_one_line_and_many(chat: ChatApp, capfd: pytest.CaptureFixture[str]) -> None:
    chat.reader = LineReader(io.BytesIO())
    assert output_of(chat, capfd, "multiline") == "Enter starts a new line, Alt-Enter sends\n"
    assert output_of(chat, capfd, "multiline", "off") == "Enter sends\n"
    with pytest.raises(UsageError, match="must be on or off, got 'maybe'"):
        dispatch(chat, "multiline", "maybe")


def test_theme_takes_a_pygments_style_and_a_theme_file(
    chat: ChatApp, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "my.theme"
    path.write_text("[styles]\nmarkdown.h1 = red\n")
    for theme in ("light", "monokai", str(path)):
        assert output_of(chat, capfd, "theme", theme) == f"theme = {theme}\n"
    assert [text for text, _, _ in suggest(chat, "/theme mono")] == ["monokai"]


@pytest.mark.parametrize("command", ["theme", "set"])
def test_an_unknown_theme_leaves_the_old_one(chat: ChatApp, command: str) -> None:
    with pytest.raises(UsageError, match="theme must be"):
        dispatch(chat, command, "theme drak" if command == "set" else "drak")
    assert chat.controller.settings.theme == "auto"


def test_a_constraint_that_is_not_valid_changes_nothing(chat: ChatApp) -> None:
    dispatch(chat, "regex", "a|b")
    for name, argument, telling in (
        ("regex", "(", "unclosed group"),
        ("json", "on", "json_schema and regex cannot be used together"),
        ("grammar", 'root ::= "a"', "grammar and regex cannot be used together"),
    ):
        with pytest.raises(UsageError, match=telling):
            dispatch(chat, name, argument)
    settings = chat.controller.settings
    assert (settings.regex, settings.json_schema, settings.grammar) == ("a|b", None, None)
    dispatch(chat, "regex", "none")
    dispatch(chat, "json", "{name: str}")
    assert chat.controller.settings.json_schema == "{name: str}"
