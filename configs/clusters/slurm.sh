#!/bin/bash
# Trains a job under Slurm, one rank per task; `--ntasks` and all other options of sbatch can be given there:
#
#     sbatch --ntasks=4 --cpus-per-task=16 configs/clusters/slurm.sh --config configs/sft.toml --config configs/clusters/slurm.toml
#
# The ranks find each other by what Slurm tells them. A node that is lost (status 5) and the end of the time limit (130: all
# ranks have saved) queue the job again, and it goes on from its last checkpoint. `output_dir` is a directory that rank 0
# reaches after every start.
#SBATCH --job-name=mdt
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=TERM@120

# The secret by which the ranks know each other. srun hands its environment to them.
MDT_JOB_TOKEN=$(od -An -N32 -tx1 /dev/urandom | tr -d ' \n')
export MDT_JOB_TOKEN

srun --kill-on-bad-exit=0 --wait=60 mdt-host "$@"
status=$?
case $status in
    5 | 130 | 137 | 143)
        if [ "${SLURM_RESTART_COUNT:-0}" -lt 10 ]; then
            scontrol requeue "$SLURM_JOB_ID"
            sleep 60 # Slurm ends this script meanwhile
        fi
        ;;
esac
exit $status
