"""A model to be leased by whatever request runs."""

from modelplex.multiplex import multiplexed


@multiplexed
async def get_model(model_id: str) -> str:
    return f"model {model_id}"


async def use_model() -> None:
    """Lease it until the request ends."""
    await get_model("a")
