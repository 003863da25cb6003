#!/usr/bin/env bash
# Run a program of entropax on all workers of a TPU VM that exists.
#
#   experiments/launch_tpu.sh NAME ZONE [--dry-run] [--python 3.12] -- COMMAND ...
#
# copies the checkout to every worker, installs requirements-tpu.txt in ~/entropax-env there, and
# runs COMMAND on all of them at once, such as
#
#   python -m entropax.experiments.tta --multihost --run-dir /mnt/shared/runs/tta
#
# with a run folder on a disk that all workers share.
#
# Only what is committed is copied. --dry-run prints the commands and runs none; PROJECT in the
# environment names the Google Cloud project.
#
# For v4, v5e, v5p and v6e. TPU7x and later are not reached this way: use GKE (jobset.yaml).
set -euo pipefail

usage() {
  sed -n '4p' "$0" | sed 's/^# *//'
}

fail() {
  printf 'error: %s\n' "$1" >&2
  exit 2
}

dry_run=false
python=3.12
positional=()
while (($#)); do
  case "$1" in
    --dry-run) dry_run=true ;;
    --python)
      (($# > 1)) || fail "--python needs a version, such as 3.12"
      python=$2
      shift
      ;;
    -h | --help)
      usage
      exit 0
      ;;
    --)
      shift
      break
      ;;
    -*) fail "unknown option $1; usage: $(usage)" ;;
    *) positional+=("$1") ;;
  esac
  shift
done
((${#positional[@]} == 2)) || fail "NAME and ZONE of the TPU VM are needed; usage: $(usage)"
name=${positional[0]}
zone=${positional[1]}
(($#)) || fail "a COMMAND is needed after --; usage: $(usage)"
cd "$(dirname "${BASH_SOURCE[0]}")/.."
[[ -f requirements-tpu.txt ]] || fail "requirements-tpu.txt is not in $PWD"
"$dry_run" || command -v gcloud >/dev/null || fail "gcloud is not installed: see cloud.google.com/sdk"

tpu=(gcloud compute tpus tpu-vm)
where=("--zone=$zone" --worker=all)
[[ -z ${PROJECT:-} ]] || where+=("--project=$PROJECT")

# Print a command, and run it unless this is a dry run.
run() {
  printf '+'
  printf ' %q' "$@"
  printf '\n'
  "$dry_run" || "$@"
}

on_all() {
  run "${tpu[@]}" ssh "$name" "${where[@]}" "--command=$1"
}

# What is copied is what git knows of, so that neither runs nor environments travel.
git diff --quiet HEAD || echo "note: changes that are not committed are not copied" >&2
archive=$(mktemp -d)/entropax.tar.gz
trap 'rm -rf "$(dirname "$archive")"' EXIT
run git archive --format=tar.gz "--output=$archive" HEAD
run "${tpu[@]}" scp "$archive" "$name:entropax.tar.gz" "${where[@]}"

# Over what is there: runs of before stay.
on_all "mkdir -p entropax && rm -rf entropax/entropax && tar -xzf entropax.tar.gz -C entropax"
# A system whose Python is managed by its packages wants to be told that this is meant.
uv="python3 -m pip install --quiet --user"
on_all "($uv uv || $uv --break-system-packages uv) && python3 -m uv venv --quiet --clear --python $python entropax-env && cd entropax && python3 -m uv pip install --quiet --python ../entropax-env -r requirements-tpu.txt"

# Quoted twice: here, and for the shell of the worker.
printf -v command ' %q' "$@"
on_all "cd entropax && source ../entropax-env/bin/activate &&${command}"
