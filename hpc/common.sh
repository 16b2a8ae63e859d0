# Shared by submit.sh and the two jobs.

fail() {
  echo "bids_alsmri: $2" >&2
  exit "$1"
}

read_settings() {
  [ -f "$1" ] || fail 66 "$1 is absent; copy settings.sh and fill it in"
  # shellcheck source=settings.sh
  . "$1"
  [ -d "$BIDS_DIR" ] || fail 66 "BIDS_DIR of $1 is $BIDS_DIR, which is no folder here"
  [ -z "$IMAGE" ] || [ -f "$IMAGE" ] || fail 66 "IMAGE of $1 is $IMAGE, which is absent"
  STATE_DIR=$WORK_DIR/slurm
  JOB_NAME=alsmri_$(basename "$OUTPUT_DIR")
}

# run LEVEL WORDS...: one call of the app; its code, 128 + signal if it was stopped
run() {
  local level=$1 child code
  shift
  # a tenth for the interpreter, and for what no step declares
  local -a words=("$level" "$@" --n-procs "$SLURM_CPUS_PER_TASK" --mem-mb "$((SLURM_MEM_PER_NODE * 9 / 10))")
  if [ -n "$IMAGE" ]; then
    [ "$(uname -m)" = x86_64 ] || fail 64 "this node is $(uname -m), and the image is for x86_64; choose other nodes with SBATCH_OPTIONS"
    command -v apptainer >/dev/null || fail 66 "apptainer is not there on $(hostname); load its module in $SETTINGS"
    apptainer run --containall -B "$BIDS_DIR:/data:ro" -B "$OUTPUT_DIR:/out" -B "$WORK_DIR:/work" \
      "$IMAGE" /data /out "${words[@]}" -w /work &
  else
    bids_alsmri "$BIDS_DIR" "$OUTPUT_DIR" "${words[@]}" -w "$WORK_DIR" &
  fi
  child=$!
  # SLURM warns the shell only; the app ends at once, and keeps each step that was finished
  stopped=
  trap 'stopped=1; kill -TERM "$child" 2>/dev/null' TERM
  # wait returns early on a signal
  while :; do
    code=0
    wait "$child" || code=$?
    kill -0 "$child" 2>/dev/null || break
  done
  trap - TERM
  return "$code"
}

# start this task again if its time was up; a task that is preempted SLURM starts again by itself
restart_if_stopped() {
  [ -n "$stopped" ] || return 0
  if [ "${SLURM_RESTART_COUNT:-0}" -lt "$MAX_RESTARTS" ]; then
    echo "stopped; starts again ($((${SLURM_RESTART_COUNT:-0} + 1)) of $MAX_RESTARTS)" >&2
    if scontrol requeue "$SLURM_JOB_ID"; then
      # SLURM ends this shell and the task goes back to the queue
      sleep 60
    fi
  fi
}
