"""The picture of a trace: what it shows, at every length, and that it holds nothing but shapes and text."""

import re
from collections.abc import Sequence
from itertools import pairwise
from xml.etree import ElementTree

import pytest

from llmcli.engine.events import TokenTrace
from llmcli.ui.charts.trace_plot import curve, plot_svg, ticks

SVG = "{http://www.w3.org/2000/svg}"
NUMBER = r"-?\d+(?:\.\d+)?"
HOSTILE = [
    "</title></text><script>alert(1)</script>",
    '"><image href="https://example.org/a.png"/>',
    "&xxe; <!ENTITY xxe SYSTEM 'file:///etc/passwd'> ]]> <?x?> <!--",
    "\x1b]8;;https://example.org\x1b\\link \x00 \x9b \ufffe \uffff \ud800 \u202e",
    "</style><style>@import url(https://example.org)</style>",
]


def token(at: int, text: str = " a", p: float | None = 0.5, **more: object) -> TokenTrace:
    values: dict[str, object] = {"rank": 1, "entropy": 1.0, "temperature": 0.7, "candidates": 9, "top": ()}
    values |= {"policy": "0.7", "sentence": 0, "time": 0.0} | more
    return TokenTrace(i=at, id=at, text=text, p=p, **values)  # type: ignore[arg-type]


