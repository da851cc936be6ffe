# One image with all four binaries, linked statically: no shell, no package manager, nothing to keep patched.
# Builds with the classic builder and with BuildKit. Where no registry is within reach, run scripts/base-images first.

FROM rust:1.95-bookworm AS build
WORKDIR /src
# Static glibc. A target that is named, be it the host's own, keeps the flag off build scripts and procedural macros.
ENV RUSTFLAGS="-C target-feature=+crt-static" \
    CARGO_TERM_COLOR=never
RUN mkdir .cargo \
    && printf '[build]\ntarget = "%s"\n' "$(rustc -vV | sed -n 's/^host: //p')" > .cargo/config.toml

# The dependencies alone first: this layer is built again only when they or the contract change.
COPY Cargo.toml Cargo.lock build.rs ./
COPY proto proto
RUN mkdir -p src/bin \
    && touch src/lib.rs \
    && for name in dfs-directory dfs-lock dfs-fileserver dfs-cli; do echo 'fn main() {}' > "src/bin/$name.rs"; done \
    && cargo build --locked --release --lib --bins

COPY src src
# What was copied may be older than what was built above, and cargo goes by the time.
RUN find src -name '*.rs' -exec touch {} + \
    && cargo build --locked --release --bins \
    && mkdir -p /image/bin /image/owned/data /image/owned/tmp \
    && cd target/*/release \
    && cp dfs-directory dfs-lock dfs-fileserver dfs-cli /image/bin/

FROM scratch
COPY --from=build /image/bin /bin
# /data and /tmp: a named volume that is mounted on /data takes the owner of the folder it covers.
COPY --from=build --chown=65532:65532 /image/owned /
USER 65532:65532
ENV PATH=/bin HOME=/tmp DFS_DATA=/data
VOLUME /data
STOPSIGNAL SIGTERM
ENTRYPOINT ["/bin/dfs-cli"]
