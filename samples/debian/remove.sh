#!/bin/sh
# Take respool out again, as root: Exim stops queueing for it, it drains, it ends. No mail is lost.
#
# Held and deferred mail stays in /var/spool/exim4/respool: look at it first (respool held list,
# respool deferred list), and release what is wanted while the sidecar runs.
set -eu

# 1. Exim delivers by itself again.
rm -f /etc/exim4/conf.d/main/00_respool /etc/exim4/conf.d/acl/00_respool
update-exim4.conf
systemctl reload exim4.service

# 2. What waits in the queue still goes through respool.
waited=0
while [ -n "$(find /var/spool/exim4/scan/input /var/spool/exim4/respool/work -name '*-[HD]' 2>/dev/null | head -n 1)" ]; do
    if [ "$waited" -ge "${RESPOOL_DRAIN_SECONDS:-120}" ]; then
        echo "remove.sh: mail is left in the queue scan; exim4 -qGscan delivers it, without respool" >&2
        break
    fi
    sleep 1
    waited=$((waited + 1))
done

# 3. The sidecar ends after the messages in hand.
systemctl disable --now respool.service

for state in held deferred corrupt; do
    count=$(find "/var/spool/exim4/respool/$state" -mindepth 1 -maxdepth 1 2>/dev/null | wc -l)
    [ "$count" -eq 0 ] || echo "remove.sh: $count messages are left in /var/spool/exim4/respool/$state" >&2
done
echo "The rest may go: /opt/respool /etc/respool /etc/systemd/system/respool.service /etc/tmpfiles.d/respool.conf"
