use AnyEvent::HTTPD;
my $server = AnyEvent::HTTPD->new(host => "127.0.0.1", port => @PORT@);
$server->reg_cb("/" => sub { $_[1]->respond({content => ["text/plain", "hello\n"]}) });
$server->run;
