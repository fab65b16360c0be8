"""Valid values for each setting, made from its declaration."""

from collections.abc import Iterator
from typing import Any

from llmcli.params.param import Field
from llmcli.params.policies.policy import Entropy, Fixed, PolicyCall
from llmcli.params.sampler_chain import DEFAULT_ORDER

_TEXTS = ("x", "two words", "true", "0.5", "ünïcödé", "a\nb", "\\n", '"quoted"', "[list]", " padded ")
_POLICIES = (
    PolicyCall("edt", (0.8,), (("theta", 0.1),)),
    PolicyCall("linear", (1.2, 0.5, 200.0)),
    PolicyCall("clamp", (PolicyCall("exp", (1.5, 0.1, 30.0)), 0.2, 1.2)),
    PolicyCall("sentence", (Entropy(0.3, 1.3, 0.7), PolicyCall("line", (Fixed(1.0), Fixed(0.5))), Fixed(0.0))),
    PolicyCall("think", (Fixed(1.0), PolicyCall("edt", (0.7,)))),
)
_SPECIAL: dict[str, tuple[Any, ...]] = {
    "temperature": (Fixed(0.0), Fixed(0.1), Entropy(0.3, 1.3), Entropy(0.0, 2.0, 0.7), Entropy(1e-7, 1e7), *_POLICIES),
    "temp_policy_file": (None, "wave.py:wave", "C:\\my rules\\a b.py:warm_2"),
    "samplers": ((), ("top_k",), ("temperature", "min_p"), tuple(reversed(DEFAULT_ORDER)), ("infill", "adaptive_p")),
    "template_arg": (("a=1",), ('a="x = y"', "b=null"), ('a={"b": [1, 2.5, "ü\\n"]}',)),
    "seed": (None, 0, 42, 2**32 - 1),
    "encoding": ("latin-1", "utf-16-le"),
    "choices": (("a", "b"), ("a, b", "x\\=1", "ü=the sun; or not"), ("@labels.txt",)),
    "rating": ("1..5", "-2..2"),
    "extract": ("code", "code:c++", "json", "last-line", r"(?i)answer: (\w+)"),
    "n_gpu_layers": (0, 12, "auto", "all"),
    "tensor_split": ("", "1", "3,1", "0,2.5"),
    "rpc": (("127.0.0.1:50052",), ("tower:1", "ssh://me@tower:2222")),
    "override_kv": (
        (),
        ("llama.context_length=int:4096",),
        ("a=bool:true", "b=float:-1e-05", "c=str:x, y = z", "d=str:"),
    ),
    "logit_bias": (
        (),
        ((7, 1.5),),
        ((7, -float("inf")),),
        (("a = b", -2.0),),
        (('say "x"\n', 1.23456789),),
        (("\x08\x1f", 0.1),),
        (("12", 1e-9),),
        ((1, 2.0), ("a", -float("inf")), ("1", -0.25)),
    ),
}


def legal_values(field: Field) -> tuple[Any, ...]:
    """Valid values of one setting, with its default and its bounds."""
    return (field.default, *_SPECIAL.get(field.key, _of_kind(field)))


def _of_kind(field: Field) -> tuple[Any, ...]:
    if field.choices:
        return tuple(field.choices)
    if field.repeated:
        return ((), ("none",), *((text,) for text in _TEXTS), _TEXTS)
    if field.kind is bool:
        return (True, False)
    return _TEXTS if field.kind is str else tuple(_numbers(field))


def _numbers(field: Field) -> Iterator[Any]:
    yield from field.extra_values
    yield from (field.kind(bound) for bound in (field.min, field.max) if bound is not None)
    inside = (0.5, 0.123456789, 1 / 3) if field.kind is float else (1, 2, 40, 2**31 - 1)
    yield from (value for value in inside if field.max is None or value <= field.max if (field.min or 0) <= value)
