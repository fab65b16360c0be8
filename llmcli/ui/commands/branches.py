"""Commands that list the branches of the conversation, and switch between them."""

from functools import partial

from llmcli.errors import UsageError
from llmcli.text import ellipsize
from llmcli.ui.chat.app import ChatApp
from llmcli.ui.commands.inspect import open_inspector, parse_token_index
from llmcli.ui.commands.messages import continue_, describe_settings, parse_number, show_last
from llmcli.ui.commands.registry import command, matching
from llmcli.ui.terminal.console import console
from llmcli.ui.terminal.output import print_rows


@command("branches", "/branches", "/branches, then /branch 2", "/retry, then /branches")
def branches(chat: ChatApp, _argument: str) -> None:
    """List the branches of the conversation.

    /retry and /edit start branches. * marks the current one; SHARED counts the messages that are the same as in the
    current branch.
    """
    conversation = chat.session.conversation
    leaves = conversation.leaves()
    if not leaves:
        console.note("the conversation is empty")
        return
    current = {message.id for message in chat.path()}
    rows = []
    for number, leaf in enumerate(leaves, 1):
        path = conversation.path(leaf)
        shared = str(sum(message.id in current for message in path))
        mark = "*" if leaf == conversation.head else ""
        last = path[-1]
        rows.append((f"{number}{mark}", str(len(path)), shared, describe_settings(last), ellipsize(last.content, 36)))
    heads = "N", "MESSAGES", "SHARED", "SETTINGS", "LAST"
    print_rows(heads, rows, right=("MESSAGES", "SHARED"), spare=("SHARED", "MESSAGES"))


def _branch_numbers(chat: ChatApp, start: str) -> list[tuple[str, str]]:
    """The numbers of the branches; after a number and a space, the candidates that /alternatives showed there."""
    number, space, _ = start.partition(" ")
    if space and chat.listed_candidates and number == str(chat.listed_candidates[0]):
        return matching(((f"{number} {rank}", repr(text)) for rank, text in chat.listed_candidates[1]), start)
    conversation = chat.session.conversation
    leaves = enumerate(conversation.leaves(), 1)
    return matching(((str(n), ellipsize(conversation.messages[leaf].content)) for n, leaf in leaves), start)


@command("branch N [K]", "/branch 2", "/alternatives 5, then /branch 5 2", "/branch 0 3", complete=_branch_numbers)
def branch(chat: ChatApp, argument: str) -> None:
    """Switch to branch N of the list.

    With K: choose candidate K for token N of the last answer, as /alternatives N lists them, and continue from
    there in a new branch.
    """
    if len(words := argument.split()) == 2:
        _branch_off(chat, *words)
        return
    leaves = chat.session.conversation.leaves()
    number = parse_number(argument)
    if not number or number > len(leaves):
        raise UsageError(f"branch {ellipsize(argument)} does not exist", "see the numbers in /branches")
    chat.session.conversation.move(leaves[number - 1])
    show_last(chat, 2)


def _branch_off(chat: ChatApp, number: str, rank: str) -> None:
    """Let the model continue from another token than the one that was sampled."""
    k = parse_number(rank)
    if k is None or parse_number(number) is None:
        raise UsageError("/branch N K takes two numbers", "see them with /alternatives N")
    answered = open_inspector(chat)
    if not answered:
        return
    at = parse_token_index(answered, number)
    token = chat.work("evaluating the answer", partial(answered.candidate, at, k))
    if token is None:
        return
    if token == answered.tokens[at]:
        raise UsageError(f"candidate {rank} is the token of this answer", "choose another candidate")
    # The beginning of the new answer is a message beside the old one.
    content, reasoning = answered.text_before(at, token)
    session, old = chat.session, answered.message
    head, turn = session.conversation.head, chat.turn
    session.conversation.move(old.parent)
    session.add("assistant", content, reasoning=reasoning, model=old.model, finish_reason="edited")
    if answered.answer.engine.tokenizer.ends(token):
        chat.render(content)
        console.note("the answer ends there (/branches lists the earlier one)")
        return
    try:
        continue_(chat, "")
    finally:
        if chat.turn is turn:  # the answer did not start
            session.conversation.move(head)
