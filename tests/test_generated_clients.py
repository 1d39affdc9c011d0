"""Clients that others generate from the contract: Python's does a job; TypeScript's, Go's and Java's compile.

The generators are no dependencies of this project: each is had from its package registry when a test runs, and where
that can't be the test is skipped with a line. `make test-clients` runs all of them, CI the one in Python.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import PROJECT, Namespace
from tests.support.images import oci_image
from tests.support.service import ServiceProcess

CONTRACT = PROJECT / "openapi/openapi.json"
PYTHON_GENERATOR = "openapi-python-client==0.29.1"
GO_GENERATOR = "github.com/oapi-codegen/oapi-codegen/v2/cmd/oapi-codegen@v2.8.0"
TYPESCRIPT = ("openapi-typescript@7.13.0", "typescript@5.9.3")
JAVA_GENERATOR = "org.openapitools:openapi-generator-maven-plugin:7.25.0"
JAVA_PROJECT = """
<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>example</groupId>
  <artifactId>client</artifactId>
  <version>1</version>
  <packaging>pom</packaging>
  <build>
    <plugins>
      <plugin>
        <groupId>org.openapitools</groupId>
        <artifactId>openapi-generator-maven-plugin</artifactId>
        <version>{version}</version>
        <configuration>
          <inputSpec>{contract}</inputSpec>
          <generatorName>java</generatorName>
          <library>okhttp-gson</library>
          <output>${{project.basedir}}/client</output>
        </configuration>
      </plugin>
    </plugins>
  </build>
</project>
"""
"""The library `native` writes `List<String>.class` for a text or a list of texts, which no compiler takes."""
EXPECTED_WARNINGS = {"application/yaml", "text/plain", "*/*"}
"""Bodies of these types are sent as they are: no generator makes a model of them."""

wanted = pytest.mark.skipif(
    "REGISTRY_SYNC_TEST_CLIENTS" not in os.environ, reason="clients in other languages: make test-clients"
)
PROGRAM = """
import sys
from client.api.jobs import get_job, list_images, submit_job
from client.api.registries import put_registry
from client.client import AuthenticatedClient
from client.models import JobFullForm, JobOut, JobShortForm, RegistryIn, RegistryOut, Rule

url, key, source, destination = sys.argv[1:]
client = AuthenticatedClient(base_url=url, token=key, raise_on_unexpected_status=True)
for name, reference in (("source", source), ("destination", destination)):
    entered = put_registry.sync(name, client=client, body=RegistryIn(host=reference.partition("/")[0], insecure=True))
    assert isinstance(entered, RegistryOut), entered
job = submit_job.sync(client=client, body=JobShortForm(source=source, destination=destination), wait="30s")
assert isinstance(job, JobOut), job
job = get_job.sync(job.id, client=client, wait="30s")
assert isinstance(job, JobOut) and job.state == "succeeded", job
(image,) = list_images.sync(job.id, client=client).items
print(image.destination_digest)
again = submit_job.sync(
    client=client, body=JobFullForm(rules=[Rule(source=source, destination=[destination])]), wait="30s"
)
assert isinstance(again, JobOut) and again.progress.images.up_to_date == 1, again
"""


def run(*command: str, folder: Path) -> str:
    """Run a tool; skip the test where its package can't be had, fail where it did not do its work."""
    done = subprocess.run(command, cwd=folder, check=False, capture_output=True, text=True, timeout=300)  # noqa: S603 — our own commands
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def installed(*command: str, folder: Path) -> None:
    done = subprocess.run(command, cwd=folder, check=False, capture_output=True, text=True, timeout=300)  # noqa: S603 — our own commands
    if done.returncode != 0:
        pytest.skip(f"can't be had here: {command[-1]}")


