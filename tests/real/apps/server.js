// One answer by each framework: node server.js KIND; FD is the number of a socket to listen on, where it is set, and AT the
// address (empty: the framework's default).
const where = process.env.FD ? { fd: Number(process.env.FD) } : { port: @PORT@, host: process.env.AT === undefined ? '127.0.0.1' : process.env.AT || undefined };
const hello = (request, response) => response.end('hello\n');
const kind = process.env.KIND || process.argv[2];
if (kind === 'http') require('http').createServer(hello).listen(where);
if (kind === 'express') { const app = require('express')(); app.get('/', (q, r) => r.send('hello\n')); require('http').createServer(app).listen(where); }
if (kind === 'koa') { const K = require('koa'); const app = new (K.default || K)(); app.use((c) => { c.body = 'hello\n'; }); require('http').createServer(app.callback()).listen(where); }
if (kind === 'fastify') { const app = require('fastify')(); app.get('/', async () => 'hello\n'); app.listen(where); }
if (kind === 'restify') {
  const server = require('restify').createServer();
  server.get('/', (q, r, next) => { r.send('hello'); next(); });
  server.listen(where);
}
if (kind === 'hyper-express') { const H = require('hyper-express'); const app = new H.Server(); app.get('/', (q, r) => r.send('hello\n')); app.listen(@PORT@, '127.0.0.1'); }
if (kind === 'polka') require('http').createServer(require('polka')().get('/', hello).handler).listen(where);
if (kind === 'hapi') {
  const listener = require('http').createServer();
  const server = require('@hapi/hapi').server(process.env.FD ? { listener, autoListen: false } : { port: where.port, host: where.host });
  server.route({ method: 'GET', path: '/', handler: () => 'hello\n' });
  server.start().then(() => process.env.FD && listener.listen(where));
}
if (kind === 'cluster') {
  const cluster = require('cluster');
  if (cluster.isPrimary) { cluster.fork(); cluster.fork(); } else require('http').createServer(hello).listen(where);
}
