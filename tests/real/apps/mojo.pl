use Mojolicious::Lite;
get "/" => {text => "hello\n"};
app->start;
