#!/usr/bin/env bash
# Tests, benches and profiles on a CUDA device that is at hand for minutes, on a machine with neither Rust nor a network.
#
#   bench/gpu.sh build             # here: what the device needs, into target/gpu/, a few megabytes
#   bench/gpu.sh run [STEP...]     # there: every step, or these, in this order, each within its time:
#                                  #   tests racecheck memcheck kernels peers profile
#   bench/gpu.sh                   # both, where the device is on this machine
#
# `run` needs the repository and target/gpu/; a step that fails or is cut short is named, and the next one begins. Results
# are written as they come, at most eight files; summary.md lists the steps. Without a device: exit code 3, and nothing is written.
#
# variable               meaning
# GPU_SECONDS            time for all steps together (default 560); each gets its share
# GPU_RESULTS            folder for the results (default bench/results/gpu/NAME, after the device)
# CUDA_PATH              toolkit with libnvrtc and CUDA's headers (default: searched for)
# PYTHON                 a Python that has torch, and fla, mamba_ssm and flash_attn if they are to be timed (default python3)
# CUBECL_LLVM_STANDIN    build: folder of a crate that stands in for cubecl-llvm, where LLVM 23 is neither there nor to be
#                        fetched; kernels go through NVRTC here in any case
# CUDARC_CUDA_VERSION    build: CUDA version of the driver that the binaries will meet (default 13000)
# BENCH_PROFILE          build: cargo profile of the benches (default release)
set -euo pipefail
cd "$(dirname "$0")/.."
root="$PWD"
folder="$root/target/gpu"
# Later versions of the C library than this one may be missing where the device is.
newest_glibc=2.35

usage() {
  sed -n '4,8p' "$0" >&2
  exit 2
}

# The executable of a target in cargo's messages: executable KIND NAME.
executable() {
  python3 -c '
import json, sys
for line in sys.stdin:
    message = json.loads(line) if line.startswith("{") else {}
    target = message.get("target", {})
    if message.get("executable") and sys.argv[1] in target["kind"] and target["name"] == sys.argv[2]:
        print(message["executable"])' "$@"
}

# pack FILE NAME: stripped and compressed, into the folder.
pack() {
  local name="$folder/$2" needed
  needed="$(objdump -T "$1" | grep -o 'GLIBC_2\.[0-9]*' | sort -Vu | tail -n 1)"
  if [ "$(printf '%s\n' "${needed#GLIBC_}" "$newest_glibc" | sort -V | tail -n 1)" != "$newest_glibc" ]; then
    echo "$2 needs $needed, newer than $newest_glibc: build on an older system" >&2
    return 1
  fi
  strip -o "$name" "$1"
  xz -9 -T0 --force "$name"
  printf '%-10s %5d KiB, needs %s\n' "$2" "$(($(stat -c %s "$name.xz") / 1024))" "$needed"
}

build() {
  export CUDARC_CUDA_VERSION="${CUDARC_CUDA_VERSION:-13000}" CARGO_INCREMENTAL=0
  local options=(--features "cuda,cuda-cpp" --no-run --message-format=json) workspace path
  if [ -n "${CUBECL_LLVM_STANDIN:-}" ]; then
    # Given on the command line, so that the published manifest does not know of it.
    options+=(--config "patch.crates-io.cubecl-llvm.path=\"$CUBECL_LLVM_STANDIN\"")
  fi
  rm -rf "$folder"
  mkdir -p "$folder"
  # Without wgpu, which the device does not need.
  workspace="$(.ci/host-workspace)"
  path="$(cd "$workspace" && CARGO_TARGET_DIR="$root/target" cargo test -p spillway-kernel-dsl --test devices "${options[@]}" |
    executable test devices)"
  pack "$path" devices
  cp Cargo.lock "$folder/lock"
  path="$(
    # The lock file comes back as it was.
    trap 'mv "$folder/lock" Cargo.lock' EXIT
    cargo bench -p spillway --bench kernels --profile "${BENCH_PROFILE:-release}" "${options[@]}" | executable bench kernels
  )"
  pack "$path" kernels
}

