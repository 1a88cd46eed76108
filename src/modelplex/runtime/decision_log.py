"""What all processes of a system have decided of late, put together."""

from collections.abc import Mapping
from typing import Any

from modelplex.observe.decisions import LIMIT
from modelplex.runtime.survey import Survey

# The topic by which each process is asked (`inspection`).
TOPIC = "decisions"


async def decisions(survey: Survey, filters: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The newest first, as `observe.decisions.Decision.as_dict` has them.

    `filters` are as for one of them (`observe.decisions.Decisions.answer`). Who does not answer in time is left
    out.
    """
    answers = await survey.ask(TOPIC, dict(filters))
    found = [{**each, "process": each.get("process") or name} for name, told in answers.items() for each in told]
    found.sort(key=lambda each: each["at"], reverse=True)
    return found[: int(filters.get("limit") or LIMIT)]
