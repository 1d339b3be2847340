"""The manifests for Kubernetes: that they are what Kubernetes takes, and agree with each other and with the image."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import package_tools
import pytest
import yaml
from unit.bundle.made import Made, texts

from luban.bundle import packages
from luban.bundle.engine import Engine
from luban.bundle.packages import Source, docker, kserve
from luban.serve.limits import Limits
from luban.serve.rest import Rest

Manifest = dict[str, Any]
OWN_OF_KSERVE = {"minReplicas", "maxReplicas", "scaleMetric", "scaleTarget"}
VERSIONS = ("1.27", "1.33")
"""Of Kubernetes: what the manifests are checked against."""


@pytest.fixture
def it(classifier: Made) -> Source:
    """Return what is packaged."""
    return Source(folder=classifier.folder, engine=Engine.open(classifier.folder))


@pytest.fixture
def manifests(it: Source) -> list[Manifest]:
    """Return every manifest, of a server that took 120 MiB."""
    return [one for text in kserve.manifests(it, 120 << 20).values() for one in yaml.safe_load_all(text)]


def of_kind(manifests: list[Manifest], kind: str) -> Manifest:
    (found,) = (one for one in manifests if one["kind"] == kind)
    return found


def pods(manifests: list[Manifest]) -> list[Manifest]:
    """Return the pods that the two ways make, without what is KServe's own."""
    predictor = of_kind(manifests, "InferenceService")["spec"]["predictor"]
    plain = {key: value for key, value in predictor.items() if key not in OWN_OF_KSERVE}
    return [plain, of_kind(manifests, "Deployment")["spec"]["template"]["spec"]]


def test_everything_is_there_under_one_name(manifests: list[Manifest]) -> None:
    kinds = {one["kind"] for one in manifests}
    wanted = {"InferenceService", "Deployment", "Service", "HorizontalPodAutoscaler", "PodDisruptionBudget"}
    assert kinds == wanted
    assert {one["metadata"]["name"] for one in manifests} == {"made"}


def test_what_selects_pods_finds_them_in_every_version(manifests: list[Manifest], it: Source) -> None:
    template = of_kind(manifests, "Deployment")["spec"]["template"]["metadata"]["labels"]
    (spread,) = pods(manifests)[1]["topologySpreadConstraints"]
    selectors = [
        of_kind(manifests, "Deployment")["spec"]["selector"]["matchLabels"],
        of_kind(manifests, "PodDisruptionBudget")["spec"]["selector"]["matchLabels"],
        of_kind(manifests, "Service")["spec"]["selector"], spread["labelSelector"]["matchLabels"],
    ]  # fmt: skip
    for selector in selectors:
        assert selector.items() < template.items()
        assert it.engine.digest[:12] not in selector.values()
    assert of_kind(manifests, "HorizontalPodAutoscaler")["spec"]["scaleTargetRef"]["name"] == "made"
    (port,) = of_kind(manifests, "Service")["spec"]["ports"]
    assert port["targetPort"] == pods(manifests)[1]["containers"][0]["ports"][0]["name"]


def test_probes_ask_routes_that_need_no_key(manifests: list[Manifest]) -> None:
    nothing: Any = None
    public = {route.path for route in Rest(nothing, Limits(), nothing, lambda: True).probes}
    for pod in pods(manifests):
        (container,) = pod["containers"]
        asked = {name: container[f"{name}Probe"]["httpGet"] for name in ("startup", "readiness", "liveness")}
        assert {probe["path"] for probe in asked.values()} == public
        assert asked["liveness"]["path"] == "/healthz"  # one that is not ready is not killed for it
        assert {probe["port"] for probe in asked.values()} == {docker.PORT, container["ports"][0]["containerPort"]}


def test_a_pod_that_stops_has_the_time_that_it_takes(manifests: list[Manifest]) -> None:
    for pod in pods(manifests):
        (container,) = pod["containers"]
        program, seconds = container["lifecycle"]["preStop"]["exec"]["command"]
        assert program == "sleep"
        assert pod["terminationGracePeriodSeconds"] > int(seconds) + docker.DRAIN_S


def test_a_pod_may_do_nothing_but_answer(manifests: list[Manifest]) -> None:
    for pod in pods(manifests):
        (container,) = pod["containers"]
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"]["runAsNonRoot"] and pod["securityContext"]["runAsUser"] == docker.USER
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        rules = container["securityContext"]
        assert rules["readOnlyRootFilesystem"] and not rules["allowPrivilegeEscalation"]
        assert rules["capabilities"] == {"drop": ["ALL"]}
        assert container["resources"]["requests"] == container["resources"]["limits"] == {"cpu": "1", "memory": "256Mi"}


def test_both_run_the_image_of_this_bundle(manifests: list[Manifest], it: Source) -> None:
    images = {pod["containers"][0]["image"] for pod in pods(manifests)}
    assert images == {f"{kserve.PLACE}/made:{it.engine.digest[:12]}"}


def test_kserve_is_told_its_protocol_and_its_container(manifests: list[Manifest]) -> None:
    predictor = of_kind(manifests, "InferenceService")["spec"]["predictor"]
    (container,) = predictor["containers"]
    assert container["name"] == "kserve-container"
    assert container["env"] == [{"name": "PROTOCOL", "value": "v2"}]
    notes = of_kind(manifests, "InferenceService")["metadata"]["annotations"]
    assert notes["serving.kserve.io/deploymentMode"] == "RawDeployment"  # the other refuses `lifecycle`


def test_the_package_holds_its_image_and_manifests_by_what_was_measured(it: Source, tmp_path: Path) -> None:
    proof = packages.make("kserve", it, tmp_path / "it", texts(8), "rows", 1e-3)
    assert {path.name for path in (tmp_path / "it").iterdir()} == {*kserve.MANIFESTS, kserve.IMAGE, "README.md"}
    for name, text in kserve.manifests(it, proof["memory_bytes"]).items():
        assert (tmp_path / "it" / name).read_text("utf-8") == text
    assert {"Dockerfile", "README.md", "bundle"} <= {path.name for path in (tmp_path / "it" / kserve.IMAGE).iterdir()}


@pytest.mark.parametrize("version", VERSIONS)
def test_kubernetes_own_schemas_take_them(manifests: list[Manifest], version: str, tmp_path: Path) -> None:
    """What KServe makes a pod of is checked as a pod: its own schema is no part of Kubernetes."""
    program = package_tools.program("kubernetes-validate", "kubernetes_validate")
    service = of_kind(manifests, "InferenceService")
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": service["metadata"], "spec": pods(manifests)[0]}
    given = tmp_path / "all.yaml"
    given.write_text(yaml.safe_dump_all([pod, *(one for one in manifests if one is not service)]), "utf-8")

    def validate() -> subprocess.CompletedProcess[str]:
        command = [program, "--strict", "--kubernetes-version", version, str(given)]
        return subprocess.run(command, capture_output=True, text=True, check=False, env=package_tools.environment())

    ran = validate()
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert (ran.stdout + ran.stderr).lower().count("passed") == 5
    given.write_text(given.read_text("utf-8").replace("periodSeconds: 1\n", "periodSeconds: often\n"), "utf-8")
    assert validate().returncode != 0
