"""Chat templates made to do harm: each ends soon, small, and with one clear error."""

import re
import sys
import time
from itertools import count
from types import FrameType
from typing import Any

import pytest

from llmcli.errors import LlmcliError
from llmcli.inference import sandbox, template
from llmcli.inference.template import ChatTemplate

TOO_MUCH = "too much text|too often|too large|longer than .* seconds"
REFUSED = "not allowed|No filter named|only plain fields|is undefined"
REPEAT = "{%% set ns = namespace(x=%s) %%}{%% for i in range(60) %%}{%% set ns.x = %s %%}{%% endfor %%}{{ ns.x }}"
BIG = "x" * 100_000


@pytest.fixture
def tight(monkeypatch: pytest.MonkeyPatch) -> None:
    """An eighth of the time and less of the text, so that reaching the limits takes less time."""
    monkeypatch.setattr(template, "_ROOM", template._ROOM // 64)
    monkeypatch.setattr(sandbox, "_SECONDS", sandbox._SECONDS / 8)


def fault(source: str) -> str:
    """The error of a template, which must come soon (the limit is 2 s for compiling and 2 s for rendering)."""
    begin = time.thread_time()  # another program may have the processor meanwhile
    with pytest.raises(LlmcliError) as caught:
        ChatTemplate(source, {}, "the template").render([{"role": "user", "content": "hi"}])
    assert time.thread_time() - begin < 10
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300
    return str(caught.value)


def refuse(source: str, telling: str) -> None:
    assert re.search(telling, fault(source))


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ ''['__class__'] }}",
        "{{ '' | attr('__class__') }}",
        "{{ ''['__cla' ~ 'ss__'] }}",
        "{{ self.__init__.__globals__ }}",
        "{{ cycler.__init__.__globals__.os }}",
        "{{ namespace.__init__.__globals__ }}",
        "{{ namespace(x=1)._Namespace__attrs }}",
        "{{ raise_exception.__globals__ }}",
        "{{ strftime_now.__code__ }}",
        "{{ range.__class__ }}{{ dict.mro() }}",
        "{{ '{0.__class__}'.format(1) }}",
        "{{ '{0[__class__]}'.format(1) }}",
        "{{ '{0!r}'.format('a') }}",
        "{{ '{a}'.format_map({'a': 1}) }}",
        "{{ ''.format.func.__globals__ }}",
        "{{ ''.join.__self__ }}",
        "{{ [messages] | map(attribute='__class__') | list }}",
        "{{ ['a'] | map('attr', '__class__') | list }}",
        "{{ ['a'] | selectattr('__class__') | list }}",
        "{% for x in [1] %}{{ loop._iterator.gi_frame }}{% endfor %}",
        "{{ ('ab' | map('upper')).__reduce__() }}",
        "{{ messages.append(1) }}",
        "{{ messages[0].pop('role') }}",
        "{{ messages[0].update(role='system') }}",
        "{{ lipsum.__globals__ }}",
        "{{ request.application }}",
    ],
)
def test_code_cannot_escape_the_sandbox(source: str) -> None:
    refuse(source, REFUSED)


@pytest.mark.slow
@pytest.mark.parametrize(
    "source",
    [
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
        "{% for i in range(99999) %}{% for j in range(99999) %}x{% endfor %}{% endfor %}",
        "{% for i in range(99999) %}{% for j in range(99999) %}{{ loop.changed(j) }}{% endfor %}{% endfor %}",
        "{% set ids = range(99999) | list %}{{ ids | reject('in', ids) | list }}",
        "{% set ids = range(99999) | list %}{{ ids | map('string') | select('in', ids) | list }}",
        "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
        "{% macro f(n) %}{% if n %}x{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{% set x = f(60) %}",
        "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{% set x = f(60) %}",
        "{% set a = 'a' * 10000000 %}{% for i in range(99999) %}{% set x = a.count('aab') %}{% endfor %}",
        "{% set a = ['x' * 300000] * 90 %}{% for i in range(99999) %}{% set x = 'x' * 299999 ~ 'y' in a %}{% endfor %}",
    ],
)
def test_endless_work_is_stopped(tight: None, source: str) -> None:
    refuse(source, TOO_MUCH)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("source", "telling", "seconds"),
    [
        # Where this takes more than 2 s, that limit would be the first one.
        ("{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}", "loops too often", 60.0),
        (
            "{% set a = 'a' * 9999999 %}{% for i in range(99999) %}{% set x = a.count('aab') %}{% endfor %}",
            "2 seconds",
            sandbox._SECONDS,
        ),
    ],
)
def test_a_loop_stops_at_the_real_limits_within_seconds(
    source: str, telling: str, seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sandbox, "_SECONDS", seconds)
    refuse(source, telling)


