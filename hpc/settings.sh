# Copy this file, fill it in, and call: submit.sh YOUR_COPY
# It is read by bash on the login node and in each job.

BIDS_DIR=/path/to/dataset
OUTPUT_DIR=/path/to/derivatives/bids_alsmri
# seen by all nodes, so that a task that is started again on another one goes on where it stopped
WORK_DIR=/path/to/scratch/bids_alsmri
# image of Apptainer; leave empty where bids_alsmri is installed on all nodes
IMAGE=/path/to/bids_alsmri.sif

# labels, with or without sub-; leave empty for all folders sub-* of the dataset
PARTICIPANTS=()
# options of bids_alsmri; folders named there must be seen inside the image
PARTICIPANT_OPTIONS=()
GROUP_OPTIONS=()
# leave empty for no group level; afterok: once all participants are done, afterany: whatever failed
GROUP_DEPENDENCY=afterok

# of each task; see the table of times in the documentation
CPUS=2
MEMORY_MB=8000
TIME_LIMIT=06:00:00
# of the group level, the only one that gains from many cores
GROUP_CPUS=8
GROUP_MEMORY_MB=16000
GROUP_TIME_LIMIT=12:00:00
# tasks that run at a time
MAX_TASKS=50
# a task that reaches its time limit is started again so many times, and goes on
MAX_RESTARTS=5
# further options of sbatch, such as (--partition=short --account=als)
SBATCH_OPTIONS=()
