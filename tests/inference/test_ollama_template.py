"""Ollama's Go templates give the prompts that Ollama makes with them."""

from pathlib import Path

import pytest

from llmcli.errors import LlmcliError, ModelInvalidError
from llmcli.inference.ollama_template import chat_template_of, is_trivial, to_jinja
from llmcli.inference.resolved_model import ResolvedModel
from llmcli.inference.template import ChatTemplate
from llmcli.models.gguf.parser import read_header
from llmcli.models.locations import ModelFile
from llmcli.params.policies.policy import Fixed
from llmcli.params.settings import resolve
from tests.models.gguf_writer import MODEL, write_gguf

USER, MORE = {"role": "user", "content": "hi"}, {"role": "user", "content": "more"}
SYSTEM, ANSWER = {"role": "system", "content": "be"}, {"role": "assistant", "content": "yo"}
TALK = [SYSTEM, USER, ANSWER, MORE]
TURNS = """{{ if .System }}<|system|>
{{ .System }}<|end|>
{{ end }}{{ if .Prompt }}<|user|>
{{ .Prompt }}<|end|>
{{ end }}<|assistant|>
{{ .Response }}<|end|>
"""
MESSAGES = """{{- range $i, $_ := .Messages }}
{{- $last := eq (len (slice $.Messages $i)) 1 }}
{{- if or (eq .Role "user") (eq .Role "system") }}<start>user
{{ .Content }}<end>
{{ if $last }}<start>model
{{ end }}
{{- else if eq .Role "assistant" }}<start>model
{{ .Content }}{{ if not $last }}<end>
{{ end }}
{{- end }}
{{- end }}"""
THINKING = """{{- $lastUserIdx := -1 -}}
{{- range $idx, $msg := .Messages -}}
{{- if eq $msg.Role "user" }}{{ $lastUserIdx = $idx }}{{ end -}}
{{- end }}
{{- if or .System .Tools }}<|im_start|>system
{{ if .System }}{{ .System }}{{ end }}
{{- if .Tools }}
{{ toTypeScriptType .Tools }}
{{- end -}}
<|im_end|>
{{ end }}
{{- range $i, $_ := .Messages }}
{{- $last := eq (len (slice $.Messages $i)) 1 -}}
{{- if eq .Role "user" }}<|im_start|>user
{{ .Content }}
{{- if and $.IsThinkSet (eq $i $lastUserIdx) }}
   {{- if $.Think -}}
      {{- " "}}/think
   {{- else -}}
      {{- " "}}/no_think
   {{- end -}}
{{- end }}<|im_end|>
{{ else if eq .Role "assistant" }}<|im_start|>assistant
{{ if .Content }}{{ .Content }}
{{- end }}{{ if not $last }}<|im_end|>
{{ end }}
{{- end }}
{{- if and (ne .Role "assistant") $last }}<|im_start|>assistant
{{ end }}
{{- end }}"""


def render(source: str, messages: list[dict[str, str]], thinking: bool = True) -> str:
    return ChatTemplate(to_jinja(source), {"bos_token": "", "eos_token": ""}, "the template").render(
        messages, {"enable_thinking": thinking, "thinking": thinking}
    )


def test_template_of_turns_ends_where_the_answer_begins() -> None:
    assert render(TURNS, [USER]) == "<|user|>\nhi<|end|>\n<|assistant|>\n"
    assert render(TURNS, TALK) == (
        "<|system|>\nbe<|end|>\n<|user|>\nhi<|end|>\n<|assistant|>\nyo<|end|>\n<|user|>\nmore<|end|>\n<|assistant|>\n"
    )


def test_template_without_a_response_gets_it_at_the_end() -> None:
    source = "[INST] {{ if .System }}{{ .System }} {{ end }}{{ .Prompt }} [/INST]"
    assert render(source, TALK) == "[INST] be hi [/INST]yo[INST] more [/INST]"


def test_nothing_follows_a_condition_on_the_response() -> None:
    source = "{{ .Prompt }}|{{ if .Response }}{{ .Response }}<end>{{ end }}tail"
    assert render(source, [USER, ANSWER, MORE]) == "hi|yo<end>tailmore|"


def test_two_messages_of_the_user_in_a_row_are_both_in_the_prompt() -> None:
    assert render(TURNS, [USER, MORE]).count("<|user|>") == 2


def test_template_of_messages_loops_over_them() -> None:
    expected = (
        "<start>user\nbe<end>\n<start>user\nhi<end>\n<start>model\nyo<end>\n<start>user\nmore<end>\n<start>model\n"
    )
    assert render(MESSAGES, TALK) == expected