def tool(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


@pytest.fixture
def python_client(tmp_path: Path) -> Path:
    """Generate the Python client and return the interpreter of an environment that has what it needs."""
    environment = tmp_path / "environment"
    uv = str(Path(sys.executable).with_name("uv"))
    run(uv, "venv", "--quiet", str(environment), folder=tmp_path)
    python = str(environment / "bin/python")
    installed(uv, "pip", "install", "--quiet", "--python", python, PYTHON_GENERATOR, folder=tmp_path)
    generate = (str(environment / "bin/openapi-python-client"), "generate", "--path", str(CONTRACT))
    said = run(*generate, "--output-path", "client", "--meta", "none", folder=tmp_path)
    warnings = [line for line in said.splitlines() if line.startswith("WARNING")]
    unsupported = {line.split()[-1] for line in said.splitlines() if line.startswith("Unsupported content type")}
    assert unsupported <= EXPECTED_WARNINGS
    assert len(warnings) == said.count("Unsupported content type"), said
    return Path(python)


def test_a_generated_python_client_submits_waits_and_reads(
    python_client: Path, tmp_path: Path, source: Namespace, destination: Namespace
) -> None:
    image = oci_image("generated")
    source.push("app", image, "1")
    folder = tmp_path / "service"
    folder.mkdir()
    with ServiceProcess(folder) as service:
        key = service.client.post("/v1/keys", json={"name": "ci", "scope": "admin"}).raise_for_status().json()["key"]
        said = run(
            str(python_client),
            "-c",
            PROGRAM,
            str(service.client.base_url).rstrip("/"),
            key,
            source.reference("app", "1"),
            destination.reference("app", "1"),
            folder=tmp_path,
        )
    assert image.digest in said
    assert destination.tags("app") == {"1": image.digest}


@wanted
def test_a_generated_typescript_client_compiles(tmp_path: Path) -> None:
    npm, npx = tool("npm"), tool("npx")
    (tmp_path / "package.json").write_text("{}")
    installed(npm, "install", "--silent", *TYPESCRIPT, folder=tmp_path)
    run(npx, "openapi-typescript", str(CONTRACT), "-o", "api.d.ts", folder=tmp_path)
    run(npx, "tsc", "--noEmit", "--strict", "api.d.ts", folder=tmp_path)


@wanted
def test_a_generated_go_client_compiles(tmp_path: Path) -> None:
    go = tool("go")
    run(go, "mod", "init", "example.com/client", folder=tmp_path)
    installed(go, "get", "-tool", GO_GENERATOR, folder=tmp_path)
    (tmp_path / "api").mkdir()
    options = ("-generate", "types,client", "-package", "api", "-o", "api/api.go")
    run(go, "tool", "oapi-codegen", *options, str(CONTRACT), folder=tmp_path)
    installed(go, "get", "github.com/oapi-codegen/runtime", folder=tmp_path)
    run(go, "build", "./...", folder=tmp_path)


@wanted
def test_a_generated_java_client_compiles(tmp_path: Path) -> None:
    maven, _ = tool("mvn"), tool("javac")
    (tmp_path / "pom.xml").write_text(JAVA_PROJECT.format(version=JAVA_GENERATOR.rpartition(":")[2], contract=CONTRACT))
    installed(maven, "-B", "-q", f"{JAVA_GENERATOR}:help", folder=tmp_path)
    run(maven, "-B", "-q", f"{JAVA_GENERATOR}:generate", folder=tmp_path)
    run(maven, "-B", "-q", "-Dmaven.test.skip=true", "-Dmaven.javadoc.skip=true", "compile", folder=tmp_path / "client")


@wanted
def test_the_contract_has_no_errors_that_a_linter_finds(tmp_path: Path) -> None:
    npm, npx = tool("npm"), tool("npx")
    (tmp_path / "package.json").write_text("{}")
    installed(npm, "install", "--silent", "@redocly/cli@2", folder=tmp_path)
    run(npx, "redocly", "lint", str(CONTRACT), "--max-problems", "100", folder=tmp_path)
