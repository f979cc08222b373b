"""The configuration of the private Exim (exim.py), and its stand-in for the queuefile transport.

Diagnostics: nothing is raised here; Exim itself says what it can't read.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from .exim import Exim

#: RESPOOL_EXIM names another Exim to test with: a newer one, or one that has queuefile.
EXIM: Final = os.environ.get("RESPOOL_EXIM", "/usr/sbin/exim4")
EXIM_USER: Final = "Debian-exim"
#: ACL variables that every delivery file tells.
RECORDED: Final = (
    "acl_c_helo", "acl_m_sender", "acl_m_lines", "acl_m_respool", "acl_m_route", "acl_m_dmarc_status",
    "acl_m_arc_state", "acl_m_dane", "acl_m_dcc_result",
)  # fmt: skip

QUEUEFILE_SCRIPT: Final = """\
# queuefile.sh SPOOL EXPORT ID QUEUE: what the queuefile transport does; 75 is a defer.
cat >/dev/null
input=$1${4:+/$4}/input
[ -e "$input/$3-D" ] || input=$input/$(printf %s "$3" | cut -c6)
ln "$input/$3-H" "$2/$3-H" || exit 75
ln "$input/$3-D" "$2/$3-D" || { rm -f "$2/$3-H"; exit 75; }
"""


def configuration_text(exim: Exim) -> str:
    """The whole configuration file, as the attributes of exim stand."""
    held = "  warn control = queue_only\n" if exim.hold else ""
    queued = f"  warn queue = {exim.queue}\n" if exim.queue else ""
    number = "" if exim._localhost_number is None else f"localhost_number = {exim._localhost_number}"
    chunking = "*" if exim._remote_chunking else ""
    return f"""\
primary_hostname = {exim.hostname}
exim_path = {EXIM}
spool_directory = {exim.spool}
log_file_path = {exim.log_directory}/%s.log
pid_file_path = {exim.directory}/spool/exim.pid
local_interfaces = 127.0.0.1
daemon_smtp_ports = {exim.port}
daemon_startup_retries = 0
split_spool_directory = {str(exim.split).lower()}
spool_wireformat = {str(exim.wireformat).lower()}
{number}
# Without it the daemon's children would be executed anew, and lose their rights because of -C.
deliver_drop_privilege
keep_environment =
# Nothing may ask the network.
host_lookup =
rfc1413_hosts =
dns_csa_search_limit = 0
smtp_accept_max = 200
smtp_accept_max_per_connection = 0
smtp_accept_queue_per_connection = 0
recipients_max = 0
check_spool_space = 0
check_spool_inodes = 0
check_log_space = 0
check_log_inodes = 0
tls_advertise_hosts =
chunking_advertise_hosts = *
dsn_advertise_hosts = *
.ifdef _HAVE_I18N
smtputf8_advertise_hosts = *
.endif
auth_advertise_hosts = *
log_selector = +pid +queue_run +smtp_confirmation +received_recipients
acl_smtp_connect = accept_undisturbed
acl_smtp_mail = accept_mail
acl_smtp_rcpt = accept_undisturbed
acl_smtp_data = accept_data
{exim._main}

begin acl
accept_undisturbed:
  accept control = dkim_disable_verify
accept_mail:
  warn set acl_c_helo = $sender_helo_name
       set acl_m_sender = $sender_address
       set acl_m_lines = one\\ntwo
{held}{queued}{exim._mail_acl}
  accept
accept_data:
{exim._data_acl}
  accept

begin routers
{exim._routers}
deferring:
  driver = redirect
  domains = defer.example
  allow_defer
  data = :defer: this domain always defers
refusing:
  driver = redirect
  domains = fail.example
  allow_fail
  data = :fail: this domain always refuses
listing:
  driver = redirect
  domains = list.example
  one_time
  data = x@file.example, y@file.example
routed_smtp:
  driver = manualroute
  condition = ${{if match{{$acl_m_route}}{{^127\\\\.0\\\\.0\\\\.1::}}}}
  route_data = $acl_m_route
  transport = remote
  self = send
routed:
  driver = accept
  condition = ${{if def:acl_m_route}}
  transport = routed
quarantine:
  driver = accept
  condition = ${{if inlist{{$acl_m_dmarc_status}}{{quarantine:reject}}}}
  transport = quarantine
remote:
  driver = manualroute
  domains = remote.example
  route_data = 127.0.0.1::{exim._remote_port or 1}
  transport = remote
  self = send
inbox:
  driver = accept
  transport = inbox

begin transports
{exim._transports}
remote:
  driver = smtp
  allow_localhost
  hosts_avoid_tls = *
  hosts_try_chunking = {chunking}
.ifdef _HAVE_DANE
  hosts_try_dane =
.endif
  hosts_try_fastopen =
{"".join(mailbox_transport(exim, name) for name in ("inbox", "routed", "quarantine"))}
begin retry
{exim._retry}
* * F,4d,1m

begin authenticators
plain:
  driver = plaintext
  public_name = PLAIN
  server_prompts = :
  server_condition = true
  server_set_id = $auth2
"""


def mailbox_transport(exim: Exim, name: str) -> str:
    """The text of a transport called name that writes each delivery into a file of its own."""
    told = "".join(f"{variable}: ${{escape:${variable}}}\\n" for variable in RECORDED)
    return f"""\
{name}:
  driver = appendfile
  user = {EXIM_USER}
  directory = {exim.mail_directory}/{name}
  maildir_format
  create_directory
  directory_mode = 0750
  # With neither string set, Exim 4.96 loses the body of a message in wire format.
  check_string = "\\001never\\001"
  escape_string = "\\001never\\001"
  message_prefix = "id: $message_exim_id\\nrecipient: $local_part@$domain\\nsender: $sender_address\\n\\
    queue: $queue_name\\n{told}\\n"
  message_suffix =
"""


def queuefile_by_pipe(name: str, directory: str) -> str:
    """A transport called name that does what queuefile does, within Exim's own delivery process.

    So the lock, the journal and the unlinks around it are Exim's.
    """
    return f"""
{name}:
  driver = pipe
  user = {EXIM_USER}
  command = /bin/sh @DIRECTORY@/queuefile.sh @DIRECTORY@/spool {directory} $message_exim_id "$queue_name"
  temp_errors = 75
  log_output
"""
