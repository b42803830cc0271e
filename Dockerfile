# Two images from one file:
#   docker build --target service -t cacherl/service .      the four services and the embedded engine's neighbours: no torch
#   docker build --target trainer -t cacherl/trainer .      trainer, worker and embedded engine (torch; TORCH_INDEX chooses the build)
# The optional build secrets `pip` (a pip.conf) and `ca` (a certificate bundle) let it build behind a mirror; elsewhere leave them out.
ARG BASE_IMAGE=python:3.11-slim-bookworm

FROM ${BASE_IMAGE} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /src
RUN python3 -m venv /opt/venv
COPY constraints.txt pyproject.toml README.md LICENSE ./
COPY cacherl ./cacherl

FROM build AS build-service
# The pins hold for what the extras ask for; torch is not among it.
RUN --mount=type=secret,id=pip,target=/etc/pip.conf,required=false \
    --mount=type=secret,id=ca,target=/etc/ssl/certs/ca-certificates.crt,required=false \
    /opt/venv/bin/pip install -c constraints.txt ".[service,report]"

FROM build AS build-trainer
ARG TORCH_INDEX=
RUN --mount=type=secret,id=pip,target=/etc/pip.conf,required=false \
    --mount=type=secret,id=ca,target=/etc/ssl/certs/ca-certificates.crt,required=false \
    /opt/venv/bin/pip install ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} torch==2.13.0 \
 && /opt/venv/bin/pip install -c constraints.txt ".[service,report,trainer]"

FROM ${BASE_IMAGE} AS runtime
RUN groupadd --gid 10001 cacherl && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp cacherl
ENV PATH=/opt/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 HOME=/tmp HF_HUB_OFFLINE=1 CACHERL_HOST=0.0.0.0
WORKDIR /app
COPY services ./services
USER 10001:10001

FROM runtime AS service
COPY --from=build-service /opt/venv /opt/venv
CMD ["python", "-m", "services.kit.serve", "cache_api"]

FROM runtime AS trainer
COPY --from=build-trainer /opt/venv /opt/venv
CMD ["python", "-m", "services.kit.serve", "trainer"]