def test_template_of_ollama_knows_whether_to_think() -> None:
    end = "<|im_end|>\n<|im_start|>assistant\n"
    assert render(THINKING, [SYSTEM, USER]) == f"<|im_start|>system\nbe<|im_end|>\n<|im_start|>user\nhi /think{end}"
    assert render(THINKING, [USER], thinking=False) == f"<|im_start|>user\nhi /no_think{end}"


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ('{{/* a " quote, {{ and all */}}{{ .Prompt }}', "hi"),
        ("a  {{- .Prompt -}}  b", "ahib"),
        ("{{ with .System }}S={{ . }}{{ else }}none{{ end }};{{ .Prompt }}", "S=be;hi"),
        ("{{ with $x := .Prompt }}{{ $x }}{{ . }}{{ end }}", "hihi"),
        ("{{ if $x := .Prompt }}{{ $x }}{{ end }}", "hi"),
        ("{{ .Prompt | json }}", '"hi"'),
        (
            "{{ index (slice .Messages 1) 0 | json }}{{ (index .Messages 0).Content }}",
            '{"role": "user", "content": "hi"}be',
        ),
        (
            '{{ range .Messages }}{{ if eq .Role "system" }}{{ continue }}{{ end }}{{ .Content }}{{ break }}{{ end }}',
            "hi",
        ),
        ("{{ range .Tools }}x{{ else }}no tools{{ end }}{{ .Prompt }}", "no toolshi"),
        (
            '{{ "{{ }} {% raw %} \\n\\u00e9" }}{% x %}{# y #}{{ `\\n"` }}{{ .Prompt }}',
            '{{ }} {% raw %} \né{% x %}{# y #}\\n"hi',
        ),
        (
            "{{ if and (gt 2 1) (le 1 1) (lt 0 1) (ge 1 1) (ne 1 2) true (not false) }}yes{{ end }}{{ .Prompt }}",
            "yeshi",
        ),
        ("{{ .Unknown }}{{ if .First }}x{{ end }}{{ .Prompt }}", "hi"),
        ("{{ if .Suffix }}<PRE>{{ .Suffix }}{{ else }}{{ .Prompt }}{{ end }}", "hi"),
    ],
)
def test_each_part_of_a_go_template_means_the_same(source: str, text: str) -> None:
    # A template that leaves the system prompt out gets it before the question.
    is_whole = ".System" in source or ("Messages" in source and "continue" not in source)
    assert render(source, [SYSTEM, USER] if is_whole else [USER]) == text


@pytest.mark.parametrize(
    ("source", "why"),
    [
        ("{{ if .Prompt }}x", "{{ if }} has no {{ end }}"),
        ("a{{ end }}", "has no beginning"),
        ("{{ if .Prompt }}{{ else }}{{ else }}{{ end }}", "{{ if }} has no {{ end }}"),
        ('{{ template "x" . }}', "{{ template }} is not supported"),
        ("a\n{{ .Prompt", "line 2 cannot be read"),
        ("{{ .Prompt }}\n\n{{ 'x' }}", "line 3 cannot be read"),
        ('{{ "\\y" "\\N{x}" }}', "is not a valid string"),
        ("{{ ( .Prompt }}", "a parenthesis is not closed"),
        ("{{ .Prompt ) }}", "')' is not expected"),
        ("{{ .Prompt .System }}", "has no value, or several"),
        ("{{ .Prompt | }}", "a function is missing after |"),
        ("{{ if }}{{ end }}", "has no value"),
        ("{{ range .Messages }}" * 50, "nested too deeply"),
        ("{{ " + "(" * 50 + ".Prompt" + ")" * 50 + " }}", "nested too deeply"),
        ("{{" * 40_000, "more than 65536 characters"),
    ],
)
def test_template_that_is_not_supported_says_why(source: str, why: str) -> None:
    with pytest.raises(ModelInvalidError) as caught:
        to_jinja(source)
    assert why in str(caught.value)
    assert "\n" not in str(caught.value)


def test_unknown_function_fails_only_where_it_is_reached() -> None:
    assert render("{{ if .Tools }}{{ toTypeScriptType .Tools }}{{ end }}{{ .Prompt }}", [USER]) == "hi"
    with pytest.raises(LlmcliError, match="the function shell of the template is not supported"):
        render("{{ shell .Prompt }}", [USER])


def test_template_of_ollama_cannot_reach_python() -> None:
    with pytest.raises(LlmcliError):
        render("{{ .Messages.__class__ }}{{ .Prompt }}", [USER])


@pytest.mark.parametrize("source", ["{{ .Prompt }}", "{{- .Prompt -}}\n", "", " "])
def test_template_that_only_repeats_the_prompt_is_trivial(source: str) -> None:
    assert is_trivial(source)
    assert not is_trivial(TURNS)


@pytest.mark.parametrize("own", ["{{ messages[0].content }}", ""])
def test_template_in_the_store_comes_before_that_of_the_file(tmp_path: Path, own: str) -> None:
    path = write_gguf(tmp_path / "m.gguf", MODEL | ({"tokenizer.chat_template": own} if own else {}))

    def chosen(template: str) -> tuple[str, str]:
        return chat_template_of(ModelFile(path, (path,), "m", ollama_template=template), read_header(path))

    assert chosen("") == chosen("{{ .Prompt }}") == (own, "")
    assert chosen(TURNS) == (to_jinja(TURNS), "")
    template, note = chosen("{{ if }}")
    assert template == own
    assert note.startswith("the template of Ollama is not supported: ")
    assert ("that of the model file is used" in note) == bool(own)


def test_settings_of_ollama_are_defaults_of_the_model(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "m.gguf", MODEL | {"general.sampling.temp": 0.5, "general.sampling.top_k": 7})
    parameters = '{"stop": ["<end>", "User:"], "temperature": 0.1, "num_predict": 9, "num_ctx": 64, "top_p": 7, "x": 1}'
    target = ResolvedModel(ModelFile(path, (path,), "m", trusted=True, ollama_parameters=parameters))
    settings = resolve([target.layer]).settings
    assert (settings.stop, settings.temperature, settings.top_k) == (("<end>", "User:"), Fixed(0.1), 7)
    assert (settings.max_tokens, settings.n_ctx, settings.top_p) == (9, 0, 0.95)
    assert len(target.notes) == 1
    assert "top_p" in target.notes[0]


@pytest.mark.parametrize("parameters", ["", "{", "[1]", "null", "[" * 100_000])
def test_damaged_settings_of_ollama_change_nothing(tmp_path: Path, parameters: str) -> None:
    path = write_gguf(tmp_path / "m.gguf")
    target = ResolvedModel(ModelFile(path, (path,), "m", trusted=True, ollama_parameters=parameters))
    assert (target.layer.values, target.notes) == ({}, [])
