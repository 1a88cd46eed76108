"""What a replica answers when the controller asks (`inspection`)."""

from functools import partial

from modelplex.runtime import model_report
from modelplex.runtime.inspection import Topic
from modelplex.runtime.replica import Replica
from modelplex.runtime.replica_metrics import of_replica


def topics_of(replica: Replica, *, own_process: bool = True) -> dict[str, Topic]:
    """By name, what can be asked of it. Whether its process is its own."""
    return {
        "models": partial(model_report.report, replica),
        "decisions": replica.decisions.answer,
        "metrics": lambda _: of_replica(replica, own_process=own_process),
    }