# What a step says of itself: result NAME SECONDS WORDS.
result() {
  printf '| %s | %s | %d s |\n' "$1" "$3" "$2" | tee -a "$results/summary.md"
}

# step NAME SHARE FILE COMMAND...: within its share, in hundredths, of the time for all; its output is added to a file.
step() {
  local name="$1" limit=$((${GPU_SECONDS:-560} * $2 / 100)) file="$results/$3" begin=$SECONDS status=0
  shift 3
  printf '\n== %s, at most %d s\n' "$name" "$limit"
  timeout --kill-after=5 "$limit" "$@" </dev/null >>"$file" 2>&1 || status=$?
  tail -n 8 "$file"
  case "$status" in
    0) result "$name" $((SECONDS - begin)) done ;;
    124 | 137) result "$name" $((SECONDS - begin)) "CUT at $limit s, see $(basename "$file")" ;;
    *) result "$name" $((SECONDS - begin)) "FAILED ($status), see $(basename "$file")" ;;
  esac
  if [ "$status" -ne 0 ]; then failed=1; fi
}

left_out() {
  result "$1" 0 "left out: $2"
}

# A toolkit with NVRTC and headers: what is named, what is installed, or what Python packages brought.
toolkit() {
  local candidate
  for candidate in "${CUDA_PATH:-}" /usr/local/cuda /usr/local/cuda-* \
    $("$python" -c 'import sys; print(*(path + "/nvidia/cu13" for path in sys.path if path))' 2>/dev/null) \
    "$root/target/cuda-toolkit/nvidia/cu13"; do
    if [ -e "$candidate/include/cuda_runtime.h" ] && compgen -G "$candidate/lib*/libnvrtc.so*" >/dev/null; then
      echo "$candidate"
      return
    fi
  done
  return 1
}

# Patterns for the three kernels that are furthest below their ceilings.
slowest() {
  "$python" -c '
import json, sys
timed = [kernel for kernel in json.load(open(sys.argv[1]))["kernels"] if "seconds" in kernel]
for kernel in sorted(timed, key=lambda kernel: kernel["fraction_of_ceiling"])[:3]:
    print("^kernels/{operator}/{form}/{shape}$".format(**kernel))' "$results/kernels.json"
}

run() {
  local steps=("$@") name=""
  python="$("${PYTHON:-python3}" -c 'import sys; print(sys.executable)')" || python=python3
  if [ ${#steps[@]} -eq 0 ]; then steps=(tests racecheck memcheck kernels peers profile); fi
  if command -v nvidia-smi >/dev/null 2>&1; then
    name="$(nvidia-smi --query-gpu=name --format=csv,noheader 2>/dev/null | head -n 1)" || name=""
  fi
  if [ -z "$name" ]; then
    echo "no CUDA device: nvidia-smi is not there, or lists none" >&2
    exit 3
  fi
  if [ ! -e "$folder/devices.xz" ] || [ ! -e "$folder/kernels.xz" ]; then
    echo "$folder holds no binaries: bench/gpu.sh build makes them, where Rust is" >&2
    exit 1
  fi
  results="${GPU_RESULTS:-$root/bench/results/gpu/$(tr -cs 'A-Za-z0-9\n' '-' <<<"${name,,}")}"
  mkdir -p "$results"
  failed=0
  programs="$(mktemp -d)"
  trap 'rm -rf "$programs"' EXIT
  local program
  for program in devices kernels; do
    if command -v xz >/dev/null 2>&1; then
      xz -dc "$folder/$program.xz" >"$programs/$program"
    else
      "$python" -c 'import lzma, shutil, sys; shutil.copyfileobj(lzma.open(sys.argv[1]), sys.stdout.buffer)' \
        "$folder/$program.xz" >"$programs/$program"
    fi
    chmod +x "$programs/$program"
  done
  if [ ! -e "$results/summary.md" ]; then
    printf '# %s\n\n%s\n\n| step | result | time |\n|---|---|---|\n' "$name" \
      "$(nvidia-smi --query-gpu=driver_version,memory.total --format=csv,noheader 2>&1 | head -n 1), $(date -u +%Y-%m-%d)" \
      >"$results/summary.md"
  fi
  if CUDA_PATH="$(toolkit)"; then
    export CUDA_PATH LD_LIBRARY_PATH="$CUDA_PATH/lib64:$CUDA_PATH/lib:${LD_LIBRARY_PATH:-}"
    echo "NVRTC and headers: $CUDA_PATH"
  else
    result toolkit 0 "no folder has both NVRTC and CUDA's headers: name one in CUDA_PATH"
    failed=1
  fi
  export GOLDEN_DIR="${GOLDEN_DIR:-$root/kernel-dsl/tests/golden}" PROPTEST_RNG_SEED=20261122
  for name in "${steps[@]}"; do
    case "$name" in
      tests) run_tests ;;
      racecheck | memcheck) run_sanitizer "$name" ;;
      kernels) run_kernels ;;
      peers) run_peers ;;
      profile) run_profile ;;
      *) usage ;;
    esac
  done
  printf '\n'
  cat "$results/summary.md"
  return "$failed"
}

