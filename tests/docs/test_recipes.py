"""The commands of the README, docs/sidecar.md, docs/leaving.md and docs/recovery.md, as they stand, beside Debian's Exim."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator

import pytest

from .debian import README_HEADING, Debian
from .pages import blocks

pytestmark = [pytest.mark.exim, pytest.mark.system("unshare", "nsenter", "runuser", "ip", "openssl")]

ONCE = "runuser -u Debian-exim -- respool run --once -c /etc/respool/respool.toml"
RESPOOL = "/var/spool/exim4/respool"


@pytest.fixture
def debian() -> Iterator[Debian]:
    """A machine on which steps 1 to 4 of the README were typed; DNS is a file, as there is no network."""
    with Debian() as machine:
        machine.take_the_steps_of_the_readme()
        yield machine


def assert_delivered(machine: Debian, subject: str, count: int) -> None:
    """Exim has delivered so many messages with that subject to anna, and no more."""
    end = time.monotonic() + 120
    found = 0
    # A queue run leaves out what Exim delivers already, because respool told it to.
    while found < count and time.monotonic() < end:
        machine.run("exim4 -q")
        found = int(machine.run(f"cat /var/mail/anna 2>/dev/null | grep -c '^Subject: {subject} ' || true"))
    assert found == count


def waiting(machine: Debian, directory: str) -> list[str]:
    return machine.run(f"ls {directory}").split()


def hold_everything(machine: Debian, subject: str, count: int) -> None:
    """Messages that dmarc-policy holds, in held/."""
    machine.run(
        """python3 - <<'END'
text = open("/etc/respool/respool.toml").read()
policy = '[[processor]]\\nuse = "dmarc-policy"\\nconfig = { reject = "hold" }\\n\\n[[processor]]\\nuse = "arc-seal"'
open("/etc/respool/hold.toml", "w").write(text.replace('[[processor]]\\nuse = "arc-seal"', policy, 1))
END"""
    )
    machine.send(subject, count)
    machine.run(ONCE.replace("respool.toml", "hold.toml") + " || true")
    assert len(waiting(machine, f"{RESPOOL}/held")) == count


def test_the_ten_minutes_of_the_readme(debian: Debian) -> None:
    debian.send("readme", 2)
    assert debian.run("exim4 -qGscan -bp").count("bob@sender.example") == 2
    check = blocks("README.md", README_HEADING, "")[4]
    assert "can be used" in (printed := debian.run(check))
    assert printed.count("message.requeued") == 2
    assert_delivered(debian, "readme", 2)
    mailbox = debian.run("cat /var/mail/anna")
    assert mailbox.count("ARC-Seal: ") == mailbox.count("\nAuthentication-Results: ") == 2


def test_one_message_watched(debian: Debian) -> None:
    debian.send("watched")
    listed, tried, done, _ = (debian.run(block) for block in blocks("docs/sidecar.md", "One message, watched"))
    assert "bob@sender.example" in listed
    assert "+ Authentication-Results" in tried
    assert "message.requeued" in done
    assert_delivered(debian, "watched", 1)


def test_taking_it_out_in_order(debian: Debian) -> None:
    hold_everything(debian, "held", 2)
    debian.send("waiting", 3)
    recipe, drain, look, remove = blocks("docs/leaving.md", "In order")
    debian.run(recipe)
    debian.send("after", 1)
    assert_delivered(debian, "after", 1)
    debian.run(drain)
    assert debian.run(look).strip() == ""
    assert_delivered(debian, "held", 2)
    assert_delivered(debian, "waiting", 3)
    debian.run(remove)
    debian.send("without", 1)
    assert_delivered(debian, "without", 1)


def test_taking_it_out_at_once(debian: Debian) -> None:
    machine = debian
    machine.run(
        """mkdir /etc/respool/plugins
cat > /etc/respool/plugins/broken.py <<'END'
from respool import Context, Message, Processor, ProcessorConfig, Verdict


