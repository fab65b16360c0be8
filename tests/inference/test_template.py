"""Chat templates in the shapes that published models use, against texts written by hand."""

from datetime import datetime
from typing import Any

import pytest

from llmcli.engine.reasoning import ReasoningSplitter
from llmcli.errors import LlmcliError, ModelInvalidError, UsageError
from llmcli.inference.template import ChatTemplate

SPECIAL = {"bos_token": "<s>", "eos_token": "</s>"}
QUESTION = "Hi <b> & 'c'"
USER = [{"role": "user", "content": QUESTION}]
ECHO = "{{ messages[-1].content }}"
SYSTEM = [{"role": "system", "content": "Be brief."}, *USER]
TURNS = [*SYSTEM, {"role": "assistant", "content": "Hello!"}, {"role": "user", "content": "More"}]

CHATML = """{% for message in messages %}
{% if loop.first and messages[0]['role'] != 'system' %}
{{- '<|im_start|>system\\nYou are helpful.<|im_end|>\\n' }}
{%- endif %}
{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}
{%- endfor %}
{% if add_generation_prompt %}
{{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""

LLAMA3 = """{{- bos_token }}
{%- if messages[0].role == 'system' %}
    {%- set system_message = messages[0]['content'] | trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = '' %}
{%- endif %}
{%- if not date_string is defined %}
    {%- set date_string = 'today' %}
{%- endif %}
{{- '<|start_header_id|>system<|end_header_id|>\\n\\nDate: ' ~ date_string ~ '\\n\\n' ~ system_message ~ '<|eot_id|>' }}
{%- for message in messages %}
    {{- '<|start_header_id|>' + message.role + '<|end_header_id|>\\n\\n' + message.content | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""

GEMMA = """{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}
{% endif %}{% for message in messages %}
{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
{{ raise_exception('Roles must alternate') }}
{% endif %}
{% set role = 'model' if message['role'] == 'assistant' else message['role'] %}
{{ '<start_of_turn>' + role + '\\n' + message['content'] | trim + '<end_of_turn>\\n' }}{% endfor %}
{% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}"""

MISTRAL = """{{ bos_token }}{% set ns = namespace(system='') %}
{%- for message in messages %}
{%- if message.role == 'system' %}{% set ns.system = message.content + '\\n\\n' %}
{%- elif message.role == 'user' %}{{ '[INST] ' + (ns.system if loop.last else '') + message.content + ' [/INST]' }}
{%- else %}{{ ' ' + message.content + eos_token }}{% endif %}
{%- endfor %}"""

QWEN3 = """{%- set ns = namespace(last=messages|length - 1, open=true) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.open and message.role == 'user' %}
        {%- set ns.open = false %}
        {%- set ns.last = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- set content = message.content if message.content is string else '' %}
    {%- if message.role == 'assistant' %}
        {%- set reasoning = '' %}
        {%- if '</think>' in content %}
            {%- set reasoning = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}
            {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
        {%- endif %}
        {%- if loop.index0 > ns.last %}
            {%- set content = '<think>\\n' + reasoning + '\\n</think>\\n\\n' + content %}
        {%- endif %}
    {%- endif %}
    {{- '<|im_start|>' + message.role + '\\n' + content + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}"""


def render(source: str, messages: list[dict[str, str]], **arguments: object) -> str:
    return ChatTemplate(source, SPECIAL, "the template").render(messages, arguments)


@pytest.mark.parametrize(
    ("source", "messages", "expected"),
    [
        (
            CHATML,
            USER,
            "<|im_start|>system\nYou are helpful.<|im_end|>\n"
            "<|im_start|>user\nHi <b> & 'c'<|im_end|>\n<|im_start|>assistant\n",
        ),
        (
            CHATML,
            TURNS,
            "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi <b> & 'c'<|im_end|>\n"
            "<|im_start|>assistant\nHello!<|im_end|>\n<|im_start|>user\nMore<|im_end|>\n<|im_start|>assistant\n",
        ),
        (
            LLAMA3,
            SYSTEM,
            "<s><|start_header_id|>system<|end_header_id|>\n\nDate: today\n\nBe brief.<|eot_id|>"
            "<|start_header_id|>user<|end_header_id|>\n\nHi <b> & 'c'<|eot_id|>"
            "<|start_header_id|>assistant<|end_header_id|>\n\n",
        ),
        (GEMMA, USER, "<s><start_of_turn>user\nHi <b> & 'c'<end_of_turn>\n<start_of_turn>model\n"),
        (
            GEMMA,
            TURNS,
            "<s><start_of_turn>user\nBe brief.\n\nHi <b> & 'c'<end_of_turn>\n"
            "<start_of_turn>model\nHello!<end_of_turn>\n<start_of_turn>user\nMore<end_of_turn>\n<start_of_turn>model\n",
        ),
        (GEMMA, SYSTEM[:1], "<s><start_of_turn>user\nBe brief.<end_of_turn>\n<start_of_turn>model\n"),
        (MISTRAL, TURNS, "<s>[INST] Hi <b> & 'c' [/INST] Hello!</s>[INST] Be brief.\n\nMore [/INST]"),
        (QWEN3, USER, "<|im_start|>user\nHi <b> & 'c'<|im_end|>\n<|im_start|>assistant\n"),
        (
            QWEN3,
            [*USER, {"role": "assistant", "content": "<think>\nhm\n</think>\n\nYes"}, *USER],
            "<|im_start|>user\nHi <b> & 'c'<|im_end|>\n<|im_start|>assistant\nYes<|im_end|>\n"
            "<|im_start|>user\nHi <b> & 'c'<|im_end|>\n<|im_start|>assistant\n",
        ),
        (
            QWEN3,
            [*USER, {"role": "assistant", "content": "<think>\nhm\n</think>\n\nYes"}],
            "<|im_start|>user\nHi <b> & 'c'<|im_end|>\n<|im_start|>assistant\n<think>\nhm\n</think>\n\nYes<|im_end|>\n"
            "<|im_start|>assistant\n",
        ),
    ],
    ids=[
        *("chatml", "chatml turns", "llama3", "gemma", "gemma turns", "gemma system", "mistral"),
        *("qwen3", "qwen3 past", "qwen3 last"),
    ],
)
def test_published_shapes_render_as_written_by_hand(source: str, messages: list[dict[str, str]], expected: str) -> None:
    assert render(source, messages, date_string="today") == expected


def test_a_template_gets_the_date_as_in_llama_cpp() -> None:
    template = ChatTemplate("{{ date_string }}, {{ datetime }}", SPECIAL, "the template")
    template.time = 1.5 * 86400  # noon in UTC
    assert template.render([]) == "02 Jan 1970, Jan 02 1970"
    assert template.render([], {"date_string": "yours"}) == "yours, Jan 02 1970"


def test_tools_are_a_text_where_a_template_reads_functions() -> None:
    tools = [{"name": "f"}]
    assert render("{{ 'a' + functions }}", []) == "a"
    assert render("{{ functions }}", [], tools=tools) == '[\n  {\n    "name": "f"\n  }\n]'
    assert render("{{ functions is defined }}, {{ tools }}", [], tools=tools) == "False, [{'name': 'f'}]"


def test_arguments_of_calls_are_texts_where_a_template_needs_them() -> None:
    call = {"function": {"name": "f", "arguments": {"a": "ü"}}}
    messages: Any = [{"role": "assistant", "content": "", "tool_calls": [call]}]
    loop = "{{% for c in messages[0].tool_calls %}}{{{{ {} }}}}{{% endfor %}}"
    assert render(loop.format("c.function.arguments.a"), messages) == "ü"
    assert render(loop.format("'f: ' + c.function.arguments"), messages) == 'f: {"a": "ü"}'


def test_a_variable_of_the_template_switches_reasoning_off() -> None:
    assert render(QWEN3, USER, enable_thinking=False) == render(QWEN3, USER) + "<think>\n\n</think>\n\n"


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("{{ {'b': '<ü>', 'a': [1, none]} | tojson }}", '{"b": "<ü>", "a": [1, null]}'),
        ("{{ {'b': 1, 'a': 2} | tojson(sort_keys=true, separators=(',', ':')) }}", '{"a":2,"b":1}'),
        ("{{ [1] | tojson(indent=2) }}", "[\n  1\n]"),
        ("{{ 'ü' | tojson(ensure_ascii=true) }}", '"\\u00fc"'),
        ("{{ 'a\nb\n\nc' | indent(2) }}|{{ 'a\nb' | indent('> ', true) }}", "a\n  b\n\n  c|> a\n> b"),
        ("{{ ['a', 1, none] | join('-') }}{{ '+'.join(['x', 'y']) }}", "a-1-Nonex+y"),
        ("{{ messages | map(attribute='role') | join(',') }}", "user"),
        ("{{ messages | selectattr('role', 'equalto', 'system') | list | length }}", "0"),
        ("{{ messages | rejectattr('role', '==', 'system') | map(attribute='content') | first }}", "Hi <b> & 'c'"),
        ("{{ 'aXbX' | replace('X', '--') }}{{ 'aXbX'.replace('X', '', 1) }}", "a--b--abX"),
        ("{% for k, v in {'b': 1, 'a': 2} | dictsort %}{{ k }}{{ v }}{% endfor %}", "a2b1"),
        ("{% for k, v in {'b': 1}.items() %}{{ k ~ v }}{% endfor %}", "b1"),
        ("{% for k, v in {'a': 2} | items %}{{ k ~ v }}{% endfor %}", "a2"),
        ("{{ '{}:{}{{}}'.format('x', 2) }}{{ '{1}{0}{name}'.format('x', 'y', name=none) }}", "x:2{}yxNone"),
        ("{% for i in range(5) %}{% if i == 1 %}{% continue %}{% endif %}{{ i }}{% endfor %}", "0234"),
        ("{% for i in range(5) %}{% if i == 3 %}{% break %}{% endif %}{{ i }}{% endfor %}", "012"),
        ("{% generation %}{{ messages[0].content }}{% endgeneration %}!", "Hi <b> & 'c'!"),
        ("{% macro tag(name) %}<{{ name }}>{{ caller() }}{% endmacro %}{% call tag('a') %}x{% endcall %}", "<a>x"),
        ("{% set text %}a{% endset %}{{ text ~ 1 ~ none ~ true }}", "a1NoneTrue"),
        ("{{ ('<a>' | safe) ~ '<b>' }}", "<a><b>"),
        ("{{ nothing }}{{ nothing | default('x') }}{{ 'y' if nothing is not defined }}", "xy"),
        ("{% for m in 'abc' %}{{ loop.index0 }}{{ loop.length }}{{ loop.revindex }}{{ loop.last }}{% endfor %}",
         "033False132False231True"),
        ("{% for m in 'ab' %}{{ loop.previtem is defined }}{{ loop.nextitem is defined }}{% endfor %}",
         "FalseTrueTrueFalse"),
        ("{{ bos_token }}{{ eos_token }}", "<s></s>"),
        ("{{ [3, 1, 2] | sort | reverse | list }}{{ [1, 1, 2] | unique | list }}", "[3, 2, 1][1, 2]"),
        ("{{ 7 // 2 }}{{ 7 % 2 }}{{ 2 ** 8 }}{{ '-' * 3 }}{{ 3 * '=' }}{{ [1] + [2] }}", "31256---===[1, 2]"),
        ("{{ 'a b'.split() | last | upper }}{{ ' x '.strip() }}{{ 'abc'[::-1] }}", "Bxcba"),
        ("{{ messages[0].get('name', 'none') }}{{ messages[0]['role'] | title }}{{ '3' | int + 1 }}", "noneUser4"),
        ("{% raw %}{{ x }}{% endraw %}{# gone #}", "{{ x }}"),
        ("{{ '%s is %05.1f%% (%-3s|%+d)' % ('x', 2.345, 'a', 7) }}{{ '%(a)s' % {'a': 1} }}", "x is 002.3% (a  |+7)1"),
        ("{{ '%s-%s' | format('a', [1]) }}{{ '%(b)s' | format(b=2) }}{{ '%x' % 255 }}{{ '100%%' % () }}",
         "a-[1]2ff100%"),
        ("{{ '{:.2f}|{:>4}|{:,}'.format(3.14159, 'ab', 12345) }}", "3.14|  ab|12,345"),
        ("{{ [1, 2, 3] | sum }}{{ [{'n': 2}, {'n': 0.5}] | sum('n') }}{{ [[1], [2]] | sum(start=[]) }}", "62.5[1, 2]"),
        ("{{ 'one two three four' | truncate(12) }}{{ 'abcdef' | truncate(3, true, '', 0) }}", "one two...abc"),
        ("{% for g in [{'k': 'b', 'v': 1}, {'k': 'a', 'v': 2}, {'k': 'b', 'v': 3}] | groupby('k') %}"
         "{{ g.grouper }}{{ g.list | map(attribute='v') | list }}{% endfor %}", "a[2]b[1, 3]"),
        ("{% for key, items in [{'k': 1}] | groupby('k') %}{{ key }}{{ items | length }}{% endfor %}", "11"),
    ],
)  # fmt: skip
def test_functions_of_templates_work_as_in_jinja(source: str, expected: str) -> None:
    assert render(source + ECHO, USER) == expected + QUESTION


