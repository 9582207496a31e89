# Build: all wheels, so that the final stage needs no compiler and no pip cache.
FROM python:3.11-slim-bookworm AS build
WORKDIR /src
COPY pyproject.toml constraints.txt requirements.lock README.md LICENSE ./
COPY consumers consumers
COPY models models
COPY detector detector
# The CPU build of torch; for CUDA pass --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu126.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
# What every detector needs is installed by hash, but torch, which comes from its index; extras by version. Of these an
# image has all that a setting may ask for: another client, Avro and Protobuf, a store on S3, notifications.
RUN python -m venv /opt/offnominal \
 && /opt/offnominal/bin/pip install --no-cache-dir --require-hashes --no-deps -r requirements.lock \
 && /opt/offnominal/bin/pip install --no-cache-dir --extra-index-url "$TORCH_INDEX" --constraint constraints.txt \
    '.[fast,registry,s3,notify]'

# Run: non-root, on a read-only root. Mount the settings at /etc/offnominal, a volume for the store at
# /var/lib/offnominal, one for compiled code at /var/cache/offnominal (every start compiles where it is not kept), and
# something at /tmp.
FROM python:3.11-slim-bookworm
RUN groupadd --system --gid 10001 offnominal \
 && useradd --system --uid 10001 --gid offnominal --home-dir /var/lib/offnominal --create-home offnominal \
 && install --directory --owner offnominal --group offnominal /var/cache/offnominal
COPY --from=build /opt/offnominal /opt/offnominal
ENV PATH=/opt/offnominal/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    NUMBA_CACHE_DIR=/var/cache/offnominal \
    MPLCONFIGDIR=/tmp/matplotlib
# A number: Kubernetes cannot see that a name is not root.
USER 10001:10001
WORKDIR /var/lib/offnominal
# Health and metrics are for this container alone, until OFFNOMINAL__WEB__HOST=0.0.0.0 is set with a token beside it:
# OFFNOMINAL__WEB__TOKEN, or OFFNOMINAL__WEB__TOKEN_FILE. Probes of /healthz and /readyz need none.
EXPOSE 8686
# Alive, not ready: who acts on this starts the container again, which helps a loop that hangs, and no broker to return.
HEALTHCHECK --interval=30s --timeout=10s --start-period=60s \
  CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8686/healthz', timeout=5)"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["offnominal"]
CMD ["run", "--config", "/etc/offnominal/offnominal.yaml"]
