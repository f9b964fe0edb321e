#!/usr/bin/env bash
# bench/gpu_check.sh: on a machine with an NVIDIA GPU, every GPU test and every benchmark, the fast parts first.
# Writes bench/results/<theme>_<gpu>_<yyyymm>.json and .log. PYTHON names the interpreter (default: .venv/bin/python, else python3).
# A benchmark that does not run is listed with its reason; a failure of any part makes the exit status 1, after all parts ran.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

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

# part THEME COMMAND...: runs it, logs command, versions and output, and remembers a failure.
part() {
  local log="bench/results/$1_${gpu}_${stamp}.log"
  shift
  {
    echo "command: $*"
    "$PYTHON" -c 'import platform, torch; print("python", platform.python_version(), "torch", torch.__version__, "cuda", torch.version.cuda)'
    nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader
    echo "commit: $(git rev-parse HEAD 2>/dev/null || echo unknown)$(git diff --quiet HEAD 2>/dev/null || echo ', changed')"
  } > "$log" 2>&1
  echo "== $*"
  "$@" 2>&1 | tee -a "$log"
  [[ ${PIPESTATUS[0]} -eq 0 ]] || status=1
}

# pytest ends with 5 where no test carries the marker: here that is a failure too, because nothing was checked.
part tests "$PYTHON" -m pytest -m gpu -q -rs
part smoke "$PYTHON" -m pytest bench --smoke -q -rs
for dtype in bfloat16 float32; do
  part "op-$dtype" "$PYTHON" -m pytest bench -q -rs --scale full --dtype "$dtype" \
    --benchmark-json "bench/results/op-${dtype}_${gpu}_${stamp}.json"
done
exit "$status"
