# replicator with PostgreSQL's programs, for streaming, snapshots and restores. Policies are mounted at /etc/replicator,
# state, spool and directory stores at /var/lib/replicator.
FROM python:3.11-slim-bookworm AS build
WORKDIR /src
COPY pyproject.toml README.md ./
COPY replicator ./replicator
RUN python -m venv /opt/replicator && /opt/replicator/bin/pip install --no-cache-dir .

FROM python:3.11-slim-bookworm
ARG PG_MAJOR=15
# The server's package has pg_ctl, pg_controldata and pg_waldump, which restores need; no cluster is made.
RUN apt-get update \
    && apt-get install -y --no-install-recommends postgresql-common \
    && sed -ri 's/#?(create_main_cluster) .*$/\1 = false/' /etc/postgresql-common/createcluster.conf \
    && apt-get install -y --no-install-recommends postgresql-${PG_MAJOR} postgresql-client-${PG_MAJOR} \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 10001 --home-dir /var/lib/replicator --shell /usr/sbin/nologin replicator \
    && install -d -m 700 -o replicator -g replicator /var/lib/replicator /etc/replicator
COPY --from=build /opt/replicator /opt/replicator
ENV PATH=/opt/replicator/bin:$PATH PYTHONUNBUFFERED=1
USER replicator
WORKDIR /var/lib/replicator
VOLUME ["/var/lib/replicator"]
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=5s --start-period=20s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8009/livez', timeout=4)"]
ENTRYPOINT ["replicator"]
CMD ["daemon"]
