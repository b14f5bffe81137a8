#!/bin/sh
set -e
if [ "$1" = purge ]; then
    if command -v deb-systemd-helper >/dev/null; then
        deb-systemd-helper purge punnet-agent.service punnet-apps.service >/dev/null || true
    fi
    rm -rf /var/lib/punnet /run/punnet /etc/punnet
elif [ "$1" = remove ] && command -v deb-systemd-helper >/dev/null; then
    deb-systemd-helper mask punnet-agent.service punnet-apps.service >/dev/null || true
fi
if [ -d /run/systemd/system ]; then
    systemctl daemon-reload || true
fi
