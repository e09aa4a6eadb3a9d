# syntax=docker/dockerfile:1
#
# docker build -t compute-ctl .                              with PostgreSQL 17 in it
# docker build -t compute-ctl --target bring-your-own .      without: give yours with -b
#
# Both run as the user postgres. tini is PID 1: it reaps what Postgres leaves behind and passes signals on.

ARG NODE_IMAGE=node:24-bookworm-slim
ARG POSTGRES_IMAGE=postgres:17-bookworm

FROM ${NODE_IMAGE} AS build
WORKDIR /build
COPY package.json package-lock.json .npmrc ./
COPY test/postgres-versions/package.json test/postgres-versions/package.json
RUN npm ci
COPY tsconfig.json tsconfig.lib.json ./
COPY .ci .ci
COPY src src
COPY bin bin
# The snapshot is for the Node that runs in the end, which is not the one that npm brought.
RUN npm run build && /usr/local/bin/node .ci/snapshot.ts

# The folders that control planes and their tools expect, and an empty home for the compute.
FROM ${NODE_IMAGE} AS bring-your-own
ARG BUILD_TAG=latest
ENV BUILD_TAG=${BUILD_TAG} \
    LANG=C.UTF-8 \
    NODE_COMPILE_CACHE=/opt/compute-ctl/cache
RUN apt-get update \
 && apt-get install -y --no-install-recommends tini procps ca-certificates \
 && rm -rf /var/lib/apt/lists/* \
 && groupadd --system --gid 999 postgres \
 && useradd --system --uid 999 --gid postgres --home-dir /var/db/postgres --shell /bin/sh postgres \
 && install -d -o postgres -g postgres -m 0750 /var/db/postgres /var/db/postgres/compute /var/db/postgres/pgbouncer \
 && install -d -o postgres -g postgres -m 0755 /var/db/postgres/specs /etc/local_proxy \
      /usr/local/download_extensions /var/run/rsyslogd /var/run/compute-ctl /etc/rsyslog.d /var/log/rsyslog \
 && install -d -o postgres -g postgres -m 0777 /neon/cache
COPY --from=build /build/dist/compute_ctl.cjs /build/dist/compute_ctl.snapshot /build/dist/compute_ctl.snapshot.node \
     /build/dist/grpc.cjs /build/dist/third-party-licences.txt /opt/compute-ctl/dist/
COPY LICENSE /opt/compute-ctl/LICENSE
COPY --from=build /build/bin/compute_ctl /build/bin/compute_ctl_health /opt/compute-ctl/bin/
RUN ln -s /opt/compute-ctl/bin/compute_ctl /usr/local/bin/compute_ctl \
 && install -d -o postgres -g postgres -m 0700 /opt/compute-ctl/cache
USER postgres
# The first run leaves its compiled code behind; it is tied to this user and this Node.
RUN compute_ctl --version
WORKDIR /var/db/postgres
EXPOSE 5432 3080
STOPSIGNAL SIGTERM
# Healthy is what accepts connections. It finds port and TLS by itself.
HEALTHCHECK --interval=5s --timeout=3s --start-period=90s --retries=3 \
  CMD ["/opt/compute-ctl/bin/compute_ctl_health"]
ENTRYPOINT ["/usr/bin/tini", "--", "/usr/local/bin/compute_ctl"]

FROM ${POSTGRES_IMAGE} AS with-postgres
ARG BUILD_TAG=latest
ENV BUILD_TAG=${BUILD_TAG} \
    LANG=C.UTF-8 \
    NODE_COMPILE_CACHE=/opt/compute-ctl/cache
USER root
# The base image brings the user postgres (999), and its Postgres under /usr/lib/postgresql/17.
RUN apt-get update \
 && apt-get install -y --no-install-recommends tini procps ca-certificates \
 && rm -rf /var/lib/apt/lists/* \
 && usermod --home /var/db/postgres postgres \
 && install -d -o postgres -g postgres -m 0750 /var/db/postgres /var/db/postgres/compute /var/db/postgres/pgbouncer \
 && install -d -o postgres -g postgres -m 0755 /var/db/postgres/specs /etc/local_proxy \
      /usr/local/download_extensions /var/run/rsyslogd /var/run/compute-ctl /etc/rsyslog.d /var/log/rsyslog \
 && install -d -o postgres -g postgres -m 0777 /neon/cache \
 && for program in postgres initdb pg_ctl pg_config pg_dump pg_isready; do \
      if [ -x "/usr/lib/postgresql/17/bin/$program" ]; then ln -sf "/usr/lib/postgresql/17/bin/$program" "/usr/local/bin/$program"; fi; \
    done
COPY --from=build /usr/local/bin/node /usr/local/bin/node
COPY --from=build /build/dist/compute_ctl.cjs /build/dist/compute_ctl.snapshot /build/dist/compute_ctl.snapshot.node \
     /build/dist/grpc.cjs /build/dist/third-party-licences.txt /opt/compute-ctl/dist/
COPY LICENSE /opt/compute-ctl/LICENSE
COPY --from=build /build/bin/compute_ctl /build/bin/compute_ctl_health /opt/compute-ctl/bin/
RUN ln -s /opt/compute-ctl/bin/compute_ctl /usr/local/bin/compute_ctl \
 && install -d -o postgres -g postgres -m 0700 /opt/compute-ctl/cache
USER postgres
# The first run leaves its compiled code behind; it is tied to this user and this Node.
RUN compute_ctl --version
WORKDIR /var/db/postgres
# What the base image declares for its own way of starting; PGDATA here is compute_ctl's.
ENV PGDATA=
EXPOSE 5432 3080
STOPSIGNAL SIGTERM
# Healthy is what accepts connections. It finds port and TLS by itself.
HEALTHCHECK --interval=5s --timeout=3s --start-period=90s --retries=3 \
  CMD ["/opt/compute-ctl/bin/compute_ctl_health"]
ENTRYPOINT ["/usr/bin/tini", "--", "/usr/local/bin/compute_ctl"]
# The base image's command is not ours: arguments come from whoever runs the image.
CMD []
