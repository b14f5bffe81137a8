#!/bin/sh
set -e
[ "$1" = configure ] || exit 0
mkdir -p /etc/punnet/apps
for unit in punnet-agent.service punnet-apps.service; do
    if command -v deb-systemd-helper >/dev/null; then
        # What an administrator has disabled stays so.
        deb-systemd-helper unmask "$unit" >/dev/null || true
        if deb-systemd-helper --quiet was-enabled "$unit"; then
            deb-systemd-helper enable "$unit" >/dev/null || true
        else
            deb-systemd-helper update-state "$unit" >/dev/null || true
        fi
    fi
done
if [ -d /run/systemd/system ]; then
    systemctl daemon-reload
    # Containers of the fleet go on while their agent is replaced; those of /etc/punnet/apps keep their process until the next boot.
    systemctl restart punnet-agent.service || true
    systemctl start punnet-apps.service || true
fi
