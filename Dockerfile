# One image for every process: `serve` (the default), `work`, `migrate` and the chores.
#
#   docker build --tag registry-sync .
#   docker run --rm registry-sync --help
#   docker build --target cli --tag registry-sync-cli .    the client commands alone, for pipelines
#   docker run --read-only --tmpfs /tmp --volume registry-sync:/data …
#
# It runs as a numeric user without a name, and with a read-only root file system: only /tmp is written to, and /data where
# the database is the embedded one.
#
# The base is named by its digest, that of an index of several platforms. `make bases` renews it here and elsewhere; another
# one, from a mirror of yours for instance:
#
#   docker build --build-arg PYTHON_IMAGE=mirror.example.com/python:3.13-slim-bookworm@sha256:… --tag registry-sync .
ARG PYTHON_IMAGE=python:3.13-slim-bookworm@sha256:67a1e1f215ccda113cfc024e8639049257e88f273898f595b61476d128d387e8

FROM ${PYTHON_IMAGE} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_ROOT_USER_ACTION=ignore
WORKDIR /source

# What changes seldom comes first: the locked dependencies, wheels only, each with its hash.
COPY requirements-image.lock requirements-build.lock ./
RUN python3 -m venv /build && \
    /build/bin/pip install --require-hashes --only-binary :all: --requirement requirements-build.lock
RUN python3 -m venv --without-pip /opt/registry-sync && \
    /build/bin/pip --python /opt/registry-sync/bin/python install \
        --require-hashes --only-binary :all: --requirement requirements-image.lock

COPY pyproject.toml ./
COPY app ./app
COPY migrations ./migrations
RUN /build/bin/pip wheel --no-deps --no-index --no-build-isolation --wheel-dir /wheels . && \
    /build/bin/pip --python /opt/registry-sync/bin/python install --no-deps --no-index /wheels/*.whl

# The command line alone: what speaks to a service, without the service.
FROM build AS build-cli
COPY requirements-client.lock ./
RUN python3 -m venv --without-pip /opt/registry-sync-cli && \
    /build/bin/pip --python /opt/registry-sync-cli/bin/python install \
        --require-hashes --only-binary :all: --requirement requirements-client.lock && \
    /build/bin/pip --python /opt/registry-sync-cli/bin/python install --no-deps --no-index /wheels/*.whl

FROM ${PYTHON_IMAGE} AS cli
COPY --from=build-cli /opt/registry-sync-cli /opt/registry-sync-cli
ENV PATH=/opt/registry-sync-cli/bin:$PATH \
    HOME=/tmp \
    PYTHONDONTWRITEBYTECODE=1
USER 10001:10001
WORKDIR /tmp
ENTRYPOINT ["registry-sync"]
CMD ["--help"]

FROM ${PYTHON_IMAGE} AS service
ARG VERSION=0.1.0
ARG REVISION=
ARG CREATED=
LABEL org.opencontainers.image.title="registry-sync" \
      org.opencontainers.image.description="Copy container images from registry to registry, as jobs behind a REST API." \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.created="${CREATED}"

COPY --from=build /opt/registry-sync /opt/registry-sync
RUN install -d -o 10001 -g 10001 -m 0700 /data

# A container's own loopback is reached by nobody, so it listens on every address, which the service does only when a key
# exists: give it one with REGISTRY_SYNC_BOOTSTRAP_KEY_FILE.
ENV PATH=/opt/registry-sync/bin:$PATH \
    HOME=/tmp \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    REGISTRY_SYNC_HOST=0.0.0.0 \
    REGISTRY_SYNC_PORT=8080 \
    REGISTRY_SYNC_WORKER_METRICS_PORT=8080 \
    REGISTRY_SYNC_REQUIRE_KEY=true \
    REGISTRY_SYNC_LOG_FORMAT=json

USER 10001:10001
WORKDIR /data
EXPOSE 8080
STOPSIGNAL SIGTERM

# For `serve` and `work`, which tells how it is at the same port; a container that runs `migrate` turns it off.
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \
    CMD ["python3", "-c", "import http.client, os, sys; c = http.client.HTTPConnection('127.0.0.1', int(os.environ['REGISTRY_SYNC_PORT']), timeout=4); c.request('GET', '/healthz'); sys.exit(c.getresponse().status != 200)"]

ENTRYPOINT ["registry-sync"]
CMD ["serve"]
