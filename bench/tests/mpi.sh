#!/usr/bin/env bash
# The program under mpirun, beside the same commands in one process: what they write must be the same but for times. Called by .ci/mpi.
#
#   bench/tests/mpi.sh target/debug/spillway
set -euo pipefail
spillway="$(realpath "$1")"
recall="$(realpath "$(dirname "$0")/../../models/assets/recall")"
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
cd "$work"

fail() {
  printf 'FAILED: %s\n' "$1" >&2
  exit 1
}

ranks() {
  timeout 300 mpirun -n "$@"
}

# same WHAT A B: two JSON files are the same but for times, dates, folders and machines.
same() {
  python3 - "$@" <<'PYTHON' || fail "$1 differ"
import json, sys
TIMES = {"seconds", "spec", "date", "command", "made", "machine", "workers", "started", "tokens_per_second", "threads", "about", "record", "load_sum", "load_samples",
         "prefill_tokens_per_second", "decode_tokens_per_second"}
def plain(value):
    if isinstance(value, dict):
        return {key: plain(other) for key, other in value.items() if key not in TIMES}
    if isinstance(value, list):
        return [plain(other) for other in value]
    return value
a, b = (plain(json.load(open(path))) for path in sys.argv[2:])
if a != b:
    sys.exit(f"{sys.argv[2]} and {sys.argv[3]} differ")
PYTHON
}

# same_losses A B STEPS: two trainings of so many steps have the same losses, up to the order of additions.
same_losses() {
  python3 - "$@" <<'PYTHON' || fail "the loss curves of $1 and $2 differ"
import json, sys
def losses(folder):
    lines = [json.loads(line) for line in open(f"{folder}/log.jsonl")]
    return [event["loss"] for event in lines if "loss" in event and "learning_rate" in event]
one, several, steps = losses(sys.argv[1]), losses(sys.argv[2]), int(sys.argv[3])
assert len(one) == len(several) == steps, (len(one), len(several))
worst = max(abs(a - b) / a for a, b in zip(one, several))
print(f"   largest relative difference of a loss: {worst:.1e}")
assert worst < 1e-5, worst
PYTHON
}

cat >precision.toml <<'TOML'
title = "Three laws"
question = "How far?"
tokens = 3000
key_dim = 4
value_dim = 5
seeds = [0, 1]
tolerated = 0.05
types = ["f32", "bf16"]
[[laws]]
name = "short"
memory = 10
[[laws]]
name = "delta"
beta = 0.5
memory = 1000
TOML

cat >training.toml <<'TOML'
steps = 8
sequences = 4
length = 14
snapshot_every = 2
model = { arch = "s4", size = "tiny-s4d" }
optimizer = { learning_rate = 1e-3 }
[task]
data = { kind = "selective-copying", tokens = 3, vocab_size = 6 }
[task.evaluation]
every = 4
examples = 50
TOML

cat >table.toml <<'TOML'
title = "Copying"
question = "Who copies?"
training = "training.toml"
seeds = [3, 5]
[[arms]]
name = "S4D, as it is"
[[arms]]
name = "Mamba-2"
set = { "model.arch" = "mamba2", "model.size" = "tiny" }
TOML

cat >sweep.toml <<'TOML'
name = "tiny"
seeds = [0]
lengths = [16, 32]
tokens_per_step = 64

[states]
d_state = [4, 8]
layers = [1]
model_dim = [16]
head_dim = 8

[bootstrap]
resamples = 50

[training]
steps = 6
snapshot_every = 2

[training.optimizer]
learning_rate = 1e-2

[[tasks]]
name = "text"
initialisation = "slow"
data = { kind = "text", paths = ["book.txt"], held_out = 0.25 }
forgetting = { streams = 2, tokens = 128 }

[[tasks]]
name = "keys"
vocab_size = 64
lengths = [32]
d_state = [4]
data = { kind = "passkey-lite" }
recall = { lengths = [16, 32], depths = 2, samples = 2 }
TOML
for _ in $(seq 40); do printf 'In the beginning God created the heaven and the earth. '; done >book.txt

cat >recall.toml <<'TOML'
steps = 6
sequences = 4
length = 16
snapshot_every = 2
data = { kind = "mqar", pairs = 2, vocab_size = 16 }
optimizer = { learning_rate = 1e-3 }
model = { arch = "gla", config = { model_type = "gla", hidden_size = 16, num_hidden_layers = 1, vocab_size = 16, intermediate_size = 16, num_heads = 2 } }
TOML

