#!/usr/bin/env bash
# Tests and benches on a CUDA device. What is built here can be carried to a machine that has the device and little else.
#
#   bench/gpu.sh build      # test and bench binaries with CUDA, into target/gpu/
#   bench/gpu.sh run        # where the device is: the suites, racecheck, the benches, the peers; into bench/results/
#   bench/gpu.sh            # both
#
# variable               meaning
# CUBECL_LLVM_STANDIN    folder of a crate that stands in for cubecl-llvm, where LLVM 23 is neither there nor to be fetched;
#                        kernels then go through NVRTC, as they do here in any case
# CUDARC_CUDA_VERSION    CUDA version of the driver that the binaries will meet (default 13000)
# CUDA_PATH              toolkit with libnvrtc and CUDA's headers (default: /usr/local/cuda, else what .ci/cuda-toolkit fetches)
# BENCH_PROFILE          cargo profile of the benches (default release)
# PEERS_PYTHON           a Python with torch, fla and mamba_ssm; without one the peers are left out
set -euo pipefail
cd "$(dirname "$0")/.."
folder="$PWD/target/gpu"
results="$PWD/bench/results"

# The path of every executable in cargo's messages, beside its target's name.
executables() {
  python3 -c '
import json, sys
for line in sys.stdin:
    message = json.loads(line)
    if message.get("executable"):
        print(message["target"]["name"], message["executable"])'
}

build() {
  export CUDARC_CUDA_VERSION="${CUDARC_CUDA_VERSION:-13000}"
  local options=(--features "cuda,cuda-cpp" --no-run --message-format=json)
  if [ -n "${CUBECL_LLVM_STANDIN:-}" ]; then
    # Given on the command line, so that the published manifest does not know of it; the lock file comes back as it was.
    options+=(--config "patch.crates-io.cubecl-llvm.path=\"$CUBECL_LLVM_STANDIN\"")
    cp Cargo.lock "$folder.lock"
    trap 'mv "$folder.lock" Cargo.lock' RETURN
  fi
  rm -rf "$folder"
  mkdir -p "$folder/tests"
  cargo test -p kernel-dsl "${options[@]}" | executables | while read -r name path; do
    case "$name" in *cube*) cp "$path" "$folder/tests/$name" ;; esac
  done
  cargo bench -p bench --bench kernels --profile "${BENCH_PROFILE:-release}" "${options[@]}" | executables | while read -r name path; do
    if [ "$name" = kernels ]; then cp "$path" "$folder/kernels"; fi
  done
  strip "$folder"/tests/* "$folder/kernels" 2>/dev/null || true
  du -h "$folder"/tests/* "$folder/kernels"
}

# The device's name as a file name.
device() {
  nvidia-smi --query-gpu=name --format=csv,noheader | head -n 1 | tr -cs 'A-Za-z0-9\n' '-' | tr 'A-Z' 'a-z'
}

run() {
  if ! command -v nvidia-smi >/dev/null 2>&1; then
    echo "no CUDA device: nvidia-smi is not there" >&2
    exit 1
  fi
  if [ -z "${CUDA_PATH:-}" ]; then
    CUDA_PATH=/usr/local/cuda
    if [ ! -e "$CUDA_PATH/include" ]; then CUDA_PATH="$(.ci/cuda-toolkit)"; fi
  fi
  export CUDA_PATH LD_LIBRARY_PATH="$CUDA_PATH/lib:$CUDA_PATH/lib64:${LD_LIBRARY_PATH:-}"
  export GOLDEN_DIR="${GOLDEN_DIR:-$PWD/kernel-dsl/tests/golden}"
  mkdir -p "$results"
  local name failed=0
  name="$(device)"
  for test in "$folder"/tests/*; do
    "$test" 2>&1 | tee -a "$results/tests-$name.log" || failed=1
  done
  if command -v compute-sanitizer >/dev/null 2>&1; then
    for test in "$folder"/tests/equivalence*; do
      PROPTEST_CASES=2 compute-sanitizer --tool racecheck --error-exitcode 1 "$test" 2>&1 |
        tee -a "$results/racecheck-$name.log" || failed=1
    done
  else
    echo "racecheck is left out: compute-sanitizer is not there" >&2
  fi
  SPILLWAY_BENCH_DEVICE=cuda SPILLWAY_BENCH_JSON="$results/kernels-$name.json" "$folder/kernels" --bench --noplot
  if [ -n "${PEERS_PYTHON:-}" ]; then
    "$PEERS_PYTHON" bench/peers/torch_kernels.py --device cuda --binary "$folder/kernels" --python "$PEERS_PYTHON" \
      --cache "$folder" --json "$results/peers-$name.json"
  fi
  return "$failed"
}

case "${1:-both}" in
  build) build ;;
  run) run ;;
  both) build && run ;;
  *)
    sed -n '2,15p' "$0" >&2
    exit 2
    ;;
esac
