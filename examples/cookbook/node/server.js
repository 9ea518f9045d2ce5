// supervise -l 127.0.0.1:8080 --intercept-bind -- node server.js
// Debian: nodejs. The server listens as it always did; "npm start" in place of "node server.js" works the same way.
// One that may be changed needs no --intercept-bind: server.listen({ fd: 3 }).

const http = require("http");

const server = http.createServer((request, response) => response.end("hello from node\n"));
server.listen(8080);
