# What CI runs is .ci/run; these are the parts of it that one runs by hand.

# Everything that CI checks.
verify:
    .ci/run

fmt:
    cargo fmt

lint:
    cargo fmt --check
    cargo clippy --locked --all-targets -- -D warnings

test:
    cargo test --locked

# A cluster of processes, and the shell.
dev *arguments:
    cargo build --release --locked
    target/release/dfs-cli dev {{arguments}}

# The README's tour against a cluster of processes.
tour:
    cargo build --release --locked
    scripts/tour

# A cluster in containers.
up:
    scripts/base-images
    docker-compose up --build -d

down:
    docker-compose down
