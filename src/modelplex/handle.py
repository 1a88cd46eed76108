"""Calling a deployment from Python."""

import binascii
import random
from typing import Any

from modelplex import context, tracing
from modelplex.config import check_model_id, check_seconds
from modelplex.response import BroadcastResponse, DeploymentResponse, DeploymentResponseGenerator

# Of a request and a call that it makes, the request is to end first when both are out of time: then it is cancelled
# with all that it does, and it is not by chance whether its code hears of a call that came too late.
SLACK_S = 0.05

# Not the system's: it is asked by every request, and its numbers need not be secret.
_ids = random.Random()
_URL_SAFE = bytes.maketrans(b"+/", b"-_")


def new_request_id() -> str:
    """Ten letters and digits or so: short enough to read aloud, long enough never to meet again in a log."""
    return binascii.b2a_base64(_ids.getrandbits(64).to_bytes(8, "little"))[:11].translate(_URL_SAFE).decode()


class DeploymentHandle:
    """Calls a deployment's methods, by way of the same router as HTTP requests.

    `handle.remote(…)` calls `__call__`, `handle.name.remote(…)` the method of that name. A handle can be pickled, and
    used in any program of the same user on the same machine, as long as the system runs that it belongs to.
    """

    def __init__(
        self,
        app_name: str,
        deployment_name: str,
        *,
        method_name: str = "__call__",
        multiplexed_model_id: str = "",
        max_cold_wait_s: float | None = None,
        timeout_s: float | None = None,
        stream: bool = False,
        system: str = "",
        tenant: str = "",
    ) -> None:
        self.app_name = app_name
        self.deployment_name = deployment_name
        self._method_name = method_name
        self._model_id = multiplexed_model_id
        self._max_cold_wait_s = max_cold_wait_s
        self._timeout_s = timeout_s
        self._stream = stream
        self._tenant = tenant
        self._system = system  # of which it calls a deployment; this process's own if it is empty

    def options(
        self,
        *,
        method_name: str | None = None,
        multiplexed_model_id: str | None = None,
        max_cold_wait_s: float | None = None,
        timeout_s: float | None = None,
        stream: bool | None = None,
        tenant: str | None = None,
    ) -> "DeploymentHandle":
        """A handle with other options.

        Args:
            method_name: the method to call.
            multiplexed_model_id: the model that the call names. A call names no model unless it is told to: the
                caller's own is not passed on.
            max_cold_wait_s: seconds that a call waits for its model if it is not loaded. Past them the call raises
                `ModelColdError` with `retry_after_s`, and the load goes on. Unless given, it waits for any time.
            timeout_s: seconds after which a call that is not answered is cancelled, also where it runs, and raises
                `RequestTimeoutError`; of a stream, all of it. Unless given, or with `math.inf`, it is the request that
                makes the call which limits it, if that has such a limit; the shorter one counts.
            stream: whether the methods to be called are generators; `remote` then returns what can be iterated over.
            tenant: on whose behalf calls are (`tenants` of the deployment); unless given, that of the request which
                makes the call.
        """
        if multiplexed_model_id:
            check_model_id(multiplexed_model_id)
        if max_cold_wait_s is not None:
            check_seconds("max_cold_wait_s", max_cold_wait_s)
        check_seconds("timeout_s", timeout_s, above_0=True)
        return DeploymentHandle(
            self.app_name,
            self.deployment_name,
            method_name=self._method_name if method_name is None else method_name,
            multiplexed_model_id=self._model_id if multiplexed_model_id is None else multiplexed_model_id,
            max_cold_wait_s=self._max_cold_wait_s if max_cold_wait_s is None else max_cold_wait_s,
            timeout_s=self._timeout_s if timeout_s is None else timeout_s,
            stream=self._stream if stream is None else stream,
            system=self._system,
            tenant=self._tenant if tenant is None else tenant,
        )

    def remote(self, /, *args: Any, **kwargs: Any) -> Any:
        """Begin a call and return at once with its `DeploymentResponse`, or `DeploymentResponseGenerator` of a stream.

        A response of another call may be an argument: the call then begins when it is there.
        """
        response = DeploymentResponseGenerator if self._stream else DeploymentResponse
        return response(self._call(self._method_name, args, kwargs))

    def broadcast(self, method_name: str, /, *args: Any, **kwargs: Any) -> DeploymentResponse:
        """Begin a call of a method on each replica that runs; its response is a list of what they return, in no order.

        It takes no slot: replicas that have all to do that they may are called, too. A replica that dies, or stops,
        before it has answered is left out. If the method raises an exception somewhere, that is raised when all have
        answered.
        """
        if self._stream:
            raise TypeError("A generator cannot be broadcast: leave out stream=True.")
        return BroadcastResponse(self._call(method_name, args, kwargs))

    def _call(self, method_name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> context.Call:
        current = context.request()
        return context.Call(
            app_name=self.app_name,
            deployment=self.deployment_name,
            method_name=method_name,
            model_id=self._model_id,
            max_cold_wait_s=self._max_cold_wait_s,
            request_id=current.request_id if current is not None else new_request_id(),
            route=current.route if current is not None else "",
            args=args,
            kwargs=kwargs,
            deadline=self._deadline(current),
            system=self._system,
            trace=tracing.carried(),
            tenant=self._tenant or (current.tenant if current is not None else ""),
        )

    def _deadline(self, current: context.RequestContext | None) -> float | None:
        """When a call that begins now is given up: its own deadline, or that of the request which it is a part of."""
        inherited = None if current is None or current.ended else current.deadline
        if inherited is None and self._timeout_s is None:
            return None
        now = context.caller(self._system).loop.time()
        limits = []
        if self._timeout_s is not None:
            limits.append(now + self._timeout_s)
        if inherited is not None:
            limits.append(inherited + SLACK_S if inherited > now else inherited)
        return min(limits)

    def __getattr__(self, name: str) -> "DeploymentHandle":
        if name.startswith("_"):
            raise AttributeError(name)
        return self.options(method_name=name)

    def __reduce__(self) -> Any:
        options = (self._method_name, self._model_id, self._max_cold_wait_s, self._timeout_s, self._stream)
        return _handle, (self.app_name, self.deployment_name, *options, self._system or context.system(), self._tenant)

    def __repr__(self) -> str:
        return f"DeploymentHandle({self.app_name!r}, {self.deployment_name!r}, method_name={self._method_name!r})"


def _handle(
    app_name: str,
    deployment_name: str,
    method_name: str,
    model_id: str,
    max_cold_wait_s: float | None,
    timeout_s: float | None,
    stream: bool,
    system: str,
    tenant: str,
) -> DeploymentHandle:
    return DeploymentHandle(
        app_name,
        deployment_name,
        method_name=method_name,
        multiplexed_model_id=model_id,
        max_cold_wait_s=max_cold_wait_s,
        timeout_s=timeout_s,
        stream=stream,
        system=system,
        tenant=tenant,
    )
