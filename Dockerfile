# The same image that the pipeline makes, for buildah, podman and docker:
#   buildah bud --format docker -t helloapp .
#   podman run --rm -p 8080:8080 helloapp

FROM docker.io/oven/bun:1.4.5 AS builder
WORKDIR /src
# Dependencies first: an edit of the source does not install them again.
COPY package.json bun.lock bunfig.toml ./
COPY ci/slipway/package.json ci/slipway/
# Behind a proxy that signs TLS with a certificate of its own, pass its bundle: --secret id=ca,src=/path/to/bundle.crt
RUN --mount=type=secret,id=ca,target=/run/secrets/ca.crt \
    NODE_EXTRA_CA_CERTS=/run/secrets/ca.crt bun run setup
COPY . .
# The project's own scripts. End-to-end tests need containers, so they run outside.
RUN bun run check
RUN bun run test:unit
RUN bun run build

FROM scratch
# Two layers: the C library changes with the base image, the binary with the source.
COPY --from=builder /src/dist/runtime/ /
COPY --from=builder /src/dist/app/ /
# What follows repeats what slipway knows of the image; a test compares the two.
ENV NODE_ENV=production PORT=8080
USER 65532:65532
WORKDIR /srv
EXPOSE 8080/tcp
LABEL org.opencontainers.image.title="helloapp" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.licenses="MIT"
ENTRYPOINT ["/helloapp"]