cat >frontier.toml <<'TOML'
title = "Recall"
question = "Who recalls?"
training = "recall.toml"
seeds = [3, 5]
solved = 0.95
mitigations = ["forget:0.5", "window:4", "state-norm:auto"]
speed = { prefill = 8, decode = 2, repeats = 1 }

[[models]]
name = "attention"
baseline = true
set = { model = { arch = "llama", config = { model_type = "llama", vocab_size = 16, hidden_size = 16, intermediate_size = 16, num_hidden_layers = 1, num_attention_heads = 2 } } }

[[models]]
name = "GLA"
sizes = [
    { "model.config.expand_k" = 0.25 },
    { "model.config.expand_k" = 1.0 },
]

[[models]]
name = "delta rule"
seeds = [3]
set = { model = { arch = "delta_net", config = { model_type = "delta_net", hidden_size = 16, num_hidden_layers = 1, vocab_size = 16, intermediate_size = 16, num_heads = 2 } } }

[[asked]]
name = "2 pairs"
length = 16
sequences = 20
data = { kind = "mqar", pairs = 2, vocab_size = 16 }

[[asked]]
name = "4 pairs"
length = 20
sequences = 20
data = { kind = "mqar", pairs = 4, vocab_size = 16 }
TOML

cat >long-hybrid.toml <<'TOML'
steps = 6
sequences = 1
length = 96
snapshot_every = 2
data = { kind = "text", paths = ["book.txt"] }
model = { arch = "mamba2", size = "tiny-hybrid" }
optimizer = { learning_rate = 4e-3 }
TOML

cat >copy.toml <<'TOML'
steps = 12
sequences = 6
length = 12
snapshot_every = 4
data = { kind = "copy", vocab_size = 6 }
model = { arch = "mamba2", size = "tiny" }
optimizer = { learning_rate = 4e-3 }
TOML

echo "== state-precision"
"$spillway" state-precision precision.toml --out precision-1 -q --threads 1 >/dev/null
for n in 2 3; do
  ranks "$n" "$spillway" state-precision precision.toml --out "precision-$n" -q --threads 1 >"said-$n"
  [ "$(grep -c 'report:' "said-$n")" -le 1 ] || fail "state-precision was said more than once"
  same state-precision precision-1/results.json "precision-$n/results.json"
done

echo "== train-table, stopped and resumed with another number of ranks"
"$spillway" train-table table.toml --out table-1 -q --threads 1 >/dev/null
if ranks 3 "$spillway" train-table table.toml --out table-3 -q --threads 1 --stop-after 6 >/dev/null 2>stopped; then
  fail "a stopped table was complete"
