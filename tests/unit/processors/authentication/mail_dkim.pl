# Verifies the message on standard input with Mail::DKIM and prints "<result>\t<detail>" for each signature.
# Keys come from the file named first: "name TXT-text" per line. With "arc" as second argument, the ARC chain.
use strict;
use warnings;
use Mail::DKIM::Verifier;
use Mail::DKIM::ARC::Verifier;
use Mail::DKIM::PublicKey;

my ($zone, $kind) = @ARGV;
my %records;
open(my $file, '<', $zone) or die "$zone: $!";
while (<$file>) { chomp; my ($name, $text) = split / /, $_, 2; $records{lc $name} = $text; }
close $file;

no warnings 'redefine';
*Mail::DKIM::PublicKey::fetch_async = sub {
    my ($class, %parameters) = @_;
    my $name = lc "$parameters{Selector}._domainkey.$parameters{Domain}";
    my $on_success = ($parameters{Callbacks} || {})->{Success} || sub { $_[0] };
    return sub {
        return $on_success->() unless defined $records{$name};
        my $key = $class->parse($records{$name});
        $key->check;
        return $on_success->($key);
    };
};

my $verifier = $kind eq 'arc' ? Mail::DKIM::ARC::Verifier->new : Mail::DKIM::Verifier->new;
binmode STDIN;
while (my $line = <STDIN>) { $line =~ s/\r?\n\z/\r\n/; $verifier->PRINT($line); }
$verifier->CLOSE;
if ($kind eq 'arc') {
    print $verifier->result, "\t", $verifier->result_detail, "\n";
} else {
    print $_->result, "\t", $_->result_detail, "\n" for $verifier->signatures;
}
