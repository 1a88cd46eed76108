"""An application of the HTTP server that answers with what it is sent."""

from modelplex.runtime.http_connection import HTTPExchange


async def echo(exchange: HTTPExchange) -> None:
    """Part by part, as fast as the client takes it."""
    exchange.respond(200, [], exchange.body, more=True)
    more = exchange.more
    while more:
        data, more = await exchange.read()
        exchange.write(data, more=more)
        await exchange.drain()
