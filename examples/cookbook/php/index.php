<?php // supervise -l 127.0.0.1:8080 --intercept-bind -- php -S 127.0.0.1:8080 index.php
// Debian: php-cli. The development server, one request at a time; it binds for itself.

header('Content-Type: text/plain');
echo "hello from php\n";
