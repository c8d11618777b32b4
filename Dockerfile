# One image holds all of Gaia's programs; the command selects one: `docker run IMAGE auth-service …`.
#
#   docker build --tag localhost/gaia:VERSION .
#   docker build --tag localhost/gaia:VERSION --target prebuilt --file Dockerfile DIR   # DIR holds the binaries
#
# BASE needs glibc 2.36 or newer, libgcc and CA certificates; a prebuilt binary needs at least the glibc it was linked with.
ARG BASE=gcr.io/distroless/cc-debian12:nonroot
ARG RUST=docker.io/library/rust:1.95-bookworm

FROM ${RUST} AS build
WORKDIR /src
COPY . .
RUN cargo build --release --locked --workspace --exclude gaia-e2e --bins \
 && mkdir /out \
 && cd target/release && cp gaia-operator auth-service asset-service chat-service gateway web-service /out/

FROM ${BASE} AS base
LABEL org.opencontainers.image.title=gaia org.opencontainers.image.licenses=Apache-2.0
ENV PATH=/usr/local/bin:/usr/bin:/bin
USER 65532:65532
ENTRYPOINT []
CMD ["gaia-operator", "run"]

FROM base AS prebuilt
COPY --chmod=0755 gaia-operator auth-service asset-service chat-service gateway web-service /usr/local/bin/

# The default: the programs of the build stage.
FROM base AS image
COPY --from=build --chmod=0755 /out/ /usr/local/bin/
