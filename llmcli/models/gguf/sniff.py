"""Detect what a file that is not GGUF is: a web page, a Git LFS pointer, an archive, another checkpoint."""

from llmcli.errors import ModelInvalidError

HEAD_BYTES = 1024  # the bytes that `explain` needs

_AGAIN = "download the model again"
_OTHER_FORMAT = "get a GGUF version of the model: run `llmcli models search NAME`"
_UNPACK = "unpack it and give the path of the .gguf file"

# (first bytes, message, hint)
_MAGICS: tuple[tuple[bytes, str, str], ...] = (
    (b"PK\x03\x04", "this is a zip archive or a PyTorch checkpoint, not a GGUF model", _OTHER_FORMAT),
    (b"PK\x05\x06", "this is an empty zip archive, not a model", _AGAIN),
    (b"\x1f\x8b", "this is a gzip archive, not a model", _UNPACK),
    (b"\x28\xb5\x2f\xfd", "this is a zstd archive, not a model", _UNPACK),
    (b"\xfd7zXZ\x00", "this is an xz archive, not a model", _UNPACK),
    (b"7z\xbc\xaf\x27\x1c", "this is a 7z archive, not a model", _UNPACK),
    (b"\x89HDF", "this is an HDF5 file (Keras), not a GGUF model", _OTHER_FORMAT),
    (b"lmgg", "this is a model in the old GGML format, which llama.cpp no longer reads", _OTHER_FORMAT),
    (b"fmgg", "this is a model in the old GGMF format, which llama.cpp no longer reads", _OTHER_FORMAT),
    (b"tjgg", "this is a model in the old GGJT format, which llama.cpp no longer reads", _OTHER_FORMAT),
)

_PAGES = (b"<!doctype html", b"<html", b"<head", b"<?xml", b"<error")


def explain(head: bytes, size: int) -> ModelInvalidError:
    """The error for a file of `size` bytes whose first bytes, `head`, are not those of a GGUF file."""
    message, hint = _name(head, size)
    return ModelInvalidError(message, hint)


def _name(head: bytes, size: int) -> tuple[str, str]:
    if size == 0:
        return "the file is empty: the download failed", _AGAIN
    for magic, message, hint in _MAGICS:
        if head.startswith(magic):
            return message, hint
    if head.startswith(b"version https://git-lfs"):
        return "this is a Git LFS pointer, not the model itself", "run `git lfs pull` in its repository"
    if _is_safetensors(head, size):
        return "this is a safetensors file, not a GGUF model", _OTHER_FORMAT
    if head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return "this is a Python pickle (an old PyTorch checkpoint), not a GGUF model", _OTHER_FORMAT
    return _name_text(head)


def _is_safetensors(head: bytes, size: int) -> bool:
    """A safetensors file begins with the length of its JSON header in 8 bytes, then that JSON."""
    return head[8:9] == b"{" and 2 <= int.from_bytes(head[:8], "little") <= max(size - 8, 2)


def _name_text(head: bytes) -> tuple[str, str]:
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if text.lower().startswith(_PAGES):
        return "this is a web page, not a model: the download failed", _AGAIN
    if text[:1] in (b"{", b"["):
        return "this is JSON text, not a model: the server sent an error or an index", _AGAIN
    if not head.strip(b"\x00"):
        return "the file begins with zeros: its download is incomplete", _AGAIN
    if text and all(byte >= 0x20 or byte in b"\t\r\n" for byte in head[:64]) and _is_utf8(head[:64]):
        return "this is plain text, not a model", _AGAIN
    return f"this is not a GGUF file: it begins with {head[:4]!r} instead of b'GGUF'", _OTHER_FORMAT


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError as error:
        return error.start >= len(data) - 3  # the sample can end inside a character
    return True
