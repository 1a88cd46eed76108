"""What `serve.status` answers."""

import json

from modelplex import serve
from modelplex.status import ApplicationState, DeploymentState, ServeStatus


def test_nothing_is_served_before_anything_is_run() -> None:
    assert serve.status() == ServeStatus()
    assert (serve.status().proxies, serve.status().applications) == ({}, {})


def test_states_are_the_words_that_users_know() -> None:
    assert {*ApplicationState} == {"NOT_STARTED", "DEPLOYING", "DEPLOY_FAILED", "RUNNING", "UNHEALTHY", "DELETING"}
    assert {*DeploymentState} == {"UPDATING", "HEALTHY", "UNHEALTHY"}


def test_states_read_as_words_in_text_and_json() -> None:
    assert f"{ApplicationState.RUNNING}" == "RUNNING"
    assert json.dumps({"status": DeploymentState.HEALTHY}) == '{"status": "HEALTHY"}'