fi
ranks 2 "$spillway" train-table table.toml --out table-3 -q --threads 1 --resume >/dev/null
for run in table-1/runs/*; do
  name="$(basename "$run")"
  cmp "$run/checkpoint/model.safetensors" "table-3/runs/$name/checkpoint/model.safetensors" || fail "weights of $name differ"
done

echo "== capacity"
"$spillway" capacity sweep.toml --out sweep-1 -q --threads 1 >/dev/null
ranks 3 "$spillway" capacity sweep.toml --out sweep-3 -q --threads 1 >/dev/null
for run in sweep-1/runs/*; do
  same "$(basename "$run")" "$run/result.json" "sweep-3/runs/$(basename "$run")/result.json"
done
same capacity sweep-1/results.json sweep-3/results.json

echo "== frontier"
"$spillway" frontier frontier.toml --out frontier-1 -q --threads 1 >/dev/null
ranks 3 "$spillway" frontier frontier.toml --out frontier-3 -q --threads 1 >/dev/null
for run in frontier-1/runs/*; do
  same "$(basename "$run")" "$run/answers.json" "frontier-3/runs/$(basename "$run")/answers.json"
done

echo "== train, stopped and resumed with another number of ranks"
"$spillway" train copy.toml --out copy-1 -q --threads 1 >/dev/null
if ranks 3 "$spillway" train copy.toml --out copy-3 -q --threads 1 --stop-after 5 >/dev/null 2>stopped; then
  fail "a stopped training was complete"
fi
grep -q 'interrupted after 5 of 12 steps' stopped || fail "the stop is not named: $(cat stopped)"
ranks 2 "$spillway" train copy.toml --out copy-3 -q --threads 1 --resume >/dev/null
same_losses copy-1 copy-3 12
# Ranks have parts of the moments; a snapshot has them whole.
python3 - <<'PYTHON' || fail "snapshots have other entries"
import glob, json, struct
def entries(folder):
    with open(sorted(glob.glob(f"{folder}/snapshots/*.safetensors"))[-1], "rb") as file:
        header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
    return {name: (entry["dtype"], entry["shape"]) for name, entry in header.items() if name != "__metadata__"}
one, several = entries("copy-1"), entries("copy-3")
assert one == several and any(name.startswith("optimizer.moment_2.") for name in one), (one, several)
PYTHON

echo "== train, every sequence cut over the ranks; in one process too"
long=(--set parallel.sequence=true --set parallel.recompute=true)
"$spillway" train long-hybrid.toml --out hybrid-1 -q --threads 1 >/dev/null
ranks 3 "$spillway" train long-hybrid.toml --set parallel.sequence=true --out hybrid-3 -q --threads 1 >/dev/null
same_losses hybrid-1 hybrid-3 6
if ranks 2 "$spillway" train long-hybrid.toml "${long[@]}" --out hybrid-2 -q --threads 1 --stop-after 2 >/dev/null 2>stopped; then
  fail "a stopped training was complete"
fi
ranks 5 "$spillway" train long-hybrid.toml "${long[@]}" --out hybrid-2 -q --threads 1 --resume >/dev/null
same_losses hybrid-1 hybrid-2 6
"$spillway" train long-hybrid.toml "${long[@]}" --set parallel.stretch=16 --out hybrid-0 -q --threads 1 >/dev/null
same_losses hybrid-1 hybrid-0 6
if ranks 2 "$spillway" train training.toml --set parallel.sequence=true --out refused -q >/dev/null 2>said; then
  fail "a task was cut into stretches"
fi
grep -q 'parallel.sequence: expected false beside a table \[task\]' said || fail "the refusal is not named: $(cat said)"

echo "== diagnose, stopped and resumed with another number of ranks"
diagnose() {
  "$@" diagnose --length 16k --streams 1 --mitigation window:64 --mitigation state-norm:auto -q --threads 1 --out "$folder" "${more[@]}"
}
more=() folder=diagnosis-1
diagnose "$spillway" >/dev/null
folder=diagnosis-3
more=(--stop-after 20k)
if diagnose ranks 3 "$spillway" >/dev/null 2>stopped; then fail "a stopped diagnosis was complete"; fi
more=(--resume)
diagnose ranks 2 "$spillway" >/dev/null
same diagnose diagnosis-1/report.json diagnosis-3/report.json

# asks FOLDER COMMAND...: passkeys, questions or a comparison, with `more` options.
passkey() {
  folder="$1" && shift
  "$@" passkey --lengths 300,500,900 --depths 3 --samples 2 --all-lengths --mitigation none --mitigation window:64 --mitigation reset:64 \
    --mitigation state-norm:auto -q --threads 1 --out "$folder" "${more[@]}"
}
recall() {
  folder="$1" && shift
  "$@" recall "$recall/based" "$recall/attention" --facts 4,6 --documents 3 --length 0 --max-tokens 6 --passes 1,2 --no-padding \
    --mitigation none --mitigation window:64 -q --threads 1 --out "$folder" "${more[@]}"
}
compare() {
  folder="$1" && shift
  "$@" compare --quick --longest 4 --streams 3 --mitigation window:64 --mitigation state-norm:auto --mitigation scales:fit \
    --mitigation reset:64 -q --threads 1 --out "$folder" "${more[@]}"
}
# alike COMMAND A B: what the two folders hold is the same, but for times.
alike() {
  case "$1" in
    passkey) same passkey "$2/passkey.json" "$3/passkey.json" && equal "$2" "$3" passkey.csv '*.svg' ;;
    recall) same recall "$2/recall.json" "$3/recall.json" && equal "$2" "$3" recall.csv recall-answers.jsonl '*.svg' ;;
    compare) same compare "$2/leaderboard.json" "$3/leaderboard.json" && equal "$2" "$3" 'mitigations/*.json' ;;
  esac
  [ "$(cd "$2" && find . -type f | sort)" = "$(cd "$3" && find . -type f | sort)" ] || fail "$2 and $3 hold other files"
}
# equal A B PATTERN...: these files are the same, byte by byte.
equal() {
  local a="$1" b="$2" pattern file
  shift 2
  # A comparison without calibrated mitigations writes none.
  shopt -s nullglob
  for pattern in "$@"; do
    for file in "$a"/$pattern; do
      cmp "$file" "$b/${file#"$a"/}" || fail "${file#"$a"/} differs"
    done
  done
  shopt -u nullglob
}

for command in passkey recall compare; do
  echo "== $command, on 1, 2, 3 and 5 ranks, stopped and resumed with other numbers of them"
  more=()
  "$command" "$command-alone" "$spillway" >/dev/null
  for n in 1 2 3 5; do
    "$command" "$command-$n" ranks "$n" "$spillway" >said
    [ "$(grep -c 'interrupted' said)" = 0 ] || fail "$command on $n ranks was interrupted"
    alike "$command" "$command-alone" "$command-$n"
  done
done
for command in passkey recall; do
  more=(--stop-after 1k)
  if "$command" "$command-from-1" "$spillway" >/dev/null 2>stopped; then fail "$command was not stopped"; fi
  grep -q 'interrupted' stopped || fail "the stop is not named: $(cat stopped)"
  if "$command" "$command-from-3" ranks 3 "$spillway" >/dev/null 2>stopped; then fail "$command was not stopped"; fi
  grep -q 'interrupted' stopped || fail "the stop is not named: $(cat stopped)"
  more=(--resume)
  "$command" "$command-from-1" ranks 3 "$spillway" >/dev/null
  alike "$command" "$command-alone" "$command-from-1"
  "$command" "$command-from-3" "$spillway" >/dev/null
  alike "$command" "$command-alone" "$command-from-3"
done
echo "== passkey without a find, which leaves longer lengths out"
for ranks in "" "ranks 3"; do
  # shellcheck disable=SC2086 # Words of a command.
  $ranks "$spillway" passkey --lengths 300,500 --depths 2 --samples 2 --mitigation none --mitigation window:64 -q --threads 1 \
    --out "none${ranks: -1}" >/dev/null
done
same passkey none/passkey.json none3/passkey.json
grep -q 'longer ones are not asked' none3/passkey.json || fail "longer prompts were asked"

echo "== faults"
# Ranks that were started otherwise: two programs in one mpirun.
sed 's/steps = 12/steps = 11/' copy.toml >other.toml
if timeout 60 mpirun -n 1 "$spillway" train copy.toml --out differs -q : -n 1 "$spillway" train other.toml --out differs -q >/dev/null 2>said; then
  fail "different configurations were trained together"
fi
grep -q 'configuration: expected' said || fail "the difference is not named: $(cat said)"
[ ! -e differs ] || fail "something was written"
for other in "--seed 7" "--threads 1 $recall/based"; do
  # shellcheck disable=SC2086 # Several words.
  if timeout 60 mpirun -n 1 "$spillway" passkey --lengths 300 --out differs -q : -n 1 "$spillway" passkey --lengths 300 --out differs -q $other \
    >/dev/null 2>said; then fail "different passkeys were asked together"; fi
  grep -Eq 'spillway: (--seed|CHECKPOINT): expected .*, as rank 0 has it, found .* on rank 1' said || fail "the difference is not named: $(cat said)"
  [ ! -e differs ] || fail "something was written"
done
if timeout 60 mpirun -n 1 "$spillway" compare --out differs -q : -n 1 "$spillway" recall --out differs -q >/dev/null 2>said; then
  fail "different commands ran together"
fi
grep -q 'subcommand: expected compare, as rank 0 has it, found recall on rank 1' said || fail "the difference is not named: $(cat said)"
[ ! -e differs ] || fail "something was written"
# A command that runs in one process.
if timeout 60 mpirun -n 2 "$spillway" doctor >/dev/null 2>said; then fail "doctor on two ranks"; fi
grep -q 'found 2 processes' said || fail "it is not said: $(cat said)"
# A full disk, as far as a limit on the size of files is one: on rank 0, and on a rank that helps.
limited=(bash -c 'ulimit -f "$0"; exec "$@"')
if timeout 60 mpirun -n 1 "${limited[@]}" 100 "$spillway" train copy.toml --out full -q --threads 1 : \
  -n 2 "$spillway" train copy.toml --out full -q --threads 1 >/dev/null 2>said; then fail "a training on a full disk"; fi
grep -q 'spillway: .*writing failed: File too large' said || fail "the full disk is not named: $(cat said)"
grep -q 'spillway: rank 0 failed: .*File too large' said || fail "the others are not told: $(cat said)"
[ ! -e full ] || fail "something was half written"
if timeout 60 mpirun -n 1 "$spillway" train-table table.toml --out half -q --threads 1 : \
  -n 1 "${limited[@]}" 30 "$spillway" train-table table.toml --out half -q --threads 1 >/dev/null 2>said; then
  fail "a table on a full disk"
fi
grep -q 'spillway: rank 1: .*writing failed: File too large' said || fail "the full disk is not named: $(cat said)"
ranks 2 "$spillway" train-table table.toml --out half -q --threads 1 --resume >/dev/null
# A rank that is killed, and one that hangs.
sed 's/steps = 12/steps = 1000000/' copy.toml >long.toml
for signal in KILL STOP; do
  begin=$SECONDS
  SPILLWAY_RANK_TIMEOUT=5 timeout 120 mpirun -n 3 "$spillway" train long.toml --out "lost-$signal" -q --threads 1 >/dev/null 2>"said" &
  launcher=$!
  while [ ! -e "lost-$signal/log.jsonl" ] || [ "$(wc -l <"lost-$signal/log.jsonl")" -lt 5 ]; do sleep 0.2; done
  victim="$(pgrep -P "$(pgrep -P "$launcher")" -f 'train long.toml' | sort -n | tail -1)"
  lost=$SECONDS
  kill "-$signal" "$victim"
  if wait "$launcher"; then fail "a training without one of its ranks ended well"; fi
  printf '   SIG%s: the run ended after %s s\n' "$signal" "$((SECONDS - lost))"
  [ $((SECONDS - lost)) -lt 30 ] || fail "it took too long"
  # What was saved last, with parts of the moments from all three, goes on with two.
  if ranks 2 "$spillway" train long.toml --out "lost-$signal" -q --threads 1 --resume --stop-after 3 >/dev/null 2>resumed; then
    fail "a stopped training was complete"
  fi
  grep -q 'interrupted after' resumed || fail "it was not resumed: $(cat resumed)"
  if [ "$signal" = STOP ]; then
    grep -q 'has given no sign of life for 5.0 s' said || fail "the silent rank is not named: $(cat said)"
  fi
done
# lost SIGNAL COMMAND...: starts the command on three ranks, sends the last of them a signal as soon as there is something to go on from, and
# waits for the end.
lost() {
  local signal="$1" launcher victim begin
  shift
  SPILLWAY_RANK_TIMEOUT=5 timeout 120 mpirun -n 3 "$@" >/dev/null 2>said &
  launcher=$!
  until compgen -G "lost-$signal/*.json" >/dev/null; do
    kill -0 "$launcher" 2>/dev/null || fail "it ended before: $(cat said)"
    sleep 0.05
  done
  victim="$(pgrep -P "$(pgrep -P "$launcher")" -f "lost-$signal" | sort -n | tail -1)"
  begin=$SECONDS
  if [ "$signal" = INT ]; then
    # As Ctrl-C does: to the launcher.
    kill -INT "$(pgrep -P "$launcher")"
  else
    kill "-$signal" "$victim"
  fi
  if wait "$launcher"; then fail "$1 without one of its ranks ended well"; fi
  printf '   %s, SIG%s: the run ended after %s s\n' "$2" "$signal" "$((SECONDS - begin))"
  [ $((SECONDS - begin)) -lt 30 ] || fail "it took too long"
}
many=()
for window in 16 24 32 40 48 56 64 72 80 88 96 104; do many+=(--mitigation "window:$window"); done
declare -A busy=(
  [passkey]="passkey --lengths 300,900 --depths 5 --samples 4 --all-lengths"
  [recall]="recall $recall/based --facts 8 --documents 6 --length 0 --max-tokens 4 --passes 1 --no-padding"
  [compare]="compare --quick --longest 8 --streams 4"
)
for command in passkey recall compare; do
  read -ra words <<<"${busy[$command]}"
  "$spillway" "${words[@]}" "${many[@]}" -q --threads 1 --out "whole-$command" >/dev/null
  for signal in KILL STOP INT; do
    rm -rf "lost-$signal"
    lost "$signal" "$spillway" "${words[@]}" "${many[@]}" -q --threads 1 --out "lost-$signal"
    if [ "$signal" = STOP ]; then
      grep -q 'has given no sign of life for 5.0 s' said || fail "the silent rank is not named: $(cat said)"
    fi
    ranks 2 "$spillway" "${words[@]}" "${many[@]}" -q --threads 1 --out "lost-$signal" --resume >/dev/null
    alike "$command" "whole-$command" "lost-$signal"
  done
done
echo "all as in one process"
