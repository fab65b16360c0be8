"""A session: a conversation and its settings, both in a file at every moment; and an answer, saved while it comes."""

import re
import sys
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from msgspec import to_builtins

from llmcli.chat.conversation import Conversation, Message
from llmcli.chat.sessions import store
from llmcli.errors import DiskError, UsageError
from llmcli.files import read_events
from llmcli.params.settings import ResolvedSettings, fields, to_datum
from llmcli.text import ellipsize, plural

if TYPE_CHECKING:
    from llmcli.config.characters import Character
    from llmcli.inference.answer import Answer, Part

# Settings that do not describe how an answer is made.
_NOT_RECORDED = ("prompt", "file", "pull", "offline", "model_folders", "endpoint", "drop_unsupported")
_MAX_NOTES = 3
_IDS = re.compile(rb'"(?:id|parent)":\s*(\d{1,8})\b')  # far below the largest id, so that others are free
_WRITE_HINT = "free some space or make the folder writable; the chat continues, but it is not saved"


class Session:
    """One conversation on disk. The first message creates the file; an unfinished answer has a file beside it.

    The file has the settings of the chat and those of the command line as the same event: a session that is opened
    again has the same settings in force, and there `/reset` removes them all. A full disk does not end a conversation:
    `end_answer` raises once, and all is written as soon as there is room.
    """

    def __init__(self, name: str = "", keep: bool = True) -> None:
        """With `keep` False nothing is written."""
        self.conversation = Conversation(self._save_head)  # for reading, and for moves: each new head is written
        self.overrides: dict[str, Any] = {}  # typed settings that were changed in the chat, by key
        self.character = ""  # the name of the one that answers
        self.notes: list[str] = []  # what is wrong with the file, for the user
        self._character_keys: set[str] = set()  # the settings that the character has set
        self._flags: dict[str, Any] = {}  # the settings of the command line, below the overrides
        self.name = name  # empty before the first message, unless the user gave one
        self.is_name_exact = False  # no number follows a name that another chat has taken meanwhile: that is an error
        self._is_writable = keep
        self._file: store.SessionFile | None = None
        self._unfinished: Message | None = None  # the answer that is being written
        self._write_error: DiskError | None = None  # why the last events are not in the file
        self._is_reported = False  # the user knows of that error

    @classmethod
    def load(cls, name: str) -> "Session":
        """Open a session that exists, by its name or the end of it, and lock it.

        Raises UsageError if there is none, another chat has it open, or a newer version wrote it; DiskError if it
        cannot be read.
        """
        session = cls(store.find_name(name))
        file = store.SessionFile(session.name)
        try:
            unfinished = session._read()
            session._file = file  # what was read is in it already
            if unfinished:
                session.append(unfinished)
                session.notes.append("the last answer is not complete; /continue resumes it")
            if not session._write_error:
                file.remove_partial()
        except BaseException:
            file.close()
            raise
        return session

    @classmethod
    def read(cls, name: str) -> "Session":
        """Read a session, which another chat may have open, by its name or the end of it; nothing is written.

        Raises UsageError if there is none, or a newer version wrote it.
        """
        session = cls(store.find_name(name), keep=False)
        if unfinished := session._read():
            session.conversation.add(unfinished)
        return session

    @property
    def is_saved(self) -> bool:
        """Whether the session is on disk."""
        return self._file is not None

    @property
    def is_named(self) -> bool:
        """Whether the user chose the name, rather than the program."""
        return bool(self.name) and not re.match(r"\d{4}-\d\d-\d\d-", self.name)

    # Messages

    def add(self, role: str, content: str, **more: Any) -> Message:
        """Add a message after the head, as `append` does."""
        return self.append(self.conversation.draft(role, content, **more))

    def append(self, message: Message) -> Message:
        """Add a drafted message to the conversation, and to the file, which the first message creates.

        It is on disk when this returns. If another chat has taken the name before the first message, a note says under
        which name this one is saved, or with `is_name_exact` it raises UsageError.
        """
        is_first = self._is_writable and not self._file
        if is_first:
            try:
                self._file = store.create_file(self.name, message.content, self.is_name_exact)
                before, self.name = self.name, self._file.name
                if before not in ("", self.name):
                    self.notes.append(f"another chat has the name {before!r}: this one is saved as {self.name!r}")
            except DiskError as error:  # the next message tries again
                self._write_error = self._write_error or error
        self.conversation.add(message)
        self._save(self._all_events() if is_first else [message], sync=True)
        return message

    def greet(self, character: "Character | None") -> str:
        """Start the conversation with the examples and the greeting of a character; returns the greeting to show.

        A conversation that has started stays as it is; a greeting that nobody answered is replaced.
        """
        path = self.conversation.path()
        if path and path[-1].finish_reason != "greeting":
            return ""
        if path:
            self.conversation.move(None)
        if not character:
            return ""
        # Without a file, they are written with the first message of the user.
        add = self.append if self._file else self.conversation.add
        draft = self.conversation.draft
        for question, answer in character.examples:
            add(draft("user", question))
            add(draft("assistant", answer, finish_reason="greeting"))
        if character.greeting:
            add(draft("assistant", character.greeting, model=character.name, finish_reason="greeting"))
        return character.greeting

    def begin_answer(self, parent: int | None, **more: Any) -> None:
        """Start an answer that follows `parent`; it joins the conversation when it ends."""
        self._unfinished = replace(self.conversation.draft("assistant", "", **more), parent=parent)
        if self._file:
            self._file.begin_answer(self._unfinished.to_data())

    def add_piece(self, kind: str, text: str) -> None:
        """Write the next piece of the answer ("answer" or "think") to disk, so that a kill loses nothing."""
        if self._file and self._file.partial:
            with suppress(DiskError):  # the answer is written once more when it ends
                self._file.partial.add([{kind: text}])

    def end_answer(self, content: str, reasoning: str = "", **more: Any) -> Message | None:
        """End the answer. An empty one is not kept.

        Raises DiskError once if the session cannot be saved; the answer is in the conversation nevertheless.
        """
        unfinished, self._unfinished = self._unfinished, None
        message = None
        if unfinished and (content or reasoning):
            message = self.append(replace(unfinished, content=content, reasoning=reasoning, **more))
        if self._file:
            self._file.end_answer()
        if self._write_error and not self._is_reported and not sys.exc_info()[0]:  # never hides why the answer ended
            self._is_reported = True
            raise DiskError(str(self._write_error), _WRITE_HINT)
        return message

    # Settings

    def set(self, key: str, value: Any) -> None:
        """Set a setting to a typed value from now on."""
        self._character_keys.discard(key)
        if (saved := store.saved_key(key)) != key:
            self.overrides.pop(saved, None)  # the text of another file, which the session was opened with
        self.overrides[key] = value
        self._save(store.setting_changes({key: value}))

    def unset(self, key: str) -> None:
        """Remove the value that was set in the chat; the one of the command line is in force again."""
        if key in self.overrides:
            del self.overrides[key]
            given = {key: self._flags[key]} if key in self._flags else {}
            self._save([*store.setting_changes(given)] or [store.SettingReset(store.saved_key(key))])

    def save_flags(self, values: Mapping[str, Any]) -> None:
        """Write the settings of the command line, which are in force already, for the next start of this session."""
        self._flags |= values
        self._save(store.setting_changes(values))

    def set_character(self, name: str, keys: Iterable[str]) -> None:
        """Write who answers from now on, and which settings, set before, come from this character."""
        self.character, self._character_keys = name, set(keys)
        self._save([store.CharacterChange(name, sorted(map(store.saved_key, keys)))])

    def remove_character(self) -> None:
        """Answer without a character; the settings that it has set are unset."""
        if not self.character:
            return
        keys, self.character, self._character_keys = self._character_keys, "", set()
        for key in keys:
            self.overrides.pop(key, None)
            self._flags.pop(key, None)
        self._save([*map(store.SettingReset, sorted(map(store.saved_key, keys))), store.CharacterChange("", [])])

    # The file

    def rename(self, name: str) -> None:
        """Give the session another name; the file moves with it. Spaces in the name become dashes.

        Raises UsageError if the name is taken or not valid, or this session is not saved; DiskError if that fails.
        """
        name = self._valid_name(name)
        if self._file:
            self._file.rename(name)
        else:
            store.require_unused(name)
        self.name = name

    def copy(self, name: str) -> "Session":
        """A new session with the same messages and settings, on disk as `name`. Spaces in the name become dashes.

        Raises UsageError if the name is taken or not valid, or this session is not saved; DiskError if that fails.
        """
        name = self._valid_name(name)
        store.require_unused(name)
        other = Session(name)
        other.conversation.messages.update(self.conversation.messages)
        other.conversation.head = self.conversation.head
        other.overrides, other._flags = dict(self.overrides), dict(self._flags)
        other.character, other._character_keys = self.character, set(self._character_keys)
        if other.conversation.messages:
            other._file = store.SessionFile(name, new=True)
            try:
                other._file.lines.add(map(_to_data, other._all_events()), sync=True)
            except BaseException:
                other.close()
                raise
        return other

    def close(self) -> None:
        """Close and unlock the file. A second call does nothing."""
        self._is_writable = False
        if self._file:
            self._file.close()
            self._file = None

    def _valid_name(self, name: str) -> str:
        if not self._is_writable:
            message = "this session is not saved, because the chat was started with --no-save"
            raise UsageError(message, "use /export FILE.md")
        return store.to_name(name)

    def _read(self) -> Message | None:
        """Load the file; returns the unfinished answer of a chat that was killed."""
        path, conversation = store.path_of(self.name), self.conversation
        faults: list[str] = []
        for data in read_events(path, faults):
            try:
                self._apply(data, faults)
            except (UsageError, ValueError) as error:
                faults.append(f"skipped a line: {str(error)[:200]}")
        if faults:  # a new message must not take the id of a lost one, whose line may not have a readable id
            raw = path.read_bytes()
            conversation.lost_id = max([raw.count(b"\n"), *map(int, _IDS.findall(raw))])
        self.notes += [f"{path.name}: {fault}" for fault in faults[:_MAX_NOTES]]
        if (more := len(faults) - _MAX_NOTES) > 0:
            self.notes.append(f"{path.name}: {plural(more, 'other problem')}")
        message = store.read_partial(path)
        return conversation.with_parent(message) if message and message.id not in conversation.messages else None

    def _apply(self, data: Mapping[str, Any], faults: list[str]) -> None:
        conversation = self.conversation
        match Message.from_data(data) if data.get("type") == "message" else store.parse_event(data):
            case Message() as found:
                message = conversation.with_parent(found)
                if message is not found:
                    faults.append(f"message {found.id} follows message {found.parent}, which does not exist")
                if conversation.messages.get(message.id) != message:  # a line may be there twice
                    conversation.add(message)
            case store.HeadMove(id=head):
                conversation.move(head)
            case store.SettingChange() as change:
                key, value = store.typed_setting(change)
                self.overrides[key] = value
                self._character_keys.discard(key)
            case store.SettingReset(key=key):
                self.overrides.pop(key, None)
                self._character_keys.discard(key)
            case store.CharacterChange(name=name, keys=keys):
                self.character = ellipsize(name, 100)
                self._character_keys = self.overrides.keys() & set(keys)

    def _save_head(self) -> None:
        self._save([store.HeadMove(self.conversation.head)])

    def _save(self, events: Iterable[Message | store.Event], sync: bool = False) -> None:
        """Add events to the file; before the first message there is none."""
        if not self._file:
            return
        try:
            self._file.lines.add(map(_to_data, events), sync)
        except DiskError as error:
            self._write_error = self._write_error or error
        else:
            self._write_error, self._is_reported = None, False

    def _all_events(self) -> Iterator[Message | store.Event]:
        conversation = self.conversation
        yield from conversation.messages.values()
        yield from store.setting_changes(self._flags | self.overrides)
        if self.character:
            yield store.CharacterChange(self.character, sorted(map(store.saved_key, self._character_keys)))
        if conversation.head != next(reversed(conversation.messages), None):
            yield store.HeadMove(conversation.head)


