"""Which worker runs which file of tests."""

from functools import cached_property

from xdist.scheduler import LoadFileScheduling
from xdist.workermanage import WorkerController


class FileScheduling(LoadFileScheduling):  # type: ignore[misc]
    """As the base class, which counts and searches all tests of a worker each time that one is complete."""

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {test: number for number, test in enumerate(self.collection or ())}

    def mark_test_complete(self, node: WorkerController, item_index: int, duration: float = 0) -> None:  # noqa: ARG002
        test = self.registered_collections[node][item_index]
        files, name = self.assigned_work[node], self._split_scope(test)
        del files[name][test]
        if not files[name]:
            del files[name]
        self._reschedule(node)

    def _assign_work_unit(self, node: WorkerController) -> None:
        name, tests = self.workqueue.popitem(last=False)
        self.assigned_work[node][name] = tests
        node.send_runtest_some([self._numbers[test] for test in tests])
