use Dancer2;
set host => "127.0.0.1";
set port => @PORT@;
set startup_info => 0;
get "/" => sub { "hello\n" };
dance;
