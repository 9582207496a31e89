# Build: all wheels, so that the final stage needs no compiler and no pip cache.
FROM python:3.11-slim-bookworm AS build
WORKDIR /src
COPY pyproject.toml constraints.txt requirements.lock README.md LICENSE ./
COPY consumers consumers
COPY models models
COPY detector detector
# The CPU build of torch; for CUDA pass --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu126.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
# All but torch is installed by hash; torch by version, from its index.
RUN python -m venv /opt/offnominal \
 && /opt/offnominal/bin/pip install --no-cache-dir --require-hashes --no-deps -r requirements.lock \
 && /opt/offnominal/bin/pip install --no-cache-dir --extra-index-url "$TORCH_INDEX" --constraint constraints.txt .

# Run: non-root, on a read-only root. Mount the settings at /etc/offnominal and a volume for the store at /var/lib/offnominal.
FROM python:3.11-slim-bookworm
RUN useradd --system --uid 10001 --home-dir /var/lib/offnominal --create-home offnominal
COPY --from=build /opt/offnominal /opt/offnominal
ENV PATH=/opt/offnominal/bin:$PATH PYTHONDONTWRITEBYTECODE=1 MPLCONFIGDIR=/tmp/matplotlib
USER offnominal
WORKDIR /var/lib/offnominal
# Health and metrics are for this container alone, until OFFNOMINAL__WEB__HOST=0.0.0.0 is set with a token beside it:
# OFFNOMINAL__WEB__TOKEN, or OFFNOMINAL__WEB__TOKEN_FILE. Probes of /healthz and /readyz need none.
EXPOSE 8686
STOPSIGNAL SIGTERM
ENTRYPOINT ["offnominal"]
CMD ["run", "--config", "/etc/offnominal/offnominal.yaml"]