run_tests() {
  # The fixed cases come first: they are few.
  step golden 10 tests.log "$programs/devices" golden
  step equivalence 24 tests.log "$programs/devices" equivalence
}

# run_sanitizer racecheck|memcheck: on fixed cases of the smallest operators, then on one case of each property.
run_sanitizer() {
  if ! command -v compute-sanitizer >/dev/null 2>&1; then
    left_out "$1" "compute-sanitizer is not there"
    return
  fi
  step "$1" 12 "$1.log" env PROPTEST_CASES=1 compute-sanitizer --tool "$1" --error-exitcode 9 \
    "$programs/devices" --test-threads 1 golden equivalence
}

run_kernels() {
  step kernels 20 bench.log env SPILLWAY_BENCH_DEVICE=cuda SPILLWAY_BENCH_JSON="$results/kernels.json" \
    "$programs/kernels" --bench --noplot --discard-baseline
}

run_peers() {
  if ! "$python" -c 'import torch; assert torch.cuda.is_available()' 2>/dev/null; then
    left_out peers "$python has no torch that sees the device"
  elif [ ! -e "$results/kernels.json" ]; then
    left_out peers "our own kernels were not timed"
  else
    step peers 14 bench.log "$python" bench/peers/torch_kernels.py --device cuda --ours "$results/kernels.json" \
      --python "$python" --cache "$programs" --json "$results/peers.json"
  fi
}

run_profile() {
  local pattern profiler
  if [ ! -e "$results/kernels.json" ]; then
    left_out profile "our own kernels were not timed"
    return
  fi
  if command -v ncu >/dev/null 2>&1; then
    # Clocks stay as they are: others may use the device.
    profiler=(ncu --clock-control none --set basic --launch-count 4)
  elif command -v nsys >/dev/null 2>&1; then
    profiler=(nsys profile --stats=true --force-overwrite=true --output "$programs/profile")
  else
    left_out profile "neither ncu nor nsys is there"
    return
  fi
  for pattern in $(slowest); do
    # Without --bench every kernel runs once.
    step "profile of $(tr -d '^$' <<<"$pattern")" 2 profile.txt env SPILLWAY_BENCH_DEVICE=cuda \
      "${profiler[@]}" "$programs/kernels" "$pattern"
  done
}

case "${1:-both}" in
  build) build ;;
  run)
    shift
    run "$@"
    ;;
  both)
    build
    run
    ;;
  *) usage ;;
esac
