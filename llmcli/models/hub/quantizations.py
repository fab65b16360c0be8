"""Find the quantization in a file name, and its usual bits per weight."""

import re

# Bits per weight of Llama 3.1 8B from llama.cpp's tools/quantize/README.md; for older types, from the sizes in its
# quantize.cpp. The values of the `_L` and `_XL` mixes, MXFP4 and NVFP4 are approximate.
_BITS = (
    {"Q1_0": 1.13, "Q2_0": 2.25, "TQ1_0": 1.69, "TQ2_0": 2.06}
    | {"IQ1_S": 2.0, "IQ1_M": 2.15, "IQ2_XXS": 2.38, "IQ2_XS": 2.59, "IQ2_S": 2.74, "IQ2_M": 2.93}
    | {"IQ3_XXS": 3.25, "IQ3_XS": 3.5, "IQ3_S": 3.66, "IQ3_M": 3.76, "IQ4_XS": 4.46, "IQ4_NL": 4.68}
    | {"Q2_K": 3.16, "Q2_K_S": 2.97, "Q2_K_L": 3.68, "Q2_K_XL": 3.4}
    | {"Q3_K": 4.0, "Q3_K_S": 3.64, "Q3_K_M": 4.0, "Q3_K_L": 4.3, "Q3_K_XL": 4.5}
    | {"Q4_0": 4.65, "Q4_0_4_4": 4.65, "Q4_0_4_8": 4.65, "Q4_0_8_8": 4.65, "Q4_1": 5.12}
    | {"Q4_K": 4.89, "Q4_K_S": 4.67, "Q4_K_M": 4.89, "Q4_K_L": 5.29, "Q4_K_XL": 5.0}
    | {"MXFP4": 4.6, "MXFP4_MOE": 4.6, "NVFP4": 4.6}
    | {"Q5_0": 5.58, "Q5_1": 6.05, "Q5_K": 5.7, "Q5_K_S": 5.57, "Q5_K_M": 5.7, "Q5_K_L": 6.04, "Q5_K_XL": 5.75}
    | {"Q6_K": 6.56, "Q6_K_L": 6.82, "Q6_K_XL": 7.3, "Q8_0": 8.5, "Q8_K_XL": 10.5}
    | {"F16": 16.0, "BF16": 16.0, "F32": 32.0}
    # Some publishers write only this, and mean the usual type of that width.
    | {"Q2": 3.16, "Q3": 4.0, "Q4": 4.89, "Q5": 5.7, "Q6": 6.56, "Q8": 8.5}
)
_OTHER_NAMES = {"FP16": "F16", "FP32": "F32"}
_NAMES = "|".join(sorted([*_BITS, *_OTHER_NAMES], key=len, reverse=True))  # longest first: Q4_K_M before Q4_K
_IN_NAME = re.compile(rf"(?<![A-Z0-9])(?:UD-)?(?:{_NAMES})(?![A-Z0-9])(?!(?<=Q\d)_)", re.ASCII)


def canonical(quantization: str) -> str:
    """A quantization that a user typed, in the spelling of `quantization_of`."""
    name = quantization.strip().upper()
    return _OTHER_NAMES.get(name, name)


def quantization_of(file_name: str) -> str:
    """The quantization in a file name or, if it has none, in the name of the nearest folder; "" if there is none.

    The last one in a name counts: an earlier one can be the type of the source file.
    """
    for component in reversed(file_name.split("/")):
        found = _IN_NAME.findall(component.upper())
        if found:
            return canonical(found[-1])
    return ""


def nominal_bits(quantization: str) -> float | None:
    """The usual bits per weight, including embeddings and scales; None for an unknown quantization."""
    return _BITS.get(canonical(quantization).removeprefix("UD-"))


def distance(one: str, other: str) -> float:
    """The difference of two quantizations in bits per weight; 99 if one of them is unknown."""
    bits, others = nominal_bits(one), nominal_bits(other)
    return 99.0 if bits is None or others is None else abs(bits - others)
