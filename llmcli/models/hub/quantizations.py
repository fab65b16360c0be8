"""Which quantization does a file name speak of, and how many bits does it spend on a weight?"""

import re

# Bits per weight of a whole Llama 3.1 8B: llama.cpp's tools/quantize/README.md, and for the older kinds the
# sizes in its quantize.cpp. The `_L` and `_XL` mixes, MXFP4 and NVFP4 are about.
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
    # Some makers write no more than this, and mean the usual kind of that width.
    | {"Q2": 3.16, "Q3": 4.0, "Q4": 4.89, "Q5": 5.7, "Q6": 6.56, "Q8": 8.5}
)
_OTHER_NAMES = {"FP16": "F16", "FP32": "F32"}
_NAMES = "|".join(sorted([*_BITS, *_OTHER_NAMES], key=len, reverse=True))  # the longest first: Q4_K_M, not Q4_K
_IN_NAME = re.compile(rf"(?<![A-Z0-9])(?:UD-)?(?:{_NAMES})(?![A-Z0-9])(?!(?<=Q\d)_)", re.ASCII)


def canonical(quantization: str) -> str:
    """A quantization as a person types it, in the spelling that `quantization_of` gives."""
    name = quantization.strip().upper()
    return _OTHER_NAMES.get(name, name)


def quantization_of(file_name: str) -> str:
    """The quantization in the name of a file or, when it has none, of the nearest folder; "" when there is none.

    The last one counts: what stands before it may tell what the file was made from.
    """
    for component in reversed(file_name.split("/")):
        found = _IN_NAME.findall(component.upper())
        if found:
            return canonical(found[-1])
    return ""


def nominal_bits(quantization: str) -> float | None:
    """The bits per weight that are usual for it, embeddings and scales counted; None when it is not known."""
    return _BITS.get(canonical(quantization).removeprefix("UD-"))


def distance(one: str, other: str) -> float:
    """How far two quantizations are from each other, in bits per weight; far when one is not known."""
    bits, others = nominal_bits(one), nominal_bits(other)
    return 99.0 if bits is None or others is None else abs(bits - others)
