"""What the tests of the command line share."""

from __future__ import annotations

from typing import Any

import pytest

from luban.cli.main import main


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Any:
    """Return what runs a command, looks at its exit code, and gives back all that it said."""

    def run(*arguments: str, exit_code: int = 0) -> str:
        found = main(arguments)
        out, err = capsys.readouterr()
        assert found == exit_code, out + err
        return out + err

    return run
