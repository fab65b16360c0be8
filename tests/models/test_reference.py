"""parse: every form of a reference, pasted URLs, and hints for forms that are almost right."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmcli.errors import ModelNotFoundError
from llmcli.models.hub.repo_files import is_safe_path
from llmcli.models.reference import REVISION, HubReference, NameReference, PathReference, Reference, is_repo
from llmcli.models.sources.ollama import OllamaReference
from llmcli.models.sources.registry import parse
from llmcli.models.sources.url import UrlReference

SHA256 = "0123456789abcdef" * 4
COMMIT = "a1" * 20


def error_of(text: str) -> tuple[str, str]:
    with pytest.raises(ModelNotFoundError) as caught:
        parse(text)
    assert "\n" not in str(caught.value) + caught.value.hint
    return str(caught.value), caught.value.hint


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("owner/repo", HubReference("owner/repo")),
        ("owner/repo:Q4_K_M", HubReference("owner/repo", "Q4_K_M")),
        ("owner/repo:UD-Q4_K_XL", HubReference("owner/repo", "UD-Q4_K_XL")),
        ("owner/repo/file.gguf", HubReference("owner/repo", file="file.gguf")),
        ("owner/repo/sub/two words.GGUF", HubReference("owner/repo", file="sub/two words.GGUF")),
        ("owner/repo@v1.0", HubReference("owner/repo", revision="v1.0")),
        ("owner/repo:Q8_0@main", HubReference("owner/repo", "Q8_0", revision="main")),
        ("owner/repo/file.gguf@refs/pr/1", HubReference("owner/repo", file="file.gguf", revision="refs/pr/1")),
        (f"Owner-1/re.po_2@{COMMIT}", HubReference("Owner-1/re.po_2", revision=COMMIT)),
        ("hf.company/repo", HubReference("hf.company/repo")),
        ("ollama:phi", OllamaReference("phi")),
        ("ollama:ann/pet:v1", OllamaReference("ann/pet:v1")),
        ("ollama:https://registry.ollama.ai/library/phi", OllamaReference("https://registry.ollama.ai/library/phi")),
        ("https://example.org/a/x.gguf", UrlReference("https://example.org/a/x.gguf")),
        ("http://example.org:8080/x.GGUF?key=1", UrlReference("http://example.org:8080/x.GGUF?key=1")),
        (f"https://example.org/x.gguf#sha256={SHA256}", UrlReference("https://example.org/x.gguf", SHA256)),
        ("model.gguf", PathReference("model.gguf")),
        ("folder/model.gguf", PathReference("folder/model.gguf")),
        ("./a/b/model.gguf", PathReference("./a/b/model.gguf")),
        ("~/model.gguf", PathReference("~/model.gguf")),
        ("/a/b/c", PathReference("/a/b/c")),
        ("C:\\models\\x.gguf", PathReference("C:\\models\\x.gguf")),
        ("D:/models/x.gguf", PathReference("D:/models/x.gguf")),
        ("sub\\x.gguf", PathReference("sub\\x.gguf")),
        ("starter", NameReference("starter")),
        ("qwen3-4b", NameReference("qwen3-4b")),
    ],
)
def test_every_form_parses_and_is_written_the_same(text: str, meant: Reference) -> None:
    assert parse(text) == meant
    assert str(meant) == text


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("  owner/repo\n", "owner/repo"),
        ("owner/repo@v1:Q8_0", "owner/repo:Q8_0@v1"),
        (f"https://example.org/x.gguf#sha256={SHA256.upper()}", f"https://example.org/x.gguf#sha256={SHA256}"),
        ("https://example.org/x.gguf#top", "https://example.org/x.gguf"),
    ],
)
def test_reference_spelling_is_normalized(text: str, canonical: str) -> None:
    assert str(parse(text)) == canonical


@pytest.mark.parametrize(
    ("address", "meant"),
    [
        ("https://huggingface.co/owner/repo", "owner/repo"),
        ("https://huggingface.co/owner/repo/", "owner/repo"),
        ("http://www.huggingface.co/owner/repo?library=x#top", "owner/repo"),
        ("huggingface.co/owner/repo", "owner/repo"),
        ("hf.co/owner/repo:Q4_K_M", "owner/repo:Q4_K_M"),
        ("HF.co/owner/repo", "owner/repo"),
        ("https://hf.co/owner/repo:Q4_K_M@v1", "owner/repo:Q4_K_M@v1"),
        ("hf://owner/repo/x.gguf", "owner/repo/x.gguf"),
        ("hf://models/owner/repo@v1", "owner/repo@v1"),
        ("https://huggingface.co/owner/repo/blob/main/x.gguf", "owner/repo/x.gguf"),
        ("https://huggingface.co/owner/repo/resolve/main/x.gguf?download=true", "owner/repo/x.gguf"),
        ("https://huggingface.co/owner/repo/raw/v1/sub/x.gguf", "owner/repo/sub/x.gguf@v1"),
        ("https://huggingface.co/owner/repo/tree/main", "owner/repo"),
        ("https://huggingface.co/owner/repo?show_file_info=X-Q8_0.gguf", "owner/repo/X-Q8_0.gguf"),
        ("hf.co/owner/repo/?show_file_info=sub%2FX-00001-of-00002.gguf", "owner/repo/sub/X-00001-of-00002.gguf"),
        ("https://huggingface.co/owner/repo/tree/v1?show_file_info=X.gguf", "owner/repo/X.gguf@v1"),
        ("https://huggingface.co/owner/repo?show_file_info=model.safetensors", "owner/repo"),
        ("https://huggingface.co/owner/repo/blob/main/a.gguf?show_file_info=b.gguf", "owner/repo/a.gguf"),
        ("https://huggingface.co/owner/repo/tree/main/sub", "owner/repo"),
        (f"https://huggingface.co/owner/repo/tree/{COMMIT}", f"owner/repo@{COMMIT}"),
        ("https://huggingface.co/owner/repo/blob/main/two%20words.gguf", "owner/repo/two words.gguf"),
        ("https://huggingface.co/owner/repo/blob/refs%2Fpr%2F1/x.gguf", "owner/repo/x.gguf@refs/pr/1"),
    ],
)
def test_pasted_hub_url_is_a_reference(address: str, meant: str) -> None:
    assert str(parse(address)) == meant


@pytest.mark.parametrize("mirror", ["https://mirror.example", "http://127.0.0.1:8080", "https://art.example/api/hub"])
def test_url_of_the_mirror_is_a_hub_reference(mirror: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(parse(f"{mirror}/owner/repo/resolve/v1/x.gguf"), UrlReference)
    monkeypatch.setenv("HF_ENDPOINT", mirror)
    assert parse(f"{mirror}/owner/repo/resolve/v1/x.gguf") == parse("owner/repo/x.gguf@v1")
    assert parse(f"{mirror}/owner/repo?show_file_info=x.gguf") == parse("owner/repo/x.gguf")
    assert isinstance(parse("https://other.example/owner/x.gguf"), UrlReference)


@pytest.mark.parametrize(
    ("wrong", "hint"),
    [
        ("owner/repo/Q4_K_M", "did you mean 'owner/repo:Q4_K_M'?"),
        ("owner/repo:file.gguf", "did you mean 'owner/repo/file.gguf'?"),
        ("owner/repo/file.gguf:Q4_K_M", "did you mean 'owner/repo/file.gguf'?"),
        ("owner/repo:Q4 K M", "did you mean 'owner/repo:Q4_K_M'?"),
        ("owner:repo", "did you mean 'owner/repo' or"),
        ("owner/repo@a..b", "a branch, a tag or a commit"),
        ("owner/repo@-f", "a branch, a tag or a commit"),
        ("owner/repo@x.lock", "a branch, a tag or a commit"),
        ("https://user:secret@example.org/x.gguf", "remove them from the URL"),
        ("https://example.org/x.gguf#sha256=abc", "64 hexadecimal digits"),
        ("ftp://example.org/x.gguf", "http or https"),
        ("https://huggingface.co/datasets/owner/data", "model repository"),
        ("hf.co/spaces/owner/app", "model repository"),
        ("ollama:", "ollama:NAME:TAG"),
    ],
)
def test_almost_valid_form_gets_the_valid_one_as_hint(wrong: str, hint: str) -> None:
    assert hint in error_of(wrong)[1]


@pytest.mark.parametrize(
    "wrong",
    [
        "",
        "   ",
        "a\0b",
        "owner/re\x1b[2Jpo",
        "owner/repo\u202e",
        "owner/repo:Q4_K_M:Q8_0",
        "owner/repo@a@b",
        "owner/../x",
        "owner/repo/../../x.gguf",
        "owner/repo/./x.gguf",
        "owner/repo/-x.gguf",
        "owner/repo/sub//x.gguf",
        "own--er/repo",
        "owner/repo.git",
        "-owner/repo",
        "hf.co",
        "https://huggingface.co/models",
        "https://huggingface.co/owner/repo/blob/main/%2e%2e/%2e%2e/x.gguf",
        "https://huggingface.co/owner/repo/blob/main/a%0ab.gguf",
        "https://huggingface.co/owner/repo/blob/main/a%00.gguf",
        "https://huggingface.co/owner/repo/blob/main/a%5C..%5Cb.gguf",
        "https://huggingface.co/owner/repo/tree/%2e%2e%2Fx",
        "https://example.org/page.html",
        "https://[/x.gguf",
        "http://",
        "https:///x.gguf",
    ],
)
def test_invalid_reference_is_refused_in_one_line(wrong: str) -> None:
    message, _hint = error_of(wrong)
    assert message.isprintable()


def test_invalid_mirror_affects_only_urls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "https://[")
    assert parse("owner/repo") == HubReference("owner/repo")
    error_of("https://example.org/x.gguf")


def test_an_alias_is_followed_once() -> None:
    aliases = {"mine": "owner/repo:Q8_0", "a": "b", "b": "owner/repo", "loop": "loop"}
    assert parse("mine", aliases) == HubReference("owner/repo", "Q8_0")
    assert parse("a", aliases) == NameReference("b")
    assert parse("loop", aliases) == NameReference("loop")


_words = st.from_regex(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,12}[A-Za-z0-9_])?", fullmatch=True)
_names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9 ._+()é日-]{0,12}\.gguf", fullmatch=True)
_files = st.lists(_names, min_size=1, max_size=3).map("/".join).filter(is_safe_path)
_repos = st.builds("{}/{}".format, _words, _words).filter(lambda name: is_repo(name) and not name.endswith(".gguf"))
_revisions = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9._/-]{0,12}", fullmatch=True).filter(REVISION.fullmatch)
_harmless = _revisions.filter(lambda name: not name.lower().endswith(".gguf"))


@pytest.mark.slow
@given(
    st.one_of(
        st.builds(HubReference, _repos, st.none(), st.none(), st.none() | _harmless),
        st.builds(
            HubReference, _repos, st.sampled_from(["Q4_K_M", "UD-IQ2_XXS", "F16"]), st.none(), st.none() | _harmless
        ),
        st.builds(HubReference, _repos, st.none(), _files, st.none() | _harmless),
    )
)
def test_reference_as_text_parses_to_itself(reference: HubReference) -> None:
    assert parse(str(reference)) == reference


_PIECES = (
    "owner repo / : @ .. hf.co https:// hf:// huggingface.co [ ] %2F %00 # blob resolve main Q4_K_M .gguf ? ollama: ~"
)
_pieces = st.sampled_from([*_PIECES.split(), "sha256=", "\\", " ", "\x1b", "\ud800", "℀"])


@given(st.text() | st.lists(_pieces, max_size=10).map("".join), st.sampled_from(["", "http://127.0.0.1:9"]))
def test_any_text_parses_or_raises_model_not_found(text: str, endpoint: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_ENDPOINT", endpoint)
        try:
            meant = parse(text)
        except ModelNotFoundError:
            return
    if not isinstance(meant, UrlReference | PathReference):
        assert str(meant).isprintable()
        assert parse(str(meant)) == meant


def test_a_quantization_of_a_catalog_name_gets_its_repository() -> None:
    message, hint = error_of("Qwen3-4B:Q8_0")
    assert message == "'Qwen3-4B:Q8_0' is not a valid model reference"
    assert hint == "did you mean 'unsloth/Qwen3-4B-Instruct-2507-GGUF:Q8_0'?"
