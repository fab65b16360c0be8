"""The redrawn tail: what is kept, what is erased, and where the cursor stands."""

from llmcli.ui.terminal.progress import LiveRegion
from tests.ui.markdown.emulator import Terminal


def cursor(terminal: Terminal) -> tuple[int, int]:
    return terminal.screen.cursor.y, terminal.screen.cursor.x


def test_only_rows_from_the_first_changed_one_on_are_written() -> None:
    terminal = Terminal(20, 10)
    region = LiveRegion(terminal.write)
    region.draw([], ["one", "two", "three"], (20, 10))
    terminal.written = ""
    region.draw([], ["one", "two", "3", "4"], (20, 10))
    assert "one" not in terminal.written
    assert "two" not in terminal.written
    assert terminal.lines() == ["one", "two", "3", "4"]
    assert cursor(terminal) == (3, 1)


def test_the_same_rows_again_write_nothing() -> None:
    terminal = Terminal(20, 10)
    region = LiveRegion(terminal.write)
    region.draw([], ["one"], (20, 10))
    region.draw([], ["one"], (20, 10))
    assert terminal.writes == 1


def test_a_shorter_tail_erases_the_old_rows() -> None:
    terminal = Terminal(20, 10)
    region = LiveRegion(terminal.write)
    for tail in (["one", "two", "three"], ["one", "two"], ["one", ""], ["one"], ["one", "more"], []):
        region.draw([], tail, (20, 10))
        assert terminal.lines() == [row for row in tail if row]
        assert cursor(terminal) == ((len(tail) - 1, len(tail[-1])) if tail else (0, 0))


def test_a_finished_tail_is_not_written_again() -> None:
    terminal = Terminal(20, 10)
    region = LiveRegion(terminal.write)
    region.draw([], ["one", "two"], (20, 10))
    terminal.written = ""
    region.draw(["one", "two"], [], (20, 10))
    assert terminal.written == "\x1b[?2026h\r\n\x1b[?2026l"
    region.draw(["three"], ["four"], (20, 10))
    assert terminal.lines() == ["one", "two", "three", "four"]


def test_a_narrower_window_replaces_all_broken_rows() -> None:
    terminal = Terminal(10, 10)
    region = LiveRegion(terminal.write)
    terminal.write("above\r\n")
    region.draw([], ["a" * 15, "b" * 9], (20, 10))  # the terminal breaks the first, as after a resize
    assert len(terminal.lines()) == 4
    region.draw(["c" * 9], ["d"], (10, 10))
    assert terminal.lines() == ["above", "c" * 9, "d"]


def test_the_screen_is_not_erased_from_its_first_cell_on() -> None:
    terminal = Terminal(20, 10)
    region = LiveRegion(terminal.write)
    for tail in (["one", "two"], ["", "x"], [""], ["y"], []):
        region.draw([], tail, (20, 10))
    assert "\r\x1b[J" not in terminal.written
    assert "\x1b[2K\x1b[J" not in terminal.written
