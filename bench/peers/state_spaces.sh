#!/usr/bin/env bash
# Every figure of "State spaces" in ../docs/speed.md, in one run on a machine that does nothing else:
#
#     bench/peers/state_spaces.sh PYTHON JAX [OUT]
#
# PYTHON has torch (and pykeops, if its forms are wanted), JAX has jax. The Markdown goes to OUT (default target/peers/state-spaces.md),
# the reports to target/peers. SHAPES, a regular expression, narrows the comparison of kernels: SHAPES='l1k|l16k|_l1024$|_l16384$'.
set -euo pipefail
cd "$(dirname "$0")/../.."
python=${1:?a Python that has torch}
jax=${2:?a Python that has jax}
out=${3:-target/peers/state-spaces.md}
shapes=${SHAPES:-h256_n64|s4_h256}
mkdir -p target/peers "$(dirname "$out")"

cargo build --release -p spillway
cargo bench -p spillway --bench kernels --no-run
spillway=target/release/spillway

echo "## Kernels and convolution beside torch and JAX" >"$out"
"$python" bench/peers/torch_kernels.py --python "$python" --jax "$jax" --threads 1,2 \
  --filter "^(vandermonde|cauchy|long_convolution/s4).*($shapes)" --json target/peers/state-space-kernels.json
"$python" bench/peers/torch_kernels.py --render target/peers/state-space-kernels.json >>"$out"

printf '\n## Growth with the length\n\n' >>"$out"
"$python" bench/peers/growth.py --threads 1 --svg bench/docs/state-space-growth.svg >>"$out"

printf '\n## Steps and layers\n\n' >>"$out"
cargo bench -p spillway --bench kernels -- --noplot --discard-baseline 'kernels/(linear|shift)_state_space' |
  grep -E 'of the ceiling$| % (multiply-adds|bandwidth)|GFLOP/s, memory' | sed 's/^/    /' >>"$out"

printf '\n## Training steps on digits\n\n' >>"$out"
for threads in 1 2; do
  echo "Threads: $threads" >>"$out"
  "$python" bench/peers/state_space_step.py --python "$python" --threads "$threads" >>"$out"
done

printf '\n## Generation of 16,384 tokens\n\n' >>"$out"
"$spillway" init --arch s4 --shape tiny-s4d --out target/peers/s4d --force
cat >target/peers/llama.json <<'JSON'
{"model_type": "llama", "hidden_size": 64, "num_hidden_layers": 2, "vocab_size": 256, "tie_word_embeddings": true,
 "intermediate_size": 128, "num_attention_heads": 4, "num_key_value_heads": 4, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
 "max_position_embeddings": 32768, "hidden_act": "silu"}
JSON
"$spillway" init --arch llama --layout hugging --config target/peers/llama.json --out target/peers/llama --force
for model in s4d llama; do
  "$spillway" bench "target/peers/$model" --dtype f32 --threads 1 --prefill 1 --decode 16384 --repeats 1 >>"$out"
done
echo "written to $out"
