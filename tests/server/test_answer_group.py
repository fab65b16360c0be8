"""The updates of answers on their way from the thread of the model to a client: their order."""

import asyncio
import threading
from collections.abc import Callable

from llmcli.engine.events import Prompt, Request
from llmcli.errors import LlmcliError
from llmcli.inference.answer import Answer
from llmcli.params.settings import Settings
from llmcli.server.answer_group import AnswerGroup, Outbox, Update
from tests.inference.fake_engine import FakeEngine

TEXT = Update(0, [("answer", "a")], 1)


class Order(Outbox):
    """Notes what goes to the loop."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def put(self, group: AnswerGroup, update: Update) -> None:  # noqa: ARG002
        self.seen.append("error" if update.error else "to the loop")

    def send(self, _update: Update) -> bool:
        self.seen.append("sent")
        return True


def in_loop(test: Callable[[AnswerGroup, Order], None]) -> None:
    async def run() -> None:
        group = AnswerGroup([Answer(FakeEngine(), Request(Prompt.of_tokens("", [1]), Settings()))])
        order = group.outbox = Order()
        group.send_directly = order.send
        await asyncio.to_thread(test, group, order)

    asyncio.run(run())


def test_plain_text_is_sent_at_once_until_something_goes_to_the_loop() -> None:
    def test(group: AnswerGroup, order: Order) -> None:
        for update in (TEXT, TEXT, Update(0, [("answer", "b")], 2, is_last=True), TEXT):
            group._send(update)
        assert order.seen == ["sent", "sent", "to the loop", "to the loop"]

    in_loop(test)


def test_text_that_cannot_be_sent_directly_goes_to_the_loop() -> None:
    """There a fault ends its own request; in the thread of the model it would end the answers of all."""

    def test(group: AnswerGroup, order: Order) -> None:
        def fail(_update: Update) -> bool:
            raise ZeroDivisionError

        group.send_directly = fail
        group._send(TEXT)
        assert order.seen == ["to the loop"]

    in_loop(test)


def test_an_error_from_outside_waits_for_the_text_that_is_being_sent() -> None:
    """Else the text would come behind the error, which ends the stream."""

    def test(group: AnswerGroup, order: Order) -> None:
        is_sending, may_go_on = threading.Event(), threading.Event()

        def send(update: Update) -> bool:
            is_sending.set()
            assert may_go_on.wait(60)
            return order.send(update)

        group.send_directly = send
        threads = [
            threading.Thread(target=group._send, args=(TEXT,)),
            threading.Thread(target=group.running[0].fail, args=(LlmcliError("the end"),)),
        ]
        threads[0].start()
        assert is_sending.wait(60)
        threads[1].start()
        threads[1].join(0.05)
        may_go_on.set()
        for one in threads:
            one.join(60)
        assert order.seen == ["sent", "error"]

    in_loop(test)


class Waits(threading.Event):
    """Nobody reads; notes how long was waited for that."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[float | None] = []

    def wait(self, timeout: float | None = None) -> bool:
        self.seen.append(timeout)
        return False


def test_the_next_step_waits_once_for_the_first_text_of_an_answer() -> None:
    """A client that reads slowly must not hold up the others again and again."""

    def test(group: AnswerGroup, _order: Order) -> None:
        outbox, waits = Outbox(), Waits()
        group.is_begun = waits
        for patience in (0.0, 0.003, 0.003):
            outbox.put(group, TEXT)
            outbox.flush(patience)
        assert waits.seen == [0.003]

    in_loop(test)
