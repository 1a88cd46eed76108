"""The application of the configuration files: it answers, with the options that they have."""

import sys
from pathlib import Path

import pytest

from modelplex import serve
from modelplex.applications import apply_overrides, import_application
from modelplex.config_file import read_file
from modelplex.deployment import flatten

EXAMPLES = Path(__file__).parents[2] / "examples" / "config"


def test_the_files_go_with_the_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    for file in EXAMPLES.glob("*.[yj]*"):
        for application in read_file(file, app_dir=EXAMPLES).applications:
            built = import_application(application.import_path, application.args, EXAMPLES)
            nodes = apply_overrides(flatten(built, application.name), application.deployments)
            given = {override.name: override.options for override in application.deployments}
            for node in nodes:
                for option in given.get(node.deployment.name, {}):
                    assert getattr(node.deployment.config, option) is not None


def test_what_the_full_file_names_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    application = import_application("shops:build", {"greeting": "Hello", "copies": "2"}, EXAMPLES)
    handle = serve.run(application, _local_testing_mode=True)
    try:
        answer = handle.options(multiplexed_model_id="shop-1").remote(None).result(timeout_s=30)
    finally:
        serve.shutdown()
    assert answer == "Hello, the forecast of shop-1, the forecast of shop-1"