def many(count: int) -> list[TokenTrace]:
    """A trace in which token 70, or the last, has the highest temperature."""
    peak = min(70, count - 1)
    return [token(at, temperature=2.9 if at == peak else at % 10 / 10, sentence=at // 20) for at in range(count)]


def parsed(svg: str) -> ElementTree.Element:
    """The picture, which contains nothing that loads, links or runs."""
    svg.encode()
    root = ElementTree.fromstring(svg)
    assert {one.tag.removeprefix(SVG) for one in root.iter()} <= {"svg", "title", "style", "g", "rect", "path", "text"}
    (style,) = root.iter(f"{SVG}style")
    assert not re.search(r"url|@|\\|<|//", style.text or "")
    for one in root.iter():
        assert not [name for name in one.attrib if name.lower().startswith("on") or name.lower().endswith("href")]
        assert not [value for value in one.attrib.values() if "url" in value or "//" in value]
    return root


def texts(root: ElementTree.Element) -> list[str]:
    return [one.text or "" for one in root.iter(f"{SVG}text")]


def tips(root: ElementTree.Element) -> list[str]:
    return [one[0].text or "" for one in root.iter(f"{SVG}rect") if len(one)]


def points(path: str) -> list[float]:
    return [float(number) for number in re.findall(NUMBER, path)]


@pytest.mark.parametrize("count", [0, 1, 2, 60, 61, 500, 501, 1003, 20_000])
def test_a_trace_of_any_length_fits_the_frame(count: int) -> None:
    root = parsed(plot_svg(many(count), "t"))
    width, height = float(root.attrib["width"]), float(root.attrib["height"])
    for one in root.iter(f"{SVG}text"):
        x, y = float(one.get("x", 0)), float(one.get("y", 0))
        assert 0 <= x <= width
        assert 0 <= y <= height
    for one in root.iter(f"{SVG}path"):
        assert max(points(one.attrib["d"])) <= width
        assert "nan" not in one.attrib["d"]
    assert {"temperature", "entropy", "probability"} <= set(texts(root))


def test_the_same_trace_gives_the_same_bytes() -> None:
    assert plot_svg(many(700), "t") == plot_svg(many(700), "t")


def test_a_long_trace_is_thinned_out_and_keeps_its_extremes() -> None:
    svg = plot_svg(many(20_000), "t")
    root = parsed(svg)
    curves = [
        one.attrib["d"] for one in root.iter(f"{SVG}path") if one.get("stroke-linejoin") or one.get("fill-opacity")
    ]
    assert len(curves) == 6
    for ground, line in zip(curves[::2], curves[1::2], strict=True):
        assert len(re.findall("[MLVH]", ground + line)) <= 2000
    assert "max 2.90" in next(text for text in texts(root) if text.startswith("min"))
    assert min(points(curves[0])[1::2]) < min(points(curves[3])[1::2])
    assert len(svg) < 300_000


def test_the_text_of_a_token_is_escaped_in_the_svg() -> None:
    tokens = [token(at, text, policy=text) for at, text in enumerate(HOSTILE)]
    root = parsed(plot_svg(tokens, HOSTILE[0]))
    (title,) = root.findall(f"{SVG}title")
    assert title.text == HOSTILE[0]
    assert HOSTILE[0] in tips(root)[0].replace("\\", "")


def test_each_token_has_a_tooltip_with_text_and_numbers() -> None:
    found = tips(parsed(plot_svg([token(0, ' "é"\n', p=0.25), token(1, "", None, reasoning="hm")], "t")))
    assert found == ['" \\"é\\"\\n"\ntoken 0: T 0.7, H 1, p 0.25', '"hm"\ntoken 1: T 0.7, H 1, p none']


def test_the_tooltips_of_a_long_trace_cover_every_token_once() -> None:
    tokens = many(1003)
    found = [re.search(r"tokens (\d+) to (\d+), means", tip) for tip in tips(parsed(plot_svg(tokens, "t")))]
    spans = [(int(one[1]), int(one[2])) for one in found if one]
    assert (spans[0][0], spans[-1][1]) == (0, 1002)
    assert all(end + 1 == start for (_, end), (start, _) in pairwise(spans))


def test_sentences_and_reasoning_are_marked_and_in_the_legend() -> None:
    tokens = [token(0, "", reasoning="hm", thinking=True), token(1), token(2, sentence=1), token(3, sentence=1)]
    svg = plot_svg(tokens, "t")
    (legend,) = [text for text in texts(parsed(svg)) if "token ·" in text]
    assert legend == "token · dotted: start of a sentence · shaded: reasoning"
    (lines,) = [one.attrib["d"] for one in parsed(svg).iter(f"{SVG}path") if one.get("stroke-dasharray")]
    assert set(points(lines)[::3]) == {(56 + 896) / 2}  # the third of four tokens begins in the middle
    plain = plot_svg([one._replace(sentence=0, thinking=False) for one in tokens], "t")
    assert "dasharray" not in plain
    assert "dotted" not in plain


def test_the_texts_of_a_short_trace_stand_below_its_axis() -> None:
    root = parsed(plot_svg([token(0, " Paris"), token(1, "\n"), token(2, "日" * 20)], "t"))
    turned = [one.text for one in root.iter(f"{SVG}text") if "rotate" in one.get("transform", "")]
    assert turned == ["Paris", "↵", "日日日日日…"]


def test_the_plot_shows_name_length_and_policies() -> None:
    root = parsed(plot_svg([token(0), token(1, policy="0.3..1.3"), token(2)], "  an\n answer "))
    assert texts(root)[:2] == ["an answer", "3 tokens · 0.7 · 0.3..1.3"]


def test_a_measure_that_no_token_has_is_an_empty_panel() -> None:
    root = parsed(plot_svg([token(0, p=None, temperature=None, entropy=None)], "t"))
    assert not [text for text in texts(root) if text.startswith("min")]
    assert tips(root) == ['" a"\ntoken 0: T none, H none, p none']


@pytest.mark.parametrize(
    ("high", "most", "expected"),
    [(1, 4, [0, 0.5, 1]), (1.26, 4, [0, 0.5, 1, 1.5]), (4.95, 4, [0, 2, 4, 6]), (0.3, 4, [0, 0.1, 0.2, 0.3]),
     (20_000, 10, [2000 * at for at in range(11)]), (1e9, 4, [0, 5e8, 1e9])],
)  # fmt: skip
def test_ticks_are_round_numbers_that_reach_the_highest_value(
    high: float, most: int, expected: Sequence[float]
) -> None:
    assert ticks(high, most) == expected


def test_curves_stand_on_their_base_and_are_broken_by_gaps() -> None:
    assert list(curve([0.0, 0.5, None, 1.0], 100, 50)) == [
        ("M56.0 100V100.0H266.0V75.0H476.0V100Z", "M56.0 100.0V100.0H266.0V75.0H476.0"),
        ("M686.0 100V50.0H896.0V100Z", "M686.0 50.0V50.0H896.0"),
    ]


def test_the_band_of_a_long_series_spans_minimum_to_maximum() -> None:
    values = [float(at % 2) for at in range(3000)]
    ((ground, line),) = curve(values, 100, 50)
    assert set(points(ground)[1::2]) == {50.0, 100.0}
    assert set(points(line)[1::2]) == {75.0}
