# The images of Concertina, built from the top of the repository by Docker's BuildKit:
#
#   docker build --target operator --tag REGISTRY/concertina-operator:0.1.0 .
#   docker build --target trainer --tag REGISTRY/concertina-trainer:0.1.0 .
#   docker build --target sbom --output dist .     # what is in both, as CycloneDX
#
# A release names its base images by digest and its commit, and then has the same layers each time:
#
#   SOURCE_DATE_EPOCH=$(git log -1 --format=%ct) docker buildx build --target operator \
#     --build-arg REVISION=$(git rev-parse HEAD) --build-arg SOURCE=$(git remote get-url origin) \
#     --build-arg BASE_IMAGE=python:3.12-slim@sha256:... \
#     --output type=image,name=REGISTRY/concertina-operator:0.1.0,push=true,rewrite-timestamp=true .
#
# TORCH_IMAGE is any image whose python3 has the torch that pyproject.toml asks for: it is used as it
# is, what the trainer needs besides lies in a folder of its own. TRAINER_EXTRAS="trainer nvml huggingface"
# adds the libraries of manifests/02-llama.yaml. Behind a proxy that ends TLS: --secret id=ca,src=FILE.

ARG BASE_IMAGE=python:3.12-slim
ARG TORCH_IMAGE=pytorch/pytorch:2.15.0-cuda13.2-cudnn9-runtime
ARG UV_IMAGE=ghcr.io/astral-sh/uv:0.13.9
# A build fails where this is not the version of pyproject.toml.
ARG VERSION=0.1.0
ARG REVISION=unknown
ARG SOURCE=unknown


FROM ${UV_IMAGE} AS uv


# How both images are filled.
FROM scratch AS recipe
COPY --chmod=755 <<'END' /install
#!/bin/sh
# install FOLDER OPTION...: puts what `uv export OPTION...` reads from uv.lock into an environment.
set -eu
folder=$1
shift
[ ! -f /run/secrets/ca ] || export SSL_CERT_FILE=/run/secrets/ca
uv export --quiet --frozen --no-emit-project --no-header "$@" --output-file /tmp/locked.txt
uv pip install --quiet --python "$folder" --no-deps --require-hashes --requirement /tmp/locked.txt
END
COPY --chmod=755 <<'END' /compile
#!/bin/sh
# compile FOLDER...: a root file system that is read-only keeps no cache. No time is in these files.
PYTHONHASHSEED=0 exec python3 -m compileall -q -j 1 --invalidation-mode unchecked-hash "$@"
END
COPY <<'END' /suits.py
"""Refuses a base whose torch or numpy is not what the trainer asks for; what is not there is mounted."""
import sys
from importlib.metadata import PackageNotFoundError, requires, version
from packaging.requirements import Requirement

for asked in map(Requirement, requires("concertina-training")):
    if asked.name in ("torch", "numpy") and asked.marker.evaluate({"extra": "trainer"}):
        try:
            found = version(asked.name)
        except PackageNotFoundError:
            continue
        if found not in asked.specifier:
            sys.exit(f"TORCH_IMAGE has {asked.name} {found}; the trainer asks for {asked.specifier}")
END
COPY --chmod=755 <<'END' /finish
#!/bin/sh
# finish VERSION: adds the wheel and a bill of materials to /opt/concertina.
set -eu
uv pip install --quiet --python /opt/concertina --no-deps --no-index --find-links /wheel \
  "concertina-training==$1"
# uv notes when the file that it installed was made.
rm /opt/concertina/lib/python3*/site-packages/concertina_training-*.dist-info/uv_cache.json
sed -i '/uv_cache.json/d' /opt/concertina/lib/python3*/site-packages/concertina_training-*.dist-info/RECORD
/opt/tools/bin/cyclonedx-py environment --output-reproducible --no-validate \
  --pyproject pyproject.toml --output-file /opt/concertina/sbom.cdx.json /opt/concertina
