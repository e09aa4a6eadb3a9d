# syntax=docker/dockerfile:1
#
# docker build -t compute-ctl .                              with PostgreSQL in it, and local storage by default
# docker build -t compute-ctl --target bring-your-own .      without: say what to run
# (podman build needs --format docker, or it leaves the health check out)
#
# Everything that has to stay is in /var/db/postgres: give it a volume. There is no VOLUME, which would make one that
# nobody asked for. Both images run as the user postgres (999), or as any other with the group root (one whose number has
# no name gets one from libnss-wrapper, for initdb), and with a read-only root where /tmp and /run/compute-ctl are tmpfs. tini is PID 1: it reaps what Postgres leaves behind and
# passes signals on; where it is not PID 1 (`--init`, a shared namespace) it reaps all the same (-s).

ARG NODE_IMAGE=node:24-bookworm-slim

FROM ${NODE_IMAGE} AS build
WORKDIR /build
COPY package.json package-lock.json .npmrc ./
COPY .ci .ci
RUN node .ci/program-package.ts && npm install --ignore-scripts --no-audit
COPY tsconfig.json ./
COPY src src
COPY bin bin
# What the training run starts a compute with.
COPY examples/spec.json examples/spec.json
ARG BUILD_TAG=latest
# The snapshot is for this Node, which is the one that runs in the end.
RUN BUILD_TAG="$BUILD_TAG" node .ci/build.ts

FROM ${NODE_IMAGE} AS bring-your-own
ARG BUILD_TAG=latest
LABEL org.opencontainers.image.title="compute_ctl" \
      org.opencontainers.image.description="From a JSON spec to a running Postgres and back down again" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${BUILD_TAG}"
ENV LANG=C.UTF-8 \
    XDG_STATE_HOME=/var/db/postgres/state \
    NODE_COMPILE_CACHE=/opt/compute-ctl/cache
ARG DEBIAN_FRONTEND=noninteractive
# The folders that control planes and their tools expect. Their group is root for those who run as any user.
RUN apt-get update \
 && apt-get install -y --no-install-recommends tini procps ca-certificates libnss-wrapper \
 && rm -rf /var/lib/apt/lists/* \
 && groupadd --system --gid 999 postgres \
 && useradd --system --uid 999 --gid postgres --home-dir /var/db/postgres --shell /bin/sh postgres \
 && install -d -o postgres -g root -m 0770 /var/db/postgres /var/db/postgres/pgbouncer \
 && install -d -o postgres -g root -m 0775 /var/db/postgres/specs /etc/local_proxy /usr/local/download_extensions \
      /var/run/rsyslogd /var/run/compute-ctl /etc/rsyslog.d /var/log/rsyslog /opt/compute-ctl/cache \
 && install -d -o postgres -g root -m 0777 /neon/cache
COPY --from=build /build/dist /opt/compute-ctl/dist/
COPY LICENSE /opt/compute-ctl/LICENSE
COPY --from=build /build/bin /opt/compute-ctl/bin/
RUN ln -s /opt/compute-ctl/bin/compute_ctl /usr/local/bin/compute_ctl
USER postgres
# The first run leaves its compiled code behind; it is tied to this user and this Node.
RUN compute_ctl --version
WORKDIR /var/db/postgres
EXPOSE 5432 3080
STOPSIGNAL SIGTERM
# Healthy is what accepts connections. It finds port and TLS by itself.
HEALTHCHECK --interval=5s --timeout=3s --start-period=90s --retries=3 \
  CMD ["/opt/compute-ctl/bin/compute_ctl_health"]
ENTRYPOINT ["/usr/bin/tini", "-s", "--", "/usr/local/bin/compute_ctl"]
CMD ["--help"]

FROM bring-your-own AS with-postgres
ARG POSTGRES_MAJOR=17
ARG DEBIAN_FRONTEND=noninteractive
USER root
# From the packages of the PostgreSQL project, without the cluster that they would make.
RUN apt-get update \
 && apt-get install -y --no-install-recommends postgresql-common \
 && echo 'create_main_cluster = false' > /etc/postgresql-common/createcluster.conf \
 && /usr/share/postgresql-common/pgdg/apt.postgresql.org.sh -y \
 && apt-get install -y --no-install-recommends "postgresql-${POSTGRES_MAJOR}" \
 && rm -rf /var/lib/apt/lists/* \
 && ln -sf "/usr/lib/postgresql/${POSTGRES_MAJOR}/bin/"* /usr/local/bin/
COPY packaging/container/spec.json /etc/compute-ctl/spec.json
USER postgres
# Reachable by -p 5432:5432, with SCRAM. HTTP listens on loopback alone, because it asks for no tokens: the health check
# and `docker exec NAME compute_ctl status` reach it. Whoever gives arguments of their own gives all of them.
CMD ["--storage", "local:/var/db/postgres/storage", "-D", "/var/db/postgres/compute", \
     "-C", "postgresql://cloud_admin@127.0.0.1:5432/postgres", "-b", "/usr/local/bin/postgres", \
     "-S", "/etc/compute-ctl/spec.json", "--http-port", "3080", "--generate-password", "app"]
