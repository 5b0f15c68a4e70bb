# The sidecar as a container image: runs as an ordinary user, configuration mounted at /etc/sidecar/node.toml.
FROM python:3.12-slim

# openssl only makes the development certificates of compose.yaml.
RUN apt-get update \
 && apt-get install --yes --no-install-recommends openssl \
 && rm -rf /var/lib/apt/lists/*

WORKDIR /src
COPY requirements.lock pyproject.toml README.md ./
COPY sidecar sidecar
COPY sql sql
COPY migrations migrations
ENV PIP_CONSTRAINT=/src/requirements.lock PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN pip install .

# A new volume at /certs takes over this owner.
RUN useradd --system --uid 10001 --home-dir /nonexistent sidecar \
 && install --directory --owner=sidecar --mode=0700 /certs
USER sidecar
WORKDIR /
ENTRYPOINT ["sidecar"]
CMD ["run", "-c", "/etc/sidecar/node.toml"]