/recipe/compile /opt/concertina/lib/python3*/site-packages/concertina_*/
cd /opt/concertina
rm -f .lock .gitignore CACHEDIR.TAG bin/*.bat
END


FROM ${BASE_IMAGE} AS operator-environment
ENV PYTHONDONTWRITEBYTECODE=1 UV_LINK_MODE=copy UV_PYTHON=python3 UV_PYTHON_DOWNLOADS=never
COPY --from=uv /uv /usr/local/bin/uv
COPY --from=recipe / /recipe/
WORKDIR /source
COPY pyproject.toml uv.lock ./
# The package kubernetes, larger than all others together, reads kubeconfigs: a pod has none.
RUN --mount=type=cache,target=/root/.cache/uv --mount=type=secret,id=ca,target=/run/secrets/ca \
    uv venv --quiet /opt/tools \
    && /recipe/install /opt/tools --only-group build \
    && uv venv --quiet /opt/concertina \
    && /recipe/install /opt/concertina --extra operator --prune kubernetes \
    && /recipe/compile /opt/tools/lib /opt/concertina/lib


FROM operator-environment AS wheel
COPY README.md LICENSE ./
COPY operator operator
COPY trainer trainer
RUN uv build --quiet --wheel --no-build-isolation --python /opt/tools --out-dir /wheel


FROM operator-environment AS operator-files
ARG VERSION
RUN --mount=from=wheel,source=/wheel,target=/wheel /recipe/finish "${VERSION}"


FROM ${TORCH_IMAGE} AS trainer-environment
# An image of torch may run as somebody who cannot write to /opt.
USER 0:0
ENV PYTHONDONTWRITEBYTECODE=1 UV_LINK_MODE=copy UV_PYTHON=python3 UV_PYTHON_DOWNLOADS=never
COPY --from=uv /uv /usr/local/bin/uv
COPY --from=recipe / /recipe/
WORKDIR /source
COPY pyproject.toml uv.lock ./
ARG TRAINER_EXTRAS="trainer nvml"
# torch, what it is made of, and the numpy that it was built for stay those of the base.
RUN --mount=type=cache,target=/root/.cache/uv --mount=type=secret,id=ca,target=/run/secrets/ca \
    uv venv --quiet /opt/tools \
    && /recipe/install /opt/tools --only-group build \
    && uv venv --quiet --system-site-packages /opt/concertina \
    && /recipe/install /opt/concertina $(printf -- '--extra %s ' ${TRAINER_EXTRAS}) \
        --prune torch --prune numpy \
    && /recipe/compile /opt/tools/lib /opt/concertina/lib


FROM trainer-environment AS trainer-files
ARG VERSION
RUN --mount=from=wheel,source=/wheel,target=/wheel \
    /recipe/finish "${VERSION}" \
    && PYTHONPATH=$(echo /opt/tools/lib/python3*/site-packages) \
        /opt/concertina/bin/python3 /recipe/suits.py


# `docker build --target sbom --output FOLDER .`
FROM scratch AS sbom
COPY --from=operator-files /opt/concertina/sbom.cdx.json /operator.cdx.json
COPY --from=trainer-files /opt/concertina/sbom.cdx.json /trainer.cdx.json


FROM ${TORCH_IMAGE} AS trainer
# The account is in no /etc/passwd: what asks for its name or its home finds them here.
ENV PATH=/opt/concertina/bin:${PATH} PYTHONDONTWRITEBYTECODE=1 USER=concertina HOME=/tmp
COPY --from=trainer-files /opt/concertina /opt/concertina
USER 65532:65532
CMD ["python3", "-m", "concertina_trainer.agent"]
ARG VERSION REVISION SOURCE
LABEL org.opencontainers.image.title="Concertina trainer" \
      org.opencontainers.image.description="The agent and the workers of Concertina's jobs, beside torch" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.source="${SOURCE}"


FROM ${BASE_IMAGE} AS operator
ENV PATH=/opt/concertina/bin:${PATH} PYTHONDONTWRITEBYTECODE=1 USER=concertina HOME=/tmp
# What installs packages has no business here.
RUN --mount=from=uv,source=/uv,target=/usr/local/bin/uv --mount=type=tmpfs,target=/tmp \
    uv pip uninstall --quiet --system --break-system-packages --no-cache pip setuptools wheel \
    && rm -rf "$(python3 -c 'import sysconfig; print(sysconfig.get_path("stdlib"))')/ensurepip"
COPY --from=operator-files /opt/concertina /opt/concertina
USER 65532:65532
CMD ["python3", "-m", "concertina_operator.cluster"]
ARG VERSION REVISION SOURCE
LABEL org.opencontainers.image.title="Concertina operator" \
      org.opencontainers.image.description="Runs AdaptiveTrainingJobs on Kubernetes" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.source="${SOURCE}"