class Broken(Processor[ProcessorConfig]):
    phase = "verify"

    def process(self, message: Message, context: Context) -> Verdict:
        raise RuntimeError("broken")
END
sed 's,^use = "auth"$,use = "/etc/respool/plugins/broken.py:Broken",' /etc/respool/respool.toml > /etc/respool/broken.toml"""
    )
    machine.send("deferred", 2)
    machine.run(ONCE.replace("respool.toml", "broken.toml") + " || true")
    assert len(waiting(machine, f"{RESPOOL}/deferred")) == 2
    machine.send("waiting", 3)
    without, empty = blocks("docs/leaving.md", "At once")
    machine.run(without)
    assert_delivered(machine, "waiting", 3)
    machine.run(empty)
    assert_delivered(machine, "deferred", 2)


def test_held_messages_are_released(debian: Debian) -> None:
    hold_everything(debian, "held", 2)
    for block in blocks("docs/recovery.md", "Held"):
        debian.run(block)
    debian.run(ONCE)
    assert_delivered(debian, "held", 2)


def test_a_corrupt_message_is_mended_and_put_back(debian: Debian) -> None:
    debian.send("corrupt", 2)
    debian.run(
        "cd /var/spool/exim4/scan/input; mkdir /var/tmp/kept; cp -p *-H /var/tmp/kept/\n"
        # The number of recipients.
        "sed -i 's/^1$/one/' *-H\n" + ONCE + " || true"
    )
    assert len(waiting(debian, f"{RESPOOL}/corrupt")) == 2
    check, put_back = blocks("docs/recovery.md", "Corrupt")
    assert "2 checked, 2 wrong" in debian.run(f"{check.strip()} || true")
    debian.run(
        f"for claim in {RESPOOL}/corrupt/*; do id=$(basename ${{claim%.*}}); cp /var/tmp/kept/$id-H $claim/; done"
    )
    assert "2 checked, 0 wrong" in debian.run(check)
    debian.run(put_back)
    assert waiting(debian, f"{RESPOOL}/corrupt") == []
    debian.run(ONCE)
    assert_delivered(debian, "corrupt", 2)


def test_a_message_is_moved_by_hand(debian: Debian) -> None:
    hold_everything(debian, "by hand", 3)
    (move,) = blocks("docs/recovery.md", "A message by hand")
    debian.run(move)
    assert waiting(debian, f"{RESPOOL}/held") == []
    assert_delivered(debian, "by hand", 3)


def test_where_is_the_message(debian: Debian) -> None:
    hold_everything(debian, "held", 1)
    debian.send("waiting", 1)
    where = blocks("docs/recovery.md", "When something is broken")[0]
    printed = debian.run(where)
    assert re.search(r"held/\S+\.\d+", printed)
    assert printed.count("bob@sender.example") == 2


def test_jobs_in_work_are_taken_up_by_the_next_start(debian: Debian) -> None:
    debian.run(
        """mkdir /etc/respool/plugins
cat > /etc/respool/plugins/slow.py <<'END'
import time

from respool import Context, Message, Processor, ProcessorConfig, Verdict, proceed


class Slow(Processor[ProcessorConfig]):
    phase = "verify"

    def process(self, message: Message, context: Context) -> Verdict:
        time.sleep(60)
        return proceed()
END
sed 's,^use = "auth"$,use = "/etc/respool/plugins/slow.py:Slow",' /etc/respool/respool.toml > /etc/respool/slow.toml"""
    )
    debian.send("in work", 3)
    debian.run(
        """runuser -u Debian-exim -- respool run -c /etc/respool/slow.toml >/dev/null 2>&1 &
for _ in $(seq 1200); do
    [ $(ls /var/spool/exim4/respool/work 2>/dev/null | wc -l) = 3 ] && break
    sleep 0.1
done
pgrep -u Debian-exim -f slow.toml | xargs kill -9"""
    )
    assert len(waiting(debian, f"{RESPOOL}/work")) == 3
    assert debian.run(ONCE).count('"event":"message.recovered"') == 3
    assert_delivered(debian, "in work", 3)
