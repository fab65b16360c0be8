"""Turn an error response of the Hub (status and X-Error-Code) into an error with a hint."""

from typing import TYPE_CHECKING

from llmcli.errors import LlmcliError, ModelNotFoundError, NetworkError, NotAllowedError
from llmcli.models.hub import environment
from llmcli.models.reference import HubReference

if TYPE_CHECKING:
    import httpx2

_TOKENS = "https://huggingface.co/settings/tokens"


def refusal(response: "httpx2.Response", wanted: HubReference) -> LlmcliError:
    """The error for a response that is not a success. The Hub's texts are untrusted, so they are not repeated."""
    status, code = response.status_code, response.headers.get("x-error-code", "")
    if code == "GatedRepo":
        return gated(wanted.repo)
    if code == "RevisionNotFound":
        return ModelNotFoundError(f"{wanted.repo} has no revision '{wanted.revision or 'main'}'", "omit @REVISION")
    if code == "EntryNotFound":
        hint = f"list its files with `llmcli models files {wanted.repo}`"
        return ModelNotFoundError(f"{wanted.repo} has no file '{wanted.file}'", hint)
    if "disabled" in response.headers.get("x-error-message", ""):
        return NotAllowedError(f"the Hub has disabled {wanted.repo}", "choose another repository")
    if "Invalid credentials" in response.headers.get("x-error-message", ""):
        return _bad_token()
    if code == "RepoNotFound" or status in (401, 404):
        return _no_repo(wanted.repo)
    if status == 403:
        return NotAllowedError(f"the Hub denies access to {wanted.repo}", f"see {page(wanted.repo)}")
    return NetworkError(f"the Hub returned status {status} for {wanted.repo}", "try again later")


def gated(repo: str) -> NotAllowedError:
    """The error for a gated repository: the user must accept its terms first."""
    if environment.token_source():
        return NotAllowedError(f"{repo} is gated and your token has no access", f"request access at {page(repo)}")
    return NotAllowedError(
        f"{repo} is gated", f"accept its terms at {page(repo)}, then run `hf auth login` or set HF_TOKEN"
    )


def page(repo: str) -> str:
    """The URL of the repository's web page."""
    return f"{environment.endpoint()}/{repo}"


def _bad_token() -> NotAllowedError:
    source = environment.token_source() or "your configuration"
    return NotAllowedError(f"the Hub refused the token from {source}", f"create a new token at {_TOKENS}")


def _no_repo(repo: str) -> LlmcliError:
    search = f"search for it with `llmcli models search {repo.split('/')[-1]}`"
    if environment.token_source():
        return ModelNotFoundError(f"the Hub has no repository '{repo}' that your token can read", search)
    return ModelNotFoundError(
        f"the Hub has no repository '{repo}'", f"{search}, or run `hf auth login` if it is private"
    )
