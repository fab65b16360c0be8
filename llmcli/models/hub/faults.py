"""What does a refusal of the hub mean for the user? Status and X-Error-Code become one line with a way out."""

from typing import TYPE_CHECKING

from llmcli.errors import LlmcliError, ModelNotFoundError, NetworkError, NotAllowedError
from llmcli.models.hub import environment
from llmcli.models.reference import HubReference

if TYPE_CHECKING:
    import httpx2

_TOKENS = "https://huggingface.co/settings/tokens"


def refusal(response: "httpx2.Response", wanted: HubReference) -> LlmcliError:
    """The error for an answer of the hub that is no success; its own texts are not repeated, for they are untrusted."""
    status, code = response.status_code, response.headers.get("x-error-code", "")
    if code == "GatedRepo":
        return gated(wanted.repo)
    if code == "RevisionNotFound":
        return ModelNotFoundError(f"{wanted.repo} has no revision {wanted.revision or 'main'}", "Leave @REVISION out.")
    if code == "EntryNotFound":
        hint = f"See what it has with `llmcli models files {wanted.repo}`."
        return ModelNotFoundError(f"{wanted.repo} has no file {wanted.file}", hint)
    if "disabled" in response.headers.get("x-error-message", ""):
        return NotAllowedError(f"the hub has disabled {wanted.repo}", "Choose another repository.")
    if "Invalid credentials" in response.headers.get("x-error-message", ""):
        return _bad_token()
    if code == "RepoNotFound" or status in (401, 404):
        return _no_repo(wanted.repo)
    if status == 403:
        return NotAllowedError(f"the hub does not let you read {wanted.repo}", f"Look at {page(wanted.repo)}.")
    return NetworkError(f"the hub answers status {status} for {wanted.repo}", "Try again later.")


def gated(repo: str) -> NotAllowedError:
    """The error for a repository whose terms must be accepted first."""
    if environment.token_source():
        return NotAllowedError(
            f"{repo} is gated and your token has no access to it yet", f"Ask for access at {page(repo)}."
        )
    return NotAllowedError(
        f"{repo} is gated", f"Accept its terms at {page(repo)}, then run `hf auth login` or set HF_TOKEN."
    )


def page(repo: str) -> str:
    """The repository's page for a browser."""
    return f"{environment.endpoint()}/{repo}"


def _bad_token() -> NotAllowedError:
    source = environment.token_source() or "your configuration"
    return NotAllowedError(f"the hub refuses the token from {source}", f"Make a new one at {_TOKENS}.")


def _no_repo(repo: str) -> LlmcliError:
    search = f"Look for it with `llmcli models search {repo.split('/')[-1]}`"
    if environment.token_source():
        return ModelNotFoundError(f"the hub has no {repo} that your token may see", f"{search}.")
    return ModelNotFoundError(f"the hub has no {repo}", f"{search}; if it is private, run `hf auth login`.")
