#!/bin/sh
# backup.sh FOLDER...: back up, forget what is old, check what is kept. Run it from cron or a systemd timer.
set -eu
cd "$(dirname "$0")"
set -a
. ./restic.env
set +a
restic cat config >/dev/null 2>&1 || restic init
restic backup "$@"
restic forget --keep-daily 7 --keep-weekly 5 --keep-monthly 12 --prune
restic check --read-data-subset=5%
