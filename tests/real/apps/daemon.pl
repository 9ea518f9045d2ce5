# HTTP::Daemon; FD is the number of a socket to accept on, where it is set.
use HTTP::Daemon;
use HTTP::Response;
my $daemon = $ENV{FD} ? HTTP::Daemon->new_from_fd($ENV{FD}, "+<")
    : HTTP::Daemon->new(LocalAddr => "127.0.0.1", LocalPort => @PORT@, Listen => 1024, ReuseAddr => 1);
die "no socket: $@" unless $daemon;
while (my $one = $daemon->accept) {
    $one->send_response(HTTP::Response->new(200, "OK", ["Content-Length" => 6], "hello\n")) if $one->get_request;
    $one->close;
}