def test_the_template_gets_the_current_date() -> None:
    assert render("{{ strftime_now('%Y') }}", []) in {str(datetime.now().year), str(datetime.now().year - 1)}


def test_block_lines_leave_no_blank_lines() -> None:
    assert render("a\n  {% if true %}\nb\n  {% endif %}\nc\n", []) == "a\nb\nc"


# How model families open the reasoning, written anew: the end of the prompt with reasoning and without.
FAMILIES = {
    "GLM 4.7": (
        "<|assistant|>{{- '</think>' if (enable_thinking is defined and not enable_thinking) else '<think>' -}}",
        ("<|assistant|><think>", "<|assistant|></think>"),
    ),
    "Qwen 3.5": (
        "assistant\n{% if enable_thinking is defined and enable_thinking is false %}"
        "{{- '<think>\\n\\n</think>\\n\\n' }}"
        "{% else %}{{- '<think>\\n' }}{% endif %}",
        ("assistant\n<think>\n", "assistant\n<think>\n\n</think>\n\n"),
    ),
    "Qwen 3": (
        "assistant\n{{ '<think></think>' if not enable_thinking | default(true) }}",
        ("assistant\n", "</think>"),
    ),
    "DeepSeek V3.1": (
        "{% if not thinking is defined %}{% set thinking = false %}{% endif %}"
        "<｜Assistant｜>{{ '<think>' if thinking else '</think>' }}",
        ("<｜Assistant｜><think>", "<｜Assistant｜></think>"),
    ),
    "Gemma 4": (
        "<|turn>model\n{{ '<|channel>thought\\n<channel|>' if not enable_thinking | default(false) }}",
        ("<|turn>model\n", "<|channel>thought\n<channel|>"),
    ),
    "Granite 3.3": ("{{ 'Write your thoughts.' if thinking }}<|role|>", ("Write your thoughts.<|role|>", "Hi<|role|>")),
    "MiniMax M2": ("{{ ']~b]ai' ~ '\\n' ~ '<think>' ~ '\\n' }}", ("]~b]ai\n<think>\n",) * 2),
    "Nemotron": (
        "{% set on = enable_thinking if enable_thinking is defined else true %}"
        "a{{ '<think>\\n' if on else '<think></think>' }}",
        ("a<think>\n", "a<think></think>"),
    ),
    "Hy3": ("a<think:opensource>{{ '</think:opensource>' if not thinking }}", (":opensource>", "</think:opensource>")),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_reasoning_begins_where_a_family_begins_it(family: str) -> None:
    source, ends = FAMILIES[family]
    for thinks, end in zip((True, False), ends, strict=True):
        text = render(f"{{{{ messages[0].content }}}}{source}", [{"role": "user", "content": "Hi"}], **switch(thinks))
        assert text.endswith(end)
        assert ReasoningSplitter(text).thinking == text.rstrip().endswith(("<think>", "<think:opensource>"))


def switch(thinks: bool) -> dict[str, bool]:
    return {"enable_thinking": thinks, "thinking": thinks}


# SmolVLM and Idefics iterate over a content; others take its first part.
PARTS = """{% for m in messages %}{{ m.role }}:{% for part in m.content %}
{% if part['type'] == 'text' %}{{ part['text'] }}{% endif %}
{% endfor %}|{% endfor %}"""
FIRST_PART = "{% for m in messages %}{{ m.role }}:{{ m.content[0]['text'] | trim }}|{% endfor %}"


@pytest.mark.parametrize("source", [PARTS, FIRST_PART])
@pytest.mark.parametrize("question", ["Hi", "a", "<b>"])
def test_a_template_for_typed_content_gets_it(source: str, question: str) -> None:
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": question}]
    assert render(source, messages) == f"system:Be brief.|user:{question}|"


def test_a_system_message_that_a_template_omits_comes_before_the_first_question() -> None:
    source = "{% for m in messages if m.role != 'system' %}[{{ m.content }}]{% endfor %}"
    assert render(source, SYSTEM) == f"[Be brief.\n\n{QUESTION}]"
    assert render("yandex", SYSTEM) == f" Пользователь: Be brief.\n\n{QUESTION}\n\n Ассистент:[SEP]"


@pytest.mark.parametrize("source", ["Hello!", "{{ messages[0].content }}", "{{ messages[-1].role }}"])
def test_a_template_that_omits_the_question_is_an_error(source: str) -> None:
    with pytest.raises(LlmcliError, match="does not write the last message of the user into the prompt") as caught:
        render(source, TURNS)
    assert "--raw" in caught.value.hint
    with pytest.raises(UsageError, match="does not write"):
        ChatTemplate(source, {}, "the chat template", is_given=True).render(TURNS)


def test_a_question_that_a_filter_changes_stands_in_the_prompt() -> None:
    assert render("{{ messages[0].content | upper | e }}", USER) == "HI &lt;B&gt; &amp; &#39;C&#39;"


def test_variables_of_the_user_do_not_replace_those_of_the_program() -> None:
    template = ChatTemplate("{{ bos_token }}{{ messages[0].content }}{{ x }}", SPECIAL, "the template")
    text = template.render(USER, {"bos_token": "no", "messages": [], "x": 1, "self": 2})
    assert text == f"<s>{QUESTION}1"


def test_a_variable_can_be_what_a_template_demands() -> None:
    source = "{{ documents }}" + ECHO + "{% if documents.x %}{% endif %}"
    with pytest.raises(LlmcliError, match="'documents' is undefined"):
        render(source, USER)
    assert render(source, USER, documents=[]) == "[]" + QUESTION


@pytest.mark.parametrize(
    "name", ["chatml", "llama3", "gemma", "mistral-v7", "phi4", "deepseek3", "command-r", "vicuna"]
)
def test_templates_of_llama_cpp_write_every_message(name: str) -> None:
    text = render(name, TURNS)
    assert all(message["content"] in text for message in TURNS)
    assert text.index("Be brief.") < text.index(QUESTION) < text.index("Hello!") < text.index("More")


def test_a_text_with_nul_stays_whole_in_a_template_of_llama_cpp() -> None:
    text = render("chatml", [{"role": "user", "content": "a\0b ü " * 1000}])
    assert text == "<|im_start|>user\n" + "a\ufffdb ü " * 1000 + "<|im_end|>\n<|im_start|>assistant\n"


def test_an_error_has_the_line_of_the_template() -> None:
    with pytest.raises(ModelInvalidError, match=r"^the template is not valid Jinja: line 3: expected token"):
        render("a\n{# b #}\n{{ a b }}\n", USER)
    with pytest.raises(LlmcliError, match=r"^the template fails: line 2: 'x' is undefined"):
        render("a\n{{ x.y }}\n" + ECHO, USER)
    with pytest.raises(LlmcliError, match=r"^the template fails: line 3: no, please"):
        render("a\n\n{{ raise_exception('no, please') }}\n" + ECHO, USER)


@pytest.mark.parametrize(
    ("source", "telling"),
    [
        ("{% for m in messages %}", "Unexpected end of template"),
        ("{{ a b }}", "expected token 'end of print statement'"),
        ("{% trans %}a{% endtrans %}", "unknown tag 'trans'"),
        ("{{ 'a' | wordwrap(1) }}", "No filter named 'wordwrap'"),
        ("{{ " + "(" * 3000 + "1" + ")" * 3000 + " }}", "recursion"),
        ("{% for a in [1] %}" * 25 + "{% endfor %}" * 25, "too many statically nested blocks"),
        ("{{ " + "9" * 5000 + " }}", "4300 digits"),
        ("{% for a in b recursive %}{% endfor %}", "recursive loop"),
        ("x" * 200_000, "more than 131072 characters"),
    ],
)
def test_a_text_that_is_not_a_template_is_refused(source: str, telling: str) -> None:
    with pytest.raises(ModelInvalidError, match=telling) as caught:
        ChatTemplate(source, {}, "the template")
    assert str(caught.value).startswith("the template ")
    assert "\n" not in str(caught.value)
    assert "--chat-template" in caught.value.hint


@pytest.mark.parametrize(
    ("source", "telling"),
    [
        ("{{ raise_exception('Only\n user  please') }}", "Only user please"),
        ("{{ raise_exception() }}", "without a message"),
        ("{{ missing.content }}", "'missing' is undefined"),
        ("{{ missing() }}", "'missing' is undefined"),
        ("{{ 1 // 0 }}", "by zero"),
        ("{{ 1 + 'a' }}", "unsupported operand"),
        ("{{ messages[5].content }}", "no element 5"),
        ("{% for a in 5 %}{% endfor %}", "not iterable"),
        ("{% include 'other' %}", "no loader"),
        ("{{ strftime_now(5) }}", "subscriptable"),
        ("{{ '{} {}'.format('a') }}", "out of range"),
    ],
)
def test_the_error_of_a_template_is_one_line(source: str, telling: str) -> None:
    with pytest.raises(LlmcliError, match=telling) as caught:
        render(source, USER)
    assert str(caught.value).startswith("the template fails: ")
    assert "\n" not in str(caught.value)
    assert "--raw" in caught.value.hint


def test_a_template_that_refuses_the_merged_system_too_fails() -> None:
    with pytest.raises(LlmcliError, match="nobody"):
        render("{{ raise_exception('nobody') }}", SYSTEM)


def test_the_messages_given_are_not_changed() -> None:
    before = [dict(message) for message in TURNS]
    render(GEMMA, TURNS)
    assert before == TURNS


def test_a_template_renders_again_after_it_failed() -> None:
    template = ChatTemplate("{{ 'a' * messages[0].content | int }}" + ECHO, {}, "the template")
    with pytest.raises(LlmcliError):
        template.render([{"role": "user", "content": "1000000000"}])
    assert template.render([{"role": "user", "content": "3"}]) == "aaa3"


def test_a_long_conversation_has_room() -> None:
    long = [{"role": role, "content": "word " * 20_000} for role in ("user", "assistant") * 20]
    text = render(CHATML, long)
    assert text.count("word ") == 20_000 * 40
    assert render(QWEN3, long).count("word ") == 20_000 * 40
