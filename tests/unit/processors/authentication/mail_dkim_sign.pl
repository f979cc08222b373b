# Signs the message on standard input with Mail::DKIM and prints the new header fields.
# Arguments: key file, selector, domain, canonicalisation; "arc" and an authserv-id after them for an ARC set.
use strict;
use warnings;
use Mail::DKIM::Signer;
use Mail::DKIM::ARC::Signer;
use Mail::DKIM::PrivateKey;

my ($key_file, $selector, $domain, $method, $kind, $authserv_id) = @ARGV;
my $key = Mail::DKIM::PrivateKey->load(File => $key_file);
my %common = (Algorithm => 'rsa-sha256', Domain => $domain, Selector => $selector, Key => $key);
my $signer = ($kind || '') eq 'arc'
    ? Mail::DKIM::ARC::Signer->new(%common, SrvId => $authserv_id, Chain => 'none')
    : Mail::DKIM::Signer->new(%common, Method => $method);
binmode STDIN;
while (my $line = <STDIN>) { $line =~ s/\r?\n\z/\r\n/; $signer->PRINT($line); }
$signer->CLOSE;
if (($kind || '') eq 'arc') {
    die $signer->{details} || $signer->result unless $signer->result eq 'sealed';
    print "$_\r\n" for $signer->as_strings;
} else {
    print $signer->signature->as_string, "\r\n";
}
