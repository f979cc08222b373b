# Prints what Mail::DeliveryStatus::BounceParser makes of the message on standard input.
use strict;
use warnings;
use Mail::DeliveryStatus::BounceParser;

my $bounce = Mail::DeliveryStatus::BounceParser->new(do { local $/; <STDIN> });
print "bounce=", ($bounce->is_bounce ? 1 : 0), " original=", ($bounce->orig_message_id // ""), "\n";
for my $report ($bounce->reports) {
    print join(" ", map { $report->get($_) // "" } qw(email std_reason)), "\n";
}