def test_time_in_which_the_process_is_stopped_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "monotonic", count(0, 60).__next__)
    assert ChatTemplate("{% for i in range(9) %}{{ i }}{% endfor %}", {}, "the template").render([]) == "012345678"


@pytest.mark.parametrize(
    "source", ["{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "{% block a %}{{ self.a() }}{% endblock %}"]
)
def test_endless_recursion_is_stopped(source: str) -> None:
    refuse(source, "recursion")


@pytest.mark.parametrize(
    "source",
    [
        "{{ 'A' * 10 ** 9 }}",
        "{{ 10 ** 9 * 'A' }}",
        "{% set x = 'A' * 1000000000 %}",
        "{% set x = [1] * 1000000000 %}",
        "{% set x = 'A' * -1000000000 %}{{ 'A' * 1000000000 }}",
        "{{ 10 ** 10 ** 10 }}",
        "{{ 2 ** 65 }}",
        "{{ ('f' * 1000000) | int(base=16) }}",
        REPEAT % ("2", "ns.x * ns.x"),
        REPEAT % ("'a'", "ns.x + ns.x"),
        REPEAT % ("'a'", "ns.x ~ ns.x"),
        REPEAT % ("['a']", "ns.x + ns.x"),
        REPEAT % ("['a']", "ns.x * 2"),
        REPEAT % ("'aa'", "ns.x | replace('a', 'aaaa')"),
        REPEAT % ("'aa'", "ns.x.replace('a', 'aaaa')"),
        REPEAT % ("'aa'", "ns.x.replace('', 'b')"),
        REPEAT % ("'aa'", "ns.x | join('bbbb')"),
        REPEAT % ("'aa'", "ns.x.join(ns.x)"),
        REPEAT % ("'aa'", "'{0}{0}'.format(ns.x)"),
        REPEAT % ("'aa'", "'%s%s' % (ns.x, ns.x)"),
        REPEAT % ("'aa'", "'%s%s' | format(ns.x, ns.x)"),
        REPEAT % ("'aa'", "'%(a)s%(a)s' % {'a': ns.x}"),
        REPEAT % ("['a']", "[ns.x, ns.x] | sum(start=[])"),
        REPEAT % ("'aa'", "[ns.x, ns.x] | sum(start='')"),
        REPEAT % ("1", "[ns.x, ns.x, ns.x] | sum"),
        REPEAT % ("'aa'", "(ns.x ~ ns.x) | truncate(10 ** 9)"),
        REPEAT % ("['a']", "(ns.x + ns.x) | groupby(0) | map('last') | sum(start=[])"),
        "{{ ('%s' * 100000) % (('a' * 1000,) * 100000) }}",
        "{{ '%(a)s' * 100000 % {'a': 'b' * 1000000} }}",
        "{{ ('{:999}' * 99999).format(*range(99999)) | length }}",
        "{{ ('%999d' * 99999) % ((1,) * 99999) | length }}",
        "{{ ([['x'] * 1000] * 9999) | sum(start=[]) | length }}",
        REPEAT % ("'aa'", "ns.x | list | string"),
        REPEAT % ("'\"'", "ns.x | tojson"),
        REPEAT % ("'\\n'", "(ns.x ~ '\\n') | indent(4, true, true) | replace(' ', '\\n')"),
        REPEAT % ("'ΐ'", "ns.x.upper() ~ ns.x"),
        "{{ ('a' * 1000000).replace('a', 'b' * 1000000) | length }}",
        "{{ ('a' * 1000000) | replace('', 'b' * 1000000) | length }}",
        "{{ ('a' * 100000).join('b' * 100000) | length }}",
        "{{ ('b' * 100000) | join('a' * 100000) | length }}",
        "{{ ('{0}' * 100000).format('a' * 1000000) | length }}",
        "{{ ('a\\n' * 100000) | indent('x' * 100000) | length }}",
        "{{ 'a\\nb' | indent(10 ** 9) }}",
        "{{ range(20000) | list | tojson(separators=('x' * 1000000, ':')) | length }}",
        "{% filter replace('a', 'b' * 10000000) %}aaaaaaaaaa{% endfilter %}",
        "{% set x = range(99999) | map('string') | map('replace', '1', 'y' * 99999) | list %}",
        "{% set l = ['x' * 300000] * 50 %}{% for i in range(9999) %}{% set x = l | sort %}{% endfor %}",
        "{% set j = joiner('a' * 999999) %}{% for i in range(99999) %}{{ j() }}{% endfor %}",
        f"{{% for i in range(99999) %}}{BIG}{{% endfor %}}",
        f"{{% set x %}}{{% for i in range(99999) %}}{BIG}{{% endfor %}}{{% endset %}}",
        f"{{% set x %}}{{% for i in range(99999) %}}{{{{ '{BIG}' }}}}{{% endfor %}}{{% endset %}}",
        "{% set b = 'x' * 9999999 %}" + "".join(f"{{% set a{i} = b[1:] %}}" for i in range(99)),
        "".join(f"{{% set a{i} = 'x' * 999999 %}}" for i in range(99)),
    ],
)
def test_unbounded_values_are_refused(tight: None, source: str) -> None:
    refuse(source, TOO_MUCH)


@pytest.mark.parametrize(
    ("begin", "step"),
    [
        ("['a']", "[ns.x, ns.x]"),
        ("('a',)", "(ns.x, ns.x)"),
        ("{'a': 1}", "{'a': ns.x, 'b': ns.x}"),
        ("{'a': 1}", "dict(a=ns.x, b=ns.x)"),
        ("{'a': 1}", "dict(a=ns.x.items(), b=ns.x.values())"),
        ("{'a': 1}", "{'a': ns.x | items | list, 'b': ns.x | dictsort}"),
        ("['a']", "[ns.x, ns.x] | map('list') | list"),
    ],
)
def test_a_small_object_with_a_huge_text_is_refused(tight: None, begin: str, step: str) -> None:
    refuse(REPEAT % (begin, step), TOO_MUCH)


def test_nested_namespaces_are_not_printed() -> None:
    source = REPEAT % ("namespace(a=1)", "namespace(a=ns.x, b=ns.x)")
    assert ChatTemplate(source, {}, "the template").render([]) == "namespace"


@pytest.mark.parametrize(
    "source",
    [
        "{{ '%1000000000d' % 1 }}",
        "{{ '%1000000000d' | format(1) }}",
        "{{ '%*d' % (1000000000, 1) }}",
        "{{ '%.1000000000f' % 1 }}",
        "{{ '%.1000d' % 1 }}",
        "{{ '{:1000}'.format(1) }}",
        "{{ '{:.1000f}'.format(1.5) }}",
        "{{ '{:x}'.format([1]) }}",
        "{{ ([{'a': 1}] | groupby('a') | first).__class__ }}",
        "{{ [{'a': 1}] | groupby('__class__') }}",
        "{{ '{:>1000000000}'.format('a') }}",
        "{{ '{:{}}'.format('a', 1000000000) }}",
        *(f"{{{{ 'a'.{name}(1000000000) }}}}" for name in ("ljust", "rjust", "zfill", "center", "expandtabs")),
        "{{ 'a'.translate({97: 'b'}) }}",
        "{{ 'a'.encode() * 1000000000 }}",
        "{{ (1).to_bytes(1000000000, 'big') }}",
        *(f"{{{{ [2.5] | {name}(1000000000) }}}}" for name in ("batch", "slice", "round", "center", "wordwrap")),
        *(f"{{{{ 'a' | {name} }}}}" for name in ("pprint", "urlize", "xmlattr", "filesizeformat")),
        "{{ lipsum(n=1000000) }}",
    ],
)
def test_functions_for_long_texts_do_not_exist(source: str) -> None:
    refuse(source, REFUSED)


def test_a_deep_indentation_of_json_is_bounded() -> None:
    text = ChatTemplate("{{ [1] | tojson(indent=10 ** 9) }}", {}, "the template").render([])
    assert text == f"[\n{' ' * 64}1\n]"


def test_too_much_output_is_refused() -> None:
    template = ChatTemplate("{{ messages[0].content * 9 }}{{ 'x' * 999999 }}", {}, "the template")
    assert len(template.render([{"role": "user", "content": "y" * 1000}])) == 999_999 + 9000
    with pytest.raises(LlmcliError, match="produces too much"):
        template.render([{"role": "user", "content": "y" * 100_000}])


def test_a_tracer_of_the_caller_sees_the_render_and_stays() -> None:
    def tracer(_frame: FrameType, _event: str, _argument: Any) -> None:
        return None

    before = sys.gettrace()
    sys.settrace(tracer)
    try:
        ChatTemplate("{% for i in range(9) %}{{ i }}{% endfor %}", {}, "the template").render([])
        assert sys.gettrace() is tracer
        fault("{{ 'A' * 10 ** 9 }}")
        assert sys.gettrace() is tracer
    finally:
        sys.settrace(before)
