#!/usr/bin/env bash
# bench/gpu_check.sh [op|model|train|export|all]: on a machine with an NVIDIA GPU, tests and benchmarks of a theme (default: all).
#
#   op      GPU tests of the op, its nodes in onnxruntime-gpu among them (left out with a sentence where that is not
#           installed); compute-sanitizer's memcheck and racecheck on a few of them; then bench_op.py, with
#           transformers (eager and compiled), SDPA and deformops beside it. Meant for 8 minutes.
#   model   GPU benchmarks of models.
#   train   GPU tests and benchmarks of the trainer: a step of a large model, eager and compiled, its utilisation, its memory
#           against --estimate. Meant for 10 minutes. The ablation of MMFS at 128 pixels is a command of its own, given twice:
#           python -m trainer.ablate mmfs --scale gpu --seeds 1 --out runs/ablate_gpu --minutes 9
#   export  GPU tests of plugins (their machine code with the bytes that they pack, and the ahead-of-time entry points,
#           against the reference) and of recorded steps; steps of a 7B language model and of the SD 2.1 U-Net as CUDA
#           graphs, eager and compiled; engines of TensorRT-RTX, or what it says where they do not run. Meant for 10
#           minutes.
#
# Writes bench/results/<theme>_<gpu>_<yyyymm>.json (benchmarks; of op also a table, .md) and .log (everything). What does
# not run is listed with its reason; a failure of any part makes the exit status 1, after all parts ran.
# PYTHON names the interpreter (default: .venv/bin/python, else python3).
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

case "${1:-all}" in
  op | model | train | export) themes=("$1") ;;
  all) themes=(op model train export) ;;
  *)
    echo "usage: bench/gpu_check.sh [op|model|train|export|all]" >&2
    exit 64
    ;;
esac

if [[ -z "${PYTHON:-}" ]]; then
  PYTHON=python3
  [[ -x .venv/bin/python ]] && PYTHON=.venv/bin/python
fi
gpu=$("$PYTHON" -c '
import re, sys, torch
if not torch.cuda.is_available():
    sys.exit(1)
print(re.sub(r"[^a-z0-9]+", "-", torch.cuda.get_device_name().lower()).strip("-"))
') || {
  echo "bench/gpu_check.sh: '$PYTHON' (torch) sees no CUDA device here; nothing was run." >&2
  exit 2
}

stamp=$(date +%Y%m)
status=0

# begin THEME: a new log, with what one has to know to read it.
begin() {
  result="bench/results/$1_${gpu}_${stamp}"
  {
    echo "date: $(date --iso-8601=seconds)"
    "$PYTHON" -c 'import platform, torch; print("python", platform.python_version(), "torch", torch.__version__, "cuda", torch.version.cuda)'
    nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader
    echo "commit: $(git rev-parse HEAD 2>/dev/null || echo unknown)$(git diff --quiet HEAD 2>/dev/null || echo ', changed')"
  } > "$result.log" 2>&1
}

# part SECONDS COMMAND...: runs it for at most so long, logs command and output, and remembers a failure.
part() {
  local limit_s=$1
  shift
  echo "== $*" | tee -a "$result.log"
  timeout --kill-after=10 "$limit_s" "$@" 2>&1 | tee -a "$result.log"
  local code=${PIPESTATUS[0]}
  [[ $code -eq 124 ]] && echo "stopped after $limit_s s" | tee -a "$result.log"
  # pytest ends with 5 where no test carries the marker: that is a failure too, because nothing was checked.
  [[ $code -eq 0 ]] || status=1
}

# benchmarks SECONDS PYTEST-ARGUMENTS...: keeps the numbers.
benchmarks() {
  local limit_s=$1
  shift
  rm -f "$result.json"
  part "$limit_s" "$PYTHON" -m pytest -q -rs --scale full "$@" --benchmark-json "$result.json"
}

sanitizer() {
  local checker
  checker=$(command -v compute-sanitizer || command -v /usr/local/cuda/bin/compute-sanitizer) || {
    echo "memcheck and racecheck: not run, compute-sanitizer is not installed (it comes with the CUDA toolkit)" |
      tee -a "$result.log"
    status=1
    return
  }
  for tool in memcheck racecheck; do
    # Without PyTorch's cache of memory each tensor is an allocation of its own, whose ends are known.
    part 60 env PYTORCH_NO_CUDA_MEMORY_CACHING=1 "$checker" --tool "$tool" --error-exitcode 9 \
      "$PYTHON" -m pytest -q -m gpu tests/mmfs/test_cuda.py -k "test_every_way and -40- and not float64"
  done
}

op() {
  part 120 "$PYTHON" -m pytest -q -rs -m gpu tests/mmfs
  sanitizer
  # All workloads by us and by deformops; the five that stand for the rest by everybody; other locations for three.
  local all="trained and (cuda or deformops)"
  local five="trained and (prefill-6 or decode-batch-8 or unet-64-images-1 or detr) and (transformers or sdpa)"
  local three="bfloat16 and not trained and (prefill-6 or unet-64-images-1 or detr-encoder) and (cuda or deformops)"
  benchmarks 300 bench/bench_op.py --dtype bfloat16,float32 --locations trained,uniform,concentrated \
    -k "$all or $five and not (compiled and float32) or $three"
  if [[ -s "$result.json" ]]; then
    "$PYTHON" -m bench.table "$result.json" > "$result.md" || status=1
  fi
}

model() {
  if [[ -f bench/bench_model.py ]]; then
    benchmarks 600 bench/bench_model.py -m gpu
  else
    echo "model: no benchmarks, bench/bench_model.py is not there" | tee -a "$result.log"
  fi
}

train() {
  part 180 "$PYTHON" -m pytest -q -rs -m gpu tests/trainer
  benchmarks 420 bench/bench_trainer.py -m gpu
}

export_() {
  part 120 "$PYTHON" -m pytest -q -rs -m gpu tests/plugins_trt tests/export
  benchmarks 340 bench/bench_export.py -m gpu -k "not rtx"
  # Apart from the others, so that their figures are there when this takes too long.
  part 130 "$PYTHON" -m pytest -q -rs --scale full bench/bench_export.py -m gpu -k rtx
}

for theme in "${themes[@]}"; do
  begin "$theme"
  case $theme in
    op) op ;;
    model) model ;;
    train) train ;;
    export) export_ ;;
  esac
  echo "== $result.log"
done
exit "$status"
