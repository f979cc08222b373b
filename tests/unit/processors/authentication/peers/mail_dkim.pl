# Mail::DKIM for a batch: a line of JSON with what all jobs share, then one job a line; one answer a line.
# {"do": "verify" | "arc" | "sign" | "seal", "message": base64, "form": "relaxed/simple"}
use strict;
use warnings;
use JSON::PP;
use MIME::Base64;
use Mail::DKIM::Verifier;
use Mail::DKIM::ARC::Verifier;
use Mail::DKIM::Signer;
use Mail::DKIM::ARC::Signer;
use Mail::DKIM::PrivateKey;
use Mail::DKIM::PublicKey;

$| = 1;
my $shared = decode_json(scalar <STDIN>);

no warnings 'redefine';
*Mail::DKIM::PublicKey::fetch_async = sub {
    my ($class, %parameters) = @_;
    my $record = $shared->{zone}{lc "$parameters{Selector}._domainkey.$parameters{Domain}"};
    my $on_success = ($parameters{Callbacks} || {})->{Success} || sub { $_[0] };
    return sub {
        return $on_success->() unless defined $record;
        my $key = $class->parse($record);
        $key->check;
        return $on_success->($key);
    };
};

sub feed {
    my ($worker, $message) = @_;
    $worker->PRINT($message);
    $worker->CLOSE;
    return $worker;
}

sub answer {
    my ($job) = @_;
    my $message = decode_base64($job->{message});
    if ($job->{do} eq 'verify') {
        my $verifier = feed(Mail::DKIM::Verifier->new, $message);
        return { results => [map { [$_->result, $_->result_detail] } $verifier->signatures] };
    }
    if ($job->{do} eq 'arc') {
        my $verifier = feed(Mail::DKIM::ARC::Verifier->new, $message);
        return { results => [[$verifier->result, $verifier->result_detail]] };
    }
    my $key = Mail::DKIM::PrivateKey->load(Data => $shared->{key_base64});
    my %common = (Algorithm => 'rsa-sha256', Selector => 'rsa', Key => $key);
    if ($job->{do} eq 'sign') {
        my $signer = feed(Mail::DKIM::Signer->new(%common, Domain => 'example.org', Method => $job->{form}), $message);
        return { fields => $signer->signature->as_string . "\r\n" };
    }
    my $signer = feed(
        Mail::DKIM::ARC::Signer->new(%common, Domain => 'sealer.example', SrvId => 'mx.example.net', Chain => 'none'),
        $message);
    return { error => $signer->{details} || $signer->result } unless $signer->result eq 'sealed';
    return { fields => join('', map { "$_\r\n" } $signer->as_strings) };
}

while (my $line = <STDIN>) {
    my $found = eval { answer(decode_json($line)) } || { error => "$@" };
    print JSON::PP->new->canonical->latin1->encode($found), "\n";
}