@dataclass
class Turn:
    """One answer in a session. Iterate over `parts()` to stream it and to save it."""

    session: Session
    answer: "Answer"
    resolved: ResolvedSettings
    parent: int | None  # the question
    continued: Message | None = None  # the answer that this one continues, whose text is in the prompt already
    first: int | None = None  # the first message in the prompt, if it does not contain all
    message: Message | None = field(init=False, default=None)  # what was saved; None: it is empty

    def parts(self) -> "Generator[Part, None, None]":
        """The parts of the answer as they are generated, without those of `continued`; a kill loses none.

        Raises as `Answer.parts` does; the text so far is saved before.
        """
        session, answer, reason = self.session, self.answer, "error"
        self.begin()
        try:
            if answer.reasoning:
                session.add_piece("think", answer.reasoning)
            for number, (kind, text) in enumerate(answer.parts()):
                session.add_piece(kind, text)
                if number or not (self.continued and self.continued.content):  # which is on the screen already
                    yield kind, text
            reason = answer.finish_reason
        except (KeyboardInterrupt, GeneratorExit):
            reason = "interrupt"
            raise
        finally:
            self.save(reason)

    def begin(self) -> None:
        """Let the session know of the answer."""
        self.session.begin_answer(self.parent, model=self.answer.engine.name, params=self._params())

    def _params(self) -> dict[str, object]:
        """What the session keeps of the settings; another try has another seed."""
        settings = replace(self.resolved.settings, seed=self.answer.settings.seed)
        chosen = [key for key, origin in self.resolved.origins.items() if origin != "default"]
        kept = dict.fromkeys([*(key for key in chosen if key not in _NOT_RECORDED), "seed"])
        return {key: to_datum(fields()[key], getattr(settings, key)) for key in kept}

    def save(self, reason: str) -> None:
        """Add the answer to the session, unless it has no new text."""
        from llmcli.inference.replay_manifest import replay_data

        answer, before = self.answer, self.continued
        if before and len(answer.text) <= len(before.content) and len(answer.reasoning) == len(before.reasoning):
            self.session.end_answer("")  # no new text: the answer that was to be continued stays as it is
            return
        timings = answer.timings() if answer.started else {}
        replay = replay_data(answer, self.first, before.id if before else None)
        self.message = self.session.end_answer(
            answer.text,
            answer.reasoning,
            finish_reason=reason,
            timings=timings,
            replay=replay,
            params=self._params(),
        )


def _to_data(event: Message | store.Event) -> dict[str, Any]:
    return event.to_data() if isinstance(event, Message) else to_builtins(event)
