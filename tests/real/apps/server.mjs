// One answer by a module, node server.mjs KIND; FD is the number of a socket to listen on, where it is set.
import { createRequire } from 'node:module';
import { createServer } from 'node:http';
const require = createRequire(process.env.NODE_PATH + '/x.js');
const where = process.env.FD ? { fd: Number(process.env.FD) } : { port: @PORT@, host: process.env.AT ?? '127.0.0.1' };
if (process.argv[2] === 'http') createServer((request, response) => response.end('hello\n')).listen(where);
if (process.argv[2] === 'hono') {
  const { createAdaptorServer } = require('@hono/node-server');
  const { Hono } = require('hono');
  const app = new Hono();
  app.get('/', (c) => c.text('hello\n'));
  createAdaptorServer({ fetch: app.fetch }).listen(where);
}
