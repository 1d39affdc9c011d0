"""Dialects: one small parser for each sender of push events; none imports another.

Each module has `parse(body, headers) -> HookDelivery`. Header names are lower case. A parser is lenient about what it
does not need (senders add fields whenever they like) and strict about what it takes over. It raises `HookError` only
where a body as a whole is not what its sender documents: a single odd event is reported as ignored, because many
senders repeat a refused delivery for ever and send nothing else until it is taken.

    distribution.py, harbor.py, gitlab.py, gitea.py, quay.py, nexus.py, artifactory.py   registries that are self-hosted
    docker_hub.py, ghcr.py, acr.py, ecr.py, gar.py, alibaba.py, tencent.py               registries of clouds
    cloudevents.py, generic.py                                                           senders of other kinds
"""
