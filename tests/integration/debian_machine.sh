# Run as root by a systemd that has just started, on a Debian of which nothing is kept. $1: where the results go.
exec >"$1/log" 2>&1
set -eux
# It changes what it likes: never outside of the container.
test "$(systemd-detect-virt --container)" = systemd-nspawn
trap 'echo $? >"$1/status"; journalctl --no-pager -o cat -u respool >"$1/journal" || :; systemctl poweroff' EXIT
results=$1
until systemctl is-active --quiet basic.target; do sleep 0.1; done
sed -i "s/^dc_use_split_config=.*/dc_use_split_config='true'/" /etc/exim4/update-exim4.conf.conf
# No name server: refused at once.
echo 'nameserver 127.0.0.1' >/etc/resolv.conf
find /var/spool/exim4/input /var/spool/exim4/msglog -type f -delete
useradd --create-home alice
update-exim4.conf
systemctl start exim4.service

# What pip would fetch is borrowed from the environment of the tests.
/usr/bin/python3 -m venv /opt/respool
echo "$BORROWED" >"$(echo /opt/respool/lib/python3*/site-packages)/borrowed.pth"
export PIP_NO_INDEX=1 PIP_NO_DEPS=1
sh "$CHECKOUT/samples/debian/install.sh" example.org s1
systemctl is-active respool.service
# With Debian's Python: every sample becomes what is expected of it.
/opt/respool/bin/respool demo --dir /run/demo
test -n "$(systemctl show --value -p StatusText respool.service)"

send() { # SUBJECT
    /opt/respool/bin/python - "$1" <<'END'
import smtplib, sys
with smtplib.SMTP("127.0.0.1", 25) as server:
    server.sendmail("bob@localhost", ["alice@localhost"], f"From: bob@localhost\nSubject: {sys.argv[1]}\n\nHello.\n")
END
}
arrives() { # SUBJECT
    for _ in $(seq 600); do
        grep -q "^Subject: $1" /var/mail/alice 2>/dev/null && return 0
        sleep 0.1
    done
    exim4 -bp; exim4 -qGscan -bp; tail -n 20 /var/log/exim4/mainlog; return 1
}
send first
arrives first
respool doctor --offline --json -c /etc/respool/respool.toml >"$results/doctor.json" || true

# A reload, and one that is refused: systemctl says so, and the sidecar goes on.
sed -i 's/^#scan_seconds = .*/scan_seconds = 5/' /etc/respool/respool.toml
systemctl reload respool.service
send second
arrives second
cp /etc/respool/respool.toml /etc/respool/good.toml
echo 'nonsense = 1' >>/etc/respool/respool.toml
if systemctl reload respool.service; then exit 90; fi
systemctl kill -s HUP --kill-who=main respool.service
sleep 1
systemctl is-active respool.service
systemctl show --value -p StatusText respool.service >"$results/status-text"
cp /etc/respool/good.toml /etc/respool/respool.toml
send third
arrives third

# A worker is killed; the service stays.
kill -9 "$(pgrep -P "$(systemctl show --value -p MainPID respool.service)" | head -n 1)"
send fourth
arrives fourth
test "$(systemctl show --value -p NRestarts respool.service)" = 0

# The web page, by its unit: Exim's user logs somebody in, and shows what is kept.
install -m 644 "$CHECKOUT/samples/systemd/respool-web.service" /etc/systemd/system/
(umask 077 && /opt/respool/bin/python -c '
from respool.sidecar.web.passwords import hash_line
print(hash_line("anna", "a long password"))' >/etc/respool/web-passwords)
chown Debian-exim /etc/respool/web-passwords
sed -i 's|^#password_file = .*|password_file = "/etc/respool/web-passwords"|' /etc/respool/respool.toml
systemctl daemon-reload
systemctl start respool-web.service
/opt/respool/bin/python - >"$results/page" <<'END'
import http.cookiejar, time, urllib.error, urllib.parse, urllib.request
site = "http://127.0.0.1:9611"
opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(http.cookiejar.CookieJar()))
for _ in range(600):
    try:
        opener.open(site + "/login")
        break
    except urllib.error.URLError:
        time.sleep(0.1)
form = urllib.parse.urlencode({"name": "anna", "password": "a long password"}).encode()
opener.open(urllib.request.Request(site + "/login", form, {"Origin": site}))
print(opener.open(site + "/").read().decode())
END
systemctl is-active respool-web.service
test "$(ps -o user= -p "$(systemctl show --value -p MainPID respool-web.service)")" = Debian-exim
systemctl stop respool-web.service
journalctl -u respool-web.service -o cat >"$results/web-journal"

# Another version beside it, and back, as docs/upgrading.md says.
/usr/bin/python3 -m venv /opt/respool-new
echo "$BORROWED" >"$(echo /opt/respool-new/lib/python3*/site-packages)/borrowed.pth"
/opt/respool-new/bin/pip install --quiet "$RESPOOL_PACKAGE"
for program in /opt/respool-new /opt/respool; do
    "$program/bin/respool" config check -c /etc/respool/respool.toml
    ln -sfn "$program/bin/respool" /usr/local/bin/respool
    systemctl restart respool.service
    grep -qz "^$program/" "/proc/$(systemctl show --value -p MainPID respool.service)/cmdline"
done

sh "$CHECKOUT/samples/debian/install.sh" example.org s1 # again: nothing is broken
sh "$CHECKOUT/samples/debian/remove.sh"
send fifth
arrives fifth
cp /var/mail/alice "$results/mailbox"
journalctl -u respool.service -o cat >"$results/journal"
