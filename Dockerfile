# One executable, `gaia`, holds all of Gaia's programs; a link for each selects it: `docker run IMAGE auth-service …`.
#
#   docker build --tag localhost/gaia:VERSION .
#   docker build --tag localhost/gaia:VERSION --target prebuilt --file Dockerfile DIR   # DIR holds the executable
#
# BASE needs glibc 2.36 or newer, libgcc and CA certificates; a prebuilt executable needs at least the glibc it was linked with.
ARG BASE=gcr.io/distroless/cc-debian12:nonroot
ARG RUST=docker.io/library/rust:1.95-bookworm

FROM ${RUST} AS build
WORKDIR /src
COPY . .
RUN cargo build --release --locked --package gaia-cli --bin gaia \
 && mkdir /out && cp target/release/gaia /out/

# The links are made where there is a shell.
FROM ${RUST} AS links
RUN mkdir /links \
 && for program in gaia-operator auth-service asset-service chat-service gateway web-service; do ln -s gaia "/links/$program"; done

FROM ${BASE} AS base
LABEL org.opencontainers.image.title=gaia org.opencontainers.image.licenses=Apache-2.0
ENV PATH=/usr/local/bin:/usr/bin:/bin
USER 65532:65532
ENTRYPOINT []
CMD ["gaia-operator", "run"]
COPY --from=links /links/ /usr/local/bin/

FROM base AS prebuilt
COPY --chmod=0755 gaia /usr/local/bin/

# The default: the executable of the build stage.
FROM base AS image
COPY --from=build --chmod=0755 /out/ /usr/local/bin/
