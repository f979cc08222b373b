#!/bin/sh
# respool beside Debian's Exim, by a named queue: ./install.sh DOMAIN SELECTOR, as root. It may be run again.
#
# Asks for: exim4-daemon-heavy (or -light) with the split configuration, python3-venv, openssl.
# RESPOOL_PACKAGE: what pip installs, a wheel or a directory; default: the checkout that this script lies in.
set -eu

domain=${1:?"usage: install.sh DOMAIN SELECTOR"}
selector=${2:?"usage: install.sh DOMAIN SELECTOR"}
case "$domain$selector" in *[!A-Za-z0-9.-]*) echo "install.sh: $domain, $selector: no names for DNS" >&2; exit 2 ;; esac
here=$(cd "$(dirname "$0")/../.." && pwd)
if [ -z "${RESPOOL_PACKAGE:-}" ] && [ ! -e "$here/pyproject.toml" ]; then
    echo "install.sh: not in a checkout: RESPOOL_PACKAGE=respool-0.1.0-py3-none-any.whl install.sh DOMAIN SELECTOR" >&2
    exit 2
fi
if ! grep -q "^dc_use_split_config='true'" /etc/exim4/update-exim4.conf.conf; then
    echo "install.sh: Exim's configuration is not split: dpkg-reconfigure exim4-config, or see samples/exim/README.md" >&2
    exit 1
fi

# 1. The program, where Exim's user can run it.
/usr/bin/python3 -m venv /opt/respool
/opt/respool/bin/pip install --quiet "${RESPOOL_PACKAGE:-$here}"
ln -sf /opt/respool/bin/respool /usr/local/bin/respool
samples=$(/opt/respool/bin/python -c 'from importlib.resources import files; print(files("respool.samples"))')

# 2. Directories: respool's, and the queue's, as Exim would make them.
install -m 644 "$samples/systemd/respool.tmpfiles" /etc/tmpfiles.d/respool.conf
systemd-tmpfiles --create /etc/tmpfiles.d/respool.conf

# 3. A key for sealing, which Exim's user can read and nobody else.
install -d -m 755 /etc/respool
if [ ! -e "/etc/respool/$selector.pem" ]; then
    (umask 077 && openssl genrsa -out "/etc/respool/$selector.pem" 2048)
    chown Debian-exim "/etc/respool/$selector.pem"
fi

# 4. The configuration: Debian's places, your names.
if [ ! -e /etc/respool/respool.toml ]; then
    respool config example --debian | sed \
        -e "0,/^#authserv_id = .*/s//authserv_id = \"$domain\"/" \
        -e "s/^domain = .*/domain = \"$domain\"/" \
        -e "s/^selector = .*/selector = \"$selector\"/" \
        -e "s|^key_file = .*|key_file = \"/etc/respool/$selector.pem\"|" >/etc/respool/respool.toml
fi
respool config check -c /etc/respool/respool.toml

# 5. The sidecar, before any mail waits for it.
install -m 644 "$samples/systemd/respool.service" /etc/systemd/system/respool.service
systemctl daemon-reload
systemctl enable --now respool.service

# 6. Exim's side: mail that comes by SMTP waits in the queue "scan".
respool exim-config -c /etc/respool/respool.toml --write /etc/respool/exim
cat >/etc/exim4/conf.d/main/00_respool <<'END'
.include /etc/respool/exim/macros.conf
MAIN_ACL_CHECK_MAIL = acl_respool_mail
END
cat >/etc/exim4/conf.d/acl/00_respool <<'END'
acl_respool_mail:
.include /etc/respool/exim/named-queue-mail.acl
  accept acl = acl_check_mail
END
update-exim4.conf
systemctl reload exim4.service

echo "Publish in DNS: $selector._domainkey.$domain. TXT"
printf '  "v=DKIM1; k=rsa; p=%s"\n' \
    "$(openssl rsa -in "/etc/respool/$selector.pem" -pubout -outform DER 2>/dev/null | openssl base64 -A)"
echo "Then: respool doctor -c /etc/respool/respool.toml"
