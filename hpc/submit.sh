#!/usr/bin/env bash
# Submit one task per participant, and the group level after them; call it again to run what failed.
#   submit.sh SETTINGS            submit all participants that are not done
#   submit.sh SETTINGS --status   say who is done, who failed and why; submit nothing
#   submit.sh SETTINGS --all      submit all, such as after an option was changed
set -euo pipefail
[ $# -ge 1 ] || { sed -n '2,5s/^# //p' "$0"; exit 64; }
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
SETTINGS=$(realpath "$1")
MODE=${2:-}
case $MODE in ''|--status|--all) ;; *) echo "unknown: $MODE" >&2; exit 64 ;; esac
. "$HERE/common.sh"
read_settings "$SETTINGS"

command -v sbatch >/dev/null || fail 66 "sbatch is not there; call this on a node that submits to SLURM"
mkdir -p "$OUTPUT_DIR" "$WORK_DIR" "$STATE_DIR"

labels=("${PARTICIPANTS[@]#sub-}")
if [ ${#labels[@]} = 0 ]; then
  for folder in "$BIDS_DIR"/sub-*/; do
    [ -d "$folder" ] || fail 66 "$BIDS_DIR holds no folder sub-*; set BIDS_DIR in $SETTINGS"
    labels+=("$(basename "$folder" | sed 's/^sub-//')")
  done
fi

queued=$(squeue --noheader --array --me --name "$JOB_NAME,$JOB_NAME-group" --format '%i')
n_queued=$(grep -c . <<< "$queued" || true)
[ "$n_queued" = 0 ] || [ "$MODE" = --status ] \
  || fail 1 "$n_queued tasks of $JOB_NAME are in the queue; wait for them, or end them with: scancel --me --name $JOB_NAME,$JOB_NAME-group"
todo=()
for label in "${labels[@]}"; do
  code=$(cat "$STATE_DIR/sub-$label.code" 2>/dev/null || echo none)
  log=$(cat "$STATE_DIR/sub-$label.log" 2>/dev/null || true)
  case $code in
    0) state=done ;;
    none) state="not run" ;;
    begun)
      # a task that is killed, such as for want of memory, leaves no code
      state="was killed, see $log"
      grep -qx "$(basename "$log" .log)" <<< "$queued" && state="in the queue, see $log" ;;
    *) state="ended with $code, see $log" ;;
  esac
  [ "$MODE" != --status ] && [[ $state == done || $state == "not run" ]] || echo "sub-$label $state"
  [ "$code" = 0 ] && [ "$MODE" != --all ] || todo+=("$label")
done
if [ "$MODE" = --status ]; then
  echo "$((${#labels[@]} - ${#todo[@]})) of ${#labels[@]} done, $n_queued tasks in the queue"
  exit 0
fi

group_needs=()
if [ ${#todo[@]} -gt 0 ]; then
  list=$STATE_DIR/participants-$(date +%Y%m%dT%H%M%S).txt
  printf '%s\n' "${todo[@]}" > "$list"
  for label in "${todo[@]}"; do rm -f "$STATE_DIR/sub-$label.code"; done
  job=$(sbatch --parsable --job-name "$JOB_NAME" --array "1-${#todo[@]}%$MAX_TASKS" \
    --cpus-per-task "$CPUS" --mem "$MEMORY_MB" --time "$TIME_LIMIT" \
    --output "$STATE_DIR/%A_%a.log" "${SBATCH_OPTIONS[@]}" \
    "$HERE/participant.sbatch" "$HERE" "$SETTINGS" "$list")
  echo "${#todo[@]} of ${#labels[@]} participants submitted as job $job"
  group_needs=(--dependency "$GROUP_DEPENDENCY:${job%%;*}" --kill-on-invalid-dep=yes)
fi
if [ -n "$GROUP_DEPENDENCY" ]; then
  group=$(sbatch --parsable --job-name "$JOB_NAME-group" "${group_needs[@]}" \
    --cpus-per-task "$GROUP_CPUS" --mem "$GROUP_MEMORY_MB" --time "$GROUP_TIME_LIMIT" \
    --output "$STATE_DIR/%j_group.log" "${SBATCH_OPTIONS[@]}" \
    "$HERE/group.sbatch" "$HERE" "$SETTINGS")
  echo "group level submitted as job $group"
fi
