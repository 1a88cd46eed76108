"""The manifests for Kubernetes: their form, and that they fit each other, the code and the configuration file."""

from pathlib import Path
from typing import Any

import typer.main
import yaml

from modelplex.cli import cli
from modelplex.config_file import read_file

FOLDER = Path(__file__).parents[2] / "examples" / "kuberay"
KINDS = {"RayCluster": "ray.io/v1", "Service": "v1", "PodDisruptionBudget": "policy/v1", "Job": "batch/v1"}


def manifests() -> dict[str, Any]:
    """By kind."""
    names = [path for path in FOLDER.glob("*.yaml") if path.name != "serve.yaml"]
    return {found["kind"]: found for path in names for found in yaml.safe_load_all(path.read_text())}


def cluster() -> Any:
    return manifests()["RayCluster"]["spec"]


def containers() -> list[Any]:
    templates = [cluster()["headGroupSpec"], *cluster()["workerGroupSpecs"], manifests()["Job"]["spec"]]
    return [container for each in templates for container in each["template"]["spec"]["containers"]]


def worker() -> Any:
    return cluster()["workerGroupSpecs"][0]["template"]["spec"]


def test_the_kinds_are_those_of_their_versions() -> None:
    assert {kind: found["apiVersion"] for kind, found in manifests().items()} == KINDS


def test_all_pods_have_one_image_of_one_version_of_ray() -> None:
    assert len({container["image"] for container in containers()}) == 1
    assert f"FROM rayproject/ray:{cluster()['rayVersion']}-" in (FOLDER / "Dockerfile").read_text()


def test_the_port_is_the_same_everywhere() -> None:
    container = worker()["containers"][0]
    http = read_file(FOLDER / "serve.yaml", check_modules=False).http_options
    assert container["ports"] == [{"name": "http", "containerPort": http.port}]
    assert http.host == "0.0.0.0"
    assert container["readinessProbe"]["httpGet"] == {"path": "/-/healthz", "port": "http"}
    assert [port["targetPort"] for port in manifests()["Service"]["spec"]["ports"]] == ["http"]


def test_the_pods_that_are_chosen_are_the_workers() -> None:
    name = manifests()["RayCluster"]["metadata"]["name"]
    labels = {"ray.io/cluster": name, "ray.io/node-type": "worker"}
    assert manifests()["Service"]["spec"]["selector"] == labels
    assert manifests()["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"] == labels


def test_workers_come_and_go_and_are_drained_first() -> None:
    assert cluster()["enableInTreeAutoscaling"] is True
    assert cluster()["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    group = cluster()["workerGroupSpecs"][0]
    assert group["minReplicas"] <= group["replicas"] < group["maxReplicas"]
    command = worker()["containers"][0]["lifecycle"]["preStop"]["exec"]["command"][-1]
    assert command.startswith("ray drain-node --reason DRAIN_NODE_REASON_PREEMPTION ")
    waits_s = int(command.rpartition("sleep ")[2])
    grace_s = read_file(FOLDER / "serve.yaml", check_modules=False).applications[0]
    assert grace_s.name == "shops"
    assert worker()["terminationGracePeriodSeconds"] >= waits_s + 20 + 10


def test_the_job_says_what_the_command_takes() -> None:
    words = containers()[-1]["command"]
    name = manifests()["RayCluster"]["metadata"]["name"]
    ports = [port["containerPort"] for port in containers()[0]["ports"] if port["name"] == "dashboard"]
    assert words[:3] == ["ray", "job", "submit"]
    assert f"--address=http://{name}-head-svc:{ports[0]}" in words
    command, verb, *rest = words[words.index("--") + 1 :]
    group: Any = typer.main.get_command(cli)
    given = group.commands[verb].make_context(verb, rest).params
    assert command == "modelplex"
    assert (FOLDER / given["file"]).is_file()
    assert f"/{given['file']}" not in "".join(words), "it is found in the folder that is sent along"


def test_what_it_deploys_is_in_the_image_and_a_configuration_file() -> None:
    settings = read_file(FOLDER / "serve.yaml", app_dir=FOLDER.parent / "config")
    assert settings.engine == "ray"
    copied = next(line for line in (FOLDER / "Dockerfile").read_text().splitlines() if line.startswith("COPY"))
    assert copied.split() == ["COPY", "shops.py", "serve.yaml", "/srv/shops/"]
    assert "--working-dir=/srv/shops" in containers()[-1]["command"]
