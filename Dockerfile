# Two images from one file:
#   docker build --target service -t cacherl/service:0.1.0 .      the four services: no torch
#   docker build --target trainer -t cacherl/trainer:0.1.0 .      worker, embedded engine, trainer (torch; TORCH_INDEX chooses the build)
# The optional build secrets `pip` (a pip.conf) and `ca` (a certificate bundle) let it build behind a mirror; elsewhere leave them out.
ARG BASE_IMAGE=python:3.11-slim-bookworm

# Libraries first, asked for by an empty package, so that a change of code does not install them anew.
FROM ${BASE_IMAGE} AS service-libraries
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /libraries
RUN python3 -m venv /opt/venv
COPY constraints.txt pyproject.toml README.md LICENSE ./
RUN --mount=type=secret,id=pip,target=/etc/pip.conf,required=false \
    --mount=type=secret,id=ca,target=/etc/ssl/certs/ca-certificates.crt,required=false \
    mkdir cacherl && /opt/venv/bin/pip install -c constraints.txt ".[service,report,mcp]"

FROM service-libraries AS trainer-libraries
ARG TORCH_INDEX=
RUN --mount=type=secret,id=pip,target=/etc/pip.conf,required=false \
    --mount=type=secret,id=ca,target=/etc/ssl/certs/ca-certificates.crt,required=false \
    /opt/venv/bin/pip install ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} torch==2.13.0 \
 && /opt/venv/bin/pip install -c constraints.txt ".[service,report,mcp,trainer]"

FROM service-libraries AS wheel
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY cacherl ./cacherl
RUN --mount=type=secret,id=pip,target=/etc/pip.conf,required=false \
    --mount=type=secret,id=ca,target=/etc/ssl/certs/ca-certificates.crt,required=false \
    /opt/venv/bin/pip wheel --no-deps --wheel-dir /wheel .

FROM ${BASE_IMAGE} AS runtime
# A new volume at /shared takes over what the image has there, owner included; the engine starts only where its weights' folder is.
RUN groupadd --gid 10001 cacherl && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp cacherl \
 && install -d -o 10001 -g 10001 /shared /shared/weights
ENV PATH=/opt/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 HOME=/tmp HF_HUB_OFFLINE=1 CACHERL_HOST=0.0.0.0
WORKDIR /app

FROM runtime AS service
COPY --from=service-libraries /opt/venv /opt/venv
RUN --mount=from=wheel,source=/wheel,target=/mnt pip install --no-cache-dir --no-deps --no-index --force-reinstall /mnt/*.whl
COPY services ./services
USER 10001:10001
CMD ["python", "-m", "services.kit.serve", "cache_api"]

FROM runtime AS trainer
COPY --from=trainer-libraries /opt/venv /opt/venv
RUN --mount=from=wheel,source=/wheel,target=/mnt pip install --no-cache-dir --no-deps --no-index --force-reinstall /mnt/*.whl
COPY services ./services
USER 10001:10001
CMD ["python", "-m", "services.kit.serve", "trainer"]
