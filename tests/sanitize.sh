#!/usr/bin/env bash
# Builds the kernels with AddressSanitizer and UndefinedBehaviorSanitizer in a copy of this checkout, and runs the tests on
# them: tests/sanitize.sh [arguments of pytest]. Needs gcc, and takes some minutes.
set -euo pipefail
cd "$(dirname "$0")/.."
copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT
git ls-files -z | xargs -0 cp --parents -t "$copy"
cd "$copy"
python3 -m venv .venv
export CC=gcc CFLAGS="-fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer -g"
export LDFLAGS="-fsanitize=address,undefined"
.venv/bin/pip install --quiet -e '.[test]'
# CPython keeps what it has allocated until it exits: not leaks of ours. Its own C++ is not instrumented: libstdc++ comes first.
export LD_PRELOAD="$(gcc -print-file-name=libasan.so) $(gcc -print-file-name=libstdc++.so)"
export ASAN_OPTIONS=detect_leaks=0:abort_on_error=1 UBSAN_OPTIONS=print_stacktrace=1
.venv/bin/python -m pytest -q --capture=sys "$@" # errors are written past sys.stderr
