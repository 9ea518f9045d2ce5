use Mojolicious::Lite;
app->config(hypnotoad => {listen => [$ENV{LISTEN}], workers => 2}) if $ENV{LISTEN};
get "/" => {text => "hello\n"};
app->start;
