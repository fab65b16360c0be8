"""A model that a command opens."""

from unittest.mock import Mock

import pytest

from llmcli.cli import open_model
from llmcli.errors import NetworkError
from llmcli.inference.resolved_model import ResolvedModel
from llmcli.params.settings import Settings
from llmcli.ui.terminal.progress import ProgressLine


def test_the_line_of_a_load_is_gone_before_its_error(monkeypatch: pytest.MonkeyPatch) -> None:
    status = Mock(spec=ProgressLine)
    monkeypatch.setattr(open_model, "open_elsewhere", Mock(side_effect=NetworkError("the RPC server does not answer")))
    with pytest.raises(NetworkError), open_model.open_model(Mock(spec=ResolvedModel), Settings(), status):
        pass
    status.clear.assert_called_once()
