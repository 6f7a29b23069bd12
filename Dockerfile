# Builds the pipeline's image with buildah, podman or docker:
#   buildah bud --format docker -t helloapp .
#   podman run --rm -p 8080:8080 helloapp

FROM docker.io/oven/bun:1.4.5 AS builder
WORKDIR /src
# Copied first, so that an edit of the source does not reinstall the dependencies.
COPY package.json bun.lock bunfig.toml ./
COPY ci/slipway/package.json ci/slipway/
# Behind a TLS-inspecting proxy, pass its CA bundle: --secret id=ca,src=/path/to/bundle.crt
RUN --mount=type=secret,id=ca,target=/run/secrets/ca.crt \
    NODE_EXTRA_CA_CERTS=/run/secrets/ca.crt bun run setup
COPY . .
# End-to-end tests need containers, so they do not run here.
RUN bun run check
RUN bun run test:unit
RUN bun run build

FROM scratch
# Two layers, because the C library changes less often than the binary.
COPY --from=builder /src/dist/runtime/ /
COPY --from=builder /src/dist/app/ /
# A test compares these settings with the pipeline's image.
ENV NODE_ENV=production PORT=8080
USER 65532:65532
WORKDIR /srv
EXPOSE 8080/tcp
LABEL org.opencontainers.image.title="helloapp" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.licenses="MIT"
ENTRYPOINT ["/helloapp"]
