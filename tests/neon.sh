#!/usr/bin/env bash
# Compiles the kernels for 64-bit ARM and compares them, under qemu, with their scalar forms.
# On Debian: apt install gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user
set -euo pipefail
cd "$(dirname "$0")/.."
program=$(mktemp)
trap 'rm -f "$program"' EXIT
aarch64-linux-gnu-gcc -std=gnu11 -O3 -ffp-contract=fast -fno-math-errno -fno-trapping-math -static -pthread -Icsrc \
    tests/compare.c csrc/*.c -lm -o "$program"
qemu-aarch64 "$program"
