"""Sentences, lines and paragraphs of a streamed text, in many scripts, in pieces of any size."""

import itertools
import unicodedata
from collections.abc import Iterable
from copy import copy

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from llmcli.engine.sentences import TextPosition, boundaries, sentence_ends

# A bar stands where a sentence ends; one at the very end says that the next token is taken for another sentence.
LATIN = [
    "Hello.| World.|",
    "Hello.|   World!|",
    "One!| Two?| Three‽| Four…|",
    "What?!| No!!!| Well...| Then.|",
    "no end yet",
    "Well... maybe it was… something.|",
    "It costs approx. ten dollars, i.e. too much, e.g. for me.|",
    "It is 3.14, not v1.2.3.| At 10.30 we left.|",
    "It is 3.14",
    "It is 3.",
    "It is 3. |",
    "In 1999.| Then in 2000.| 15 people came.|",
    "Mr. Smith met Mrs. Jones, Dr. Who and Prof. X in St. Louis.|",
    "The U.S. Army vs. the U.K. team.|",
    "He lives in the U.S.| The other one does not.|",
    "She has a Ph.D. in art.| He has a Ph.D.| She smiled.|",
    "J. R. R. Tolkien and J.K. Rowling wrote.|",
    "By J. I. Packer and M. A. Green.|",
    "Take vitamin C.| It helps.|",
    "Apples, pears, etc.| We ate.|",
    "Apples, pears, etc. were eaten.|",
    "Apples, etc.",
    "At 5 p.m. we met.| At 6 a.m.| Nobody came.|",
    "Apple Inc. (AAPL) fell.| Ford Inc.| Rose too.|",
    "See Fig. 2 and No. 5 in vol. 3, pp. 7.| No.| I stay.|",
    "On Jan. 5 it rained.| It ended in Dec.| Snow fell.|",
    "I met Jan.| He left.|",
    "I am 3.| My brother is 5.",
    '"What?" he said.| "Go!" she cried.|',
    '"Stop."| "Why?"| (Because.)| [So.]| **Done.**| _Yes!_|',
    "“Go.”| ‘Now.’| She said: “Wait... what?”|",
    "Wow!| that was it.|",
    "Visit example.com or https://a.b/c?d=e.| Mail me@x.org.| Open file.txt.| Bye.|",
    "1. First.| 2. Second one.| 3) Third.|",
    "- a. First\n|- b. Second\n|",
    "**1. Mix.**| **2.1. Bake.**|",
    "# Heading\n|Text.\n|\n\nMore\n|\n",
    "-----------------------------------\n1. First.|",
    "IV. The end.|",
    "It was so.[1]| Then it was not [2].| So.[^3]| End.|",
    "so.[12 monkeys] are here",
    "Great!🎉| Let's go!| 🎉 Now.|",
    "x = a.b(c) != d\n|y = 1.5\n|```\n}\n---\n a\n|",
    "3! = 6 is true.|",
    "Hello , world .| Yes .|",
    "... and so on.|",
    "He paused . . . and left.| So . . .| What?|",
    "See Smith et al. 2020.| Also Jones et al.| They agree.|",
    "I live in D.C.| I like it.| D.C. is big.|",
    "\n\n  \nHello\n|",
    "Yes.| (He went.)| No.|",
]
GERMAN = [
    "Das ist z.B. gut, d.h. u.a. besser.| Ja.|",
    "Das ist z. B. Gold, d. h. Metall.|",
    "Äpfel, Birnen usw.| Wir essen.|",
    "Am Montag, 3. Mai, kam er.| Er blieb bis zum 5. Tag.|",
    "Wir kamen am 3. Tag an.| Im 19. Jahrhundert.|",
    "Es sind ca. 5 bzw. 6 Stück, Nr. 7 in der Str. 8.",
    "Dr. Müller und Hr. Maier gingen.| „Wohin?“ fragte sie.|",
    "Er ging.| »Wohin?« fragte sie.| »Weg.«|",
    "Am 3. 10. 2020 war es so weit.|",
    "Im 2. Weltkrieg war u. a. Berlin zerstört.| Es kostete 3 Mio. Mark.|",
]
ROMANCE = [
    "M. Dupont et Mme. Durand, p.ex. ici, en 50 av. J.-C. déjà.|",
    "« Quoi ? » dit-il.| « Rien. »| Il part.|",
    "Bonjour !| Ça va ?| Oui.|",
    "¿Qué?| ¡No!| El Sr. García y la Sra. Paz, pág. 5.",
    "¿Qué?|¡No!|",
    "Es para Ud.| Mañana viene.|",
]
CYRILLIC = [
    "Привет.| Как дела?| Хорошо!|",
    "А. С. Пушкин родился в 1799 г.| Он писал.|",
    "Он живёт в г. Москва, ул. Ленина, т.е. там.|",
    "Яблоки, груши и т.д.| Мы ели.|",
    "Яблоки и т. д.| Мы ели и т. п. вещи.|",
    "Это стоит 5 тыс. рублей или 3 млн.| Дорого.|",
    "См. рис. 5 на стр. 7 и др. примеры, им. Горького.|",
    "Живу на пр. Мира и пр.| Потом уехал.|",
    "— Стой! — крикнул он.| — Куда?|",
    "«Стой!» — крикнул он.| «Куда?»|",
    "Это было в XIX в.| Потом прошло.|",
    "Ну... ладно.|",
    "Родился 5 янв. 1900 г. в г. Туле.| Длина 10 см.| См. стр. 5.| Театр им. Горького.| Я дал им.| Она ушла.|",
]
HAN_AND_KANA = [
    "你好。|我很好！|你呢？|",
    "他说：“你好。”|然后走了。|",
    "我……不知道。|",
    "“你好。”|“再见。”|好。|“行！”|",
    "你好吗?|我很好!|真的.|",
    "圆周率是3.14。|对。|",
    "３．１４です。|そう．|次に",
    "1. 第一步。|2. 第二步。|",
    "こんにちは。|元気ですか？！|はい｡|",
    "「何？」と言った。|「はい。」|（笑。）|次。|",
    "『行く。』、と。|",
    "第一行\n|第二行",
    "안녕하세요.| 그는 갔다.|",
]
OTHERS = [
    "مرحبا.| كيف حالك؟| بخير۔|",
    "قال د. أحمد نعم.| ثم ذهب.|",
    'قال: "مرحبا."| ثم ذهب أ.د. أحمد.|',
    "नमस्ते।| आप कैसे हैं?| ठीक॥|",
    "डॉ. शर्मा आए।|वे गए।|",
    "मूल्य 3.14 है।|",
    "Γεια.| Τι κάνεις;| Καλά.|",
    "Τι\u037e| Ναι, π.χ. Εδώ.|",
    "not Greek; no end",
    "Բարեւ։| Ինչպես ես։|",
    "ሰላም።|እንዴት ነህ።|",
    "សួស្តី។|បាទ។|",
    "မင်္ဂလာပါ။|ဟုတ်ကဲ့။|",
    "გამარჯობა.| როგორ ხარ?|",
    "שלום.| מה שלומך?|",
]
CASES = [*LATIN, *GERMAN, *ROMANCE, *CYRILLIC, *HAN_AND_KANA, *OTHERS]


