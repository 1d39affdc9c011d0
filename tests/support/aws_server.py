"""AWS as moto plays it, in a process of its own: IAM, STS and ECR, with signatures and rights really checked.

    with AwsServer() as aws:
        key = aws.make_user("puller", actions=["ecr:GetAuthorizationToken"])

It gives every identity of its one account the same registry password, `PASSWORD`.
"""

import json
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import botocore.session
import httpx

from tests.support.processes import Program, free_port

ACCOUNT = "123456789012"
REGION = "eu-central-1"
USERNAME, PASSWORD = "AWS", f"{ACCOUNT}-auth-token"
READY_SECONDS = 120.0
_UNCHECKED = "1000000"
"""How many requests are taken without a look at their signature while identities are made."""


@dataclass(frozen=True, slots=True)
class AccessKey:
    """A user's key."""

    id: str
    secret: str = field(repr=False)


class AwsServer:
    """Moto's server, running from `__enter__` to `__exit__`."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="registry-sync-aws-")
        self.log = Path(self._folder.name) / "aws.log"
        self.url = f"http://127.0.0.1:{free_port()}"

    def __enter__(self) -> Self:
        host, _, port = self.url.removeprefix("http://").partition(":")
        self._program = Program([sys.executable, "-m", "moto.server", "-H", host, "-p", port], log=self.log)
        try:
            with httpx.Client(trust_env=False) as client:
                self._program.wait_until(lambda: self._answers(client), seconds=READY_SECONDS)
            self.check_identities(is_on=True)
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._program.end()
        self._folder.cleanup()

    def make_user(self, name: str, *, actions: list[str]) -> AccessKey:
        """Make a user who may do what is named, to everything; return a key of theirs."""
        self.check_identities(is_on=False)
        iam = self._iam()
        iam.create_user(UserName=name)
        if actions:
            iam.put_user_policy(UserName=name, PolicyName="rights", PolicyDocument=_policy(actions))
        key = iam.create_access_key(UserName=name)["AccessKey"]
        self.check_identities(is_on=True)
        return AccessKey(key["AccessKeyId"], key["SecretAccessKey"])

    def allow(self, name: str, *, actions: list[str]) -> None:
        """Let a user do what is named, instead of what they could do."""
        self.check_identities(is_on=False)
        self._iam().put_user_policy(UserName=name, PolicyName="rights", PolicyDocument=_policy(actions))
        self.check_identities(is_on=True)

    def make_role(self, name: str, *, actions: list[str]) -> str:
        """Make a role that everybody of the account may assume; return its ARN."""
        self.check_identities(is_on=False)
        iam = self._iam()
        trust = {"Effect": "Allow", "Principal": {"AWS": "*"}, "Action": "sts:AssumeRole"}
        role = iam.create_role(RoleName=name, AssumeRolePolicyDocument=json.dumps({"Statement": [trust]}))
        iam.put_role_policy(RoleName=name, PolicyName="rights", PolicyDocument=_policy(actions))
        self.check_identities(is_on=True)
        return str(role["Role"]["Arn"])

    def check_identities(self, *, is_on: bool) -> None:
        """Check signatures and rights from now on, or take every request."""
        count = "0" if is_on else _UNCHECKED
        httpx.post(f"{self.url}/moto-api/reset-auth", content=count, trust_env=False).raise_for_status()

    def calls(self) -> int:
        """Return how many calls of ECR and STS were answered so far."""
        return self.log.read_text(errors="replace").count("POST / HTTP/1.1")

    def client(self, service: str, key: AccessKey) -> Any:
        """Return a client of a service, for one who has a key."""
        session = botocore.session.Session()
        session.set_credentials(key.id, key.secret)
        return session.create_client(service, region_name=REGION, endpoint_url=self.url)

    def _iam(self) -> Any:
        return self.client("iam", AccessKey("maker", "of identities"))

    def _answers(self, client: httpx.Client) -> bool:
        try:
            return client.get(f"{self.url}/moto-api/data.json", timeout=5).is_success
        except httpx.TransportError:
            return False


def _policy(actions: list[str]) -> str:
    statement = {"Effect": "Allow", "Action": actions, "Resource": "*"}
    return json.dumps({"Version": "2012-10-17", "Statement": [statement]})
