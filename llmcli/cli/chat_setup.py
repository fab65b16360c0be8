"""Start a chat: find the model before the prompt appears, load it in the background, and close everything."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from typing import TYPE_CHECKING

from llmcli.chat.attachments import attach
from llmcli.chat.controller import Ahead
from llmcli.cli import preload
from llmcli.errors import LlmcliError
from llmcli.files import cache_dir
from llmcli.models import locations
from llmcli.params.settings import Settings
from llmcli.ui.chat.app import Chat
from llmcli.ui.terminal.console import console
from llmcli.ui.terminal.interrupt import postponed, raising

if TYPE_CHECKING:  # most of these are imported in the loading thread
    from llmcli.chat.background_load import Opening
    from llmcli.chat.prompting import Transcript
    from llmcli.config.characters import Character
    from llmcli.engine.llama.bindings import AbortFlag


def bring(settings: Settings) -> None:
    """Make sure that the model is on this machine; download it if the user agrees.

    Raises:
        ModelNotFoundError: if there is no such model.
    """
    if settings.model != locations.STARTER:
        from llmcli.models.locations import NotHereError, shelf
        from llmcli.models.lookup import find

        with suppress(NotHereError):
            find(settings.model, shelf(settings))
            return
    elif locations.is_present(cache_dir()):
        return
    from llmcli.cli.open_model import find_model

    with raising():
        find_model(settings)


def open_model(settings: Settings, ahead: Ahead, on_end: Callable[[], None]) -> "Opening":
    """Load the model of the settings in a thread, and evaluate the conversation ahead of the next message."""
    from llmcli.chat.background_load import Opening

    def load(abort: "AbortFlag", report: Callable[[str], None]) -> "Transcript":
        from llmcli.chat.prompting import Transcript
        from llmcli.inference.local import LocalModel, locate

        target = locate(settings)
        report("loading")
        if abort.is_set():
            raise KeyboardInterrupt
        early = preload.take(target.file.parts)
        local = LocalModel(target, settings, abort, lambda share: report(f"loading {share:.0%}"), early)
        try:
            local.open_context(settings)
            transcript = Transcript(local)
            report("reading the conversation")
            with suppress(LlmcliError):  # the first message reports a fault of the template or the length
                ahead(transcript)
        except BaseException:
            local.close()
            raise
        local.identity.begin()
        return transcript

    return Opening(load, on_end)


def run(chat: Chat, first: str, files: Sequence[str], character: "Character | None" = None) -> int:
    """Open what is needed, run the chat, and close everything."""
    from llmcli.cli.open_model import welcome
    from llmcli.ui.chat.loop import talk
    from llmcli.ui.commands.sessions import settle_model
    from llmcli.ui.terminal.interrupt import ending

    dialogue = chat.dialogue
    with ending(), postponed() if chat.live else nullcontext():
        try:
            settle_model(chat)
            welcome(dialogue.resolved().origins["model"])
            if not chat.live:  # at a terminal the load begins when the prompt is drawn
                dialogue.open()
            if console.verbose:  # what it shows would run into the prompt
                _show_details(chat)
            _begin(chat, character)
            chat.pending += [attach(name) for name in files]
            status = talk(chat, first)
            if chat.live and dialogue.session.saved:
                console.note(f"saved as {dialogue.session.name!r}; `llmcli chat --continue` resumes it")
            return status
        finally:
            dialogue.close_model()
            dialogue.session.close()


def _show_details(chat: Chat) -> None:
    """Load the model and show what `--verbose` knows; with -vv, llama.cpp's log too."""
    from llmcli.cli.open_model import show_model, show_settings
    from llmcli.engine.llama import bindings

    show_settings(chat.dialogue.resolved())
    if console.engine_log:
        bindings.subscribe_log(console.detail)
    local = chat.ready()
    if local:
        show_model(local)


def _begin(chat: Chat, character: "Character | None") -> None:
    """Show the end of a session that was opened, or the greeting of the character in a new one."""
    session = chat.dialogue.session
    if session.conversation.messages:
        from llmcli.ui.commands.sessions import opened

        opened(chat)
        return
    if not character:
        return
    from llmcli.chat.character_switch import greet

    if greeting := greet(session, character):
        chat.render(greeting)
        chat.say("")
