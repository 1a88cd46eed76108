"""Several applications: started with options, named, routed, asked for, deleted; what status says of them."""

import time

import requests

from modelplex import serve
from modelplex.serve import Application, Deployment, HTTPOptions
from modelplex.serve.config import ProxyLocation
from modelplex.serve.exceptions import RayServeException
from modelplex.serve.schema import ApplicationStatus, DeploymentStatus, ServeStatus

serve.start(
    proxy_location=ProxyLocation.HeadOnly,
    http_options=HTTPOptions(host="127.0.0.1", port=8000, request_timeout_s=20),
    logging_config={"log_level": "WARNING"},
)


@serve.deployment(ray_actor_options={"num_cpus": 0.5}, graceful_shutdown_timeout_s=5)
class Name:
    def __init__(self):
        self.context = serve.get_replica_context()

    async def __call__(self, request=None):
        return f"{self.context.app_name}/{self.context.deployment}"


assert isinstance(Name, Deployment)
app = Name.bind()
assert isinstance(app, Application)
serve.run(app, name="north", route_prefix="/north")
handles = serve.run_many(
    [
        serve.RunTarget(Name.options(name="Other").bind(), name="south", route_prefix="/south"),
        serve.RunTarget(Name.bind(), name="deep", route_prefix="/south/deep"),
        serve.RunTarget(Name.bind(), name="hidden", route_prefix=None),
    ]
)
assert [handle.remote().result() for handle in handles] == ["south/Other", "deep/Name", "hidden/Name"]
assert requests.get("http://localhost:8000/north/any").text == "north/Name"
assert requests.get("http://localhost:8000/south").text == "south/Other"
assert requests.get("http://localhost:8000/south/deep/er").text == "deep/Name"
assert requests.get("http://localhost:8000/").status_code == 404
assert requests.get("http://localhost:8000/-/routes").json() == {
    "/north": "north",
    "/south": "south",
    "/south/deep": "deep",
}

status: ServeStatus = serve.status()
assert sorted(status.applications) == ["deep", "hidden", "north", "south"]
north = status.applications["north"]
assert north.status == ApplicationStatus.RUNNING == "RUNNING"
assert north.deployments["Name"].status == DeploymentStatus.HEALTHY
assert north.deployments["Name"].replica_states == {"RUNNING": 1}
assert serve.get_app_handle("south").remote().result() == "south/Other"
assert serve.get_deployment_handle("Name", app_name="deep").remote().result() == "deep/Name"

serve.delete("north")
assert "north" not in serve.status().applications
assert requests.get("http://localhost:8000/north").status_code == 404
serve.delete("south", _blocking=False)
deadline = time.time() + 30
while "south" in serve.status().applications:
    assert time.time() < deadline
    time.sleep(0.02)
try:
    serve.get_app_handle("south")
    raise AssertionError("it is deleted")
except RayServeException:
    pass
try:
    serve.get_replica_context()
    raise AssertionError("this is no replica")
except RayServeException:
    pass
serve.shutdown()
assert serve.status().applications == {}
