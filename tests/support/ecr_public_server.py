"""ECR Public's API over loopback, which moto has not: logins, aliases, repositories made and listed.

    with EcrPublicServer() as public:
        # AWS_ENDPOINT_URL_ECR_PUBLIC is public.url

Source: Amazon ECR Public API reference (AWS JSON 1.1, target `SpencerFrontendService`). Signatures are not checked.
"""

import base64
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

ALIAS = "mirror"
PASSWORD = "public-auth-token"
_PAGE = 2


class EcrPublicServer:
    """The public registry of one account; running from `__enter__` to `__exit__`."""

    def __init__(self) -> None:
        self.repositories: dict[str, dict[str, Any]] = {}
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.regions: set[str] = set()
        """Those that requests were signed for."""
        self.refuses = ""
        """An operation that nobody may do."""
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _answer(self, operation: str, asked: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        self.calls.append((operation, asked))
        if operation == self.refuses:
            message = f"User: arn:aws:iam::123456789012:user/a is not authorized to perform: ecr-public:{operation}"
            return 400, {"__type": "AccessDeniedException", "message": message}
        match operation:
            case "GetAuthorizationToken":
                token = base64.b64encode(f"AWS:{PASSWORD}".encode()).decode()
                return 200, {"authorizationData": {"authorizationToken": token, "expiresAt": 4_000_000_000}}
            case "DescribeRegistries":
                return 200, {"registries": [{"registryId": "123456789012", "aliases": [{"name": ALIAS}]}]}
            case "CreateRepository" if asked["repositoryName"] in self.repositories:
                return 400, {"__type": "RepositoryAlreadyExistsException", "message": "it already exists"}
            case "CreateRepository":
                self.repositories[asked["repositoryName"]] = asked
                return 200, {"repository": {"repositoryName": asked["repositoryName"]}}
            case _:
                return 200, self._page(int(asked.get("nextToken", "0")))

    def _page(self, begin: int) -> dict[str, Any]:
        names = sorted(self.repositories)
        uris = [f"public.ecr.aws/{ALIAS}/{name}" for name in names[begin : begin + _PAGE]]
        page: dict[str, Any] = {"repositories": [{"repositoryUri": uri} for uri in uris]}
        return page | ({"nextToken": str(begin + _PAGE)} if begin + _PAGE < len(names) else {})

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        public = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: object) -> None:
                pass

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                signed = re.search(r"Credential=[^/]+/[0-9]+/([a-z0-9-]+)/ecr-public/", self.headers["authorization"])
                public.regions.add(signed[1] if signed else "")
                operation = self.headers["x-amz-target"].partition("SpencerFrontendService.")[2]
                status, document = public._answer(operation, body)
                answer = json.dumps(document).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/x-amz-json-1.1")
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

        return Handler