def mark_sentence_ends(text: str) -> str:
    """The text with a bar at each sentence end."""
    readings = [boundaries(text[:end]) for end in range(len(text) + 1)]
    starts = [after.start for before, after in itertools.pairwise(readings) if after.ends > before.ends]
    pieces = [text[a:b] for a, b in itertools.pairwise([0, *starts, len(text)])]
    return "|".join([*pieces, ""] if readings[-1].final and pieces[-1] else pieces)


def position_after(*pieces: str) -> TextPosition:
    """The position after these pieces of text."""
    position = TextPosition()
    for piece in pieces:
        position.push(piece)
    return position


def sentence_counts(pieces: Iterable[str]) -> list[int]:
    """The sentence of the next token before the first piece, and after each."""
    position, sentences = TextPosition(), [0]
    for piece in pieces:
        position.push(piece)
        sentences.append(position.sentence)
    return sentences


def state(position: TextPosition) -> tuple[int, int, int]:
    return position.sentence, position.line, position.paragraph


@pytest.mark.parametrize("case", CASES)
def test_sentences_end_where_a_reader_expects_it(case: str) -> None:
    text = case.replace("|", "")
    assert mark_sentence_ends(text) == case
    assert sentence_counts(text)[-1] == case.count("|")


@pytest.mark.parametrize("case", CASES)
def test_a_finished_text_is_cut_where_its_sentences_end(case: str) -> None:
    text, begun = case.replace("|", ""), case.split("|")
    marked = {len("".join(begun[: number + 1]).rstrip()) for number in range(len(begun) - 1)}
    found = {len(text[:end].rstrip()) for end in sentence_ends(text)}
    assert marked <= found
    places = sorted({0, *found})
    for start, end in itertools.pairwise(places):  # what is cut besides is a line without a letter
        assert end in marked or not any(map(str.isalnum, text[start:end]))


@pytest.mark.parametrize("case", CASES)
def test_every_sentence_has_a_letter_or_a_digit(case: str) -> None:
    assert all(any(map(str.isalnum, sentence)) for sentence in case.rstrip().split("|")[:-1])


def test_the_table_has_many_scripts() -> None:
    scripts = {unicodedata.name(char).split()[0] for char in "".join(CASES) if char.isalpha()}
    wanted = (
        "LATIN CYRILLIC GREEK CJK HIRAGANA HANGUL ARABIC HEBREW DEVANAGARI ARMENIAN GEORGIAN ETHIOPIC KHMER MYANMAR"
    )
    assert scripts >= set(wanted.split())


