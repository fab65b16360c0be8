"""What servers with OpenAI's API take: which settings, under which names, and what they say of themselves."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from llmcli.engine.events import Constraint
from llmcli.files import decode_json
from llmcli.params.generation import GenerationParams, RequestParams, template_args_as_data
from llmcli.params.model import ModelParams, StateParams
from llmcli.params.param import fields_of
from llmcli.params.sampler_chain import SamplingParams, plan_temperature
from llmcli.params.samplers import SAMPLERS
from llmcli.params.settings import Settings, fields, ineffective_keys, to_data

Body = dict[str, object]
_OPENAI = ("temperature", "top_p", "presence_penalty", "frequency_penalty", "seed", "stop", "logprobs")
_VLLM = {"repeat_penalty": "repetition_penalty", **{key: key for key in ("top_k", "min_p", "ignore_eos")}}
_LLAMA_CPP = (
    *("top_k", "min_p", "typical_p", "top_n_sigma", "min_keep", "samplers", "ignore_eos"),
    *("dynatemp_range", "dynatemp_exponent", "xtc_probability", "xtc_threshold", "adaptive_target", "adaptive_decay"),
    *("repeat_penalty", "repeat_last_n", "mirostat", "mirostat_tau", "mirostat_eta"),
    *("dry_multiplier", "dry_base", "dry_allowed_length", "dry_penalty_last_n", "dry_sequence_breakers"),
)
# Settings that do not reach a server: they are for llmcli itself, or are a part of the prompt.
_HERE = {"prompt", "file", "system", "encoding", "preset", "raw", "constraint_retries", "trace_top", "timeout", "model"}
# Of a whole request; what the configuration says of this machine is for other models.
_OF_REQUESTS = ("flag", "line", "session", "retry")
_TEMPERATURE = ("temperature", "dynatemp_range", "dynatemp_exponent", "temp_policy_file")
_LOWEST_BIAS = -100.0  # OpenAI: "effectively a ban"


@dataclass(frozen=True)
class Dialect:
    """A kind of server. `names` has its name for each setting that it takes as it is."""

    kind: str  # one of KINDS
    title: str  # for people
    names: Mapping[str, str]
    max_tokens: str = "max_tokens"
    has_bias: bool = True  # logit_bias of numbers
    bias_texts: bool = False  # and of texts
    top_k_off: int = 0  # its value for no limit
    think_off: Mapping[str, object] = field(default_factory=dict)  # asks the model for no reasoning
    template_args: bool = False  # chat_template_kwargs
    think_budget: str = ""
    continues: Mapping[str, object] | None = None  # with a beginning of the answer as the last message; None: it cannot
    constraints: Mapping[str, Callable[[str], Body]] = field(default_factory=dict)  # by kind
    policies: bool = False  # each rule for the temperature
    ranges: bool = False  # a range of temperatures, by entropy
    always_seeded: bool = True  # it takes a seed that nobody asked for
    counts: str = ""  # how it counts the tokens of messages: "" = not at all, "messages", or "template"
    # It is a server of llmcli: with the field `llmcli` it tells how tokens are drawn, repeats answers and moves their
    # temperature. It takes a template, and the beginning of an answer in a field of its own, which it repeats.
    has_extras: bool = False
    scores: bool = False  # `echo` with log-probabilities, and routes that tokenize

    def takes(self, key: str) -> bool:
        """Whether the server takes a setting, whatever its value."""
        special = {
            "max_tokens": True,
            "logit_bias": self.has_bias,
            "think": bool(self.think_off),
            "template_arg": self.template_args,
            "think_budget": bool(self.think_budget),
            "chat_template": self.has_extras,
            "prefill": self.has_extras or self.continues is not None,
            "grammar": "grammar" in self.constraints,
            "grammar_file": "grammar" in self.constraints,
            "json_schema": "json_schema" in self.constraints,
            "regex": "regex" in self.constraints,
        }
        return special.get(key, key in self.names or key in _HERE)

    @property
    def taken(self) -> Sequence[str]:
        """The settings that reach the server."""
        return [key for key in _SENT if key not in _HERE and self.takes(key)]

    def unsupported(self, settings: Settings) -> Sequence[str]:
        """The settings that the server does not take, and that would change an answer at their present values."""
        idle = ineffective_keys(settings)
        lost = [key for key in _SENT if not self.takes(key) and key not in idle and _matters(key, settings)]
        if settings.think != "off" and "think" in lost:
            lost.remove("think")
        native = plan_temperature(settings).native
        if (native is None and not self.policies) or (native and native[1] > 0 and not self.ranges):
            lost = [key for key in lost if not key.startswith("dynatemp")] + ["a temperature policy"]
        if not self.bias_texts and any(isinstance(token, str) for token, _ in settings.logit_bias) and self.has_bias:
            lost.append("logit_bias of a text")
        if settings.raw and settings.think_budget >= 0 and "think_budget" not in lost:
            lost.append("think_budget with raw")
        lost += [
            key
            for key in (*fields_of(ModelParams), *fields_of(StateParams))
            if key not in ("model", "n_ctx") and settings.given.get(key) in _OF_REQUESTS
        ]
        return lost

    def body(self, settings: Settings, constraint: Constraint | None, defaults: Mapping[str, object]) -> Body:
        """What a request says beside the prompt: the settings that are set, and that the server takes.

        `defaults` are those of the server that are known.
        """
        lost, data = {*self.unsupported(settings), *_TEMPERATURE, "seed"}, to_data(settings)
        sent = [key for key in self.names if key not in lost and _is_set(key, settings, defaults)]
        body: Body = {self.names[key]: data[key] for key in sent}
        if "logprobs" in body:
            del body["logprobs"]  # its form depends on the route
        if "stop" in body:
            body["stop"] = list(settings.stop)
        if "samplers" in body:
            body["samplers"] = list(settings.samplers)
        if self.top_k_off and body.get("top_k") == 0:
            body["top_k"] = self.top_k_off
        body |= self._temperature(settings, defaults)
        if "seed" in self.names and (self.always_seeded or "seed" in settings.given):
            body["seed"] = settings.seed
        if settings.max_tokens >= 0:
            body[self.max_tokens] = settings.max_tokens
        body |= self._bias(settings) | self._reasoning(settings)
        if constraint and constraint.kind in self.constraints:
            body |= self.constraints[constraint.kind](constraint.text)
        return body

    def _temperature(self, settings: Settings, defaults: Mapping[str, object]) -> Body:
        if not any(_is_set(key, settings, defaults) for key in _TEMPERATURE):
            return {}
        native, data = plan_temperature(settings).native, to_data(settings)
        if self.policies:
            keys = [key for key in _TEMPERATURE if key != "temp_policy_file" and _is_set(key, settings, defaults)]
            return {key: data[key] for key in keys}
        if native is None:
            return {}
        if native[1] <= 0:
            return {"temperature": native[0]}
        if not self.ranges:
            return {}
        return {"temperature": native[0], "dynatemp_range": native[1], "dynatemp_exponent": native[2]}

    def _bias(self, settings: Settings) -> Body:
        if not self.has_bias:
            return {}
        if self.bias_texts:
            pairs = [[token, bias if math.isfinite(bias) else False] for token, bias in settings.logit_bias]
            return {"logit_bias": pairs} if pairs else {}
        known = {str(token): max(bias, _LOWEST_BIAS) for token, bias in settings.logit_bias if isinstance(token, int)}
        return {"logit_bias": known} if known else {}

    def _reasoning(self, settings: Settings) -> Body:
        if settings.raw:
            return {}
        body: Body = dict(self.think_off) if settings.think == "off" else {}
        if self.template_args and settings.template_arg:
            arguments = body.get("chat_template_kwargs", {})
            assert isinstance(arguments, dict)
            body["chat_template_kwargs"] = {**arguments, **template_args_as_data(settings.template_arg)}
        if self.think_budget and settings.think_budget >= 0:
            body[self.think_budget] = settings.think_budget
        return body


_SENT = [*fields_of(SamplingParams), *fields_of(GenerationParams), *fields_of(RequestParams)]


def _is_set(key: str, settings: Settings, defaults: Mapping[str, object]) -> bool:
    """Whether a layer sets it, or the program; all else is left to the server."""
    return key in settings.given or getattr(settings, key) != defaults.get(key, fields()[key].default)


def _matters(key: str, settings: Settings) -> bool:
    """Whether a setting changes an answer: it is not at its default, and does not turn its sampler off."""
    if getattr(settings, key) == fields()[key].default:
        return False
    own = [one for one in SAMPLERS.values() if key in one.fields and one.place == "default"]
    return not own or any(one.arguments(settings) is not None for one in own)


def _schema(text: str) -> Body:
    """OpenAI's form, which most servers take."""
    schema = {"name": "answer", "schema": decode_json(text.encode()), "strict": True}
    return {"response_format": {"type": "json_schema", "json_schema": schema}}


