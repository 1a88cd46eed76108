"""Applications on the test's own event loop, which leave nothing behind."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

from raw_router import leases_held

from modelplex import serve
from modelplex.runtime.replica import Replica
from modelplex.serve import Application, Deployment, DeploymentHandle
from modelplex.testing import InlineCluster


def app_of(func_or_class: Callable[..., Any], *args: Any, **options: Any) -> Application:
    """The application of `@serve.deployment(**options)` bound to these arguments."""
    deployment: Deployment = serve.deployment(**options)(func_or_class)
    return deployment.bind(*args)


@contextlib.asynccontextmanager
async def serving(application: Application) -> AsyncIterator[tuple[InlineCluster, DeploymentHandle]]:
    """A cluster that runs the application, and a handle to it. Afterwards nothing may be left of either."""
    before = asyncio.all_tasks()
    async with InlineCluster() as cluster:
        yield cluster, await cluster.run(application)
        replicas = replicas_of(cluster)
    assert all((replica.ongoing, leases_held(replica)) == (0, 0) for replica in replicas)
    assert asyncio.all_tasks() <= before


def replicas_of(cluster: InlineCluster) -> list[Replica]:
    """The replicas that run, in the order in which they were started; the cluster itself has no use for them."""
    return [process.replica for process in cluster.engine._processes.values()]
