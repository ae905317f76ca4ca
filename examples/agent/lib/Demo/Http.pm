package Demo::Http;
# As much HTTP/1.0 as the samples need: one request at a time, everything bounded in size and time.
use strict;
use warnings;

use IO::Select;
use IO::Socket::INET;

use constant { MOST_HEAD => 16_384, MOST_BODY => 65_536, SECONDS => 5 };

my %REASONS = (200 => 'OK', 400 => 'Bad Request', 404 => 'Not Found', 413 => 'Too Large',
    500 => 'Internal Error', 503 => 'Unavailable');

# A server on a port of all addresses.
sub new {
    my ($class, $port) = @_;
    my $socket = IO::Socket::INET->new(LocalPort => $port, Proto => 'tcp', Listen => 128, ReuseAddr => 1)
        or die "cannot listen on port $port: $!\n";
    return bless { socket => $socket, select => IO::Select->new($socket) }, $class;
}

# Answers one request, or returns after so many seconds (for ever when not given). `answer` gets method, target and
# body, and gives status, type and body. A client that breaks off is its own problem.
sub serve {
    my ($self, $answer, $seconds) = @_;
    return unless $self->{select}->can_read($seconds);
    my $client = $self->{socket}->accept or return;
    local $SIG{PIPE} = 'IGNORE';
    eval {
        local $SIG{ALRM} = sub { die "too slow\n" };
        alarm SECONDS;
        my ($status, $type, $body) = respond($client, $answer);
        printf $client "HTTP/1.0 %d %s\r\nContent-Type: %s; charset=utf-8\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s",
            $status, $REASONS{$status} // 'Status', $type, length $body, $body;
        1;
    } or print STDERR "a client was dropped: $@";
    alarm 0;
    close $client;
}

sub respond {
    my ($client, $answer) = @_;
    my $input = '';
    until ($input =~ /\r?\n\r?\n/) {
        return (413, 'text/plain', "the request is too large\n") if length $input > MOST_HEAD;
        sysread $client, $input, 4096, length $input or die "the request has no end\n";
    }
    my ($head, $body) = split /\r?\n\r?\n/, $input, 2;
    my ($method, $target) = $head =~ m{\A([A-Z]+) (/[^ ?]*)\S* HTTP/1}
        or return (400, 'text/plain', "that is not HTTP\n");
    my ($length) = $head =~ /^content-length:\s*([0-9]{1,9})\s*$/im;
    $length //= 0;
    return (413, 'text/plain', "the body is too large\n") if $length > MOST_BODY;
    while (length $body < $length) {
        sysread $client, $body, $length - length $body, length $body or die "the body has no end\n";
    }
    my @response = eval { $answer->($method, $target, $body) };
    return @response if @response;
    print STDERR "$method $target failed: $@";
    return (500, 'text/plain', "this did not work; the log says why\n");
}

# Posts a text; gives the status, or dies.
sub post {
    my ($host, $port, $target, $body) = @_;
    my $status;
    local $SIG{PIPE} = 'IGNORE';
    my $done = eval {
        local $SIG{ALRM} = sub { die "no answer within " . SECONDS . " s\n" };
        alarm SECONDS;
        my $socket = IO::Socket::INET->new(PeerHost => $host, PeerPort => $port, Proto => 'tcp', Timeout => SECONDS)
            or die "cannot connect: $@\n";
        printf $socket "POST %s HTTP/1.0\r\nHost: %s\r\nContent-Length: %d\r\n\r\n%s", $target, $host, length $body, $body;
        my $line = <$socket> // '';
        ($status) = $line =~ m{\AHTTP/1\.[01] ([0-9]{3})} or die "the answer is not HTTP\n";
        1;
    };
    my $error = $@;
    alarm 0;
    die $error unless $done;
    return $status;
}

1;