@pytest.mark.parametrize(
    ("pieces", "sentences"),
    [
        (["Hello", ".", " World", ".", "\n"], [0, 1, 1, 2, 2]),
        (["Hello", ".", "com", " is", " up"], [0, 1, 0, 0, 0]),
        (["It", " is", " 3", ".", "1", "4", ".", " ", "So"], [0, 0, 0, 0, 0, 0, 0, 1, 1]),
        (["Mr", ".", " ", "Smith", "!"], [0, 0, 0, 0, 1]),
        (["Well", "...", " ", "may", "be", "."], [0, 1, 1, 0, 0, 1]),
        (["Well", ".", ".", ".", " May", "be"], [0, 1, 1, 1, 1, 1]),
        (["What", "?", "!", '"', " he", " said"], [0, 1, 1, 1, 0, 0]),
        (["Pears", ",", " etc", ".", " ", "We", " ate"], [0, 0, 0, 0, 0, 1, 1]),
        (["No", ".", " ", "5", " is"], [0, 1, 1, 0, 0]),
        (["the", " U", ".", "S", ".", " Th", "e", " end"], [0, 0, 0, 0, 0, 0, 0, 1]),
        (["am", " 3", ".", " ", "Mai", " kam"], [0, 0, 0, 0, 0, 0]),
        (["Tag", " 3", ".", " ", "M", "ai", " kam"], [0, 0, 0, 1, 1, 0, 0]),
        (["1", ".", " ", "First", ".", "\n", "2", ".", " S"], [0, 0, 0, 0, 1, 1, 1, 1, 1]),
        (["https", "://a", ".", "b", ".", " So"], [0, 0, 0, 0, 0, 1]),
        (["何", "？", "」", "と", "言"], [0, 1, 1, 0, 0]),
        (["好", "。", "”", "他"], [0, 1, 1, 1]),
        (["Τι", ";", " ", "Ναι"], [0, 1, 1, 1]),
        (["", "ab", "", ".", "", " ", "", "B"], [0, 0, 0, 1, 1, 1, 1, 1]),
    ],
)
def test_a_mark_at_the_end_counts_provisionally(pieces: list[str], sentences: list[int]) -> None:
    assert sentence_counts(pieces) == [0, *sentences]


@pytest.mark.parametrize(
    ("text", "line", "paragraph"),
    [
        ("", 0, 0),
        ("\n \n\n", 0, 0),
        ("\n\na", 0, 0),
        ("a\n", 1, 0),
        ("a\nb", 1, 0),
        ("a\n\n", 1, 1),
        ("a\n \t\r\n\n\nb", 1, 1),
        ("a\r\n\r\nb\r\n", 2, 1),
        ("a\nb\n\nc\nd\n\n\ne\n", 5, 2),
        ("a\n\n---\n\nb", 2, 2),
        ("- a\n- b\n", 2, 0),
        ("一。\n\n二。\n", 2, 1),
    ],
)
def test_lines_and_paragraphs_count_breaks_after_text(text: str, line: int, paragraph: int) -> None:
    for pieces in ([text], list(text)):
        position = position_after(*pieces)
        assert (position.line, position.paragraph) == (line, paragraph)


BITS = st.sampled_from(
    [*CASES, *".!?…;。！？」”»\"')]*_[(«-— \n1aAζ好と٣ა🎉", "\n\n", "...", "Mr.", "U.S.", "т. д.", " 3.", "[1", "Mai"]
)
TEXTS = st.lists(BITS | st.text(max_size=3), max_size=12).map("".join)


@given(TEXTS, st.lists(st.integers(0, 200), max_size=40))
@example("Hello. " + "»" * 20 + "[12]" * 9 + " World", list(range(80)))
@example("a" + ".!" * 40 + " " * 40 + "B.", list(range(120)))
@example("a" + "-" * 99 + "1. B" + "-" * 99 + "\nC", list(range(200)))
@example("...[12. Then", [6])
def test_the_position_does_not_depend_on_the_pieces(text: str, positions: list[int]) -> None:
    cuts = sorted({min(position, len(text)) for position in positions})
    pieces = [text[a:b] for a, b in itertools.pairwise([0, *cuts, len(text)])]
    assert state(position_after(*pieces)) == state(position_after(text)) == state(position_after(*text))


@pytest.mark.slow
@given(TEXTS)
def test_the_sentence_count_decreases_by_one_at_most(text: str) -> None:
    ends = [boundaries(text[:end]).ends for end in range(len(text) + 1)]
    assert ends == sorted(ends)
    assert all(0 <= sentence - certain <= 1 for sentence, certain in zip(sentence_counts(text), ends, strict=True))


@given(TEXTS, TEXTS)
def test_a_copy_is_independent(text: str, more: str) -> None:
    position = position_after(text)
    other = copy(position)
    other.push(more)
    assert state(position) == state(position_after(text))
    assert state(other) == state(position_after(text, more))
    position.push(more)
    assert state(position) == state(other)


@pytest.mark.slow
@pytest.mark.parametrize(
    "bit", ["a", " ", ".", "!?", "Mr. ", "a...b", ")", ".»", "a.[", "1.", "U.S. ", "a. (", "—", "ა. ა"]
)
def test_the_stored_text_stays_short(bit: str) -> None:
    for start in ("Start", "Start.", "Start. "):
        position = position_after(start, *[bit] * 5000)
        assert sum(len(value) for value in vars(position).values() if isinstance(value, str)) < 300
