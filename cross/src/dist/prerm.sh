#!/bin/sh
set -e
[ "$1" = remove ] || exit 0
if [ -d /run/systemd/system ]; then
    systemctl stop punnet-agent.service punnet-apps.service || true
fi
# Nobody could stop them afterwards.
punnet ps --quiet | xargs -r punnet stop >/dev/null || true