def _structured(key: str) -> Callable[[str], Body]:
    """vLLM's form."""
    return lambda text: {"structured_outputs": {key: decode_json(text.encode()) if key == "json" else text}}


def _json_field(name: str) -> Callable[[str], Body]:
    return lambda text: {name: decode_json(text.encode())}


def _field(name: str) -> Callable[[str], Body]:
    return lambda text: {name: text}


def _same(*keys: str) -> dict[str, str]:
    return {key: key for key in keys}


_NO_THINKING = {"chat_template_kwargs": {"enable_thinking": False, "thinking": False}}
_CONTINUE = {"continue_final_message": True, "add_generation_prompt": False}
_ALL = [key for key in (*fields_of(SamplingParams), "ignore_eos", "banned_strings") if key != "temp_policy_file"]
DIALECTS = {
    one.kind: one
    for one in (
        Dialect(
            "llmcli",
            "llmcli",
            _same(*_OPENAI, *(key for key in _ALL if key not in _OPENAI)),
            bias_texts=True,
            think_off={"think": "off"},
            template_args=True,
            think_budget="think_budget",
            constraints={
                "json_schema": _json_field("json_schema"),
                "grammar": _field("grammar"),
                "regex": _field("regex"),
            },
            policies=True,
            ranges=True,
            counts="template",
            has_extras=True,
            scores=True,
        ),
        Dialect(
            "llama-server",
            "llama-server",
            _same(*_OPENAI, *_LLAMA_CPP),
            bias_texts=True,
            think_off=_NO_THINKING,
            template_args=True,
            think_budget="reasoning_budget_tokens",
            continues=_CONTINUE,
            constraints={"json_schema": _schema, "grammar": _field("grammar")},
            ranges=True,
            counts="template",
        ),
        Dialect(
            "vllm",
            "vLLM",
            {**_same(*_OPENAI), **_VLLM},
            top_k_off=-1,
            think_off=_NO_THINKING,
            template_args=True,
            think_budget="thinking_token_budget",
            continues=_CONTINUE,
            constraints={
                key: _structured("json" if key == "json_schema" else key) for key in ("json_schema", "regex", "grammar")
            },
            counts="messages",
            scores=True,
        ),
        Dialect(
            "sglang",
            "SGLang",
            {**_same(*_OPENAI), **_VLLM},
            top_k_off=-1,
            think_off=_NO_THINKING,
            template_args=True,
            continues={"continue_final_message": True},
            constraints={"json_schema": _schema, "regex": _field("regex"), "grammar": _field("ebnf")},
        ),
        Dialect(
            "ollama",
            "ollama",
            _same(*_OPENAI),
            has_bias=False,
            think_off={"reasoning_effort": "none"},
            constraints={"json_schema": _schema},
        ),
        Dialect(
            "openai",
            "OpenAI",
            _same(*_OPENAI),
            max_tokens="max_completion_tokens",
            think_off={"reasoning_effort": "none"},
            constraints={"json_schema": _schema},
        ),
        Dialect(
            "other",
            "a server of an unknown kind",
            _same(*_OPENAI),
            constraints={"json_schema": _schema},
            always_seeded=False,
        ),
    )
}
_OWNERS = {"llamacpp": "llama-server", "library": "ollama", "openai": "openai", "system": "openai"}
_OWNERS |= {"llmcli": "llmcli", "vllm": "vllm", "sglang": "sglang"}


def kind_of_owner(owner: object, host: str) -> str:
    """The kind of a server by the `owned_by` of its models, and its host; "" where they do not tell."""
    name = host.rpartition(":")[0] or host
    if name in ("api.openai.com", "eu.api.openai.com"):
        return "openai"
    kind = _OWNERS.get(str(owner).lower(), "")
    return "" if kind == "openai" else kind  # other servers say that of theirs too
